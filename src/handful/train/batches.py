"""What a batch is to the Trainer: inputs, a target, a number of samples, a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from handful.errors import ArgumentError, TrainingError


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device to train on.

    Args:
        device: ``"auto"`` for the accelerator if there is one, else the CPU; or a
            device of torch.

    Raises:
        ArgumentError: torch knows no such device.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator()
        available = accelerator is not None and torch.accelerator.is_available()
        return accelerator if accelerator and available else torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(
            f"device must be 'auto' or one that torch can use; got {str(device)!r} "
            f"({reason})."
        ) from None
    return chosen


def move_batch(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device; those already there stay."""
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: move_batch(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [move_batch(value, device) for value in batch]
    return batch


def split_batch(batch: Any) -> tuple[list[Tensor], Tensor]:
    """Split a batch into the model's inputs and the target.

    Args:
        batch: ``[input, target]``, or several inputs before the target.

    Returns:
        The inputs and the target.

    Raises:
        TrainingError: The batch is something else.
    """
    if isinstance(batch, (list, tuple)) and len(batch) >= 2:
        *inputs, target = batch
        return inputs, target
    kind = type(batch).__name__
    length = f" of length {len(batch)}" if isinstance(batch, (list, tuple)) else ""
    raise TrainingError(
        "a batch must be a list or tuple of inputs and a target; "
        f"got {kind}{length}. Let the data set return (input, target)."
    )


def count_samples(batch: Any) -> int:
    """Return a batch's number of samples: the length of its last element."""
    return len(batch[-1])
