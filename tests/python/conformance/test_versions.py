"""Several versions of a model at once, chosen by the model's configuration; labels."""

import models
import numpy
import pytest
from clients import KINDS, Client, field, refused
from serving import Server

ROW = numpy.array([[4.0, 9.0, 1.0, 2.0]], numpy.float32)


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("versions")
    repository = folder / "models"
    models.write_versions(repository)
    models.write_classifier(repository)
    server = Server(repository, folder / "run", store=folder / "store")
    yield server
    server.stop()


@pytest.fixture(params=sorted(KINDS))
def client(request, configured):
    client = Client(request.param, configured)
    yield client
    client.close()


def test_two_versions_answer(client):
    inputs = [client.input("input", ROW, "FP32")]
    for asked, ran, expected in (("1", "1", -ROW), ("3", "3", ROW**0.5), ("", "3", ROW**0.5)):
        reply = client.infer("versions", inputs, model_version=asked)
        assert field(reply, "model_version") == ran
        numpy.testing.assert_allclose(reply.as_numpy("output"), expected, rtol=1e-6)


def test_the_policy_chooses(client):
    assert client.get_model_metadata("versions")["versions"] == ["1", "3"]
    ready = [client.is_model_ready("versions", version) for version in ("1", "2", "3")]
    assert ready == [True, False, True]
    versions = {
        one["version"]: one["state"]
        for one in client.get_model_repository_index()
        if one["name"] == "versions"
    }
    assert versions == {"1": "READY", "3": "READY"}
    config = client.get_model_config("versions")
    assert [int(one) for one in config["version_policy"]["specific"]["versions"]] == [1, 3]
    inputs = [client.input("input", ROW, "FP32")]
    refused(
        client, "unknown_version", "2",
        lambda: client.infer("versions", inputs, model_version="2"),
    )  # fmt: skip


def test_each_version_is_counted(client):
    found = client.get_inference_statistics("versions")["model_stats"]
    assert sorted(one["version"] for one in found) == ["1", "3"]


def test_classes_have_labels(client):
    inputs = [client.input("input", ROW, "FP32")]
    outputs = [client.output("output", class_count=2)]
    found = client.infer("classifier", inputs, outputs=outputs).as_numpy("output")
    parts = [one.decode().split(":") for one in found.flat]
    assert [(float(score), int(index), label) for score, index, label in parts] == [
        (9.0, 1, models.LABELS[1]), (4.0, 0, models.LABELS[0]),
    ]  # fmt: skip


def test_the_configuration_is_the_file(client):
    config = client.get_model_config("classifier")
    assert config["max_batch_size"] == 8
    assert config["output"][0]["label_filename"] == "labels.txt"
