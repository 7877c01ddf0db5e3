"""Pinning: page-locked memory for what can have it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import torch
from torch import Tensor


def pin_batch(batch: Any) -> Any:
    """Pin a batch as PyTorch's loader does, and leave as they are what can't be.

    PyTorch raises an error for a tensor that is on the accelerator already.

    Args:
        batch: Tensors in mappings, tuples and other sequences, at any depth; what else
            has a method ``pin_memory`` is what that returns.

    Returns:
        The batch in containers of the same kinds, or a dictionary or list where such a
        one can't be made anew, with its dense tensors on the CPU in pinned memory.
    """
    if isinstance(batch, Tensor):
        return batch.pin_memory() if _can_pin(batch) else batch
    if hasattr(batch, "pin_memory"):
        return batch.pin_memory()
    if isinstance(batch, (str, bytes)):
        return batch
    if isinstance(batch, Mapping):
        return _fill_mapping(batch, {k: pin_batch(v) for k, v in batch.items()})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(pin_batch, batch))
    if isinstance(batch, tuple):
        return type(batch)(map(pin_batch, batch))
    if isinstance(batch, Sequence):
        return _fill_sequence(batch, list(map(pin_batch, batch)))
    return batch


def _fill_mapping(like: Any, items: dict[Any, Any]) -> Any:
    """Return a mapping of the same kind with other values."""
    try:
        if not isinstance(like, MutableMapping):
            return type(like)(items)
        filled = copy.copy(like)  # with whatever else it has
        filled.update(items)
    except TypeError:
        return items
    return filled


def _fill_sequence(like: Any, items: list[Any]) -> Any:
    """Return a sequence of the same kind with other items."""
    try:
        if not isinstance(like, MutableSequence):
            return type(like)(items)
        filled = copy.copy(like)
        _put_all(filled, items)
    except TypeError:
        return items
    return filled


def _put_all(sequence: Any, items: Iterable[Any]) -> None:
    for index, item in enumerate(items):
        sequence[index] = item


def _can_pin(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.layout is torch.strided
