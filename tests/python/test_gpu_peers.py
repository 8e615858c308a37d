"""What bench/peers/gpu_peers.py says where it cannot measure. Its reader is checked with PyTorch
(bench/peers/README.md), which this suite does not install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PEERS = Path(__file__).resolve().parents[2] / "bench" / "peers" / "gpu_peers.py"
# Modules called `torch`, in place of any that is installed.
NONE = "raise ImportError('no such package here')"
NO_DEVICE = "class cuda:\n    is_available = staticmethod(lambda: False)\n"


@pytest.fixture
def places(tmp_path):
    """The folders that it needs, with files that nobody reads."""
    (tmp_path / "models" / "tiny" / "1").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "1" / "model.onnx").touch()
    (tmp_path / "expected").mkdir()
    (tmp_path / "expected" / "tiny.json").touch()
    return tmp_path


def peers(places, *flags, torch=NONE):
    (places / "torch.py").write_text(torch)
    given = ["--models", places / "models", "--expect", places / "expected", "--out", places / "out.json"]
    command = [sys.executable, PEERS, *given, *flags]
    environment = {**os.environ, "PYTHONPATH": str(places)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("torch", "flags", "said"),
    [
        (NONE, [], "PyTorch is not installed"),
        (NO_DEVICE, [], "finds no NVIDIA device"),
        (NONE, ["--model", "huge"], "huge/1/model.onnx"),
        (NONE, ["--out", "no/such/folder/out.json"], "there is no folder"),
    ],
)
def test_what_is_missing_is_named(places, torch, flags, said):
    done = peers(places, *flags, torch=torch)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
    assert not (places / "out.json").exists()


def test_models_without_answers_are_refused_before_torch_is_loaded(places):
    (places / "expected" / "tiny.json").unlink()
    done = peers(places)
    assert done.returncode == 2
    assert "tiny.json" in done.stderr and "--help" in done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--batches", "0"], "at least one item"),
        (["--batches", "many"], "expected numbers"),
        (["--modes", "fast"], "eager,graph,streams,compile"),
        (["--device", "cpu", "--modes", "graph"], "no mode but `eager`"),
    ],
)
def test_a_flag_that_is_wrong_says_what_is_expected(places, flags, said):
    done = peers(places, *flags)
    assert done.returncode == 2 and said in done.stderr
