"""Bad requests get a clear answer of the right kind, and nothing else happens."""

import json
import urllib.error
import urllib.request

import numpy
import pytest
from reference import Reference, assert_equal
from tritonclient.utils import InferenceServerException
from wire import PROTOCOLS, Caller


def input_name(zoo):
    return Reference(zoo / "squeezenet1_1" / "1" / "model.onnx").session.get_inputs()[0].name


def refused(caller, model, arrays, **options):
    """The status and message that the call is refused with."""
    with pytest.raises(InferenceServerException) as caught:
        caller.call(model, arrays, **options)
    return str(caught.value.status()), caught.value.message()


CASES = {
    "unknown model": ("nope", {}, {}, ("404", "NOT_FOUND"), "nope"),
    "unknown version": ("squeezenet1_1", {}, {"model_version": "9"}, ("404", "NOT_FOUND"), "9"),
    "path trick": ("../zoo", {}, {}, ("404", "400", "NOT_FOUND", "INVALID_ARGUMENT"), ""),
    "wrong shape": ("squeezenet1_1", {"shape": (1, 3, 224, 223)}, {}, ("400", "INVALID_ARGUMENT"), "223"),
    "wrong rank": ("squeezenet1_1", {"shape": (3, 224, 224)}, {}, ("400", "INVALID_ARGUMENT"), "224"),
    "too many items": ("squeezenet1_1", {"shape": (9, 3, 224, 224)}, {}, ("400", "INVALID_ARGUMENT"), "9"),
    "wrong type": ("squeezenet1_1", {"type": numpy.int64}, {}, ("400", "INVALID_ARGUMENT"), "INT64"),
    "unknown input": ("squeezenet1_1", {"name": "wrong"}, {}, ("400", "INVALID_ARGUMENT"), "wrong"),
    "too large": ("squeezenet1_1", {"shape": (120, 3, 224, 224)}, {}, ("413", "RESOURCE_EXHAUSTED"), ""),
}  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", sorted(CASES))
def test_refused(zoo_server, zoo, protocol, case):
    model, change, options, statuses, said = CASES[case]
    name = change.get("name", input_name(zoo))
    array = numpy.zeros(change.get("shape", (1, 3, 224, 224)), change.get("type", numpy.float32))
    with Caller(zoo_server, protocol) as caller:
        status, message = refused(caller, model, {name: array}, **options)
        assert any(known in status for known in statuses), (status, message)
        assert said in message, message
        # The server serves on.
        reference = Reference(zoo / "squeezenet1_1" / "1" / "model.onnx")
        arrays = reference.inputs(1, seed=5)
        assert_equal(caller.call("squeezenet1_1", arrays), reference.run(arrays), "after")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_missing_input_is_named(zoo_server, zoo, protocol):
    reference = Reference(zoo / "bert-tiny" / "1" / "model.onnx")
    arrays = reference.inputs(1, seed=1)
    del arrays["attention_mask"]
    with Caller(zoo_server, protocol) as caller:
        status, message = refused(caller, "bert-tiny", arrays)
    assert "400" in status or "INVALID_ARGUMENT" in status
    assert "attention_mask" in message


def post(server, path, body, headers):
    """The status and the error that a raw HTTP request gets."""
    url = "http://{}{}".format(server.addresses["http"], path)
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    return caught.value.code, json.loads(caught.value.read())["error"]


def binary_request(size, payload):
    """An infer request of `identity` whose binary size is said to be `size`."""
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "input",
                    "shape": [2, 1],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": size},
                }
            ]
        }
    ).encode()
    return head + payload, {"Inference-Header-Content-Length": str(len(head))}


@pytest.mark.parametrize(
    "size,payload", [(8, b"1234567"), (7, b"1234567"), (2**62, b"12345678"), (8, b"123456789")]
)
def test_lying_binary_sizes(zoo_server, size, payload):
    body, headers = binary_request(size, payload)
    code, message = post(zoo_server, "/v2/models/identity/infer", body, headers)
    assert code == 400 and message, message


def test_malformed_json(zoo_server):
    code, message = post(zoo_server, "/v2/models/identity/infer", b'{"inputs": [', {})
    assert code == 400 and message, message


def test_headers_that_lie_about_the_json(zoo_server):
    body, _ = binary_request(8, b"12345678")
    headers = {"Inference-Header-Content-Length": "100000"}
    code, message = post(zoo_server, "/v2/models/identity/infer", body, headers)
    assert code == 400 and message, message
