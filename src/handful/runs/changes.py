"""Changes: which settings of a run differ from those that it goes on with."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_FREE = ("epochs", "max_steps", "checkpoint_every", "save_every", "on_save_error")
"""Settings that say how far a run goes and how it is kept, and not how it trains."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def describe_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Say which settings of a run were changed, and how.

    Tuples are as good as lists, and an object's address in memory says nothing. A
    setting that only ``after`` has is left out: versions before it had none.

    Args:
        before: The configuration that the run had.
        after: The one that it goes on with.

    Returns:
        ``"lr was 0.001, is 0.5; batch_size was 32, is 16"``; empty without a change.
        ``epochs`` and ``max_steps`` are no change: a run may go on for longer. Neither
        is how it is kept.

    Example:
        >>> describe_changes({"lr": 0.1, "epochs": 3}, {"lr": 0.2, "epochs": 9})
        'lr was 0.1, is 0.2'
    """
    names = [name for name in before if name not in _FREE]
    return "; ".join(
        f"{name} was {before[name]}, is {after.get(name)}"
        for name in names
        if _plain(before[name]) != _plain(after.get(name))
    )


def _plain(value: Any) -> Any:
    """Return a setting in the one form of those that mean the same."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return _ADDRESS.sub("", value)
    return "nan" if isinstance(value, float) and math.isnan(value) else value
