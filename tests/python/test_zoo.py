"""The zoo's models by the words of ONNX's own checker and runtime, layer by layer."""

import importlib.util

import pytest
from serving import KEPT, ROOT, ZOO, run

# Those of the zoo that no server of this suite loads.
UNSERVED = ["alexnet", "inception_v3", "nasnet_a_large", "randwire_ws", "resnext50_32x4d"]
SCRIPT = ROOT / "crates" / "fugato-zoo" / "tests" / "check_models.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_models", str(SCRIPT))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.check


def test_every_model_is_checked():
    table, _notes = run("zoo", "list").split("\n\n", 1)
    listed = [line.split()[0] for line in table.splitlines()[1:]]
    assert sorted(listed) == sorted(ZOO + UNSERVED)


@pytest.mark.parametrize("model", ZOO)
def test_shapes_and_activations(zoo, check, model):
    failures = []
    check(zoo / model / "1" / "model.onnx", True, failures)
    assert not failures


@pytest.mark.parametrize("model", UNSERVED)
def test_shapes_and_activations_of_the_others(check, model):
    folder = KEPT / "unserved"
    run("zoo", "write", "--out", folder, "--model", model)
    failures = []
    check(folder / model / "1" / "model.onnx", True, failures)
    assert not failures
