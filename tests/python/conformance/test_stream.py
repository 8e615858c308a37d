"""Streams of gRPC: many requests over one call, of which each has its own outcome."""

import numpy
import pytest
from clients import Client, field, parameters
from tritonclient.utils import InferenceServerException


@pytest.fixture(params=("grpc", "grpc-aio"))
def client(request, server):
    client = Client(request.param, server)
    yield client
    client.close()


def request(client, value, **options):
    array = numpy.full((1, 2), value, numpy.float32)
    inputs = [client.input("input", array, "FP32")]
    return dict({"model_name": "identity_fp32", "inputs": inputs, "request_id": str(value)}, **options)


def test_each_request_is_answered(client):
    answers = client.stream([request(client, value) for value in range(1, 33)])
    assert [error for _, error in answers] == [None] * 32
    found = {field(result, "id"): result.as_numpy("output")[0, 0] for result, _ in answers}
    assert found == {str(value): float(value) for value in range(1, 33)}


def test_an_error_does_not_end_the_stream(client):
    requests = [request(client, value) for value in range(1, 7)]
    requests[1]["model_name"] = "nope"
    requests[3]["model_version"] = "9"
    answers = client.stream(requests)
    errors = [error for _, error in answers if error is not None]
    assert all(isinstance(error, InferenceServerException) for error in errors)
    assert sorted("nope" in error.message() for error in errors) == [False, True]
    found = {field(result, "id") for result, error in answers if error is None}
    assert found == {"1", "3", "5", "6"}


def test_the_final_response_is_marked(client):
    requests = [
        request(client, value, enable_empty_final_response=True) for value in range(1, 5)
    ]
    answers = client.stream(requests)
    # Each request has one response, so none of them is empty.
    assert all(error is None for _, error in answers)
    assert all(parameters(result)["triton_final_response"] is True for result, _ in answers)
    assert all(result.as_numpy("output") is not None for result, _ in answers)


def test_two_streams_after_each_other(client):
    for _ in range(2):
        answers = client.stream([request(client, 1)])
        assert answers[0][1] is None


def test_one_stream_at_a_time(server):
    """What the client itself refuses must leave its stream as it was."""
    client = Client("grpc", server)
    client.start_stream(lambda result, error: None)
    with pytest.raises(InferenceServerException):
        client.start_stream(lambda result, error: None)
    client.stop_stream(cancel_requests=True)
    assert client.is_server_ready()
    client.close()
