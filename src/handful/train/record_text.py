"""How the numbers of a history record are named and written on a screen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["LAST_NAMES", "metric_names", "monitored_loss", "write_number"]

LAST_NAMES = ("lr", "seconds")
"""Fields that come after losses and metrics."""

_COUNTS = ("epoch", "step", "samples")


def metric_names(record: Mapping[str, Any]) -> list[str]:
    """Return the names of a record's losses and metrics: training, validation, rest."""
    names = [
        name
        for name, value in record.items()
        if name not in _COUNTS + LAST_NAMES and isinstance(value, int | float)
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
