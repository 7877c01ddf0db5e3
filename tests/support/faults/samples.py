"""Data sets whose samples end the process that reads them, or trouble it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from typing import Any

import torch
from torch.utils.data import Dataset

BAD = 6
"""The sample that does it."""


class Large(Dataset[Any]):
    """Samples of 64 KiB, several tensors each, so that batches need memory to share."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> Any:
        return tuple(torch.full((4096,), float(index)) for _ in range(4))


class Deadly(Dataset[Any]):
    """Numbers; one of them ends the process that reads it, or stops it for long.

    Args:
        how: ``kill``, ``segfault``, ``quit``, ``hang``, ``nap`` or ``raise``.
    """

    def __init__(self, how: str) -> None:
        self.how = how
        self.gate = threading.Event()

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        if index == BAD:
            getattr(self, f"_{self.how}")()
        return index

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _segfault(self) -> None:
        ctypes.string_at(0)

    def _quit(self) -> None:
        os._exit(3)

    def _hang(self) -> None:
        self.gate.wait(2.5)

    def _nap(self) -> None:
        self.gate.wait(0.6)

    def _raise(self) -> None:
        raise OSError(f"nothing at {BAD}")
