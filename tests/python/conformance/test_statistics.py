"""Statistics: their fields, and counts that rise by what was asked."""

import time

import numpy
import pytest
from clients import Client

FIELDS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


def statistics(client, model, version=""):
    (found,) = client.get_inference_statistics(model, version)["model_stats"]
    return found


def number(counted, *path):
    """A whole number; gRPC's JSON writes long ones as strings and leaves zeros out."""
    for name in path:
        counted = counted.get(name, {} if name != path[-1] else 0)
    return int(counted)


@pytest.mark.parametrize("version", ("", "1"))
def test_counts_rise(client, version):
    rows = numpy.zeros((3, 4), numpy.float32)
    inputs = [client.input("input", rows, "FP32")]
    client.infer("identity_fp32", inputs)
    before = statistics(client, "identity_fp32", version)
    for _ in range(5):
        client.infer("identity_fp32", inputs)
    after = statistics(client, "identity_fp32", version)

    def rise(*path):
        return number(after, *path) - number(before, *path)

    assert after["name"] == "identity_fp32" and after["version"] == "1"
    assert rise("inference_count") == 15
    assert rise("execution_count") == 5
    assert number(after, "last_inference") >= number(before, "last_inference") > 0
    assert abs(number(after, "last_inference") / 1000 - time.time()) < 60
    for name in FIELDS:
        expected = 0 if name == "fail" else 5
        assert rise("inference_stats", name, "count") == expected, name
    parts = [
        rise("inference_stats", name, "ns")
        for name in ("queue", "compute_input", "compute_infer", "compute_output")
    ]
    assert rise("inference_stats", "compute_infer", "ns") > 0
    assert sum(parts) <= rise("inference_stats", "success", "ns")

    def batch(found):
        (one,) = [one for one in found["batch_stats"] if number(one, "batch_size") == 3]
        return one

    for name in ("compute_input", "compute_infer", "compute_output"):
        assert number(batch(after), name, "count") - number(batch(before), name, "count") == 5


def test_all_models(client):
    names = {one["name"] for one in client.get_inference_statistics()["model_stats"]}
    assert {"simple", "slow", "identity_bytes"} <= names


def test_both_protocols_count_into_one(server):
    counts = []
    for kind in ("http", "grpc"):
        client = Client(kind, server)
        client.infer("identity_int8", [client.input("input", numpy.ones((1, 1), numpy.int8), "INT8")])
        counts.append(number(statistics(client, "identity_int8"), "inference_count"))
        client.close()
    assert counts[1] == counts[0] + 1
