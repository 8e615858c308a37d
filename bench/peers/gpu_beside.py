#!/usr/bin/env python3
"""How long Fugato and PyTorch take for the same models on one device, side by side.

    fugato gpu-check --out gpu --only zoo
    bench/peers/gpu_peers.py --models models --expect expected --out peers.json
    bench/peers/gpu_beside.py gpu/zoo.json peers.json --batch 1

Of each model, precision and batch that both sides have: the median time of a run on the whole
device, by the device's events, as Fugato's captured graph and as PyTorch's, and what the first is
of the second. Of several reports of PyTorch (with `--channels-last`, say) the fastest counts.
`--legs` sets runs with their copies beside each other.

Exit code 1: Fugato takes longer somewhere, ran without a graph, or a side has no time for what the
other has. Exit code 2: a file is not such a report. No packages.
"""

import argparse
import json
import sys
from pathlib import Path

OURS, THEIRS = "fugato.gpu-check/1", "fugato.gpu-peers/1"


class Failed(Exception):
    """There is nothing to compare."""


def read(path, schema):
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Failed(f"`{path}` cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != schema:
        raise Failed(f"`{path}` is no report of schema `{schema}`")
    return found


def ours(path, legs):
    """Microseconds by (model, precision, batch); text where there is none."""
    report = read(path, OURS)
    if report.get("part") != "zoo":
        raise Failed(f"`{path}` is the part `{report.get('part')}`, expected `zoo`")
    rows = {}
    for model in (report["facts"] or {}).get("models", []):
        for row in model["batches"]:
            if "error" in row:
                time = "failed"
            elif not row["captured"]:
                time = "no graph"
            else:
                time = row["leg_us" if legs else "graphs_us"]
            rows[model["model"], model["precision"], row["batch"]] = time
    return rows


def theirs(path, legs):
    """As `ours`; of graphs only."""
    report = read(path, THEIRS)
    if report["tf32"]:
        raise Failed(f"`{path}` was measured with --tf32, and the part `zoo` is without")
    rows = {}
    for row in report["rows"]:
        if row["mode"] == "graph" and "batch" in row:
            time = "failed" if "error" in row else row["leg" if legs else "run"]["median_us"]
            rows[row["model"], row["precision"], row["batch"]] = time
    return rows


def fastest(reports):
    """Of each place the least time of any report."""
    rows = {}
    for report in reports:
        for place, time in report.items():
            known = rows.get(place, time)
            rows[place] = min((known, time), key=lambda time: float("inf") if isinstance(time, str) else time)
    return rows


def table(ours, theirs):
    """The lines of a table in Markdown, and how many rows are not as they should be."""
    lines = ["| model | precision | batch | Fugato us | PyTorch us | Fugato / PyTorch |", "|---|---|---|---|---|---|"]
    bad = 0
    for place in sorted(ours.keys() | theirs.keys()):
        pair = [times.get(place, "none") for times in (ours, theirs)]
        ratio = "-" if any(isinstance(time, str) for time in pair) else pair[0] / pair[1]
        bad += ratio == "-" or ratio > 1
        cells = [time if isinstance(time, str) else f"{time:.1f}" for time in pair]
        cells.append(ratio if ratio == "-" else f"{ratio:.2f}")
        lines.append(f"| {' | '.join([*map(str, place), *cells])} |")
    return lines, bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=Path, metavar="ZOO", help="`zoo.json` of `fugato gpu-check`")
    parser.add_argument("theirs", type=Path, metavar="PEERS", nargs="+", help="reports of gpu_peers.py")
    parser.add_argument("--batch", type=int, help="only this batch [default: all that both tried]")
    parser.add_argument("--legs", action="store_true", help="times with copies from and to the host")
    args = parser.parse_args()
    sides = ours(args.ours, args.legs), fastest([theirs(path, args.legs) for path in args.theirs])
    batches = {batch for *_, batch in sides[0]} & {batch for *_, batch in sides[1]}
    if args.batch is not None:
        batches &= {args.batch}
    sides = [{place: time for place, time in side.items() if place[2] in batches} for side in sides]
    if not batches:
        raise Failed("no batch is in both reports")
    lines, bad = table(*sides)
    print("\n".join(lines))
    print(f"\n{len(lines) - 2 - bad} of {len(lines) - 2} rows: Fugato is no slower than PyTorch's graph")
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failed:
        print(f"gpu_beside.py: {failed}", file=sys.stderr)
        sys.exit(2)
