"""Threads: how many torch computes with, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def restored_threads() -> Iterator[None]:
    """Put torch's number of threads back on leaving."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
