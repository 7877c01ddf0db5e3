"""Threads: how many torch computes with, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from handful.errors import ArgumentError


def check_threads(value: object, *, name: str = "num_threads") -> int | str | None:
    """Return a number of threads, ``"auto"``, or None for torch's own setting.

    Raises:
        ArgumentError: The value is something else.
    """
    if value is None or value == "auto":
        return "auto" if value == "auto" else None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ArgumentError(
        f"{name} must be 'auto', None or a whole number from 1 on; got {value!r}."
    )


@contextmanager
def restored_threads() -> Iterator[None]:
    """Put torch's number of threads back on leaving."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
