"""Inference: types, encodings, batches, parameters, errors."""

import numpy
import pytest
import tritonclient.http
from clients import Client, field, parameters, refused
from models import TYPES
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

# HTTP alone can carry tensors as JSON, and in its clients these types cannot.
NOT_IN_JSON = ("FP16", "BF16")


def example(datatype):
    """An array of the type with its least and greatest values."""
    if datatype == "BYTES":
        texts = [[b"", b"\x00\xff", "\u00e9\u4e16".encode()], [b"a" * 3000, b" ", b"{"]]
        return numpy.array(texts, numpy.object_)
    if datatype == "BF16":
        # What 8 bits hold; float32 for the older client, which cuts the rest off.
        halves = [[1.5, -2.25, 0.0], [2.0**127, -(2.0**-126), 7.0]]
        return numpy.array(halves, numpy.float32).astype(triton_to_np_dtype("BF16"))
    kind = numpy.dtype(triton_to_np_dtype(datatype))
    if kind == bool:
        return numpy.array([[True, False, True], [False, False, True]])
    info = numpy.finfo(kind) if kind.kind == "f" else numpy.iinfo(kind)
    return numpy.array([[0, 1, 2], [info.min, info.max, 3]], kind)


def equal(found, array):
    assert found is not None and found.shape == array.shape
    assert found.dtype == array.dtype
    numpy.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("datatype", sorted(TYPES))
def test_every_type_comes_back(client, datatype):
    array = example(datatype)
    model = "identity_" + datatype.lower()
    reply = client.infer(model, [client.input("input", array, datatype)])
    equal(reply.as_numpy("output"), array)
    assert field(reply, "model_name") == model
    assert field(reply, "model_version") == "1"


@pytest.mark.parametrize("datatype", sorted(set(TYPES) - set(NOT_IN_JSON)))
@pytest.mark.parametrize("ways", ((False, False), (False, True), (True, False)))
def test_every_type_in_json(server, datatype, ways):
    array = example(datatype)
    if datatype == "BYTES":
        array[0, 1] = b"text"  # JSON cannot carry what is not text.
    binary_in, binary_out = ways
    for kind in ("http", "http-aio"):
        client = Client(kind, server)
        inputs = [client.input("input", array, datatype, binary_data=binary_in)]
        outputs = [client.output("output", binary_data=binary_out)]
        reply = client.infer("identity_" + datatype.lower(), inputs, outputs=outputs)
        found = reply.as_numpy("output")
        if datatype == "BYTES" and not binary_out:
            found = numpy.array([one.encode() for one in found.flat], numpy.object_)
            found = found.reshape(array.shape)
        equal(found, array)
        client.close()


def pair(client, rows=1, seed=1):
    """Inputs of `simple` and their arrays."""
    random = numpy.random.RandomState(seed)
    arrays = [random.randint(-99, 99, (rows, 16)).astype(numpy.int32) for _ in range(2)]
    names = ("INPUT0", "INPUT1")
    return arrays, [client.input(name, array, "INT32") for name, array in zip(names, arrays)]


def check_pair(reply, arrays):
    numpy.testing.assert_array_equal(reply.as_numpy("OUTPUT0"), arrays[0] + arrays[1])
    numpy.testing.assert_array_equal(reply.as_numpy("OUTPUT1"), arrays[0] - arrays[1])


@pytest.mark.parametrize("rows", (1, 3, 8))
def test_batches(client, rows):
    arrays, inputs = pair(client, rows)
    check_pair(client.infer("simple", inputs), arrays)


def test_inputs_in_any_order_and_one_output(client):
    arrays, inputs = pair(client)
    reply = client.infer("simple", inputs[::-1], outputs=[client.output("OUTPUT1")])
    numpy.testing.assert_array_equal(reply.as_numpy("OUTPUT1"), arrays[0] - arrays[1])
    assert reply.as_numpy("OUTPUT0") is None


def test_an_id_comes_back(client):
    _, inputs = pair(client)
    assert field(client.infer("simple", inputs, request_id="one/\u00e9 2"), "id") == "one/\u00e9 2"
    assert field(client.infer("simple", inputs), "id") == ""


def test_many_at_once(client):
    made = [pair(client, rows=1 + seed % 3, seed=seed) for seed in range(24)]
    replies = client.together("simple", [inputs for _, inputs in made])
    for (arrays, _), reply in zip(made, replies):
        check_pair(reply, arrays)
    assert max(parameters(reply)["batch_size"] for reply in replies) <= 8


def test_priority_timeout_parameters_and_headers(client):
    arrays, inputs = pair(client)
    options = {
        "priority": 1,
        "timeout": 60_000_000,
        "parameters": {"text": "a", "whole": 3, "yes": True},
        "headers": {"x-one": "1"},
    }
    if client.is_grpc:
        options["client_timeout"] = 60
    else:
        options["query_params"] = {"q": 1}
    check_pair(client.infer("simple", inputs, model_version="1", **options), arrays)


