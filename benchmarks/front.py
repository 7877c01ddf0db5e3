"""The command line that the benchmarks share: measure, print, and publish if asked.

A benchmark measures and gives its results as a mapping, or takes results that were
written before (``--from``); makes Markdown of them; and, with ``--write-docs``, puts
that between the markers of its name on a page of the documentation and a short form of
the results into ``benchmarks/published/``.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import load_average, replace_between, write_json

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
HIGH_LOAD = 0.3
"""Above this load of the machine figures are not worth much."""


def without_paths(results: dict[str, Any]) -> dict[str, Any]:
    """Return results without the paths of the Pythons that measured them."""
    short = copy.deepcopy(results)
    for case in short.get("cases", [short]):
        for side in case.get("sides", ()):
            side.pop("python", None)
    return short


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark does, for `run_benchmark`.

    Attributes:
        name: Of its program, its markers and its JSON.
        measure: Measures what the command line's arguments ask for.
        render: Makes Markdown of results, published ones included.
        page: Where its tables stand.
        shorten: Makes of results what is published.
    """

    name: str
    measure: Callable[[argparse.Namespace], dict[str, Any]]
    render: Callable[[dict[str, Any]], str]
    page: Path = DOCS / "performance.md"
    shorten: Callable[[dict[str, Any]], dict[str, Any]] = without_paths

    @property
    def published(self) -> Path:
        """Where its results stand in short."""
        return HERE / "published" / f"{self.name}.json"


def make_parser(
    name: str, description: str | None, *, repeats: int, quick: str
) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has.

    Args:
        name: The benchmark.
        description: What ``--help`` says first.
        repeats: How often each side is measured by default.
        quick: What ``--quick`` does.
    """
    parser = argparse.ArgumentParser(
        prog=f"scripts/bench {name}", description=description
    )
    out = HERE / "results" / f"{name}.json"
    add = parser.add_argument
    add("--repeats", type=int, default=repeats, help=f"default: {repeats}")
    add("--out", type=Path, default=out, help="the JSON to write")
    add("--folder", type=Path, help="where files are written; default: a temporary one")
    add("--timeout", type=float, default=600, help="seconds a job may take")
    add("--quick", action="store_true", help=f"{quick}: it runs, and measures nothing")
    add(
        "--from",
        type=Path,
        dest="sources",
        nargs="+",
        metavar="JSON",
        help="measure nothing, take these results; cases of several are joined",
    )
    add(
        "--write-docs",
        action="store_true",
        help="fill the tables of the documentation, and publish the results in short",
    )
    return parser


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Read the command line, and refuse what can't go together."""
    args = parser.parse_args(arguments)
    if args.quick and args.write_docs:
        parser.error("--write-docs must not go with --quick, which measures nothing")
    if args.quick:
        args.repeats = 1
    return args


def choose(
    parser: argparse.ArgumentParser, option: str, text: str, choices: Sequence[str]
) -> list[str]:
    """Return the words of an option that has commas between them."""
    words = text.split(",")
    unknown = [word for word in words if word not in choices]
    if unknown:
        parser.error(
            f"{option} must be of {', '.join(choices)}; got {', '.join(unknown)}"
        )
    return words


def run_benchmark(benchmark: Benchmark, args: argparse.Namespace) -> dict[str, Any]:
    """Measure or read results, print the tables, and publish them if asked.

    Args:
        benchmark: What to measure.
        args: What `parse` returned.

    Returns:
        The results.
    """
    if args.sources is not None:
        results = join_results(benchmark.name, [read(path) for path in args.sources])
    else:
        load = load_average()
        if load is not None and load > HIGH_LOAD and not args.quick:
            print(f"other work runs on this machine (load {load}): figures will suffer")
        results = benchmark.measure(args)
        write_json(args.out, results)
        print(f"\nwritten: {args.out}")
    page = benchmark.render(results)
    print(f"\n{page}")
    if args.write_docs:
        if results["quick"]:
            sys.exit(f"{benchmark.name}: --write-docs needs a run without --quick")
        write_json(benchmark.published, benchmark.shorten(results))
        replace_between(benchmark.page, benchmark.name, page)
        print(f"\nwritten: {benchmark.page}, {benchmark.published}")
    return results


def read(path: Path) -> dict[str, Any]:
    """Return results that were written."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def join_results(name: str, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of several runs as those of one.

    Args:
        name: The benchmark.
        parts: Its results; a later case of the same title replaces an earlier one.
    """
    joined = copy.deepcopy(parts[0])
    if len(parts) == 1:
        return joined
    if any(part["versions"] != joined["versions"] for part in parts):
        sys.exit(f"{name}: results must have the same versions to be joined")
    if "cases" not in joined:
        sys.exit(f"{name}: --from must be one file, as these results have no parts")
    cases = {_title(case): case for part in parts for case in part["cases"]}
    joined["cases"] = list(cases.values())
    return joined


def _title(case: dict[str, Any]) -> str:
    return f"{case['title']}, batch {case.get('batch_size')}"
