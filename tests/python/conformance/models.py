"""Small models whose answers are known without running them, written with package onnx."""

import onnx
from onnx import TensorProto, helper

# Each type of the protocol beside ONNX's.
TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
# Iterations of `slow` per unit of its input: a unit takes milliseconds.
SLOW_STEP = 2000
LABELS = ("fugue", "canon", "prelude", "toccata")


def model(name, nodes, inputs, outputs):
    """A model of these nodes; inputs and outputs are (name, type, shape)."""
    infos = [
        [helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)
    ]
    made = helper.make_model(
        helper.make_graph(nodes, name, *infos), opset_imports=[helper.make_opsetid("", 17)]
    )
    made.ir_version = 8
    onnx.checker.check_model(made)
    return made.SerializeToString()


def unary(op_type, element=TensorProto.FLOAT, columns="n"):
    """`output` is `op_type` of `input`, both of any number of rows."""
    node = helper.make_node(op_type, ["input"], ["output"])
    shape = ["batch", columns]
    return model("unary", [node], [("input", element, shape)], [("output", element, shape)])


def simple():
    """Triton's own example: the sum and the difference of two rows of 16 integers."""
    shape = ["batch", 16]
    names = ("INPUT0", "INPUT1")
    nodes = [
        helper.make_node("Add", names, ["OUTPUT0"]),
        helper.make_node("Sub", names, ["OUTPUT1"]),
    ]
    inputs = [(name, TensorProto.INT32, shape) for name in names]
    outputs = [(name, TensorProto.INT32, shape) for name in ("OUTPUT0", "OUTPUT1")]
    return model("simple", nodes, inputs, outputs)


def slow():
    """Gives `steps` back, after about as many milliseconds and more."""
    scalar = TensorProto.INT64, []
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["state", "one"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", *scalar),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.INT64, [1]),
        ],
    )
    constant = helper.make_node
    nodes = [
        constant("Constant", [], ["one"], value=tensor([1], [1])),
        constant("Constant", [], ["zero"], value=tensor([0], [1])),
        constant("Constant", [], ["unit"], value=tensor([SLOW_STEP], [1])),
        constant("Constant", [], ["shape"], value=tensor([], [0])),
        helper.make_node("Mul", ["steps", "unit"], ["turns"]),
        helper.make_node("Reshape", ["turns", "shape"], ["trips"]),
        helper.make_node("Loop", ["trips", "", "zero"], ["counted"], body=body),
        helper.make_node("Div", ["counted", "unit"], ["output"]),
    ]
    io = TensorProto.INT64, [1]
    return model("slow", nodes, [("steps", *io)], [("output", *io)])


def tensor(values, shape):
    return helper.make_tensor("", TensorProto.INT64, shape, values)


def write(repository, name, content, version=1, config=None):
    """Puts a version of a model into a repository."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)


def write_all(repository):
    """The repository that most of the suite is run against."""
    for datatype, element in TYPES.items():
        write(repository, "identity_" + datatype.lower(), unary("Identity", element))
    write(repository, "simple", simple())
    for name in ("slow", "slow_grpc", "slow_grpc-aio"):
        write(repository, name, slow())


CLASSIFIER = """
name: "classifier"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "input" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "output" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" } ]
"""


def write_classifier(repository):
    """A model whose scores are its inputs, with labels."""
    write(repository, "classifier", unary("Identity", columns=4), config=CLASSIFIER)
    (repository / "classifier" / "labels.txt").write_text("".join(one + "\n" for one in LABELS))


def write_versions(repository):
    """Three versions that answer differently, of which the configuration serves two."""
    config = 'name: "versions"\nversion_policy { specific { versions: [ 1, 3 ] } }\n'
    for version, op_type in ((1, "Neg"), (2, "Abs"), (3, "Sqrt")):
        write(repository, "versions", unary(op_type), version, config)
