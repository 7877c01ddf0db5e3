"""The loading benchmark: PyTorch's DataLoader and ours, side by side.

``scripts/bench loading`` measures everything and writes
``benchmarks/results/loading.json``; ``--help`` lists what can be chosen. What is
measured and how stands in docs/performance.md, whose tables ``--write-docs`` fills.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from front import Benchmark, choose, make_parser, parse, run_benchmark
from loading_tables import published_results, render_page
from measure import (
    Job,
    Side,
    available_memory_gib,
    describe_machine,
    load_average,
    now,
    run_interleaved,
    run_job,
    write_json,
)

HERE = Path(__file__).resolve().parent
JOBS = HERE / "loading_works.py"
MAP_BYTES = 4 * 2**30
QUICK_MAP_BYTES = 4 * 2**20
LARGE_ORDER_GIB = {"randperm32": 5, "randperm64": 9}


@dataclass(frozen=True)
class Case:
    """Samples a second of both sides: one line of the first table.

    Attributes:
        work: What is loaded; see ``loading_works.py``.
        title: How the table calls it.
        batch_size: Samples a batch.
        floor: How many times faster ours must be, at the least.
        aim: How many times faster it should be.
        min_seconds: For how long each way to consume is timed, at the least.
        has_peers: Whether other loaders are measured too.
    """

    work: str
    title: str
    batch_size: int
    floor: float
    aim: float
    min_seconds: float = 0.3
    has_peers: bool = False


@dataclass(frozen=True)
class OrderCase:
    """Orders alone, or memory: figures with limits of their own.

    Attributes:
        work: What `--only` calls it.
        task: What the jobs do.
        title: How the table calls it.
        limits: For each figure its unit, floor and aim; both are most, not least.
        spec: What the jobs are told besides.
    """

    work: str
    task: str
    title: str
    limits: Mapping[str, tuple[str, float | None, float | None]]
    spec: dict[str, Any] = field(default_factory=dict)


BYTES = "uint8 rows of 784"
NARROW = "float32 rows of 16, a million"
OWN = "a user's data set, `__getitem__` only"
SLOW = "a user's transform of 1 ms in Python, 2 worker processes"
CASES = (
    Case("bytes", BYTES, 32, 20, 25),
    Case("bytes", BYTES, 256, 32, 48, has_peers=True),
    Case("bytes", BYTES, 4096, 60, 85),
    Case("floats", "float32 rows of 784", 256, 12, 16),
    Case("narrow", NARROW, 32, 30, 45),
    Case("narrow", NARROW, 256, 65, 99),
    Case("narrow", NARROW, 4096, 140, 225),
    Case("tutorial", "the tutorial's MNIST", 64, 90, 250),
    Case("map", "memory map of 4 GiB, rows of 3,072 bytes", 256, 9, 12),
    Case("own", OWN, 32, 0.97, 1.1, min_seconds=1),
    Case("own", OWN, 256, 0.97, 1.1, min_seconds=1),
    Case("slow", SLOW, 64, 0.97, 1, min_seconds=2),
)
LARGE_ORDER = OrderCase(
    "large-order",
    "large-order",
    "order of 10⁹ samples",
    {
        "first_ms": ("ms to the first batch", 50, None),
        "extra_mb": ("MB of memory", 10, None),
        "ns_per_index": ("ns per index, 16,384 at a time", 100, 30),
    },
)
SMALL_ORDERS = tuple(
    OrderCase(
        "small-order",
        "small-order",
        f"order of {count:,} samples",
        {"ns_per_index": ("ns per index", 25, 10)},
        {"count": count},
    )
    for count in (60_000, 1_000_000)
)
WORKS = (*dict.fromkeys(case.work for case in CASES), "large-order", "small-order")


class Measurement:
    """One run of the benchmark.

    Args:
        args: The command line's arguments.
        folder: Where the memory map is written.
    """

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.threads: list[int] = args.threads
        self.map_path = folder / "rows.npy"
        self.has_map = False
        self.results: dict[str, Any] = {
            "benchmark": "loading",
            "format": 1,
            "quick": args.quick,
            "began": now(),
            "machine": describe_machine(),
            "repeats": args.repeats,
            "threads": self.threads,
            "cases": [],
            "orders": [],
        }

    def run(self) -> dict[str, Any]:
        """Measure what was asked for; failures are noted in the results."""
        self.peers = self._probe()
        for case in CASES:
            if self._is_wanted(case):
                self._run_case(case)
        if "map" in self.args.only:
            self._run_memory()
        for order in (LARGE_ORDER, *SMALL_ORDERS):
            if order.work in self.args.only:
                self._run_order(order)
        self.results["ended"] = now()
        self.results["load_at_end"] = load_average()
        return self.results

    def _is_wanted(self, case: Case) -> bool:
        one_size = not self.args.quick or case.batch_size in (64, 256)
        return case.work in self.args.only and one_size

    def _probe(self) -> list[Side]:
        """Note the versions, and return the other loaders that can be measured."""
        here = self._job({"task": "probe"})
        found = run_job(here)
        if "error" in found:
            sys.exit(f"loading: the jobs cannot run: {found['error']}")
        peers = found.pop("peers")
        self.results.update(found)
        python = self.args.peers_python
        if python is not None:
            other = run_job(self._job({"task": "probe"}, python=python))
            if "error" in other:
                sys.exit(f"loading: {python} cannot run jobs: {other['error']}")
            peers = other["peers"]
            self.results["peers_versions"] = other["versions"]
        sides = [
            Side(name, peer["label"], python or sys.executable)
            for name, peer in peers.items()
            if "error" not in peer
        ]
        missing = [peer["label"] for peer in peers.values() if "error" in peer]
        if missing and not self.args.quick:
            print(f"not installed, left out: {', '.join(missing)}")
        return sides

    def _run_case(self, case: Case) -> None:
        print(f"{case.title}, batch {case.batch_size}", flush=True)
        began = time.monotonic()
        ours = Side("handful", "handful")
        sides = [Side("torch", "PyTorch"), ours]
        if case.has_peers and not self.args.no_peers:
            sides += self.peers
        result: dict[str, Any] = asdict(case)
        spec = {
            "work": case.work,
            "batch_size": case.batch_size,
            "min_seconds": 0 if self.args.quick else case.min_seconds,
        }
        skipped = self._prepare_map() if case.work == "map" else None
        if skipped is None:
            spec["path"] = str(self.map_path)
            check = run_job(self._job({**spec, "task": "compare"}, threads=2))
            result.update(check)
        else:
            result["error"] = skipped
        if "error" in result:
            print(f"    left out: {result['error']}", flush=True)
        else:
            self._run_sides(sides, {**spec, "task": "epochs"})
            check_sums(sides)
        result["sides"] = [asdict(side) for side in sides]
        result["took_seconds"] = round(time.monotonic() - began)
        self._add("cases", result)

    def _run_memory(self) -> None:
        case = OrderCase(
            "map",
            "memory",
            "three epochs of the memory map",
            {"first": ("MB in the 1st epoch", None, None)}
            | {"third": ("MB in the 3rd epoch", None, None)},
        )
        sides = [Side("torch", "PyTorch"), Side("handful", "handful")]
        spec = {"task": "memory", "work": "map", "batch_size": 256}
        print(case.title, flush=True)
        if self.has_map:
            spec["path"] = str(self.map_path)
            self._run_sides(sides, spec, threads=[1], repeats=1)
            for side in sides:
                for run in side.runs:
                    if "megabytes" in run:
                        run["first"], _, run["third"] = run["megabytes"]
        result = {**asdict(case), "sides": [asdict(side) for side in sides]}
        if not self.has_map:
            result["error"] = "there is no memory map"
        self._add("orders", result)

    def _run_order(self, case: OrderCase) -> None:
        print(case.title, flush=True)
        sides = [Side("handful", "handful")]
        if case.task == "small-order":
            sides.insert(0, Side("torch", "`torch.randperm`"))
        min_seconds = 0 if self.args.quick else 0.5
        spec = {"task": case.task, **case.spec, "min_seconds": min_seconds}
        self._run_sides(sides, spec, threads=[1])
        if case.task == "large-order" and self.args.long:
            sides = self._run_randperm(spec) + sides
        self._add("orders", {**asdict(case), "sides": [asdict(s) for s in sides]})

    def _run_randperm(self, spec: dict[str, Any]) -> list[Side]:
        """Measure once what takes minutes and gigabytes."""
        sides = []
        for name, needed in LARGE_ORDER_GIB.items():
            side = Side(name, f"`torch.randperm`, int{name[-2:]}")
            sides.append(side)
            there = available_memory_gib()
            if there is not None and there < needed:
                side.runs.append({"error": f"needs {needed} GiB of memory"})
            else:
                self._run_sides([side], spec, threads=[1], repeats=1)
        return sides

    def _run_sides(
        self,
        sides: Sequence[Side],
        spec: dict[str, Any],
        *,
        threads: Sequence[int] | None = None,
        repeats: int | None = None,
    ) -> None:
        def make_job(side: Side, num_threads: int) -> Job:
            own = {**spec, "side": side.name}
            return self._job(own, threads=num_threads, python=side.python)

        run_interleaved(
            sides,
            make_job,
            threads=self.threads if threads is None else threads,
            repeats=self.args.repeats if repeats is None else repeats,
        )

    def _job(
        self, spec: dict[str, Any], *, threads: int = 1, python: str | None = None
    ) -> Job:
        return Job(
            script=JOBS,
            spec={"quick": self.args.quick, **spec},
            threads=threads,
            python=python or sys.executable,
            timeout_seconds=self.args.timeout,
        )

    def _prepare_map(self) -> str | None:
        """Write the file for the memory map; return why not, if it can't be."""
        size = QUICK_MAP_BYTES if self.args.quick else MAP_BYTES
        room = shutil.disk_usage(self.map_path.parent).free
        if room < size + 2**30:
            return (
                f"{self.map_path.parent} has {room / 2**30:.1f} GiB free, needed are "
                f"{size / 2**30 + 1:.1f}; --folder names another"
            )
        there = available_memory_gib()
        if there is not None and there < 1.5 * size / 2**30:
            return f"{there} GiB of memory do not keep the file in the page cache"
        path = str(self.map_path)
        written = run_job(
            self._job({"task": "write-map", "path": path, "map_bytes": size})
        )
        if "error" in written:
            return str(written["error"])
        self.has_map = True
        return None

    def _add(self, kind: str, result: dict[str, Any]) -> None:
        """Keep a result at once, so that a run that is broken off has what it got."""
        self.results[kind].append(result)
        write_json(self.args.out, self.results)


