"""What of a step is recorded, forward to gradients, and where its results stand.

::

    one batch        loss, weight, output, target,                       gradients
    several batches  loss, weight, (loss, weight, output, target) each,  gradients

What nobody wants to be shown is None.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handful.train.batches import count_samples
from handful.train.engine import share_of
from handful.train.losses import Weight
from handful.train.step import CriterionStep, StepOutput

_SHOWN = 4
"""What is shown of each of several micro-batches."""


def run_step(
    model: nn.Module,
    step: CriterionStep,
    params: Sequence[Tensor],
    batches: Sequence[Any],
    *,
    is_shown: bool,
) -> tuple[Any, ...]:
    """Do a step's forward, loss and backward as the eager engine does.

    Args:
        model: The model.
        step: Computes a batch's loss.
        params: The optimiser's parameters.
        batches: The micro-batches.
        is_shown: Whether somebody wants outputs and targets.

    Returns:
        The results, as the module's text lists them; a gradient for each parameter,
        None for one without.
    """
    if len(batches) != 1:
        return _add_up(model, step, params, batches, is_shown=is_shown)
    made = step.mean(model, batches[0])
    shown = (made.output, made.target) if is_shown else (None, None)
    grads = _find_gradients(made.loss, params)
    return (made.loss.detach(), made.weight, *shown, *grads)


def read_shown(results: Sequence[Any], num_params: int) -> Iterator[StepOutput]:
    """Yield what the step said of each micro-batch, in tensors of their own.

    Args:
        results: What `run_step` returned, or what stands for it.
        num_params: How many parameters there are.
    """
    head = results[: len(results) - num_params]
    if len(head) <= _SHOWN:
        yield StepOutput(*map(own, head))
        return
    for start in range(2, len(head), _SHOWN):
        yield StepOutput(*map(own, head[start : start + _SHOWN]))


def own(value: Any) -> Any:
    """Return a tensor that the next replay leaves alone; what is none as it is."""
    return value.clone() if isinstance(value, Tensor) else value


def _add_up(
    model: nn.Module,
    step: CriterionStep,
    params: Sequence[Tensor],
    batches: Sequence[Any],
    *,
    is_shown: bool,
) -> tuple[Any, ...]:
    divisor = max(count_samples(batches[0]), 1)
    total: Weight = 0
    loss_sum: Tensor | None = None
    grads: list[Tensor | None] = [None for _ in params]
    shown: list[Any] = []
    for batch in batches:
        made = step.total(model, batch)
        found = _find_gradients(made.loss / divisor, params)
        grads = [_add(*pair) for pair in zip(grads, found, strict=True)]
        loss = made.loss.detach()
        loss_sum = loss if loss_sum is None else loss_sum + loss
        total = total + made.weight
        row = (loss, made.weight, made.output, made.target)
        shown += row if is_shown else (None,) * _SHOWN
    assert loss_sum is not None
    factor = share_of(divisor, total)
    scaled = [None if grad is None else grad * factor for grad in grads]
    return (loss_sum / total, total, *shown, *scaled)


def _find_gradients(loss: Tensor, params: Sequence[Tensor]) -> list[Tensor | None]:
    asked = [param for param in params if param.requires_grad]
    found = iter(torch.autograd.grad(loss, asked, allow_unused=True))
    return [next(found) if param.requires_grad else None for param in params]


def _add(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Return the sum of two gradients, of which there may be none."""
    if total is None or more is None:
        return more if total is None else total
    return total + more
