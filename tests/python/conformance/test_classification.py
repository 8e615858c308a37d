"""Classification: the best classes of each row in place of the tensor."""

import numpy
import pytest
from clients import refused

SCORES = numpy.array([[0.5, -1.0, 4.0, 2.0], [9.0, 8.0, 0.25, -3.0]], numpy.float32)


def classes(client, model, count, scores=SCORES, **options):
    inputs = [client.input("input", scores, "FP32")]
    outputs = [client.output("output", class_count=count, **options)]
    return client.infer(model, inputs, outputs=outputs).as_numpy("output")


@pytest.mark.parametrize("binary", (True, False))
def test_the_best_classes(client, binary):
    found = classes(client, "identity_fp32", 2, binary_data=binary)
    texts = [one.decode() if isinstance(one, bytes) else one for one in found.flat]
    parts = [text.split(":") for text in texts]
    assert found.shape == (2, 2)
    assert [(float(score), int(index)) for score, index in parts] == [
        (4.0, 2), (2.0, 3), (9.0, 0), (8.0, 1),
    ]  # fmt: skip


def test_more_than_there_are(client):
    assert classes(client, "identity_fp32", 100).shape == (2, 4)


def test_strings_have_no_classes(client):
    inputs = [client.input("input", numpy.array([[b"a"]], numpy.object_), "BYTES")]
    outputs = [client.output("output", class_count=1)]
    refused(
        client, "invalid", "output", lambda: client.infer("identity_bytes", inputs, outputs=outputs)
    )
