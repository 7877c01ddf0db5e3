"""The training benchmark: loops written by hand, other libraries, handful's Trainer.

``scripts/bench training`` measures everything and writes
``benchmarks/results/training.json``; ``--help`` lists what can be chosen. What is
measured and how stands in docs/performance.md, whose tables ``--write-docs`` fills.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure import (
    Job,
    Side,
    describe_machine,
    load_average,
    now,
    replace_between,
    run_interleaved,
    run_job,
    write_json,
)
from training_tables import published_results, render_page
from training_works import KINDS, PEERS

from handful.train.player_library import build_library

HERE = Path(__file__).resolve().parent
JOBS = HERE / "training_works.py"
RESULTS = HERE / "results" / "training.json"
PUBLISHED = HERE / "published" / "training.json"
PAGE = HERE.parent / "docs" / "performance.md"


@dataclass(frozen=True)
class Line:
    """A ratio that is shown.

    Attributes:
        ours: Kind of the one side, see ``training_works.py``.
        against: Kind of the other.
        threads: With how many threads the other runs: ``"1"``, ``"default"`` for as
            many as there are cores, or ``"best"`` for the faster of these.
        floor: What the ratio of times must not exceed.
        aim: What it should be.
    """

    ours: str
    against: str
    threads: str = "best"
    floor: float | None = None
    aim: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A training, done by several sides in turn.

    Attributes:
        work: What is trained: a key of ``training_loops.TASKS``.
        title: How the tables call it.
        batch_size: Samples a step.
        epochs: Passes.
        lines: The ratios; every kind that they name is measured.
        has_peers: Whether other libraries are measured too.
        is_steady: Whether steps alone are measured, without what comes before the
            first and between epochs: the seconds of 1,000 steps.
    """

    work: str
    title: str
    batch_size: int
    epochs: int
    lines: tuple[Line, ...]
    has_peers: bool = False
    is_steady: bool = False


def _steady(work: str, title: str, batch_size: int, *limits: float) -> Comparison:
    lines = (Line("everything", "by-hand", "1", *limits),)
    title = f"{title}, batch {batch_size}, steady state: 1,000 steps"
    return Comparison(work, title, batch_size, 3, lines, is_steady=True)


def _regression(batch_size: int, epochs: int) -> Comparison:
    lines = (
        Line("everything", "by-hand", floor=0.8, aim=0.4),
        Line("no-folder", "by-hand"),
    )
    title = f"one feature, SGD, batch {batch_size}, {epochs:,} epochs"
    return Comparison("regression", title, batch_size, epochs, lines)


COMPARISONS = (
    Comparison(
        "wine",
        "Wine 13-10-10-3, Adam, batch 32, 200 epochs",
        32,
        200,
        (
            Line("everything", "by-hand", "1", 0.40, 0.15),
            Line("everything", "by-hand", "default", 0.40, 0.15),
            Line("no-folder", "by-hand"),
            Line("everything", "slices"),
            Line("population", "by-hand", "1", 1.0, 0.5),
        ),
        has_peers=True,
    ),
    Comparison(
        "wine-rates",
        "Wine 13-10-10-3, Adam, batch 32, 2,000 epochs",
        32,
        2000,
        (Line("population", "by-hand", "1", 1.0, 0.5),),
    ),
    Comparison(
        "mnist",
        "MNIST 784-128-10, Adam, batch 32, 5 epochs, validated",
        32,
        5,
        (
            Line("everything", "by-hand", floor=0.45, aim=0.16),
            Line("everything", "images", floor=0.17, aim=0.14),
            Line("everything", "slices"),
            Line("everything", "off", "default", 1.05, 1.02),
        ),
        has_peers=True,
    ),
    _steady("wine", "Wine 13-10-10-3, Adam", 32, 0.12, 0.03),
    _steady("regression", "one feature, SGD", 1, 0.25, 0.05),
    _steady("regression", "one feature, SGD", 10, 0.25, 0.05),
    _steady("regression", "one feature, SGD", 100, 0.25, 0.05),
    _regression(1, 50),
    _regression(10, 200),
    _regression(100, 1000),
    Comparison(
        "cnn",
        "small CNN on Fashion-MNIST, Adam, batch 128, 1 epoch, validated",
        128,
        1,
        (Line("everything", "by-hand", floor=0.95, aim=0.8),),
    ),
    Comparison(
        "transformer",
        "small transformer, 64 characters, Adam, batch 32, 2 epochs",
        32,
        2,
        (Line("everything", "by-hand", floor=0.95, aim=0.7),),
    ),
)
WORKS = tuple(dict.fromkeys(comparison.work for comparison in COMPARISONS))
QUICK_EPOCHS = dict.fromkeys(WORKS, 5) | {"cnn": 1, "transformer": 1}


