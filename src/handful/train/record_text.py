"""How the numbers of a history record are named and written on a screen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = [
    "LAST_NAMES",
    "metric_names",
    "monitored_loss",
    "write_cell",
    "write_epoch",
    "write_number",
    "write_record",
    "write_short_epoch",
]

LAST_NAMES = ("lr", "seconds")
"""Fields that come after losses and metrics."""

_COUNTS = ("epoch", "step", "samples")


def metric_names(record: Mapping[str, Any]) -> list[str]:
    """Return the names of a record's losses and metrics: training, validation, rest.

    ``skipped_steps`` is among the rest where there are any.
    """
    names = [
        name
        for name, value in record.items()
        if name not in _COUNTS + LAST_NAMES and _is_shown(name, value)
    ]
    rank = {"train": 0, "valid": 1}
    return sorted(names, key=lambda name: rank.get(name.partition("_")[0], 2))


def monitored_loss(record: Mapping[str, Any]) -> str:
    """Return the name of the loss that decides which epoch is best."""
    return "valid_loss" if "valid_loss" in record else "train_loss"


def write_number(value: float) -> str:
    """Write a loss or metric in at most nine characters, or ten below zero."""
    if isinstance(value, int):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e4 or not math.isfinite(value):
        return f"{value:.4f}"
    return f"{value:.3e}"


def write_epoch(epoch: int, epochs: int | None) -> str:
    """Write ``2/10``, or ``2`` for a run without a number of epochs."""
    return str(epoch) if epochs is None else f"{epoch}/{epochs}"


def write_short_epoch(record: Mapping[str, Any], epochs: int | None) -> str:
    """Write a record's epoch for a table; inside one, ``2 (1500)`` with the step."""
    if record.get("partial"):
        return f"{record['epoch']} ({record['step']})"
    return write_epoch(record["epoch"], epochs)


def write_cell(name: str, record: Mapping[str, Any]) -> str:
    """Write a field of a record for a table, ``-`` where it has none."""
    value = record.get(name)
    if value is None or not _is_shown(name, value):
        return "-"
    if name == "lr":
        return f"{value:.3g}"
    if name == "seconds":
        return f"{value:.2f}"
    return write_number(value)


def write_record(record: Mapping[str, Any], epochs: int | None) -> str:
    """Write a record as a line of ``name=value``; inside an epoch, the step first."""
    fields = [f"epoch={write_epoch(record['epoch'], epochs)}"]
    if "step" in record:
        at = 0 if record.get("partial") else 1
        fields.insert(at, f"step={record['step']}")
    fields += [f"{name}={write_number(record[name])}" for name in metric_names(record)]
    if "lr" in record:
        fields.append(f"lr={record['lr']:g}")
    if "seconds" in record:
        fields.append(f"seconds={record['seconds']:.2f}")
    return " ".join(fields)


def _is_shown(name: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return name != "skipped_steps" or value > 0
