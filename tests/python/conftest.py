"""The repositories and servers that the tests share."""

from pathlib import Path

import onnx
import pytest
from serving import KEPT, ZOO, Server, run

# Batches of 8 are the largest the suite sends. No objective is set: the suite asks
# whether answers are right, not whether they are quick on this machine.
CONFIG = "[defaults]\nmax_batch_size = 8\n"


@pytest.fixture(scope="session")
def zoo():
    """Models of the zoo; files that are there are kept."""
    folder = KEPT / "zoo"
    run("zoo", "write", "--out", folder, *(flag for name in ZOO for flag in ("--model", name)))
    return folder


@pytest.fixture(scope="session")
def light():
    """The light models of the package onnx, with weights of ours."""
    folder = KEPT / "light"
    data = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    run("zoo", "light", "--models", data, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def zoo_server(zoo, tmp_path_factory):
    server = Server(zoo, tmp_path_factory.mktemp("zoo"), CONFIG)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def light_server(light, tmp_path_factory):
    server = Server(light, tmp_path_factory.mktemp("light"), CONFIG)
    yield server
    server.stop()
