"""Triton's perf_analyzer drives the server in each of its ways, and counts agree."""

import json
import os
import re
import subprocess

import numpy
import pytest
from serving import Server, run
from wire import Caller

# What scripts/perf_analyzer.py printed: the command, or why there is none.
COMMAND = os.environ.get("FUGATO_PERF_ANALYZER", "SKIPPED scripts/perf_analyzer.py was not run")
pytestmark = pytest.mark.skipif(COMMAND.startswith("SKIPPED"), reason=COMMAND)

# A run ends after these; at the rate of the open loop that takes a second.
REQUESTS = 200
RATE = 200
WAYS = {
    "http sync": ("http", "--sync"),
    "http async": ("http", "--async"),
    "grpc sync": ("grpc", "--sync"),
    "grpc async": ("grpc", "--async"),
    "grpc streaming": ("grpc", "--async", "--streaming"),
}
LOADS = {
    "closed loop": ("--concurrency-range", "4"),
    "open loop": ("--request-rate-range", str(RATE), "--request-distribution", "poisson"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perf")
    run("zoo", "write", "--out", folder / "models", "--model", "identity")
    server = Server(folder / "models", folder / "run", store=folder / "store")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Inputs of `identity`; those that the program makes up include NaN."""
    path = tmp_path_factory.mktemp("perf") / "data.json"
    steps = [{"input": {"content": [value], "shape": [1]}} for value in (1.5, -2.0, 0.25)]
    path.write_text(json.dumps({"data": steps}))
    return path


def analyze(server, data, protocol, *flags):
    """Runs the program to its end; gives what it said."""
    libraries, program = COMMAND.split(" ", 1)
    environment = dict(os.environ, LD_LIBRARY_PATH=libraries.split("=", 1)[1])
    command = [
        program, "-m", "identity", "-i", protocol, "-u", server.addresses[protocol],
        "--input-data", str(data), "--request-count", str(REQUESTS), "-v",
    ] + list(flags)  # fmt: skip
    done = subprocess.run(
        command, env=environment, timeout=120, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, "{}\n{}".format(" ".join(command), done.stdout)
    return done.stdout


def counted(server):
    with Caller(server, "http") as caller:
        stats = caller.client.get_inference_statistics("identity")["model_stats"][0]
    return stats["inference_count"], stats["execution_count"]


def number(pattern, text):
    found = re.search(pattern, text)
    assert found, "no line like {!r} in:\n{}".format(pattern, text)
    return float(found.group(1))


@pytest.mark.parametrize("memory", ("none", "system"))
@pytest.mark.parametrize("load", sorted(LOADS))
@pytest.mark.parametrize("way", sorted(WAYS))
def test_perf_analyzer(server, data, way, load, memory):
    inferences, executions = counted(server)
    flags = WAYS[way][1:] + LOADS[load] + ("--shared-memory", memory)
    said = analyze(server, data, WAYS[way][0], *flags)
    client, counts = said.split("Server:", 1) if "Server:" in said else (said, "")
    assert number(r"Request count: (\d+)", client) >= REQUESTS
    assert number(r"Throughput: ([\d.]+)", client) > 0
    assert "rror" not in said, said
    # What the program read of the server's statistics before and after; it reads them first
    # when some of its requests are on their way already.
    assert number(r"Inference count: (\d+)", counts) >= 0.9 * REQUESTS
    assert number(r"Execution count: (\d+)", counts) > 0
    assert number(r"compute infer (\d+) usec", counts) >= 0
    after = counted(server)
    assert after[0] - inferences >= REQUESTS
    assert 0 < after[1] - executions <= after[0] - inferences


def test_regions_are_given_back(server):
    with Caller(server, "http") as caller:
        assert caller.client.get_system_shared_memory_status() == []
        reply = caller.call("identity", {"input": numpy.ones((1, 1), numpy.float32)})
        assert reply.as_numpy("output") == [[1.0]]
