#!/usr/bin/env python3
"""How long PyTorch takes for the models of the zoo, on the device that `fugato gpu-check` checks.

    fugato zoo write --out models --sequence 128
    fugato model expect --model-repository models --out expected --count 4 --integers input_ids=30522
    bench/peers/gpu_peers.py --models models --expect expected --out peers.json

Same weights (the same files, read by onnx_torch.py), same inputs and answers (the files of
`fugato model expect`, whose answers are plain ONNX Runtime's on the CPU in 32 bits). `fp32` is with
TF32 off on both sides unless `--tf32` is given here and `tf32 = true` there; `fp16` has the same
operators in 16 bits, the same weights rounded the same way, and inputs and outputs in 32, as
`precision = "fp16"` there. gpu_beside.py sets the report beside that of `fugato gpu-check`.

    eager    operator by operator, as PyTorch runs a model
    graph    the same captured into one CUDA graph
    streams  graphs of 2 and of 4 copies of the model's buffers, each on a stream of its own, all at
             once and without control
    compile  torch.compile(mode="max-autotune"), which takes minutes for each model and batch

Times are by the device's events: `run` has its inputs on the device, `leg` also copies inputs
from and outputs to page-locked memory, which is what a leg of Fugato does. What was measured is
written after each row. `--device cpu` runs `eager` on the CPU, as a check of the reader.

Exit code 1: a row failed, answers differ by more than 1e-3 of the largest (5e-2 in 16 bits), or the
time of --seconds did not suffice for all rows. Exit code 2: there is no PyTorch, no device, or a file is
missing. Packages: torch, onnx, numpy.
"""

import argparse
import base64
import json
import math
import statistics
import sys
import time
from itertools import product
from pathlib import Path

SCHEMA, EXPECT = "fugato.gpu-peers/1", "fugato.expect/1"
MODES = ["eager", "graph", "streams", "compile"]
COPIES = [2, 4]
# By precision, what answers may differ by, of the largest. In 16 bits nine models of the zoo
# deviate by up to 1.9e-2 (inception_v3, on a CPU).
SAME = {"fp32": 1e-3, "fp16": 5e-2}
# Runs of a row: at least so many in the seconds that a row has, and fewer of what is slow.
WARM_UP, ROUNDS, SECONDS, SLOW = 3, 30, 0.5, 3.0
TYPES = {"FP32": "float32", "INT64": "int64"}


class Failed(Exception):
    """Nothing can be measured."""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="repository that `fugato zoo write` made")
    parser.add_argument("--expect", type=Path, required=True, help="folder that `fugato model expect` made")
    parser.add_argument("--out", type=Path, required=True, help="file for the report, as JSON")
    parser.add_argument("--model", action="append", help="model to run, several times for several [default: all]")
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4, 8, 16, 32], help="batch sizes, by commas")
    parser.add_argument("--modes", type=modes, help=f"some of {','.join(MODES)} [default: all; eager on the CPU]")
    parser.add_argument("--precision", type=precisions, default=list(SAME), help="fp32, fp16 [default: both]")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tf32", action="store_true", help="let tensor cores round products to 10 bits")
    parser.add_argument("--channels-last", action="store_true", help="images and filters with channels last")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no row after this time")
    found = parser.parse_args()
    if found.device == "cpu" and found.modes not in (None, ["eager"]):
        parser.error("`--device cpu` has no mode but `eager`")
    found.modes = found.modes or (["eager"] if found.device == "cpu" else MODES)
    return found


def numbers(text):
    try:
        found = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError("expected numbers such as `1,8,32`") from None
    if found[0] < 1:
        raise argparse.ArgumentTypeError("a batch has at least one item")
    return found


def precisions(text):
    found = text.split(",")
    if not set(found) <= set(SAME):
        raise argparse.ArgumentTypeError(f"expected some of {','.join(SAME)}")
    return [precision for precision in SAME if precision in found]


def modes(text):
    found = text.split(",")
    if not set(found) <= set(MODES):
        raise argparse.ArgumentTypeError(f"expected some of {','.join(MODES)}")
    return [mode for mode in MODES if mode in found]


def check_places(args):
    """Before PyTorch is loaded, which takes its time."""
    names = args.model or sorted(path.parents[1].name for path in args.models.glob("*/1/model.onnx"))
    if not names:
        raise Failed(f"`{args.models}` has no models: `fugato zoo write --out {args.models}` writes them")
    for name in names:
        for path in (args.models / name / "1" / "model.onnx", args.expect / f"{name}.json"):
            if not path.is_file():
                raise Failed(f"there is no `{path}`; how to make it is in --help")
    if not args.out.parent.is_dir():
        raise Failed(f"there is no folder `{args.out.parent}` for the report")
    return names


