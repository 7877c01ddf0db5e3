"""Backward from a loss, without the Python that autograd puts around its engine.

`torch.autograd.backward` turns its arguments into tuples, makes a gradient of one and
looks for loggers each time; on a small model that takes a fifth of the backward pass.
The engine behind it is private to PyTorch: where `torch_private` does not find it, the
public way is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handful.torch_private import find_backward

Backward = Callable[[Tensor], Any]
"""Adds a loss's gradients to the parameters' ``grad``."""


def make_backward(loss: Tensor) -> Backward:
    """Return the cheapest way to go backward from losses like this one.

    Args:
        loss: A loss without dimensions.

    Returns:
        A function of a loss with the same dtype and device that does what
        `torch.autograd.backward` does.
    """
    run = find_backward()
    if type(loss) is not Tensor or run is None:
        return torch.autograd.backward
    one = torch.ones_like(loss.detach())

    def go_backward(loss: Tensor) -> None:
        if loss.dtype != one.dtype or loss.device != one.device:
            torch.autograd.backward(loss)
        else:
            run(loss, one)

    return go_backward
