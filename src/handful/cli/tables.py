"""Figures and tables as plain text, the same in a terminal and in a pipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def format_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 0
) -> str:
    """Return a table with columns two spaces apart.

    Args:
        headers: Names of the columns; all empty for a table without a heading.
        rows: Cells as text, as many a row as there are headers.
        left: How many of the first columns are aligned to the left; numbers look
            better aligned to the right.
    """
    heading = [list(headers)] if any(headers) else []
    lines = heading + [list(row) for row in rows]
    widths = [max(map(len, column), default=0) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def format_figure(name: str, value: Any) -> str:
    """Return a number of a history record as text, according to what it counts."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return str(value)
    if name == "lr" or not math.isfinite(value):
        return f"{value:g}"
    if name == "seconds":
        return f"{value:.2f}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"


def format_record(record: Mapping[str, Any]) -> str:
    """Return the losses and metrics of a history record: ``train_loss 0.1234, …``."""
    names = [name for name in record if name.startswith(("train_", "valid_"))]
    return ", ".join(f"{name} {format_figure(name, record[name])}" for name in names)


def describe_place(record: Mapping[str, Any]) -> str:
    """Return where a history record stands: ``epoch 2``, inside one with its step."""
    if record.get("partial"):
        return f"step {record['step']}, in epoch {record['epoch']}"
    return f"epoch {record['epoch']}"