class Benchmark:
    """One run of the benchmark.

    Args:
        args: The command line's arguments.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.results: dict[str, Any] = {
            "benchmark": "training",
            "format": 1,
            "quick": args.quick,
            "began": now(),
            "machine": describe_machine(),
            "repeats": args.repeats,
            "threads": args.threads,
            "comparisons": [],
        }

    def run(self) -> dict[str, Any]:
        """Measure what was asked for; failures are noted in the results."""
        try:  # as it is there for every run but the first long one on a machine
            build_library()
        except OSError as error:
            self.results["native_player"] = str(error)
        self.missing = self._probe()
        for comparison in COMPARISONS:
            is_asked = self.args.title in comparison.title
            if comparison.work in self.args.only and is_asked:
                self._run_comparison(comparison)
        self.results["ended"] = now()
        self.results["load_at_end"] = load_average()
        return self.results

    def _probe(self) -> dict[str, str]:
        """Note the versions; return why which peer cannot be measured."""
        found = self._ask(sys.executable)
        self.results["versions"] = found["versions"]
        if self.args.peers_python is not None and not self.args.no_peers:
            found = self._ask(self.args.peers_python)
            self.results["peers_versions"] = found["versions"]
        return dict(found["missing"])

    def _ask(self, python: str) -> dict[str, Any]:
        found = run_job(Job(JOBS, {"task": "probe"}, python=python))
        if "error" in found:
            sys.exit(f"training: {python} cannot run jobs: {found['error']}")
        return found

    def _run_comparison(self, comparison: Comparison) -> None:
        print(comparison.title, flush=True)
        began = time.monotonic()
        spec = {
            "work": comparison.work,
            "batch_size": comparison.batch_size,
            "epochs": comparison.epochs,
            "quick": self.args.quick,
            "is_steady": comparison.is_steady,
        }
        if self.args.quick:
            spec["epochs"] = QUICK_EPOCHS[comparison.work]
        result: dict[str, Any] = asdict(comparison)
        sides: dict[str, tuple[Side, str, int]] = {}
        check = run_job(Job(JOBS, {**spec, "task": "check", "seed": 0}))
        if "error" in check:
            print(f"    left out: {check['error']}", flush=True)
        else:
            sides = {side[0].name: side for side in self._make_sides(comparison)}
            self._run_sides(sides, spec)
        result |= check
        result["sides"] = [
            {**asdict(side), "kind": kind, "asked_threads": threads}
            for side, kind, threads in sides.values()
        ]
        result["took_seconds"] = round(time.monotonic() - began)
        # At once, so that a run that is broken off has what it got.
        self.results["comparisons"].append(result)
        write_json(self.args.out, self.results)

    def _make_sides(self, comparison: Comparison) -> list[tuple[Side, str, int]]:
        """Return each side with its kind and its number of threads."""
        lines = comparison.lines
        kinds = dict.fromkeys([line.ours for line in lines])
        kinds |= dict.fromkeys([line.against for line in lines])
        if comparison.has_peers and not self.args.no_peers:
            kinds |= dict.fromkeys(PEERS)
        sides = []
        for kind in kinds:
            for threads in self._threads_of(kind):
                python = sys.executable
                if kind in PEERS and self.args.peers_python is not None:
                    python = self.args.peers_python
                side = Side(f"{kind} {threads}", KINDS[kind].label, python)
                if kind in PEERS and kind in self.missing:
                    side.runs.append({"error": self.missing[kind]})
                sides.append((side, kind, threads))
        return sides

    def _threads_of(self, kind: str) -> list[int]:
        """Return the numbers of threads to try: ours chooses among all by itself."""
        threads: list[int] = self.args.threads
        return [max(threads)] if KINDS[kind].chooses_threads else threads

    def _run_sides(
        self, sides: Mapping[str, tuple[Side, str, int]], spec: dict[str, Any]
    ) -> None:
        def make_job(side: Side, _threads: int) -> Job:
            _, kind, threads = sides[side.name]
            own = {**spec, "task": "train", "kind": kind, "seed": len(side.runs)}
            own["started"] = time.time()
            return Job(JOBS, own, threads, side.python, self.args.timeout)

        run_interleaved(
            [side for side, _, _ in sides.values()],
            make_job,
            threads=[max(self.args.threads)],
            repeats=self.args.repeats,
        )


def join_results(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the results of several runs: of a comparison, the last one counts.

    Args:
        parts: Results of runs on the same machine, with the same versions.

    Returns:
        The first one's, with the comparisons of all in the benchmark's order.
    """
    whole = dict(parts[0])
    found: dict[str, Any] = {}
    for part in parts:
        for key in ("versions", "threads", "quick"):
            if part[key] != whole[key]:
                sys.exit(
                    f"training: results must have the same {key} to be joined; got "
                    f"{whole[key]} and {part[key]}. Measure the older ones again."
                )
        found |= {entry["title"]: entry for entry in part["comparisons"]}
        if "peers_versions" in part:
            whole["peers_versions"] = part["peers_versions"]
    order = {comparison.title: n for n, comparison in enumerate(COMPARISONS)}
    titles = sorted(found, key=lambda title: order.get(title, len(order)))
    whole["comparisons"] = [found[title] for title in titles]
    return whole


