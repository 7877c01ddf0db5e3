"""Parquet files larger than memory: handful and Hugging Face datasets, side by side.

``scripts/bench loading_parquet`` writes files of 2 GiB (8,388,608 rows of 64 float32
columns, as columns and as vectors) into a scratch folder, reads them shuffled in
batches of 256, each side in a process of its own, in turns, and removes the files.
handful reads a whole epoch, which is checked to have each row once. A side that is
slower is stopped after `--max-seconds`, and its figures are those of the part that it
read. Samples a second are counted after the first batch, before which buffers are
filled. The files are in the page cache. Resident memory is the process's peak,
libraries and mapped files included.

The sides shuffle differently. handful mixes rows within a window of 64 MiB, a quarter
of a million rows; a stream of datasets within its buffer of 1,000 rows; a memory map
fully, after a copy of all files was written, whose time is in "seconds to open".
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from front import Benchmark, choose, make_parser, parse, run_benchmark
from loading_parquet_works import SIDES
from measure import (
    Job,
    Side,
    describe_machine,
    load_average,
    markdown_table,
    now,
    run_interleaved,
    run_job,
    spread,
    write_json,
)

HERE = Path(__file__).resolve().parent
JOBS = HERE / "loading_parquet_works.py"
LAYOUTS = {"columns": "64 columns", "vectors": "one column of 64 numbers"}
BATCH_SIZE = 256
FLOOR, AIM = 5, 10


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure both layouts; failures are noted in the results."""
    results: dict[str, Any] = {
        "benchmark": "loading_parquet",
        "format": 1,
        "quick": args.quick,
        "began": now(),
        "machine": describe_machine(),
        "repeats": args.repeats,
        "threads": args.threads,
        "rows": args.rows,
        "limit_mib": args.limit_mib,
        "floor": FLOOR,
        "aim": AIM,
        "cases": [],
        **_probe(args),
    }
    for layout in args.layouts:
        print(LAYOUTS[layout], flush=True)
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="parquet-") as name:
            results["cases"].append(_run_layout(args, layout, Path(name)))
        write_json(args.out, results)
    results["ended"] = now()
    results["load_at_end"] = load_average()
    return results


def _probe(args: argparse.Namespace) -> dict[str, Any]:
    """Return the versions, and those of the Python of the other sides."""
    found = {}
    for name, python in (("versions", None), ("peers_versions", args.peers_python)):
        answered = run_job(_job({"task": "probe"}, python=python))
        if "error" in answered:
            sys.exit(f"loading_parquet: the jobs cannot run: {answered['error']}")
        found[name] = answered["versions"]
    return found


def _run_layout(args: argparse.Namespace, layout: str, folder: Path) -> dict[str, Any]:
    data = folder / "data"
    data.mkdir()
    common = {"folder": str(data), "rows": args.rows, "layout": layout}
    title = LAYOUTS[layout]
    result: dict[str, Any] = {"layout": layout, "title": title, "sides": []}
    result.update(run_job(_job({**common, "task": "make"}, timeout=args.timeout)))
    if "error" in result:
        print(f"    left out: {result['error']}", flush=True)
        return result
    sides = [
        Side(name, label, _python(args, name)) for name, (label, _) in SIDES.items()
    ]
    spec = {
        **common,
        "task": "epoch",
        "batch_size": BATCH_SIZE,
        "buffer": 1000,
    }

    def make_job(side: Side, num_threads: int) -> Job:
        limits = {"limit_mib": args.limit_mib, "max_seconds": args.timeout}
        if side.name != "handful":
            limits = {"limit_mib": 0, "max_seconds": args.max_seconds}
        own = {**spec, **limits, "side": side.name}
        return _job(own, num_threads, python=side.python, timeout=args.timeout)

    run_interleaved(sides, make_job, threads=[args.threads], repeats=args.repeats)
    result["sides"] = [asdict(side) for side in sides]
    for side in result["sides"]:
        side.pop("python")
    return result


