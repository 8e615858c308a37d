"""The server's answers are those of ONNX Runtime, however requests are batched."""

import pytest
from reference import Reference, assert_equal, rows
from serving import ZOO
from wire import PROTOCOLS, Caller, batch_size

LIGHT = [
    "light_bvlc_alexnet", "light_densenet121", "light_inception_v1", "light_inception_v2",
    "light_resnet50", "light_shufflenet", "light_squeezenet", "light_vgg19", "light_zfnet512",
]  # fmt: skip
BATCHES = (1, 3, 8)


def check(server, repository, model):
    """One request of each batch size, and as many single requests sent at once, over
    both protocols; gives the batch sizes that the single requests ran in."""
    reference = Reference(repository / model / "1" / "model.onnx")
    ran_in = []
    for batch in BATCHES:
        arrays = reference.inputs(batch, seed=batch)
        expected = reference.run(arrays)
        for protocol in PROTOCOLS:
            context = "{} over {}, batch {}".format(model, protocol, batch)
            with Caller(server, protocol) as caller:
                reply = caller.call(model, arrays)
                assert batch_size(reply) >= batch
                assert_equal(reply, expected, context)
                singles = [rows(arrays, index) for index in range(batch)]
                replies = caller.together(model, singles)
            for index, reply in enumerate(replies):
                one = {name: b[index : index + 1] for name, b in expected.items()}
                assert_equal(reply, one, "{}, single {}".format(context, index))
                ran_in.append(batch_size(reply))
    return ran_in


@pytest.mark.parametrize("model", [name for name in ZOO if name != "identity"])
def test_zoo(zoo_server, zoo, model):
    # 24 single requests were sent in six volleys; the first of a volley may run alone,
    # those that come while it runs must share runs.
    ran_in = check(zoo_server, zoo, model)
    assert max(ran_in) > 1, "{} never batched: {}".format(model, ran_in)


@pytest.mark.parametrize("model", LIGHT)
def test_light(light_server, light, model):
    ran_in = check(light_server, light, model)
    assert max(ran_in) > 1, "{} never batched: {}".format(model, ran_in)


def test_two_inputs_give_different_answers(zoo_server, zoo):
    """Guards the comparison itself: a model whose output ignored its input would pass it."""
    reference = Reference(zoo / "resnet18" / "1" / "model.onnx")
    with Caller(zoo_server, "grpc") as caller:
        first = caller.call("resnet18", reference.inputs(1, seed=1))
        other = reference.run(reference.inputs(1, seed=2))
    with pytest.raises(AssertionError, match="is off by"):
        assert_equal(first, other, "another input")