def default_threads() -> str:
    """Return one thread, and as many as there are cores: what torch takes itself."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return "1" if cores == 1 else f"1,{cores}"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench training", description=__doc__)
    parser.add_argument(
        "--only",
        default=",".join(WORKS),
        metavar="WORKS",
        help=f"which, with commas between: {', '.join(WORKS)} (default: all)",
    )
    parser.add_argument(
        "--title", default="", help="only the comparisons whose title has this in it"
    )
    parser.add_argument("--repeats", type=int, default=5, help="default: 5")
    parser.add_argument(
        "--threads",
        default=default_threads(),
        help="numbers of threads of the other sides; ours chooses, up to the highest "
        "(default: 1, and the number of cores)",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON to write")
    parser.add_argument(
        "--peers-python", help="a Python that has handful and the other libraries"
    )
    parser.add_argument("--no-peers", action="store_true", help="no other libraries")
    parser.add_argument(
        "--timeout", type=float, default=600, help="seconds a job may take"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="made-up images, few epochs, once: shows that all runs, measures nothing",
    )
    parser.add_argument(
        "--from",
        type=Path,
        dest="sources",
        nargs="+",
        metavar="JSON",
        help="measure nothing, take these results; several are joined",
    )
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="fill the tables of docs/performance.md",
    )
    args = parser.parse_args(arguments)
    args.only = args.only.split(",")
    unknown = set(args.only) - set(WORKS)
    if unknown:
        parser.error(f"--only must be of {', '.join(WORKS)}; got {', '.join(unknown)}")
    if args.quick and args.write_docs:
        parser.error("--write-docs must not go with --quick, which measures nothing")
    args.threads = sorted({int(number) for number in args.threads.split(",")})
    if args.quick:
        args.repeats, args.threads = 1, [1]
    return args


def main() -> None:
    """Measure, print the tables, and publish them if asked."""
    args = parse_arguments()
    if args.sources is not None:
        texts = [path.read_text(encoding="utf-8") for path in args.sources]
        results = join_results([json.loads(text) for text in texts])
    else:
        load = load_average()
        if load is not None and load > 0.3 and not args.quick:
            print(f"other work runs on this machine (load {load}): figures will suffer")
        results = Benchmark(args).run()
        write_json(args.out, results)
        print(f"\nwritten: {args.out}")
    page = render_page(results)
    print(f"\n{page}")
    if args.write_docs:
        if results["quick"]:
            sys.exit("training: --write-docs needs results of a run without --quick")
        write_json(PUBLISHED, published_results(results))
        replace_between(PAGE, "training", page)
        print(f"\nwritten: {PAGE}, {PUBLISHED}")


if __name__ == "__main__":
    main()
