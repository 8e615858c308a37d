"""An ONNX file of `fugato zoo` as a PyTorch module, with its own weights.

`load(path)` writes the graph down as the source of one `forward`, an assignment for each
operator, so that eager runs, captures and `torch.compile` all see a plain module. Batch
normalisations are folded into the convolutions before them, and the operators of a GELU
become one, as who serves a model with PyTorch has them. An operator that the zoo does not
use is refused by name. In half precision a module computes in floats of 16 bits where the model
that Fugato's store converts does, with the same weights; its inputs and outputs stay in 32.
Packages: torch, onnx, numpy.
"""

import numpy
import onnx
import torch
from onnx import numpy_helper
from torch import nn


class Unsupported(Exception):
    """The file has something that this reader does not know."""


# Operators of two tensors, as Python writes them.
BINARY = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/"}
UNARY = {
    "Relu": "torch.relu({})", "Tanh": "torch.tanh({})", "Erf": "torch.erf({})",
    "GlobalAveragePool": "{}.mean((2, 3), keepdim=True)", "Identity": "{}.clone()",
}  # fmt: skip
# Of the operators that this reader knows, those that the conversion leaves in 32 bits.
LEFT_ALONE = {"Cast"}
# Where weights beyond the range of 16 bits are put, and the least number in it.
FAR, LEAST = 1e4, 2.0**-24


def load(path, precision="fp32"):
    """The module of a file; `module.inputs` and `module.outputs` are the names, in order."""
    graph = onnx.load(str(path)).graph
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = fold_gelus(fold_normalisations(list(graph.node), initializers), initializers)
    if precision == "fp16":
        nodes = halve(nodes, initializers, graph)
    writer = Writer(nodes, initializers, graph)
    scope = {"torch": torch, "F": nn.functional}
    exec(compile(writer.source(), f"<{path}>", "exec"), scope)
    module = type("Zoo", (nn.Module,), {"forward": scope["forward"]})()
    for name, array in writer.tensors.items():
        module.register_buffer(name, torch.from_numpy(array.copy()))
    module.inputs = [value.name for value in graph.input]
    module.outputs = [value.name for value in graph.output]
    return module.eval()


def attributes(node):
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def readers(nodes):
    found = {}
    for node in nodes:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def fold_normalisations(nodes, initializers):
    """Leaves out each batch normalisation that alone reads a convolution."""
    read, makers = readers(nodes), {name: node for node in nodes for name in node.output}
    left = []
    for node in nodes:
        maker = makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if maker is None or maker.op_type != "Conv" or len(read[node.input[0]]) != 1:
            left.append(node)
            continue
        scale, bias, mean, variance = (initializers[name] for name in node.input[1:5])
        factor = scale / (variance + attributes(node).get("epsilon", 1e-5)) ** 0.5
        weight = initializers[maker.input[1]]
        before = initializers[maker.input[2]] if len(maker.input) > 2 else 0.0
        names = [f"{node.output[0]}.folded_weight", f"{node.output[0]}.folded_bias"]
        initializers[names[0]] = (weight * factor.reshape(-1, 1, 1, 1)).astype(weight.dtype)
        initializers[names[1]] = (bias + (before - mean) * factor).astype(weight.dtype)
        del maker.input[1:]
        maker.input.extend(names)
        maker.output[0] = node.output[0]
    return left


def fold_gelus(nodes, initializers):
    """`x * (1 + erf(x / sqrt 2)) / 2` as one operator."""
    read = readers(nodes)

    def only(name, op_type):
        found = read.get(name, [])
        return found[0] if len(found) == 1 and found[0].op_type == op_type else None

    folded, dropped = {}, set()
    for node in nodes:
        if node.op_type != "Div" or node.input[1] not in initializers:
            continue
        if abs(float(initializers[node.input[1]].reshape(-1)[0]) - 2**0.5) > 1e-6:
            continue
        chain = [node]
        for op_type in ("Erf", "Add", "Mul", "Mul"):
            chain.append(only(chain[-1].output[0], op_type) if chain[-1] is not None else None)
        if chain[-1] is None or node.input[0] not in chain[3].input:
            continue
        folded[id(chain[-1])] = onnx.helper.make_node("Gelu", [node.input[0]], [chain[-1].output[0]])
        dropped.update(id(part) for part in chain[:-1])
    return [folded.get(id(node), node) for node in nodes if id(node) not in dropped]


