"""Loading and unloading by clients, and what other control modes say to that."""

import json
import time

import models
import numpy
import pytest
from clients import KINDS, Client, refused
from serving import Server
from tritonclient.utils import InferenceServerException

CONFIG = "[defaults]\nmax_batch_size = 8\n"
ONE = numpy.array([[4.0, -9.0]], numpy.float32)
# How long a change in the repository may take to be noticed; it is looked at each second.
NOTICED_SECONDS = 30


def start(tmp_path_factory, mode, *flags):
    folder = tmp_path_factory.mktemp(mode)
    repository = folder / "models"
    for name, op_type in (("neg", "Neg"), ("abs", "Abs")):
        models.write(repository, name, models.unary(op_type))
    models.write(repository, "broken", b"this is no model")
    flags = ("--model-control-mode", mode) + flags
    server = Server(repository, folder / "run", CONFIG, store=folder / "store", flags=flags)
    server.repository = repository
    return server


@pytest.fixture(scope="module")
def explicit(tmp_path_factory):
    server = start(tmp_path_factory, "explicit", "--load-model", "abs")
    yield server
    server.stop()


@pytest.fixture(params=sorted(KINDS))
def client(request, explicit):
    client = Client(request.param, explicit)
    yield client
    client.close()


def answer(client, model, version=""):
    inputs = [client.input("input", ONE, "FP32")]
    return client.infer(model, inputs, model_version=version).as_numpy("output")


def states(client):
    return {one["name"]: one.get("state", "") for one in client.get_model_repository_index()}


def test_load_and_unload(client):
    assert states(client)["neg"] != "READY" and states(client)["abs"] == "READY"
    assert not client.is_model_ready("neg")
    refused(client, "not_ready", "neg", lambda: answer(client, "neg"))
    client.load_model("neg")
    assert client.is_model_ready("neg") and states(client)["neg"] == "READY"
    numpy.testing.assert_array_equal(answer(client, "neg"), -ONE)
    client.unload_model("neg")
    assert not client.is_model_ready("neg") and states(client)["neg"] != "READY"
    assert client.is_server_ready()
    numpy.testing.assert_array_equal(answer(client, "abs"), abs(ONE))


def test_loading_again_serves_on(client):
    client.load_model("abs")
    numpy.testing.assert_array_equal(answer(client, "abs"), abs(ONE))


@pytest.mark.parametrize("call", ("load_model", "unload_model"))
def test_an_unknown_model(client, call):
    refused(client, "unknown_model", "nope", lambda: getattr(client, call)("nope"))


def test_a_model_that_cannot_be_loaded(client):
    refused(client, "load_failed", "broken", lambda: client.load_model("broken"))
    index = {one["name"]: one for one in client.get_model_repository_index()}
    assert index["broken"]["state"] == "UNAVAILABLE" and index["broken"]["reason"]


def test_unloading_dependents_changes_nothing(client):
    client.load_model("neg")
    client.unload_model("neg", unload_dependents=True)
    assert client.is_model_ready("abs")


def test_files_that_come_with_the_call(client):
    config = json.dumps({"name": "abs", "max_batch_size": 4})
    files = {"file:7/model.onnx": models.unary("Neg")}
    try:
        client.load_model("abs", config=config, files=files)
        assert client.get_model_metadata("abs")["versions"] == ["7"]
        assert client.get_model_config("abs")["max_batch_size"] == 4
        numpy.testing.assert_array_equal(answer(client, "abs"), -ONE)
    finally:
        # The repository's own come back with the next load.
        client.load_model("abs")
    assert client.get_model_metadata("abs")["versions"] == ["1"]
    assert client.get_model_config("abs")["max_batch_size"] == 8
    numpy.testing.assert_array_equal(answer(client, "abs"), abs(ONE))


BAD_PATHS = ("file:../escape/model.onnx", "file:/etc/model.onnx", "file:1/../../model.onnx")


@pytest.mark.parametrize("path", BAD_PATHS)
def test_no_file_leaves_the_model(client, path):
    files = {path: models.unary("Neg")}
    with pytest.raises(InferenceServerException) as caught:
        client.load_model("abs", config='{"name": "abs"}', files=files)
    kinds = ("400", "StatusCode.INVALID_ARGUMENT", "StatusCode.FAILED_PRECONDITION")
    assert str(caught.value.status()) in kinds
    numpy.testing.assert_array_equal(answer(client, "abs"), abs(ONE))


@pytest.mark.parametrize("mode", ("none", "poll"))
def test_other_modes_refuse(tmp_path_factory, mode):
    server = start(tmp_path_factory, mode)
    for kind in sorted(KINDS):
        client = Client(kind, server)
        for call in (client.load_model, client.unload_model):
            refused(client, "control_disabled", mode, lambda call=call: call("neg"))
        numpy.testing.assert_array_equal(answer(client, "neg"), -ONE)
        client.close()
    server.stop()


def until(holds):
    limit = time.monotonic() + NOTICED_SECONDS
    while not holds():
        assert time.monotonic() < limit, "was not noticed"
        time.sleep(0.05)


def test_polling_notices_what_changes(tmp_path_factory):
    server = start(tmp_path_factory, "poll", "--repository-poll-secs", "1")
    client = Client("grpc", server)
    models.write(server.repository, "added", models.unary("Sqrt"))
    until(lambda: client.is_model_ready("added"))
    models.write(server.repository, "neg", models.unary("Abs"), version=2)
    until(lambda: client.is_model_ready("neg", "2"))
    numpy.testing.assert_array_equal(answer(client, "neg"), abs(ONE))
    (server.repository / "added").rename(server.repository.parent / "away")
    until(lambda: not client.is_model_ready("added"))
    client.close()
    server.stop()
