"""SIGTERM drains: what was accepted is answered, and the process ends with 0."""

import os

import pytest
from reference import Reference, assert_equal
from serving import Server
from wire import PROTOCOLS, Caller

# Little to send and long to run, so that all requests are accepted before the first is
# answered; one at a time, so that most of them still wait then.
MODEL = "bert-base"
REQUESTS = 8
CONFIG = "[defaults]\nmax_batch_size = 1\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_accepted_requests_are_answered(zoo, tmp_path, protocol):
    repository = tmp_path / "models"
    repository.mkdir()
    (repository / MODEL / "1").mkdir(parents=True)
    os.link(str(zoo / MODEL / "1" / "model.onnx"), str(repository / MODEL / "1" / "model.onnx"))
    server = Server(repository, tmp_path / "run", CONFIG)
    reference = Reference(zoo / MODEL / "1" / "model.onnx")
    many = [reference.inputs(1, seed) for seed in range(REQUESTS)]
    with Caller(server, protocol, concurrency=REQUESTS) as caller:
        replies = caller.together(MODEL, many, after_first=server.terminate)
        for arrays, reply in zip(many, replies):
            assert_equal(reply, reference.run(arrays), protocol)
    assert server.wait() == 0, server.log.read_text()


def test_a_server_without_requests_stops_at_once(zoo, tmp_path):
    repository = tmp_path / "models"
    repository.mkdir()
    server = Server(repository, tmp_path / "run")
    with Caller(server, "http") as caller:
        assert caller.client.is_server_ready()
        server.terminate()
    assert server.wait() == 0, server.log.read_text()
