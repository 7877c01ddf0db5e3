"""What allocators say when no memory is left, on the CPU and on accelerators."""

from __future__ import annotations

import gc
import re

import torch

from handful.errors import TrainingError

_SAYS = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")
_ASKED = re.compile(r"allocate ([\d.,]+ ?(?:bytes|[KMGT]i?B))", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is an allocator's, which had no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(s in str(error) for s in _SAYS)


def describe_request(error: BaseException) -> str:
    """Return what an allocator was asked for, for a sentence."""
    found = _ASKED.search(str(error))
    return f"{found[1]} more were asked for" if found else "no memory was left"


def free_memory() -> None:
    """Let go of what an attempt has left behind."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def check_can_split(size: int, asked: str, policy: str) -> None:
    """Check that a batch of an evaluation that did not fit may go through in parts.

    Raises:
        TrainingError: It may not, or is of one sample.
    """
    said = f"a batch of {size} samples must fit into memory; {asked}."
    if size == 1:
        raise TrainingError(f"{said} It can't be split: take a smaller model.")
    if policy != "split":
        raise TrainingError(
            f"{said} Take a smaller batch_size, or on_out_of_memory='split', which "
            "sends it through the model in parts."
        )
