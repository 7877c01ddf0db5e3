"""Counts of what was run, by the rows of the table; a plugin of pytest.

``scripts/faults`` loads it with ``-p faults.counting``; ``FAULTS_REPORT`` names a file
of counts, which is written after each test, and by long tests in between; without it
nothing is written.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

_counts: dict[str, dict[str, Any]] = {}
_facts: dict[str, Any] = {}
_current: list[int] = []
_counted: set[int] = set()


def count(row: int, outcome: str, number: int = 1, reason: str = "") -> None:
    """Add to a row's counts.

    Args:
        row: The row's number.
        outcome: ``passed``, ``failed`` or ``not run``.
        number: How many runs.
        reason: Why, for those that were not run.
    """
    entry = _counts.setdefault(str(row), {"reasons": []})
    entry[outcome] = entry.get(outcome, 0) + number
    if reason and reason not in entry["reasons"]:
        entry["reasons"].append(reason)
    _counted.add(row)
    _write()


def note(**facts: Any) -> None:
    """Keep facts beside the counts: what else a long test has to tell."""
    _facts.update(facts)
    _write()


def _write() -> None:
    target = os.environ.get("FAULTS_REPORT")
    if not target:
        return
    path = Path(target)
    partial = path.with_name(f".{path.name}.tmp")
    report = {
        "rows": _counts,
        "facts": _facts,
        "command": os.environ.get("FAULTS_COMMAND", "pytest"),
        "date": time.strftime("%Y-%m-%d"),
        "versions": (
            f"{platform.system()}, Python {platform.python_version()}, "
            f"torch {version('torch')}"
        ),
    }
    partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def rows_of(item: pytest.Item) -> list[int]:
    """Return the rows that a test is for."""
    return [row for mark in item.iter_markers("fault") for row in mark.args]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    """Count a test under its rows, unless it has counted by itself."""
    report = yield
    if call.when == "setup":
        _counted.clear()
    if report.skipped:
        outcome = "not run"
    elif report.failed:
        outcome = "failed"
    elif call.when == "call":
        outcome = "passed"
    else:
        return report
    for row in rows_of(item):
        if outcome == "passed" and row in _counted:
            continue
        reason = str(report.longrepr[2]) if report.skipped else item.nodeid
        count(row, outcome, reason="" if outcome == "passed" else reason)
    return report
