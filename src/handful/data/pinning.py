"""Pinning: page-locked memory for what can have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.data._utils import pin_memory as torch_pinning


def pin_batch(batch: Any, device: str | None) -> Any:
    """Pin a batch as PyTorch does, and leave as they are the tensors that can't be.

    PyTorch raises an error for a tensor that is on the accelerator already.

    Args:
        batch: Tensors in any of the containers that PyTorch knows.
        device: The kind of accelerator.

    Returns:
        The batch, with its dense tensors on the CPU in pinned memory.
    """
    with _PinDenseOnly():
        return torch_pinning.pin_memory(batch, device)  # type: ignore[no-untyped-call]


class _PinDenseOnly(TorchFunctionMode):
    """Makes ``pin_memory`` return a tensor itself where it is not dense on the CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.pin_memory and not _can_pin(args[0]):
            return args[0]
        return func(*args, **(kwargs or {}))


def _can_pin(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.layout is torch.strided
