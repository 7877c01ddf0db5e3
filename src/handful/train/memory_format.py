"""Memory format: in which order the values of images and kernels lie in memory.

Convolutions on the CPU are often faster when the channels of a pixel lie next to each
other (``channels_last``). The values are the same, sums are added up in another order,
so the last bits differ: the format is a part of a run's numeric identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

MEMORY_FORMATS = ("contiguous", "channels_last")

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def takes_images(model: nn.Module, batch: Any) -> bool:
    """Say whether a format could matter: convolutions, and a batch of images."""
    has_images = any(_is_image(value) for value in _values(batch))
    return has_images and any(isinstance(m, _CONVOLUTIONS) for m in model.modules())


def lay_out(model: nn.Module, name: str) -> None:
    """Put the weights of a model's convolutions into a format; they stay the same."""
    if name != "channels_last":
        return
    for module in model.modules():
        if isinstance(module, _CONVOLUTIONS) and not is_lazy(module.weight):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextmanager
def strides_restored(model: nn.Module) -> Iterator[None]:
    """Put weights and buffers that `lay_out` changed back as they lay, on leaving.

    An optimiser's state is to be aligned afterwards; see `align_state`.
    """
    known = [v for v in (*model.parameters(), *model.buffers()) if not is_lazy(v)]
    before = {id(value): value.stride() for value in known}  # which stay, as ids do
    try:
        yield
    finally:
        with torch.no_grad():
            for value in (*model.parameters(), *model.buffers()):
                if before.get(id(value), value.stride()) != value.stride():
                    _restride(value, before[id(value)])


def _restride(value: Tensor, stride: tuple[int, ...]) -> None:
    """Lay a tensor, and its gradient, out anew; it stays the same object."""
    laid = torch.empty_strided(
        value.shape, stride, dtype=value.dtype, device=value.device
    )
    value.data = laid.copy_(value.data)
    if value.grad is not None:
        value.grad = torch.empty_like(laid).copy_(value.grad)


def lay_out_input(value: Any) -> Any:
    """Return an input with its images in the format ``channels_last``."""
    if isinstance(value, Tensor):
        if not _is_image(value):
            return value
        return value.to(memory_format=torch.channels_last)
    return value


def align_state(optimizer: Optimizer) -> None:
    """Lay the optimiser's state out as the parameters that it is of.

    A fused kernel goes through parameter and state in the order in which they lie, and
    would take the wrong values together without a word.
    """
    for param, state in optimizer.state.items():
        for name, value in state.items():
            if (
                isinstance(value, Tensor)
                and value.shape == param.shape
                and value.stride() != param.stride()
            ):
                state[name] = torch.empty_like(param, dtype=value.dtype).copy_(value)


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()


def _values(batch: Any) -> list[Any]:
    if isinstance(batch, dict):
        return list(batch.values())
    return list(batch) if isinstance(batch, (list, tuple)) else [batch]
