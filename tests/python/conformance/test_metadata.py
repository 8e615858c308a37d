"""Health, metadata, configuration and the index."""

import pytest
from clients import Client, refused
from models import TYPES


def test_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.is_model_ready("simple", "1")
    assert not client.is_model_ready("simple", "7")
    assert not client.is_model_ready("nope")


def test_server_metadata(client):
    metadata = client.get_server_metadata()
    assert metadata["name"] == "fugato"
    assert metadata["version"]
    assert {"binary_tensor_data", "model_configuration", "statistics"} <= set(
        metadata["extensions"]
    )


@pytest.mark.parametrize("version", ("", "1"))
def test_model_metadata(client, version):
    metadata = client.get_model_metadata("simple", version)
    assert metadata["name"] == "simple"
    assert metadata["versions"] == ["1"]
    assert metadata["platform"] == "onnxruntime_onnx"
    for kind, names in (("inputs", ("INPUT0", "INPUT1")), ("outputs", ("OUTPUT0", "OUTPUT1"))):
        assert [one["name"] for one in metadata[kind]] == list(names)
        for one in metadata[kind]:
            assert one["datatype"] == "INT32"
            assert list(map(int, one["shape"])) == [-1, 16]


@pytest.mark.parametrize("datatype", sorted(TYPES))
def test_every_type_is_named(client, datatype):
    metadata = client.get_model_metadata("identity_" + datatype.lower())
    assert metadata["inputs"][0]["datatype"] == datatype
    config = client.get_model_config("identity_" + datatype.lower())
    assert config["output"][0]["data_type"] == "TYPE_" + datatype.replace("BYTES", "STRING")


@pytest.mark.parametrize("version", ("", "1"))
def test_model_config(client, version):
    config = client.get_model_config("simple", version)
    assert config["name"] == "simple"
    assert config["backend"] == "onnxruntime"
    assert config["max_batch_size"] == 8
    assert [one["name"] for one in config["input"]] == ["INPUT0", "INPUT1"]
    assert {one["data_type"] for one in config["input"] + config["output"]} == {"TYPE_INT32"}
    # Without the dimension of the batch.
    assert all(list(map(int, one["dims"])) == [16] for one in config["input"])


CALLS = ("get_model_metadata", "get_model_config", "get_inference_statistics")


@pytest.mark.parametrize("call", CALLS)
def test_what_is_not_there_is_named(client, call):
    call = getattr(client, call)
    refused(client, "unknown_model", "nope", lambda: call("nope"))
    refused(client, "unknown_version", "7", lambda: call("simple", "7"))


def test_index(client):
    index = {one["name"]: one for one in client.get_model_repository_index()}
    assert {"simple", "slow", "identity_bf16"} <= set(index)
    assert all(one["state"] == "READY" and one["version"] == "1" for one in index.values())


def test_headers_and_query_parameters(client):
    options = {"headers": {"x-trace": "one"}}
    if not client.is_grpc:
        options["query_params"] = {"verbose": 1, "names": ["a", "b"]}
    assert client.is_server_live(**options)
    assert client.is_model_ready("simple", **options)
    assert client.get_model_metadata("simple", **options)["name"] == "simple"


def test_client_timeout_of_grpc_calls(server):
    for kind in ("grpc", "grpc-aio"):
        client = Client(kind, server)
        assert client.is_server_live(client_timeout=30)
        assert client.get_model_metadata("simple", client_timeout=30)["name"] == "simple"
        client.close()