def test_reserved_parameters_are_refused_by_the_client(client):
    _, inputs = pair(client)
    with pytest.raises(InferenceServerException, match="sequence_id"):
        client.infer("simple", inputs, parameters={"sequence_id": 3})


@pytest.mark.parametrize("sequence", (7, "seven"))
def test_sequences_are_refused_by_name(client, sequence):
    _, inputs = pair(client)
    options = {"sequence_id": sequence, "sequence_start": True}
    refused(client, "unimplemented", "sequence", lambda: client.infer("simple", inputs, **options))


def test_a_body_made_and_read_without_the_client(server):
    """`generate_request_body` and `parse_response_body`, for users of other HTTP stacks."""
    import urllib.request

    module = tritonclient.http.InferenceServerClient
    array = numpy.arange(16, dtype=numpy.float32).reshape(1, 16)
    tensor = tritonclient.http.InferInput("input", [1, 16], "FP32")
    tensor.set_data_from_numpy(array)
    body, length = module.generate_request_body([tensor])
    url = "http://{}/v2/models/identity_fp32/infer".format(server.addresses["http"])
    headers = {"Inference-Header-Content-Length": str(length)}
    request = urllib.request.Request(url, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        size = reply.headers.get("Inference-Header-Content-Length")
        result = module.parse_response_body(reply.read(), header_length=int(size))
    numpy.testing.assert_array_equal(result.as_numpy("output"), array)


BAD = {
    "unknown model": ("unknown_model", "nope", "nope", {}, {}),
    "unknown version": ("unknown_version", "9", "simple", {}, {"model_version": "9"}),
    "unknown input": ("invalid", "INPUT7", "simple", {"names": ("INPUT0", "INPUT7")}, {}),
    "input twice": ("invalid", "INPUT0", "simple", {"names": ("INPUT0", "INPUT0")}, {}),
    "missing input": ("invalid", "INPUT1", "simple", {"names": ("INPUT0",)}, {}),
    "wrong type": ("invalid", "INT64", "simple", {"type": "INT64"}, {}),
    "wrong shape": ("invalid", "15", "simple", {"shape": (1, 15)}, {}),
    "wrong rank": ("invalid", "INPUT0", "simple", {"shape": (16,)}, {}),
    "batch too large": ("invalid", "9", "simple", {"shape": (9, 16)}, {}),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_requests(client, case):
    kind, said, model, change, options = BAD[case]
    datatype = change.get("type", "INT32")
    array = numpy.zeros(change.get("shape", (1, 16)), triton_to_np_dtype(datatype))
    names = change.get("names", ("INPUT0", "INPUT1"))
    inputs = [client.input(name, array, datatype) for name in names]
    refused(client, kind, said, lambda: client.infer(model, inputs, **options))
    arrays, inputs = pair(client)
    check_pair(client.infer("simple", inputs), arrays)


def test_an_unknown_output_is_named(client):
    _, inputs = pair(client)
    outputs = [client.output("OUTPUT9")]
    refused(client, "invalid", "OUTPUT9", lambda: client.infer("simple", inputs, outputs=outputs))


# About a second of work, of which the client waits a twentieth.
LONG = numpy.array([400], numpy.int64)


@pytest.mark.parametrize("kind", ("grpc", "grpc-aio"))
def test_client_timeout_of_grpc(server, kind):
    # A model that nobody has asked: once the server knows how long it takes, it refuses what cannot be in time.
    # Nor can it be in time behind what another test left on the device.
    server.wait_idle()
    client, model = Client(kind, server), f"slow_{kind}"
    inputs = [client.input("steps", LONG, "INT64")]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, client_timeout=0.02)
    assert str(caught.value.status()) == "StatusCode.DEADLINE_EXCEEDED"
    assert client.is_model_ready(model)
    client.close()


def test_network_timeout_of_http(server):
    client = Client("http", server, network_timeout=0.02)
    inputs = [client.input("steps", LONG, "INT64")]
    with pytest.raises(Exception, match="timed out"):
        client.infer("slow", inputs)
    client.close()
    other = Client("http", server)
    assert other.is_model_ready("slow")
    other.close()


def test_a_request_taken_back(server):
    """`CallContext.cancel` of gRPC: the callback hears of it, the server serves on."""
    import concurrent.futures

    client = Client("grpc", server)
    heard = concurrent.futures.Future()
    inputs = [client.input("steps", LONG, "INT64")]
    context = client.async_infer("slow", inputs, lambda result, error: heard.set_result(error))
    context.cancel()
    assert str(heard.result(60).status()) == "StatusCode.CANCELLED"
    assert client.is_server_ready()
    client.close()
