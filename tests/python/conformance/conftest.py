"""The server that the conformance suite calls, and its clients."""

import importlib.metadata
import os

import models
import pytest
from clients import KINDS, Client
from serving import Server

# Set by scripts/acceptance.sh, which runs the suite once for each.
EXPECTED = os.environ.get("FUGATO_TRITONCLIENT")
CONFIG = "[defaults]\nmax_batch_size = 8\n"


def pytest_report_header():
    found = importlib.metadata.version("tritonclient")
    if EXPECTED is not None and found != EXPECTED:
        raise pytest.UsageError("tritonclient is {}, not {}".format(found, EXPECTED))
    return "conformance with tritonclient {}".format(found)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conformance")
    repository = folder / "models"
    models.write_all(repository)
    server = Server(repository, folder / "run", CONFIG)
    yield server
    server.stop()


@pytest.fixture(params=sorted(KINDS))
def client(request, server):
    client = Client(request.param, server)
    yield client
    client.close()
