#!/usr/bin/env python3
"""Checks the models of a repository with the onnx and onnxruntime packages.

    check_models.py REPOSITORY [--layers] [--skip-model NAME]...

For each REPOSITORY/<name>/1/model.onnx: the ONNX checker with full shape inference;
outputs finite and spread, between items and within each; two random inputs give
clearly different outputs; a batch of 3 equals three batches of 1 within 1e-4 of the
largest value. Text models also: masked padding changes nothing, and the longest
sequence runs while a longer one is refused. With --layers also: the standard deviation of
what each layer gives for one item lies between 0.05 and 10. Exits 1 with one line per failure, 2 where there is nothing to check.
"""

import argparse
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime as ort

SEQUENCE_MAX = 512
SEQUENCE = 37  # Tokens; odd, so that no size equals it by chance.
VOCABULARY = 30522
BATCH_TOLERANCE = 1e-4
# Different inputs must change the outputs a hundred times more than the tolerance
# allows, or a mixed-up batch would go unseen.
DIFFERENCE_MIN = 1e-2
SPREAD_MIN = 1e-3  # Standard deviation over the largest value.
# Layers, whose outputs --layers looks at: the rest moves values, or computes with sizes and masks.
LAYERS = {
    "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Gemm", "GlobalAveragePool",
    "LayerNormalization", "MaxPool", "Relu", "Sum",
}  # fmt: skip
LAYER_STD_MIN, LAYER_STD_MAX = 0.05, 10.0
# Outputs of layers taken from one run: all of NASNet's together are 3 GB.
LAYERS_AT_ONCE = 100


def random_input(port, rng):
    """One item with values that make sense for the input's name and type."""
    shape = [SEQUENCE if isinstance(d, str) else d for d in port.shape[1:]]
    if port.type == "tensor(float)":
        return rng.standard_normal([1, *shape]).astype(np.float32)
    if port.type == "tensor(int64)":
        if "mask" in port.name:
            return np.ones([1, *shape], np.int64)
        end = 2 if "type" in port.name else VOCABULARY
        return rng.integers(0, end, [1, *shape], dtype=np.int64)
    raise ValueError(f"input {port.name} has type {port.type}, expected float or int64")


