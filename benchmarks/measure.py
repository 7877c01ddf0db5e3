"""Measuring: sides in fresh processes, medians and ratios, JSON and tables.

What every benchmark shares. A benchmark is a script that compares *sides*, two or more
ways to do the same work. Each measurement is a *job*: a process of its own, which is
given a specification as JSON, does its work with a stated number of threads, and prints
its result as JSON. The script itself does no work that is timed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
RESULT_MARK = "result: "
"""What a job's line of output with its result begins with; other lines are ignored."""


@dataclass(frozen=True)
class Job:
    """One measurement in a process of its own.

    Attributes:
        script: The program; it calls `answer`.
        spec: What it is to do, as JSON can hold it; ``threads`` is added.
        threads: Number of threads that it may use.
        python: The Python that runs it.
        timeout_seconds: How long it may take.
    """

    script: Path
    spec: Mapping[str, Any]
    threads: int = 1
    python: str = sys.executable
    timeout_seconds: float = 600


@dataclass(frozen=True)
class Spread:
    """A median, and between what its values lie."""

    median: float
    low: float
    high: float

    def format(self, spec: str = ".1f") -> str:
        """Return it as ``median (low-high)``."""
        median, low, high = (f"{v:{spec}}" for v in (self.median, self.low, self.high))
        return median if low == high else f"{median} ({low}-{high})"


@dataclass
class Side:
    """A side of a comparison and what was measured of it.

    Attributes:
        name: How specifications call it.
        label: How tables call it.
        python: The Python that its jobs run with.
        runs: One mapping a job: its repeat, its threads, and its result or ``error``.
    """

    name: str
    label: str
    python: str = sys.executable
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def error(self) -> str | None:
        """Why it has no figures: the first job that failed; None if none did."""
        return next((run["error"] for run in self.runs if "error" in run), None)


def answer(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Do a job: read the specification that this process was given, print the result.

    Args:
        work: Makes the result of the specification.
    """
    result = work(json.loads(sys.argv[1]))
    print(RESULT_MARK + json.dumps(result), flush=True)


def run_job(job: Job) -> dict[str, Any]:
    """Run a job to its end.

    Args:
        job: What to run.

    Returns:
        Its result, or ``{"error": reason}`` if it failed, took too long or gave none.
    """
    threads = str(job.threads)
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, threads)}
    spec = json.dumps({**job.spec, "threads": job.threads})
    try:
        done = subprocess.run(
            [job.python, str(job.script), spec],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=job.timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {job.timeout_seconds:g} s"}
    except OSError as error:
        return {"error": f"could not start: {error}"}
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        ended = f"ended with status {done.returncode}"
        return {"error": lines[-1].strip()[:300] if lines else ended}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(RESULT_MARK):
            return dict(json.loads(line.removeprefix(RESULT_MARK)))
    return {"error": "gave no result"}


def run_interleaved(
    sides: Sequence[Side],
    make_job: Callable[[Side, int], Job],
    *,
    threads: Sequence[int],
    repeats: int,
    report: Callable[[str], None] = print,
) -> None:
    """Run the jobs of all sides in turn, repeat by repeat, and note them in the sides.

    What disturbs the machine for a while thus disturbs all sides. A side that failed
    once is not run again.

    Args:
        sides: What to compare.
        make_job: Makes the job of a side at a number of threads.
        threads: Each repeat measures each side at each of these numbers.
        repeats: Number of repeats.
        report: Is told of failures.
    """
    for repeat in range(repeats):
        for num_threads in threads:
            for side in sides:
                if side.error is not None:
                    continue
                load = load_average()
                result = run_job(make_job(side, num_threads))
                if "error" in result:
                    report(f"    {side.label}: {result['error']}")
                side.runs.append(
                    {"repeat": repeat, "threads": num_threads, "load": load, **result}
                )


def values_by_threads(
    side: Side, value: Callable[[dict[str, Any]], float]
) -> dict[int, list[float]]:
    """Return a side's values, one a repeat, for each number of threads."""
    values: dict[int, list[float]] = {}
    for run in side.runs:
        if "error" not in run:
            values.setdefault(run["threads"], []).append(value(run))
    return values


def best_threads(values: Mapping[int, Sequence[float]]) -> int:
    """Return the number of threads with the highest median."""
    return max(values, key=lambda threads: statistics.median(values[threads]))


def spread(values: Sequence[float]) -> Spread:
    """Return the median, the lowest and the highest of values."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio_of_best(
    ours: Mapping[int, Sequence[float]], theirs: Mapping[int, Sequence[float]]
) -> Spread:
    """Return how many times faster one side is, each at its best number of threads.

    Args:
        ours: Speeds by number of threads, one a repeat.
        theirs: The same of the other side.

    Returns:
        The median of the ratios of each repeat, and between what they lie.
    """
    fast, slow = ours[best_threads(ours)], theirs[best_threads(theirs)]
    return spread([a / b for a, b in zip(fast, slow, strict=False)])


def load_average() -> float | None:
    """Return how many processes ran or waited during the last minute, on average."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on besides the packages."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": _memory_gib("MemTotal"),
        "system": f"{platform.system()} {platform.release()}",
        "load": load_average(),
        "revision": _revision(),
    }


def available_memory_gib() -> float | None:
    """Return how much memory can be had without swapping; None if unknown."""
    return _memory_gib("MemAvailable")


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write results, each list of numbers on a line of its own."""
    text = json.dumps(results, indent=1, allow_nan=False)
    text = re.sub(r"\[([-\d\s.,e+]+)\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; all columns but the first are aligned right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [head, rule, *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replace_between(path: Path, name: str, text: str) -> None:
    """Replace what stands in a page between the two markers of a name.

    Args:
        path: The page.
        name: The markers are the comments ``<!-- name: begin -->`` and
            ``<!-- name: end -->``.
        text: What is to stand between them.

    Raises:
        ValueError: The page does not have each marker once, in this order.
    """
    page = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended) or begin in rest or end in after:
        raise ValueError(f"{path} must have the markers {begin} and {end} once.")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def round_times(seconds: Sequence[float]) -> list[float]:
    """Return times to six significant digits."""
    return [float(f"{value:.6g}") for value in seconds]


def now() -> str:
    """Return the time, with its zone, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _memory_gib(name: str) -> float | None:
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    found = re.search(rf"{name}:\s*(\d+) kB", info.read_text())
    return round(int(found[1]) / 2**20, 1) if found else None


def _revision() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run(
        [git, "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None