def load_torch(device):
    try:
        import torch
    except ImportError as error:
        raise Failed(f"PyTorch is not installed for {sys.executable}: {error}") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise Failed("PyTorch finds no NVIDIA device; `--device cpu` checks the reader without one")
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise Failed(f"the package onnx is not installed for {sys.executable}: {error}") from error
    return torch


class Cases:
    """Inputs of one item each, and what ONNX Runtime answered to them."""

    def __init__(self, path):
        import numpy

        file = json.loads(path.read_text())
        if file.get("schema") != EXPECT:
            raise Failed(f"`{path}` is of schema `{file.get('schema')}`, expected `{EXPECT}`")

        def array(tensor):
            raw = base64.b64decode(tensor["data"])
            return numpy.frombuffer(raw, TYPES[tensor["datatype"]]).reshape(tensor["shape"])

        self.stack = numpy.concatenate
        self.cases = [
            {side: {tensor["name"]: array(tensor) for tensor in case[side]} for side in ("inputs", "outputs")}
            for case in file["cases"]
        ]

    def batch(self, side, names, size):
        """The tensors of a batch, the cases in turn."""
        cases = [self.cases[index % len(self.cases)][side] for index in range(size)]
        return [self.stack([case[name] for case in cases]) for name in names]


def deviation(found, expected):
    """The largest difference of an output over its largest value."""
    worst = 0.0
    for ours, theirs in zip(found, expected):
        ours = ours.float().cpu().numpy()
        if ours.shape != theirs.shape:
            raise ValueError(f"an output has shape {ours.shape}, expected {theirs.shape}")
        largest = abs(theirs).max()
        difference = abs(ours - theirs).max() / largest
        if not math.isfinite(difference):
            raise ValueError("an answer is not a number")
        worst = max(worst, float(difference))
    return worst


def summary(times):
    times = sorted(times)
    return {
        "median_us": statistics.median(times),
        "p95_us": times[min(len(times) - 1, math.ceil(0.95 * len(times)) - 1)],
        "runs": len(times),
    }


class Bench:
    """Runs one module on one device."""

    def __init__(self, torch, args):
        self.torch, self.device = torch, torch.device(args.device)
        self.channels_last = args.channels_last
        torch.backends.cuda.matmul.allow_tf32 = args.tf32
        torch.backends.cudnn.allow_tf32 = args.tf32
        # The fastest way of each convolution is searched for, as who tunes PyTorch has it.
        torch.backends.cudnn.benchmark = True

    def name(self):
        return self.torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"

    def times(self, work):
        """Microseconds of each of many runs of `work`."""
        if self.device.type == "cpu":
            # The answers are what is checked there.
            return summary([self.time(work)])
        for _ in range(WARM_UP):
            work()
        self.torch.cuda.synchronize()
        times, begun = [], time.monotonic()
        while len(times) < 10 * ROUNDS:
            times.append(self.time(work))
            took = time.monotonic() - begun
            if took > SLOW or (took > SECONDS and len(times) >= ROUNDS):
                break
        return summary(times)

    def time(self, work):
        if self.device.type == "cpu":
            begun = time.perf_counter()
            work()
            return 1e6 * (time.perf_counter() - begun)
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return 1e3 * begin.elapsed_time(end)

    def on_device(self, arrays):
        return [self.laid_out(self.torch.from_numpy(array.copy()).to(self.device)) for array in arrays]

    def laid_out(self, of):
        """A module, or a tensor, with channels where they are to be."""
        if not self.channels_last or getattr(of, "ndim", 4) != 4:
            return of
        return of.to(memory_format=self.torch.channels_last)

    def capture(self, module, inputs):
        """A graph of a run, and what it writes."""
        stream = self.torch.cuda.Stream()
        stream.wait_stream(self.torch.cuda.current_stream())
        with self.torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                module(*inputs)
        self.torch.cuda.current_stream().wait_stream(stream)
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            outputs = module(*inputs)
        return graph, outputs

    def legs(self, run, inputs, outputs):
        """Times with copies from and to page-locked memory."""
        if self.device.type == "cpu":
            return None
        host_in = [tensor.cpu().pin_memory() for tensor in inputs]
        host_out = [tensor.cpu().pin_memory() for tensor in outputs]

        def leg():
            for to, source in zip(inputs, host_in):
                to.copy_(source, non_blocking=True)
            for to, source in zip(host_out, run()):
                to.copy_(source, non_blocking=True)

        return self.times(leg)

    def eager(self, module, inputs):
        return self.timed(lambda: module(*inputs), inputs)

    def compile(self, module, inputs):
        self.torch._dynamo.reset()
        compiled = self.torch.compile(module, mode="max-autotune", dynamic=False)
        # Answers lie in memory that the next run writes to; they are copied before it.
        return self.timed(lambda: compiled(*inputs), inputs)

    def graph(self, module, inputs):
        graph, outputs = self.capture(module, inputs)

        def run():
            graph.replay()
            return outputs

        return self.timed(run, inputs)

    def timed(self, run, inputs):
        outputs = [tensor.clone() for tensor in run()]
        row = {"run": self.times(run)}
        legs = self.legs(run, inputs, outputs)
        return outputs, row | ({"leg": legs} if legs else {})

    def streams(self, module, inputs):
        rows, outputs = {}, None
        for copies in COPIES:
            parts = []
            for _ in range(copies):
                own = [tensor.clone() for tensor in inputs]
                parts.append((self.torch.cuda.Stream(), own, *self.capture(module, own)))

            def run(parts=parts):
                here = self.torch.cuda.current_stream()
                for stream, _, graph, _ in parts:
                    stream.wait_stream(here)
                    with self.torch.cuda.stream(stream):
                        graph.replay()
                for stream, *_ in parts:
                    here.wait_stream(stream)

            rows[f"run_of_{copies}"] = self.times(run)
            outputs = parts[-1][3]
        return outputs, rows


