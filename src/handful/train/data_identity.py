"""What tells a training's data from others, at a small cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from handful.data.loader import identify_dataset


def identify_data(loader: Iterable[Any]) -> str | None:
    """Return a short text that changes when the data of a loader do, mostly.

    Args:
        loader: Gives batches.

    Returns:
        The number of samples and, where the data can be looked at without reading all,
        a hash of sizes, types and some samples; None of a loader without a data set.
    """
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        return None
    try:
        found = identify_dataset(dataset)
    except (TypeError, NotImplementedError):  # a length that is none
        return None
    known = [f"{name} {value}" for name, value in found.items() if value is not None]
    return ", ".join(known) or None
