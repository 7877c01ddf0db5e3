"""The table in docs/reliability.md, from counts that are kept beside the tests.

``python -m faults.table REPORT.json...`` takes in what `counting` wrote of a file of
tests, in place of what was known of it, and writes the page anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from faults.rows import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[3]
COUNTS = ROOT / "tests" / "faults" / "counts.json"
PAGE = ROOT / "docs" / "reliability.md"
OUTCOMES = ("passed", "failed", "not run")

Counts = dict[str, Any]
"""By files of tests: ``rows``, ``facts``, ``command``, ``date`` and ``versions``."""


def render(counts: Counts) -> str:
    """Return the table, and a sentence or two on the runs."""
    head = (
        "| | fault | expected | how | runs | passed | failed | not run |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    lines = [_row(number, fault, counts) for number, fault in FAULTS.items()]
    return "\n".join([head, *lines, "", *_sentences(counts)])


def _row(number: int, fault: Fault, counts: Counts) -> str:
    totals = dict.fromkeys(OUTCOMES, 0)
    reasons = [fault.waits] if fault.waits else []
    for piece in counts.values():
        entry = piece["rows"].get(str(number), {})
        for outcome in OUTCOMES:
            totals[outcome] += entry.get(outcome, 0)
        if entry.get("not run"):
            reasons += entry["reasons"]
    if not any(totals.values()):
        totals["not run"] = 1
    runs = totals["passed"] + totals["failed"]
    missing = ", ".join([str(totals["not run"] or 0), *reasons])
    cells = (fault.fault, fault.expected, fault.how)
    shown = " | ".join(cell.replace("|", "\\|") for cell in cells)
    numbers = f"{runs:,} | {totals['passed']:,} | {totals['failed']:,}"
    return f"| {number} | {shown} | {numbers} | {missing} |"


def _sentences(counts: Counts) -> list[str]:
    """Say what else was counted, and where and when."""
    kills: dict[str, int] = {}
    for name, kinds in counts.get("kill", {}).get("facts", {}).items():
        if name.startswith("kills of "):
            for kind, number in kinds.items():
                kills[kind] = kills.get(kind, 0) + number
    lines = []
    if kills:
        in_save = kills.pop("in a save", 0)
        kinds = ", ".join(f"{number} by {kind}" for kind, number in kills.items())
        lines += [
            f"Of the kills of row 1, {kinds}; {in_save} left a save that was not done.",
            "",
        ]
    if counts:
        dates = sorted({piece["date"] for piece in counts.values()})
        commands = sorted({piece["command"] for piece in counts.values()})
        versions = sorted({piece["versions"] for piece in counts.values()})
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        lines.append(
            f"Counted by `{'`, `'.join(commands)}` on {when}, {', '.join(versions)}."
        )
    return lines


def main() -> None:
    """Take in reports and write the page."""
    from measure import replace_between  # of benchmarks/, which scripts/faults adds

    counts: Counts = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    for argument in sys.argv[1:]:
        path = Path(argument)
        counts[path.stem] = json.loads(path.read_text())
    text = json.dumps(counts, indent=1, sort_keys=True) + "\n"
    COUNTS.write_text(text, encoding="utf-8")
    replace_between(PAGE, "faults", render(counts))


if __name__ == "__main__":
    main()
