"""The image benchmark: JPEG files by PyTorch's DataLoader with Pillow, and by ours.

``scripts/bench loading_images`` writes 4,000 JPEG files of 256 x 256 pixels into a
scratch folder, measures both sides, each with 0, 1 and 2 workers (processes there,
threads here), in fresh processes and in turns, and writes
``benchmarks/results/loading_images.json``. Each side counts with its best number of
workers. Images come resized to 224 x 224, as normalised floats, in batches of 64.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from front import (
    Benchmark,
    choose,
    make_parser,
    parse,
    run_benchmark,
    without_paths,
)
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
JOBS = HERE / "loading_images_works.py"
NUM_FILES, QUICK_FILES = 4_000, 96
NEEDED_BYTES = 200 * 10**6


@dataclass(frozen=True)
class Case:
    """What is done with each image: one line of the table.

    Attributes:
        work: What the jobs call it.
        title: What the table calls it.
        floor: How many times faster ours must be, at the least.
        aim: How many times faster it should be.
    """

    work: str
    title: str
    floor: float
    aim: float


CASES = (
    Case("plain", "resized, normalised", 3.2, 5),
    Case("changed", "random crop, flip and colours, normalised", 3, 5),
)
NAMES = {"torch": "PyTorch with Pillow", "handful": "handful"}


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write the files, and measure what was asked for."""
    results: dict[str, Any] = {
        "benchmark": "loading_images",
        "format": 1,
        "quick": args.quick,
        "began": now(),
        "machine": describe_machine(),
        "repeats": args.repeats,
        "workers": args.workers,
        **do_job(args, {"task": "probe"}),
    }
    results["data"] = do_job(
        args, {"task": "write", "folder": str(folder), "files": args.files}
    )
    print(f"files: {results['data']}", flush=True)
    results["cases"] = []
    for case in CASES:
        if case.work in args.only:
            results["cases"].append(measure_case(args, case, folder))
            write_json(args.out, results)
    results["ended"] = now()
    results["load_at_end"] = load_average()
    return results


def measure_case(args: argparse.Namespace, case: Case, folder: Path) -> dict[str, Any]:
    """Compare the sides, then measure them in turns."""
    spec = {"work": case.work, "folder": str(folder), "min_seconds": args.seconds}
    compared = do_job(args, {**spec, "task": "compare"})
    print(f"{case.title}: {compared}", flush=True)
    sides = [
        Side(f"{name} {workers}", f"{label}, {workers} workers")
        for workers in args.workers
        for name, label in NAMES.items()
    ]

    def make_job(side: Side, threads: int) -> Job:
        name, workers = side.name.split()
        own = {**spec, "task": "epochs", "side": name, "workers": int(workers)}
        return Job(JOBS, own, threads, timeout_seconds=args.timeout)

    run_interleaved(sides, make_job, threads=[1], repeats=args.repeats)
    return {**asdict(case), **compared, "sides": [asdict(side) for side in sides]}


def do_job(args: argparse.Namespace, spec: dict[str, Any]) -> dict[str, Any]:
    """Do a job without which the others mean nothing."""
    found = run_job(Job(JOBS, spec, 1, timeout_seconds=args.timeout))
    if "error" in found:
        sys.exit(f"loading_images: {found['error']}")
    return found


def speeds(side: dict[str, Any]) -> list[float]:
    """Return a side's images a second, one number a repeat."""
    return [speed(run) for run in side["runs"] if "error" not in run]


def speed(run: dict[str, Any]) -> float:
    """Return the images a second of a job."""
    if "images_per_second" in run:  # As published.
        return float(run["images_per_second"])
    return float(run["samples"] / statistics.median(run["seconds"]))


def best(case: dict[str, Any], name: str) -> tuple[str, list[float]]:
    """Return the number of workers with the highest median, and its speeds."""
    found = {
        side["name"].split()[1]: speeds(side)
        for side in case["sides"]
        if side["name"].split()[0] == name and speeds(side)
    }
    workers = max(found, key=lambda number: statistics.median(found[number]))
    return workers, found[workers]


def render(results: dict[str, Any]) -> str:
    """Return the tables."""
    machine = results["machine"]
    packages = ", ".join(f"{n} {v}" for n, v in results["versions"].items())
    text = (
        f"Measured on {results['began'][:10]}: {machine['processor']}, "
        f"{machine['cores']} cores, {results['cpu_capability']}; {packages}. "
        f"{results['data']['files']} JPEG files of 256 x 256 pixels, "
        f"{results['data']['mean_kb']} kB on average, quality 90; one thread for "
        f"PyTorch's operators, medians of {results['repeats']} repeats."
    )
    if results["quick"]:
        text += " **A quick run: its figures mean nothing.**"
    head = ["Images", "PyTorch: images/s", "handful: images/s", "times", "floor", "aim"]
    rows = []
    for case in results["cases"]:
        (their_workers, theirs), (our_workers, ours) = (
            best(case, name) for name in NAMES
        )
        ratios = spread([a / b for a, b in zip(ours, theirs, strict=False)])
        rows.append(
            [
                case["title"],
                f"{statistics.median(theirs):,.0f} ({their_workers} processes)",
                f"{statistics.median(ours):,.0f} ({our_workers} threads)",
                ratios.format(".2f"),
                case["floor"],
                case["aim"],
            ]
        )
    lines = [text, markdown_table(head, rows)]
    head = [
        "Images a second",
        *(side["label"] for side in results["cases"][0]["sides"]),
    ]
    rows = [
        [
            case["title"],
            *(
                spread(speeds(side)).format(",.0f") if speeds(side) else "failed"
                for side in case["sides"]
            ),
        ]
        for case in results["cases"]
    ]
    return "\n\n".join([*lines, markdown_table(head, rows)])


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("loading_images", __doc__, repeats=5, quick="few files, once")
    works = [case.work for case in CASES]
    parser.add_argument(
        "--only", default=",".join(works), help=f"which of {', '.join(works)}"
    )
    parser.add_argument("--workers", default="0,1,2", help="default: 0,1,2")
    parser.add_argument("--files", type=int, default=NUM_FILES, help="default: 4000")
    parser.add_argument(
        "--seconds", type=float, default=3, help="least time of a job, default: 3"
    )
    args = parse(parser, arguments)
    args.only = choose(parser, "--only", args.only, works)
    args.workers = [int(number) for number in args.workers.split(",")]
    if args.quick:
        args.files, args.seconds = QUICK_FILES, 0
    return args


def measure_in_folder(args: argparse.Namespace) -> dict[str, Any]:
    """Measure over files in a scratch folder."""
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="images-") as name:
        if shutil.disk_usage(name).free < NEEDED_BYTES:
            sys.exit(f"loading_images: {name} needs {NEEDED_BYTES / 1e6:.0f} MB free")
        return measure(args, Path(name))


def shorten(results: dict[str, Any]) -> dict[str, Any]:
    """Return the results with one speed a repeat instead of the times of all epochs."""
    short = without_paths(results)
    for case in short["cases"]:
        for side in case["sides"]:
            for run in side["runs"]:
                if "error" not in run:
                    run["images_per_second"] = round(speed(run), 1)
                    run.pop("seconds", None)
    return short


BENCHMARK = Benchmark("loading_images", measure_in_folder, render, shorten=shorten)

if __name__ == "__main__":
    run_benchmark(BENCHMARK, parse_arguments())