def check(path, layers, failures):
    """Appends what is wrong with one model to `failures`; returns a summary."""
    onnx.checker.check_model(str(path), full_check=True)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for port in [*session.get_inputs(), *session.get_outputs()]:
        if port.shape[0] != "batch":
            failures.append(f"{port.name}: first dimension {port.shape[0]}, expected batch")
            return ""
    rng = np.random.default_rng(0)
    items = [{p.name: random_input(p, rng) for p in session.get_inputs()} for _ in range(3)]
    single = [session.run(None, item) for item in items]
    joined = {name: np.concatenate([item[name] for item in items]) for name in items[0]}
    batched = session.run(None, joined)
    if "attention_mask" in items[0]:
        check_padding(session, items[0], single[0], failures)
        check_longest(session, items[0], failures)
    summary = []
    for index, port in enumerate(session.get_outputs()):
        rows = np.concatenate([outputs[index] for outputs in single])
        flat = rows.reshape(len(items), -1)
        largest = np.abs(rows).max()
        spread = flat.std(axis=1).min() / largest if flat.shape[1] > 1 else flat.std() / largest
        difference = np.abs(flat[0] - flat[1]).max() / largest
        error = np.abs(rows - batched[index]).max() / largest
        if not np.isfinite(rows).all() or not np.isfinite(batched[index]).all():
            failures.append(f"{port.name}: not finite")
        if not spread >= SPREAD_MIN:
            failures.append(f"{port.name}: spread {spread:.2e} of the largest, expected {SPREAD_MIN}")
        if not difference >= DIFFERENCE_MIN:
            failures.append(
                f"{port.name}: inputs differ by {difference:.2e} of the largest, "
                f"expected {DIFFERENCE_MIN}"
            )
        if batched[index].shape != rows.shape:
            failures.append(f"{port.name}: batch shape {batched[index].shape}, expected {rows.shape}")
        if not error <= BATCH_TOLERANCE:
            failures.append(f"{port.name}: batch of 3 off by {error:.2e}, expected {BATCH_TOLERANCE}")
        if flat.shape[1] > 1 and (np.unique(flat).size < flat.shape[1] // 2):
            failures.append(f"{port.name}: most values are equal (saturated)")
        summary.append(
            f"{port.name} max {largest:.3g} spread {spread:.3g} "
            f"difference {difference:.3g} batch error {error:.1e}"
        )
    if layers:
        summary.append(check_layers(path, items[0], failures))
    return "; ".join(filter(None, summary))


def check_padding(session, item, expected, failures):
    """Tokens that the mask takes out must not change the others."""
    padded = {name: np.pad(value, [(0, 0), (0, 11)]) for name, value in item.items()}
    padded["input_ids"][:, SEQUENCE:] = 100
    for port, before, after in zip(session.get_outputs(), expected, session.run(None, padded)):
        if before.ndim == 3:
            after = after[:, :SEQUENCE]
        error = np.abs(before - after).max() / np.abs(before).max()
        if not error <= BATCH_TOLERANCE:
            failures.append(f"{port.name}: masked padding changes it by {error:.2e}")
        unmasked = dict(padded, attention_mask=np.ones_like(padded["attention_mask"]))
        changed = session.run([port.name], unmasked)[0]
        changed = changed[:, :SEQUENCE] if changed.ndim == 3 else changed
        if not np.abs(before - changed).max() / np.abs(before).max() > DIFFERENCE_MIN:
            failures.append(f"{port.name}: the mask has no effect")


def check_layers(path, item, failures):
    """What each layer gives has a sane deviation; returns the least and the largest."""
    model = onnx.load(str(path))
    given = {port.name for port in model.graph.output}
    names = [node.output[0] for node in model.graph.node if node.op_type in LAYERS]
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in given
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    deviations = {}
    for start in range(0, len(names), LAYERS_AT_ONCE):
        some = names[start : start + LAYERS_AT_ONCE]
        deviations.update((n, v.std()) for n, v in zip(some, session.run(some, item)))
    for name, deviation in deviations.items():
        if not LAYER_STD_MIN <= deviation <= LAYER_STD_MAX:
            failures.append(
                f"{name}: standard deviation {deviation:.3g}, "
                f"expected {LAYER_STD_MIN} to {LAYER_STD_MAX}"
            )
    if not deviations:
        return ""
    return f"layers {min(deviations.values()):.2f} to {max(deviations.values()):.2f}"


def check_longest(session, item, failures):
    """The longest sequence runs; one token more has no position and must fail."""

    def of_length(length):
        return {name: np.resize(value, (1, length)) for name, value in item.items()}

    for port, output in zip(session.get_outputs(), session.run(None, of_length(SEQUENCE_MAX))):
        if not np.isfinite(output).all():
            failures.append(f"{port.name}: not finite at {SEQUENCE_MAX} tokens")
    quiet = ort.RunOptions()
    quiet.log_severity_level = 4  # The error is expected.
    try:
        session.run(None, of_length(SEQUENCE_MAX + 1), quiet)
        failures.append(f"{SEQUENCE_MAX + 1} tokens were not refused")
    except Exception:  # Which error it is depends on the runtime's version.
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", type=pathlib.Path)
    parser.add_argument("--layers", action="store_true", help="look inside the models too")
    parser.add_argument("--skip-model", action="append", default=[], metavar="NAME")
    arguments = parser.parse_args()
    paths = [
        path
        for path in sorted(arguments.repository.glob("*/1/model.onnx"))
        if path.parts[-3] not in arguments.skip_model
    ]
    if not paths:
        print(f"no <name>/1/model.onnx under {arguments.repository}", file=sys.stderr)
        return 2
    failed = 0
    for path in paths:
        name, failures = path.parts[-3], []
        try:
            summary = check(path, arguments.layers, failures)
        except Exception as error:  # Whatever a library raises fails this model only.
            failures.append(f"{type(error).__name__}: {error}")
            summary = ""
        if failures:
            failed += 1
            for failure in failures:
                print(f"FAILED {name}: {failure}", file=sys.stderr)
        else:
            print(f"ok {name}: {summary}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
