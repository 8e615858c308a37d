"""What the answers must be: the onnxruntime Python package on the same file."""

import numpy
import onnxruntime

# max|a-b| <= TOLERANCE * max|b|, for each output.
TOLERANCE = 1e-4
SEQUENCE = 32


class Reference:
    """A model file run in this process, and inputs for it."""

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.outputs = [output.name for output in self.session.get_outputs()]

    def inputs(self, batch, seed):
        """Seeded inputs for `batch` items, different for each item."""
        random = numpy.random.RandomState(seed)
        arrays = {}
        for spec in self.session.get_inputs():
            shape = [batch] + [
                dim if isinstance(dim, int) else SEQUENCE for dim in spec.shape[1:]
            ]
            if spec.type == "tensor(float)":
                arrays[spec.name] = random.standard_normal(shape).astype(numpy.float32)
            elif spec.name == "attention_mask":
                arrays[spec.name] = attention_mask(random, shape)
            elif spec.name == "token_type_ids":
                arrays[spec.name] = random.randint(0, 2, shape).astype(numpy.int64)
            elif spec.type == "tensor(int64)":
                arrays[spec.name] = random.randint(0, 1000, shape).astype(numpy.int64)
            else:
                raise AssertionError("no inputs known for {} {}".format(spec.name, spec.type))
        return arrays

    def run(self, arrays):
        return dict(zip(self.outputs, self.session.run(None, arrays)))


def attention_mask(random, shape):
    """Ones, then padding, as a tokenizer gives it."""
    lengths = random.randint(shape[1] // 2, shape[1] + 1, shape[0])
    return (numpy.arange(shape[1])[None, :] < lengths[:, None]).astype(numpy.int64)


def rows(arrays, index):
    """The request of one item."""
    return {name: array[index : index + 1] for name, array in arrays.items()}


def assert_equal(reply, expected, context):
    """Each output of the reply is as expected, within the tolerance."""
    for name, b in expected.items():
        a = reply.as_numpy(name)
        assert a is not None, "{}: no output {}".format(context, name)
        assert a.shape == b.shape, "{}: {} is {}, not {}".format(context, name, a.shape, b.shape)
        assert a.dtype == b.dtype, "{}: {} is {}".format(context, name, a.dtype)
        worst, scale = numpy.abs(a - b).max(), numpy.abs(b).max()
        assert numpy.isfinite(worst) and scale > 0, "{}: {} says nothing".format(context, name)
        assert worst <= TOLERANCE * scale, "{}: {} is off by {} of {}".format(
            context, name, worst, scale
        )
