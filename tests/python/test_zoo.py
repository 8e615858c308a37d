"""The zoo's models by the words of ONNX's own checker and runtime, layer by layer."""

import importlib.util

import pytest
from serving import ROOT, ZOO

SCRIPT = ROOT / "crates" / "fugato-zoo" / "tests" / "check_models.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_models", str(SCRIPT))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.check


@pytest.mark.parametrize("model", ZOO)
def test_shapes_and_activations(zoo, check, model):
    failures = []
    check(zoo / model / "1" / "model.onnx", True, failures)
    assert not failures
