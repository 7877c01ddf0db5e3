"""The CSV benchmark: to the first batch of a table, and an epoch of it.

``scripts/bench loading_csv`` writes a CSV file of a million rows with 30 columns into a
scratch folder, and reads it with `handful.data.csv_file.read_csv` and handful's loader,
and with ``pandas.read_csv``, a ``TensorDataset`` and PyTorch's loader: in turns, each
time in a fresh process. It prints a table and writes
``benchmarks/results/loading_csv.json``. It needs pandas and pyarrow.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from front import Benchmark, make_parser, parse, run_benchmark
from measure import (
    Job,
    Side,
    describe_machine,
    load_average,
    markdown_table,
    now,
    ratio_of_best,
    run_interleaved,
    run_job,
    spread,
    values_by_threads,
)

HERE = Path(__file__).resolve().parent
JOBS = HERE / "loading_csv_works.py"
ROWS, QUICK_ROWS = 1_000_000, 3_000
ROW_BYTES = 300


@dataclass(frozen=True)
class Part:
    """A line of the table.

    Attributes:
        key: What the jobs call it.
        title: What the table calls it.
        ours: Which of our sides is compared.
        floor: How many times faster it must be, at the least; None for no limit.
        aim: How many times faster it should be.
    """

    key: str
    title: str
    ours: str = "handful"
    floor: float | None = None
    aim: float | None = None


PARTS = (
    Part("imports", "imports besides PyTorch"),
    Part("first", "to the first batch", floor=3, aim=5),
    Part("first_cpu", "processor seconds of all threads for that"),
    Part("first", "the same file again, from its kept copy", "kept", 3, 5),
    Part("first_cpu", "processor seconds of all threads for that", "kept"),
    Part("epoch", "an epoch of batches of 256", floor=30, aim=60),
    Part("epoch", "an epoch of batches of 256 from the kept copy", "kept"),
)


def measure_sides(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Write the file, measure both sides, and return the results."""
    rows = QUICK_ROWS if args.quick else ROWS
    results: dict[str, Any] = {
        "benchmark": "loading_csv",
        "format": 1,
        "quick": args.quick,
        "began": now(),
        "machine": describe_machine(),
        "repeats": args.repeats,
        "threads": args.threads,
        "rows": rows,
    }
    spec = {"path": str(path), "rows": rows, "batch_size": 256}
    spec["cache"] = str(path.with_name("copies"))
    for task in ("probe", "write", "keep"):
        done = run_job(Job(JOBS, {**spec, "task": task}, threads=2))
        if "error" in done:
            sys.exit(f"loading_csv: {task} failed: {done['error']}")
        results.update(done)
    sides = [
        Side("pandas", "pandas and PyTorch"),
        Side("handful", "handful"),
        Side("kept", "handful from its kept copy"),
    ]

    def make_job(side: Side, threads: int) -> Job:
        return Job(JOBS, {**spec, "task": "measure", "side": side.name}, threads)

    run_interleaved(sides, make_job, threads=args.threads, repeats=args.repeats)
    check_sums(sides)
    results["sides"] = [asdict(side) for side in sides]
    results["ended"], results["load_at_end"] = now(), load_average()
    return results


def check_sums(sides: Sequence[Side]) -> None:
    """Turn runs that read other values than the first one into failures."""
    expected = next((run["sums"] for run in sides[0].runs if "sums" in run), None)
    for run in (run for side in sides for run in side.runs if "sums" in run):
        close = all(
            abs(a - b) <= 1e-6 * abs(a)
            for a, b in zip(expected or (), run["sums"], strict=True)
        )
        if not close:
            run["error"] = f"read other values: {run['sums']}, not {expected}"


def render(results: dict[str, Any]) -> str:
    """Return what was measured, as Markdown."""
    sides = {fields["name"]: Side(**fields) for fields in results["sides"]}
    failed = [f"- {side.label}: {side.error}" for side in sides.values() if side.error]
    if failed:
        return "\n".join(["Not measured:", *failed])
    versions = ", ".join(f"{n} {version}" for n, version in results["versions"].items())
    machine = results["machine"]
    lines = [
        f"Measured on {results['began'][:10]}: "
        f"{results['rows']:,} rows, {results['file_bytes'] / 1e6:.0f} MB; "
        f"{machine['processor']}, {machine['cores']} cores; {versions}. Medians of "
        f"{results['repeats']} repeats, in seconds. Load before: {machine['load']}.",
        "",
    ]
    if results["quick"]:
        lines += ["**A quick run: its figures mean nothing.**", ""]
    threads = results["threads"]
    head = ["part"]
    for label in ("pandas and PyTorch", "handful"):
        head += [f"{label}, {n} thread{'s' * (n > 1)}" for n in threads]
    rows = [_row(part, sides, threads) for part in PARTS if part.ours in sides]
    lines.append(
        markdown_table([*head, "times faster, each at its best", "floor", "aim"], rows)
    )
    return "\n".join(lines)


def _row(part: Part, sides: dict[str, Side], threads: Sequence[int]) -> list[str]:
    cells, speeds = [], []
    for name in ("pandas", part.ours):
        seconds = values_by_threads(sides[name], lambda run: run[part.key])
        cells += [spread(seconds[number]).format(".3g") for number in threads]
        speeds.append(values_by_threads(sides[name], lambda run: 1 / run[part.key]))
    ratio = ratio_of_best(speeds[1], speeds[0])
    limits = ["" if limit is None else f"{limit:g}" for limit in (part.floor, part.aim)]
    return [part.title, *cells, ratio.format(".2f"), *limits]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    quick = "a small file, once, one thread"
    parser = make_parser("loading_csv", __doc__, repeats=3, quick=quick)
    parser.add_argument(
        "--threads", default="1,2", help="numbers of threads to try (default: 1,2)"
    )
    args = parse(parser, arguments)
    args.threads = [int(number) for number in args.threads.split(",")]
    if args.quick:
        args.threads = [1]
    return args


def measure_in_folder(args: argparse.Namespace) -> dict[str, Any]:
    """Measure over a file in a scratch folder."""
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="loading-csv-") as name:
        room = shutil.disk_usage(name).free
        if room < 2 * ROWS * ROW_BYTES:
            sys.exit(f"loading_csv: {name} has {room / 2**30:.1f} GiB free: too little")
        return measure_sides(args, Path(name) / "table.csv")


BENCHMARK = Benchmark("loading_csv", measure_in_folder, render)

if __name__ == "__main__":
    run_benchmark(BENCHMARK, parse_arguments())
