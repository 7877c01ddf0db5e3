"""The table in docs/reliability.md has all faults, and the counts that are kept."""

from __future__ import annotations

import json
import re

import pytest

from faults.rows import FAULTS
from faults.table import COUNTS, PAGE, render


def read_page() -> str:
    """Return what stands between the page's markers."""
    page = PAGE.read_text(encoding="utf-8")
    (table,) = re.findall(
        r"<!-- faults: begin -->\n(.*)\n<!-- faults: end -->", page, re.DOTALL
    )
    return str(table)


def test_page_shows_the_counts_that_are_kept() -> None:
    assert read_page() == render(json.loads(COUNTS.read_text()))


def test_there_are_all_faults_and_each_says_how_or_why_not() -> None:
    assert list(FAULTS) == list(range(1, 33))
    assert all(bool(fault.how) != bool(fault.waits) for fault in FAULTS.values())


@pytest.mark.parametrize("outcome", ["passed", "failed", "not run"])
def test_an_outcome_is_counted_in_its_own_column(outcome: str) -> None:
    entry = {outcome: 3, "reasons": ["no compiler"]}
    piece = {"rows": {"13": entry}, "facts": {}}
    piece |= {"command": "scripts/faults", "date": "2026-11-30", "versions": "Linux"}
    (line,) = [
        line
        for line in render({"power_loss": piece}).splitlines()
        if line.startswith("| 13 |")
    ]
    *_, runs, passed, failed, missing = [c.strip() for c in line.strip("|").split("|")]
    expected = {
        "passed": ("3", "3", "0", "0"),
        "failed": ("3", "0", "3", "0"),
        "not run": ("0", "0", "0", "3, no compiler"),
    }
    assert (runs, passed, failed, missing) == expected[outcome]


def test_a_fault_that_nothing_injects_is_not_run() -> None:
    lines = render({}).splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 33
    for number in (27, 29):
        (line,) = [line for line in lines if line.startswith(f"| {number} |")]
        assert "| 0 | 0 | 0 | 1, " in line