def _python(args: argparse.Namespace, side: str) -> str:
    return sys.executable if side == "handful" else args.peers_python or sys.executable


def _job(
    spec: dict[str, Any],
    threads: int = 1,
    *,
    python: str | None = None,
    timeout: float = 600,
) -> Job:
    return Job(JOBS, spec, threads, python or sys.executable, timeout)


def render(results: dict[str, Any]) -> str:
    """Return the tables of the results."""
    machine, limit = results["machine"], results["limit_mib"]
    packages = ", ".join(f"{n} {v}" for n, v in results["versions"].items())
    peers = ", ".join(f"{n} {v}" for n, v in results["peers_versions"].items())
    about = (
        f"Measured on {results['began'][:10]}: {machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB of memory; {packages}; "
        f"the other sides: {peers}. {results['rows']:,} rows, {results['threads']} "
        f"threads, medians of {results['repeats']} repeats. Load before: "
        f"{machine['load']}. handful must be {results['floor']} times faster, and is "
        f"meant to be {results['aim']} times."
    )
    if limit:
        about += f" handful may allocate {limit:,} MiB at most."
    parts = [about]
    if results["quick"]:
        parts.append("**A quick run: its figures mean nothing.**")
    for case in results["cases"]:
        parts.append(f"### Parquet: {LAYOUTS[case['layout']]}")
        parts.append(case["error"] if "error" in case else _table(case["sides"]))
    return "\n\n".join(parts)


def _table(sides: Sequence[dict[str, Any]]) -> str:
    head = ["side", "samples/s", "handful is faster by"]
    head += [
        "MiB at the peak",
        "seconds to open, at most",
        "ms to the first batch",
        "read",
    ]
    speeds = [_speeds(side) for side in sides]
    rows: list[list[object]] = []
    for side, own in zip(sides, speeds, strict=True):
        failed = next((run["error"] for run in side["runs"] if "error" in run), None)
        if failed is not None or not own:
            rows.append([side["label"], failed or "not run", *[""] * 5])
            continue
        ratios = [a / b for a, b in zip(speeds[0], own, strict=False)]
        runs = side["runs"]
        rows.append(
            [
                side["label"],
                spread(own).format(",.0f"),
                spread(ratios).format(".1f") if side["name"] != "handful" else "",
                f"{max(run['peak_mib'] for run in runs):.0f}",
                f"{max(run['open_seconds'] for run in runs):.1f}",
                f"{1e3 * statistics.median(run['first_seconds'] for run in runs):.0f}",
                "all" if runs[0]["is_whole"] else f"{runs[0]['samples']:,} rows",
            ]
        )
    return markdown_table(head, rows)


def _speeds(side: dict[str, Any]) -> list[float]:
    """Return samples a second after the first batch, which fills buffers."""
    speeds = []
    for run in side["runs"]:
        if "error" in run:
            continue
        samples = run["samples"] - BATCH_SIZE
        seconds = run["seconds"] - run["first_seconds"]
        is_one = samples <= 0
        speeds.append(run["samples"] / run["seconds"] if is_one else samples / seconds)
    return speeds


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("loading_parquet", __doc__, repeats=3, quick="few rows, once")
    parser.add_argument("--rows", type=int, default=2**23, help="default: 8,388,608")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument(
        "--layouts", default=",".join(LAYOUTS), help="default: columns,vectors"
    )
    parser.add_argument(
        "--max-seconds", type=float, default=20, help="of a side; default: 20"
    )
    parser.add_argument(
        "--limit-mib",
        type=int,
        default=0,
        help="most memory that handful may allocate (RLIMIT_DATA); default: any",
    )
    parser.add_argument("--peers-python", help="a Python that has datasets")
    args = parse(parser, arguments)
    args.layouts = choose(parser, "--layouts", args.layouts, list(LAYOUTS))
    if args.quick:
        args.rows, args.max_seconds = 20_000, 1
    return args


BENCHMARK = Benchmark("loading_parquet", run, render)

if __name__ == "__main__":
    run_benchmark(BENCHMARK, parse_arguments())