def measure(bench, args, names, report, write):
    from onnx_torch import load

    begun = time.monotonic()
    for mode, name, precision in product(args.modes, names, args.precision):
        if time.monotonic() - begun > args.seconds:
            return
        of = {"model": name, "precision": precision, "mode": mode}
        try:
            module = load(args.models / name / "1" / "model.onnx", precision).to(bench.device)
            module = bench.laid_out(module)
            cases = Cases(args.expect / f"{name}.json")
        except Failed:
            raise
        except Exception as error:
            report["rows"].append(of | {"error": words(error)})
            write()
            continue
        for batch in args.batches:
            if time.monotonic() - begun > args.seconds:
                return
            report["rows"].append(row(bench, module, cases, of | {"batch": batch}))
            write()
        del module
        if bench.device.type == "cuda":
            bench.torch.cuda.empty_cache()
    report["complete"] = True


def row(bench, module, cases, found):
    batch = found["batch"]
    try:
        with bench.torch.inference_mode():
            inputs = bench.on_device(cases.batch("inputs", module.inputs, batch))
            outputs, times = getattr(bench, found["mode"])(module, inputs)
            found["deviation"] = deviation(outputs, cases.batch("outputs", module.outputs, batch))
        found |= times
        if found["deviation"] > SAME[found["precision"]]:
            found["error"] = f"the answers deviate by {found['deviation']:.1e}"
    except Exception as error:
        found["error"] = words(error)
    return found


def words(error):
    return f"{type(error).__name__}: {str(error)[:500]}"


def main():
    args = arguments()
    names = check_places(args)
    torch = load_torch(args.device)
    bench = Bench(torch, args)
    report = {
        "schema": SCHEMA,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if args.device == "cuda" else None,
        "device": bench.name(),
        "tf32": args.tf32,
        "channels_last": args.channels_last,
        "tolerance": SAME,
        "complete": False,
        "rows": [],
    }

    def write():
        partial = args.out.with_name(args.out.name + ".partial")
        partial.write_text(json.dumps(report, indent=1) + "\n")
        partial.replace(args.out)

    measure(bench, args, names, report, write)
    write()
    failed = [found for found in report["rows"] if "error" in found]
    for found in failed:
        of = " ".join(str(found[key]) for key in ("model", "precision", "mode", "batch") if key in found)
        print(f"{of}: {found['error']}", file=sys.stderr)
    print(f"{len(report['rows']) - len(failed)} of {len(report['rows'])} rows are in `{args.out}`")
    return 1 if failed or not report["complete"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failed:
        print(f"gpu_peers.py: {failed}", file=sys.stderr)
        sys.exit(2)
