"""Loaders leave nothing behind: memory, processes, descriptors, shared segments."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "measure_leaks.py"
MAX_GROWTH_BYTES = 1e6  # An epoch holds four times as much.

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="the system has no /proc to count with"
)

SHORT = [
    ("batched,seeded,transformed,pytorch", 50, 50),
    ("workers", 6, 5),
    ("images,threads", 50, 20),
    ("parquet,csv,kept,npz,lines,line-threads", 8, 5),
]
FILES = ("parquet", "csv", "kept", "npz", "lines", "line-threads")
LONG_CASES = ("batched", "transformed", "pytorch", "workers", "images", "threads")
LONG = [(case, 50, 500) for case in (*LONG_CASES, *FILES)]
PATHS = {
    "pytorch": "pytorch",
    "workers": "pytorch",
    "lines": "pytorch",
} | dict.fromkeys(("images", "threads", "line-threads"), "threads")


@functools.cache
def measure(cases: str, num_epochs: int, num_cycles: int) -> dict[str, Any]:
    """Run the measurement in a process of its own."""
    arguments = [cases, str(num_epochs), str(num_cycles)]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def check(case: str, found: dict[str, Any]) -> None:
    """Check one case, and that it is the case that it is named after."""
    assert found["path"].startswith(PATHS.get(case, "batched"))
    assert found["growth"] < MAX_GROWTH_BYTES
    for name, number in found["after"].items():
        assert number <= found["before"][name], name
    assert found["after"]["processes"] == 0


@pytest.mark.parametrize(
    ("case", "arguments"),
    [(case, arguments) for arguments in SHORT for case in arguments[0].split(",")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_epochs_and_dropped_passes_leave_nothing(
    case: str, arguments: tuple[str, int, int]
) -> None:
    if case in FILES:
        pytest.importorskip("pyarrow", reason="pyarrow is missing")
    check(case, measure(*arguments)[case])


@pytest.mark.slow
@pytest.mark.timeout(1260)
@pytest.mark.parametrize("arguments", LONG, ids=lambda arguments: arguments[0])
def test_500_dropped_passes_leave_nothing(arguments: tuple[str, int, int]) -> None:
    check(arguments[0], measure(*arguments)[arguments[0]])
