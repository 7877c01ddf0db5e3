"""Metrics as sums: added up over batches on the device, divided once at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from handful.errors import unknown_choice


@dataclass(frozen=True)
class Metric:
    """A mean over samples.

    Attributes:
        name: Its name in the history, after ``valid_``.
        total: Function of (output, target) that returns the sum over the batch's
            samples, a tensor without dimensions.
    """

    name: str
    total: Callable[[Tensor, Tensor], Tensor]


def make_metrics(names: Iterable[str | Metric]) -> tuple[Metric, ...]:
    """Return metrics by name; those that are metrics already stay.

    Raises:
        ArgumentError: A name is unknown.
    """
    return tuple(_make_metric(name) for name in names)


def _make_metric(name: str | Metric) -> Metric:
    if isinstance(name, Metric):
        return name
    if name not in _TOTALS:
        raise unknown_choice("metrics", name, _TOTALS)
    return Metric(name, _TOTALS[name])


def _count_right(output: Tensor, target: Tensor) -> Tensor:
    """Count right answers: the largest of several outputs, or the sign of one."""
    if output.ndim == target.ndim + 1:
        right = output.argmax(dim=1) == target
    else:
        right = (output > 0) == (target > 0.5)
    return right.flatten(1).double().mean(1).sum() if right.ndim > 1 else right.sum()


def _total_absolute(output: Tensor, target: Tensor) -> Tensor:
    return _sum_of_means((output - target).abs())


def _total_squared(output: Tensor, target: Tensor) -> Tensor:
    return _sum_of_means((output - target).square())


def _sum_of_means(errors: Tensor) -> Tensor:
    return torch.sum(errors if errors.ndim == 1 else errors.flatten(1).mean(1))


_TOTALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "accuracy": _count_right,
    "mae": _total_absolute,
    "mse": _total_squared,
}
