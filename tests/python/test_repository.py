"""A model that is wrong is not ready, with its reason, while the others serve."""

import os

import numpy
import onnx
import pytest
from onnx import TensorProto, helper
from serving import KEPT, Server
from tritonclient.utils import InferenceServerException
from wire import PROTOCOLS, Caller


def graph(op_type, name):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    node = helper.make_node(op_type, ["x"], ["y"], name="the_node")
    model = helper.make_model(
        helper.make_graph([node], name, [x], [y]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    model.ir_version = 8
    return model


def write(repository, name, content, version="1"):
    folder = repository / name / version
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    repository = folder / "models"
    good = graph("Neg", "good").SerializeToString()
    write(repository, "good", good)
    # Version 10 is later than 9, though not in the alphabet.
    write(repository, "versions", graph("Abs", "v9").SerializeToString(), "9")
    write(repository, "versions", good, "10")
    write(repository, "truncated", good[: len(good) // 2])
    write(repository, "garbage", os.urandom(256))
    write(repository, "hollow", b"")
    write(repository, "unknown-operator", graph("Frobnicate", "odd").SerializeToString())
    (repository / "no-version").mkdir()
    (repository / "escape").symlink_to(KEPT / "zoo" / "resnet18")
    server = Server(repository, folder / "run", store=folder / "store")
    yield server
    server.stop()


BAD = {
    "truncated": "",
    "garbage": "",
    "hollow": "",
    "unknown-operator": "Frobnicate",
    "no-version": "no version",
    "escape": "escape",
}


def test_the_index_gives_each_reason(server):
    with Caller(server, "http") as caller:
        index = {entry["name"]: entry for entry in caller.client.get_model_repository_index()}
    assert set(index) == set(BAD) | {"good", "versions"}
    for name, said in BAD.items():
        assert index[name]["state"] == "UNAVAILABLE", index[name]
        assert index[name]["reason"] and said in index[name]["reason"], index[name]
    for name in ("good", "versions"):
        assert index[name]["state"] == "READY", index[name]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bad_models_are_not_ready_and_say_why(server, protocol):
    arrays = {"x": numpy.ones((1, 2), numpy.float32)}
    with Caller(server, protocol) as caller:
        assert caller.client.is_server_live()
        for name in BAD:
            assert not caller.client.is_model_ready(name), name
            with pytest.raises(InferenceServerException) as caught:
                caller.call(name, arrays)
            assert name in caught.value.message(), caught.value.message()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_good_models_serve_and_the_highest_version_is_the_default(server, protocol):
    arrays = {"x": numpy.array([[1.0, -2.0]], numpy.float32)}
    with Caller(server, protocol) as caller:
        for name in ("good", "versions"):
            assert caller.client.is_model_ready(name)
            reply = caller.call(name, arrays)
            numpy.testing.assert_array_equal(reply.as_numpy("y"), -arrays["x"])
