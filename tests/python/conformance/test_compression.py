"""Compressed requests and replies."""

import numpy
import pytest
from clients import Client

COMPRESSIONS = ("gzip", "deflate")


@pytest.mark.parametrize("algorithm", COMPRESSIONS)
def test_compressed_grpc(server, algorithm):
    for kind in ("grpc", "grpc-aio"):
        client = Client(kind, server)
        array = numpy.zeros((8, 4096), numpy.float32)
        inputs = [client.input("input", array, "FP32")]
        reply = client.infer("identity_fp32", inputs, compression_algorithm=algorithm)
        numpy.testing.assert_array_equal(reply.as_numpy("output"), array)
        client.close()


@pytest.mark.parametrize("request_algorithm", (None,) + COMPRESSIONS)
@pytest.mark.parametrize("response_algorithm", (None,) + COMPRESSIONS)
def test_compressed_http(server, request_algorithm, response_algorithm):
    for kind in ("http", "http-aio"):
        client = Client(kind, server)
        # Large enough for compression to be worth it.
        array = numpy.zeros((8, 4096), numpy.float32)
        reply = client.infer(
            "identity_fp32",
            [client.input("input", array, "FP32")],
            request_compression_algorithm=request_algorithm,
            response_compression_algorithm=response_algorithm,
        )
        numpy.testing.assert_array_equal(reply.as_numpy("output"), array)
        client.close()