def floats_of(nodes, initializers, graph):
    """The names of all tensors of 32-bit floats."""
    found = {name for name, array in initializers.items() if array.dtype == numpy.float32}
    found |= {port.name for port in graph.input if port.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    for node in nodes:
        if node.op_type == "Cast":
            is_float = attributes(node)["to"] == onnx.TensorProto.FLOAT
        else:
            is_float = node.op_type != "Shape" and any(name in found for name in node.input)
        found.update(node.output if is_float else [])
    return found


def half_of(array):
    """A weight in 16 bits: within their range, and zero only where it was zero."""
    with numpy.errstate(over="ignore"):
        near = array.astype(numpy.float16)
    near = numpy.where(numpy.isinf(near) & numpy.isfinite(array), numpy.copysign(FAR, array), near)
    return numpy.where((near == 0) & (array != 0), numpy.copysign(LEAST, array), near).astype(numpy.float16)


def halve(nodes, initializers, graph):
    """The nodes of the model in half precision, as Fugato's store converts it (halving.rs there): a
    tensor `t` of floats is `t:half` in 16 bits, and a cast stands where one side has the other's."""
    floats = floats_of(nodes, initializers, graph)

    def renamed(names):
        return [f"{name}:half" if name in floats else name for name in names]

    def cast(source, to, wanted):
        return onnx.helper.make_node("Cast", [source], [to], to=wanted)

    is_half = [node.op_type not in LEFT_ALONE and bool(floats & {*node.input, *node.output}) for node in nodes]
    needed = {True: set(), False: {port.name for port in graph.output}}
    for node, half in zip(nodes, is_half):
        needed[half].update(node.input)
    needed_half, needed_full = needed[True] & floats, needed[False] & floats
    given = {name for node in nodes for name in node.output}
    for name in needed_half & initializers.keys():
        initializers[f"{name}:half"] = half_of(initializers[name])
    outer = [port.name for port in graph.input if port.name in needed_half - given - initializers.keys()]
    converted = [cast(name, f"{name}:half", onnx.TensorProto.FLOAT16) for name in outer]
    for node, half in zip(nodes, is_half):
        outputs = [name for name in node.output if name in floats]
        if half:
            inputs, output = renamed(node.input), renamed(node.output)
            del node.input[:], node.output[:]
            node.input.extend(inputs)
            node.output.extend(output)
        converted.append(node)
        for name in outputs:
            if half and name in needed_full:
                converted.append(cast(f"{name}:half", name, onnx.TensorProto.FLOAT))
            elif not half and name in needed_half:
                converted.append(cast(name, f"{name}:half", onnx.TensorProto.FLOAT16))
    return converted


class Writer:
    """Writes the source of a graph's `forward`."""

    def __init__(self, nodes, initializers, graph):
        self.nodes, self.initializers = nodes, initializers
        self.inputs = [value.name for value in graph.input if value.name not in initializers]
        self.outputs = [value.name for value in graph.output]
        # What the module holds, by the names of its buffers; by name in the file, its buffer.
        self.tensors, self.buffers = {}, {}
        # By name in the file, the variable of a tensor or the source of a list.
        self.variables, self.lists = {}, {}

    def source(self):
        arguments = [self.variable(name) for name in self.inputs]
        last = {name: index for index, node in enumerate(self.nodes) for name in node.input}
        lines = [f"def forward(self, {', '.join(arguments)}):"]
        for index, node in enumerate(self.nodes):
            lines += [f"    {line}" for line in self.lines(node)]
            # Memory is given back as soon as nobody reads it.
            ended = {name for name in node.input if last[name] == index and name in self.variables}
            ended -= {*self.inputs, *self.outputs}
            lines += [f"    del {', '.join(sorted(self.variables[name] for name in ended))}"] if ended else []
        lines.append(f"    return ({', '.join(self.variables[name] for name in self.outputs)},)")
        return "\n".join(lines) + "\n"

    def variable(self, name):
        return self.variables.setdefault(name, f"v{len(self.variables)}")

    def tensor(self, name):
        """The source of a tensor: a variable, or a buffer of the module."""
        if name in self.variables:
            return self.variables[name]
        if name not in self.buffers:
            self.buffers[name] = f"t{len(self.buffers)}"
            self.tensors[self.buffers[name]] = self.initializers[name]
        return f"self.{self.buffers[name]}"

    def numbers(self, name):
        """The whole numbers of an initializer."""
        if name not in self.initializers:
            raise Unsupported(f"`{name}` is not known before the model runs")
        return [int(number) for number in self.initializers[name].reshape(-1)]

    def lines(self, node):
        write = getattr(self, f"write_{node.op_type.lower()}", None)
        if node.op_type in BINARY:
            a, b = (self.tensor(name) for name in node.input)
            value = f"{a} {BINARY[node.op_type]} {b}"
        elif node.op_type in UNARY:
            value = UNARY[node.op_type].format(self.tensor(node.input[0]))
        elif write is not None:
            value = write(node, attributes(node))
        else:
            raise Unsupported(f"operator `{node.op_type}` is not one of the zoo's")
        if value is None:
            return []
        return [f"{', '.join(self.variable(name) for name in node.output)} = {value}"]

    def write_sum(self, node, _):
        return " + ".join(self.tensor(name) for name in node.input)

    def write_matmul(self, node, _):
        return "torch.matmul({}, {})".format(*(self.tensor(name) for name in node.input))

    def write_gelu(self, node, _):
        return f"F.gelu({self.tensor(node.input[0])})"

    def padded(self, x, pads, filler="0.0"):
        """A padding that is the same on both sides, and the tensor with what is more."""
        top, left, bottom, right = pads
        if (top, left) == (bottom, right):
            return x, (top, left)
        return f"F.pad({x}, ({left}, {right}, {top}, {bottom}), value={filler})", (0, 0)

    def write_conv(self, node, given):
        if given.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise Unsupported(f"`{node.name}` pads by itself")
        x, padding = self.padded(self.tensor(node.input[0]), given.get("pads", [0] * 4))
        weight = self.tensor(node.input[1])
        bias = self.tensor(node.input[2]) if len(node.input) > 2 else None
        strides, dilations = (tuple(given.get(key, [1, 1])) for key in ("strides", "dilations"))
        return f"F.conv2d({x}, {weight}, {bias}, {strides}, {padding}, {dilations}, {given.get('group', 1)})"

    def write_batchnormalization(self, node, given):
        x, scale, bias, mean, variance = (self.tensor(name) for name in node.input)
        epsilon = given.get("epsilon", 1e-5)
        return f"F.batch_norm({x}, {mean}, {variance}, {scale}, {bias}, False, 0.0, {epsilon})"

    def write_maxpool(self, node, given):
        x, padding = self.padded(self.tensor(node.input[0]), given.get("pads", [0] * 4), "float('-inf')")
        strides, kernel = tuple(given.get("strides", [1, 1])), tuple(given["kernel_shape"])
        ceil = bool(given.get("ceil_mode", 0))
        return f"F.max_pool2d({x}, {kernel}, {strides}, {padding}, ceil_mode={ceil})"

    def write_averagepool(self, node, given):
        pads, counts = given.get("pads", [0] * 4), bool(given.get("count_include_pad", 0))
        strides, kernel = tuple(given.get("strides", [1, 1])), tuple(given["kernel_shape"])
        ceil = bool(given.get("ceil_mode", 0))
        if pads[:2] != pads[2:] and not counts:
            if any(pads[:2]) or any(pad >= stride for pad, stride in zip(pads[2:], strides)):
                raise Unsupported(f"`{node.name}` pads its sides differently and counts no padding")
            # A last window that hangs over the edge, of which PyTorch counts what is inside.
            pads, ceil = [0] * 4, True
        x, padding = self.padded(self.tensor(node.input[0]), pads)
        return f"F.avg_pool2d({x}, {kernel}, {strides}, {padding}, {ceil}, {counts})"

    def write_gemm(self, node, given):
        if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
            raise Unsupported(f"`{node.name}` is more than a linear layer")
        weight = self.tensor(node.input[1]) + ("" if given.get("transB", 0) else ".t()")
        bias = self.tensor(node.input[2]) if len(node.input) > 2 else None
        return f"F.linear({self.tensor(node.input[0])}, {weight}, {bias})"

    def write_layernormalization(self, node, given):
        if given.get("axis", -1) != -1:
            raise Unsupported(f"`{node.name}` normalises over more than the last axis")
        x, weight, bias = (self.tensor(name) for name in node.input)
        width = list(self.initializers[node.input[1]].shape)
        return f"F.layer_norm({x}, {width}, {weight}, {bias}, {given.get('epsilon', 1e-5)})"

    def write_clip(self, node, _):
        low, high = (float(self.initializers[name].reshape(-1)[0]) for name in node.input[1:3])
        return f"torch.clamp({self.tensor(node.input[0])}, {low}, {high})"

    def write_flatten(self, node, given):
        if given.get("axis", 1) != 1:
            raise Unsupported(f"`{node.name}` joins other axes than all but the first")
        return f"torch.flatten({self.tensor(node.input[0])}, 1)"

    def write_softmax(self, node, given):
        return f"torch.softmax({self.tensor(node.input[0])}, {given.get('axis', -1)})"

    def write_concat(self, node, given):
        return f"torch.cat(({', '.join(self.tensor(name) for name in node.input)},), {given['axis']})"

    def write_split(self, node, given):
        return f"torch.split({self.tensor(node.input[0])}, {self.numbers(node.input[1])}, {given.get('axis', 0)})"

    def write_transpose(self, node, given):
        return f"{self.tensor(node.input[0])}.permute({list(given['perm'])})"

    def write_reshape(self, node, _):
        x, target = self.tensor(node.input[0]), self.numbers(node.input[1])
        sizes = [f"{x}.shape[{axis}]" if size == 0 else str(size) for axis, size in enumerate(target)]
        return f"{x}.reshape({', '.join(sizes)})"

    def write_gather(self, node, given):
        x, axis = self.tensor(node.input[0]), given.get("axis", 0)
        if node.input[1] not in self.initializers:
            if axis != 0:
                raise Unsupported(f"`{node.name}` looks up along axis {axis}")
            return f"F.embedding({self.tensor(node.input[1])}, {x})"
        if self.initializers[node.input[1]].shape != ():
            raise Unsupported(f"`{node.name}` takes several places")
        return f"{x}.select({axis}, {self.numbers(node.input[1])[0]})"

    def write_shape(self, node, given):
        start, end = given.get("start", 0), given.get("end", "")
        self.lists[node.output[0]] = f"{self.tensor(node.input[0])}.shape[{start}:{end}]"

    def ends(self, name, count):
        """The source of each number of a list."""
        if name in self.lists:
            return [f"{self.lists[name]}[{index}]" for index in range(count)]
        return [str(number) for number in self.numbers(name)]

    def write_slice(self, node, _):
        x, starts = self.tensor(node.input[0]), self.numbers(node.input[1])
        axes = self.numbers(node.input[3]) if len(node.input) > 3 else list(range(len(starts)))
        if len(node.input) > 4 and set(self.numbers(node.input[4])) != {1}:
            raise Unsupported(f"`{node.name}` takes every other place")
        ends = self.ends(node.input[2], len(starts))
        parts = [":"] * (max(axes) + 1)
        for axis, start, end in zip(axes, starts, ends):
            # The largest number stands for the end.
            parts[axis] = f"{start}:{'' if end == str(2**63 - 1) else end}"
        return f"{x}[{', '.join(parts)}]"

    def write_pad(self, node, _):
        pads = self.numbers(node.input[1])
        rank = len(pads) // 2
        sides = [number for axis in reversed(range(rank)) for number in (pads[axis], pads[axis + rank])]
        return f"F.pad({self.tensor(node.input[0])}, {tuple(sides)})"

    def write_unsqueeze(self, node, _):
        value = self.tensor(node.input[0])
        for axis in sorted(self.numbers(node.input[1])):
            value = f"{value}.unsqueeze({axis})"
        return value

    def write_cast(self, node, given):
        to = {onnx.TensorProto.FLOAT: "float", onnx.TensorProto.FLOAT16: "half"}.get(given["to"])
        if to is None:
            raise Unsupported(f"`{node.name}` makes something else than floats of 32 or 16 bits")
        return f"{self.tensor(node.input[0])}.{to}()"