def check_sums(sides: Sequence[Side]) -> None:
    """Turn runs whose samples differ from the first side's into failures."""
    expected = next((run["sum"] for run in sides[0].runs if "sum" in run), None)
    for side in sides:
        for run in side.runs:
            if expected is not None and run.get("sum", expected) != expected:
                run["error"] = "its samples are not those of PyTorch's loader"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(
        "loading", __doc__, repeats=5, quick="tiny data, once, one thread"
    )
    parser.add_argument(
        "--only",
        default=",".join(WORKS),
        metavar="WORKS",
        help=f"which, with commas between: {', '.join(WORKS)} (default: all)",
    )
    parser.add_argument(
        "--threads", default="1,2", help="numbers of threads to try (default: 1,2)"
    )
    parser.add_argument(
        "--peers-python", help="a Python that has other loaders, to measure them too"
    )
    parser.add_argument("--no-peers", action="store_true", help="no other loaders")
    parser.add_argument(
        "--long",
        action="store_true",
        help="torch.randperm of 10**9 as well: minutes, 8 GB of memory",
    )
    args = parse(parser, arguments)
    args.only = choose(parser, "--only", args.only, WORKS)
    args.threads = [int(number) for number in args.threads.split(",")]
    if args.quick:
        args.threads = [1]
    return args


def measure_in_folder(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, with the memory map in a scratch folder."""
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="loading-") as name:
        return Measurement(args, Path(name)).run()


BENCHMARK = Benchmark(
    "loading", measure_in_folder, render_page, shorten=published_results
)

if __name__ == "__main__":
    run_benchmark(BENCHMARK, parse_arguments())
