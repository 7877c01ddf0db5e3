"""Backward from a loss, without the Python that autograd puts around its engine.

`torch.autograd.backward` turns its arguments into tuples, makes a gradient of one and
looks for loggers each time; on a small model that takes a fifth of the backward pass.
The engine behind it is private to PyTorch: it is called in this file alone, compared
with the public way before it is used, and replaced by that where the two don't agree.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
    if type(loss) is not Tensor or not _engine_agrees():
        return torch.autograd.backward
    return functools.partial(_run_engine, torch.ones_like(loss.detach()))


def _run_engine(one: Tensor, loss: Tensor) -> None:
    if loss.dtype != one.dtype or loss.device != one.device:
        torch.autograd.backward(loss)
        return
    torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (one,), False, False, (), True, True
    )


@functools.cache
def _engine_agrees() -> bool:
    """Compare the engine's gradients with those of the public way."""
    grads = []
    for backward in (torch.autograd.backward, None):
        weight = torch.linspace(-1, 1, 6).reshape(2, 3).requires_grad_()
        loss = (torch.linspace(0, 1, 8).reshape(4, 2) @ weight).square().mean()
        try:
            if backward is None:
                _run_engine(torch.ones_like(loss.detach()), loss)
            else:
                backward(loss)
        except (AttributeError, TypeError, RuntimeError):
            return False
        grads.append(weight.grad)
    ours, theirs = grads
    return ours is not None and theirs is not None and torch.equal(ours, theirs)
