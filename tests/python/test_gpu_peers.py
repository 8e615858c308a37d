"""What bench/peers/gpu_peers.py says where it cannot measure, and what gpu_beside.py makes of its
report. Its reader is checked with PyTorch (bench/peers/README.md), which this suite does not
install; where it is installed the answers of a model in half precision are checked here."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench" / "peers" / "gpu_peers.py"
BESIDE = PEERS.with_name("gpu_beside.py")
READER = PEERS.with_name("onnx_torch.py")
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
        (["--precision", "fp32,fp8"], "expected some of fp32,fp16"),
    ],
)
def test_a_flag_that_is_wrong_says_what_is_expected(places, flags, said):
    done = peers(places, *flags)
    assert done.returncode == 2 and said in done.stderr


def test_the_reader_leaves_alone_what_the_model_store_does():
    rust = (ROOT / "crates/fugato-device/src/store/halving.rs").read_text()
    listed = re.search(r"const LEFT_ALONE: \[&str; (\d+)\] = \[(.*?)\];", rust, re.DOTALL)
    left_alone = re.findall(r'"(\w+)"', listed[2])
    assert len(left_alone) == int(listed[1])
    text = READER.read_text()
    own = {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name)
    }
    written = {name.lower() for name in re.findall(r"def write_(\w+)", text)}
    known = {*own["BINARY"], *own["UNARY"]} | {name for name in left_alone if name.lower() in written}
    assert own["LEFT_ALONE"] == known & set(left_alone)


def zoo_report(*models):
    return {"schema": "fugato.gpu-check/1", "part": "zoo", "facts": {"models": list(models)}}


def zoo_model(model, precision, **batches):
    rows = [{"batch": int(batch[1:]), "captured": True, **row} for batch, row in batches.items()]
    return {"model": model, "precision": precision, "load_s": 1.0, "batches": rows}


def peers_report(*rows, tf32=False):
    keys = ("model", "precision", "mode", "batch", "run", "leg")
    rows = [dict(zip(keys, row)) for row in rows]
    for row in rows:
        row.update({key: {"median_us": row[key]} for key in ("run", "leg")})
    return {"schema": "fugato.gpu-peers/1", "tf32": tf32, "rows": rows}


def beside(tmp_path, ours, theirs, *flags):
    (tmp_path / "zoo.json").write_text(json.dumps(ours))
    (tmp_path / "peers.json").write_text(json.dumps(theirs))
    command = [sys.executable, BESIDE, tmp_path / "zoo.json", tmp_path / "peers.json", *flags]
    return subprocess.run(command, capture_output=True, text=True)


OURS = zoo_report(
    zoo_model("tiny", "fp32", b1={"graphs_us": 90.0, "leg_us": 120.0}, b8={"graphs_us": 300.0, "leg_us": 400.0}),
    zoo_model("tiny", "fp16", b1={"graphs_us": 60.0, "leg_us": 66.0}, b8={"graphs_us": 99.0, "leg_us": 100.0}),
)
THEIRS = peers_report(
    ("tiny", "fp32", "eager", 1, 50.0, 50.0),
    ("tiny", "fp32", "graph", 1, 100.0, 100.0),
    ("tiny", "fp16", "graph", 1, 60.0, 120.0),
    ("tiny", "fp16", "graph", 2, 60.0, 120.0),
)


def test_what_both_measured_stands_side_by_side(tmp_path):
    done = beside(tmp_path, OURS, THEIRS)
    assert done.returncode == 0, done.stderr
    assert "| tiny | fp32 | 1 | 90.0 | 100.0 | 0.90 |" in done.stdout
    assert "| tiny | fp16 | 1 | 60.0 | 60.0 | 1.00 |" in done.stdout
    assert "| 8 |" not in done.stdout and "| 2 |" not in done.stdout, "batches that one side lacks"
    assert "2 of 2 rows" in done.stdout


def test_what_is_slower_or_not_there_fails(tmp_path):
    done = beside(tmp_path, OURS, THEIRS, "--legs", "--batch", "1")
    assert done.returncode == 1
    assert "| tiny | fp32 | 1 | 120.0 | 100.0 | 1.20 |" in done.stdout and "1 of 2 rows" in done.stdout
    eager = zoo_report(
        zoo_model("tiny", "fp32", b1={"captured": False, "graphs_us": 90.0, "leg_us": 120.0}),
        zoo_model("other", "fp32", b1={"error": "no memory"}),
    )
    done = beside(tmp_path, eager, THEIRS)
    assert done.returncode == 1
    assert "| tiny | fp32 | 1 | no graph | 100.0 | - |" in done.stdout
    assert "| tiny | fp16 | 1 | none | 60.0 | - |" in done.stdout
    assert "| other | fp32 | 1 | failed | none | - |" in done.stdout


def test_of_several_reports_the_fastest_counts(tmp_path):
    last = peers_report(("tiny", "fp32", "graph", 1, 45.0, 45.0))
    last["rows"].append({"model": "tiny", "precision": "fp16", "mode": "graph", "batch": 1, "error": "no memory"})
    (tmp_path / "last.json").write_text(json.dumps(last))
    done = beside(tmp_path, OURS, THEIRS, tmp_path / "last.json")
    assert done.returncode == 1
    assert "| tiny | fp32 | 1 | 90.0 | 45.0 | 2.00 |" in done.stdout
    assert "| tiny | fp16 | 1 | 60.0 | 60.0 | 1.00 |" in done.stdout


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (THEIRS, THEIRS, "is no report of schema `fugato.gpu-check/1`"),
        ({**OURS, "part": "knees"}, THEIRS, "is the part `knees`"),
        (OURS, {**THEIRS, "tf32": True}, "--tf32"),
        (OURS, peers_report(("tiny", "fp32", "graph", 4, 1.0, 1.0)), "no batch is in both"),
    ],
)
def test_what_cannot_be_set_side_by_side_is_named(tmp_path, ours, theirs, said):
    done = beside(tmp_path, ours, theirs)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torch", "onnx")), reason="PyTorch is not installed"
)
def test_half_precision_has_casts_at_its_borders_and_weights_within_its_range(tmp_path):
    import numpy
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = {"w": [[1.0, 1e9], [1e-12, -0.1]], "k": [2.0, 2.0]}
    initializers = [numpy_helper.from_array(numpy.array(array, numpy.float32), name) for name, array in weights.items()]
    nodes = [
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "m"], ["xm"]),
        helper.make_node("MatMul", ["xm", "w"], ["y"]),
        helper.make_node("Add", ["y", "k"], ["z"]),
    ]
    float_port = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 2]) for name in "xyz"}
    mask = helper.make_tensor_value_info("mask", TensorProto.INT64, ["b", 2])
    graph = helper.make_graph(nodes, "g", [float_port["x"], mask], [float_port["y"], float_port["z"]], initializers)
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    script = f"""
import sys, torch
sys.path.insert(0, {str(READER.parent)!r})
from onnx_torch import load
module = load({str(tmp_path / "m.onnx")!r}, "fp16")
held = dict(module.named_buffers())
assert all(tensor.dtype == torch.float16 for tensor in held.values()), held
assert any((tensor == 1e4).any() and (tensor == 2.0**-24).any() for tensor in held.values()), held
y, z = module(torch.tensor([[1.0, 1.0]]), torch.tensor([[1, 0]]))
assert y.dtype == z.dtype == torch.float32
assert y.tolist() == [[1.0, 10000.0]] and z.tolist()[0][0] == 3.0, (y, z)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
