"""Metrics as sums: added up over batches on the device, read back once at the end.

What the named metrics measure, over all samples of all batches together:

- ``accuracy``: share of right answers.
- ``top5_accuracy``: share of answers whose class is among the five largest outputs.
- ``balanced_accuracy``: mean over the classes that occur among the targets of the
  share of their samples that are found; for logits, the two classes are 0 and 1.
- ``precision``, ``recall``, ``f1``: for several classes the plain mean over them
  ("macro"), leaving out a class that neither a target nor an answer has; for logits
  those of the class 1, all logits of a sample counted alike ("micro"). A quotient
  whose divisor is 0 counts as 0.
- ``mae``, ``mse``: mean absolute and squared error. ``rmse``: the root of ``mse``.
- ``r2``: coefficient of determination, the mean of the outputs' own ones
  ("uniform average"). An output whose target is constant counts as 1 where every
  prediction is exact, else as 0. NaN for fewer than two samples.

Those from ``accuracy`` to ``f1`` take two kinds of output and target:

- classes: outputs of shape ``(N, C)`` or ``(N, C, d…)``, the larger the likelier, and
  integer targets in ``[0, C)`` of shape ``(N,)`` or ``(N, d…)``. A target of -100,
  which cross-entropy ignores too, counts nowhere; in a training, nor does the
  loss's ``ignore_index`` where it is another.
- logits: outputs of the targets' shape, one logit for two classes or L logits for L
  labels that don't exclude each other; above 0 the answer is 1, and above 0.5 the
  target is.

The errors take outputs and targets of one shape, ``(N,)`` or ``(N, d…)``. All but
``rmse`` of several outputs (root of the mean over all of them) equal the functions of
scikit-learn with ``zero_division=0``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from handful.errors import ArgumentError, unknown_choice
from handful.train.choices import metric_improves_upward
from handful.train.metric_totals import (
    combine_spreads,
    count_outcomes,
    count_right,
    count_right_of_five,
    finish_balanced,
    finish_f1,
    finish_precision,
    finish_r2,
    finish_recall,
    finish_root,
    finish_share,
    sum_dtype,
    total_absolute,
    total_spread,
    total_squared,
)
from handful.train.plain_state import decode_state, encode_state
from handful.train.torch_metrics import TorchMetric, is_torch_metric, wrap_torch_metric

_BATCHES_KEPT = 256


class MetricSum(Protocol):
    """An accumulation in progress."""

    name: str

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch of ``len(target)`` samples; reads nothing back."""

    def compute(self) -> float:
        """Return the value over all batches so far, NaN where no sample was seen."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was accumulated, as plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""


@dataclass(frozen=True)
class Metric:
    """A function of totals over samples.

    Attributes:
        name: Its name in the history, after ``train_`` or ``valid_``.
        total: Function of (output, target) that returns the batch's totals: a tensor of
            the same shape for every batch. Called without gradients. In a training,
            labels that the loss ignores are -100 in the target.
        finish: Function of (totals of all batches, number of samples) that returns the
            value; the totals are on the CPU, in float64. None: the total, one number,
            divided by the samples.
        higher_is_better: Which way it improves.
        combine: Function that makes one of K batches' totals, stacked along the first
            dimension; called for some batches at a time, then for its own results.
            None: their sum.

    Example:
        >>> from torch import tensor
        >>> bias = Metric("bias", lambda output, target: (output - target).sum())
        >>> progress = bias.start()
        >>> progress.update(tensor([1.0, 2.0]), tensor([0.0, 2.0]))
        >>> progress.compute()
        0.5
    """

    name: str
    total: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor, int], float] | None = None
    higher_is_better: bool = False
    combine: Callable[[Tensor], Tensor] | None = None

    def start(self) -> MetricSum:
        """Return a fresh accumulation."""
        return _TotalSum(self)


def make_metrics(
    values: Iterable[Any] | Mapping[str, Any],
) -> tuple[Metric | TorchMetric, ...]:
    """Return metrics by name, by object or by torchmetrics' interface.

    Args:
        values: Names of `handful.train.choices.METRICS`, `Metric` objects and objects
            with torchmetrics' interface, metrics or collections of them; or a mapping
            from names of one's own to any of these.

    Returns:
        The metrics in that order; collections give several.

    Raises:
        ArgumentError: A name is unknown, occurs twice or cannot stand in a history, or
            an entry is none of these.
    """
    if is_torch_metric(values):
        values = (values,)
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ArgumentError(
            f"metrics must be a list or a mapping; got {values!r}. "
            "Put it into brackets: metrics=[…]."
        )
    if isinstance(values, Mapping):
        named: list[tuple[Any, Any]] = list(values.items())
    else:
        named = [(None, value) for value in values]
    for name, _ in named:
        _check_name(name)
    made = [metric for name, value in named for metric in _make_metric(value, name)]
    _check_distinct([metric.name for metric in made])
    return tuple(made)


def start_metrics(metrics: Iterable[Metric | TorchMetric]) -> list[MetricSum]:
    """Return a fresh accumulation for each metric, in the same order."""
    return [metric.start() for metric in metrics]


def _make_metric(value: Any, name: str | None) -> list[Metric | TorchMetric]:
    if isinstance(value, str):
        if value not in _NAMED:
            raise unknown_choice("metrics", value, _NAMED)
        value = _NAMED[value]
    if isinstance(value, Metric | TorchMetric):
        return [value if name is None else replace(value, name=name)]
    if is_torch_metric(value):
        return [*wrap_torch_metric(value, name)]
    what = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
    raise ArgumentError(
        f"an entry of metrics must be a name, a Metric or an object of torchmetrics; "
        f"got {what}. Call a class to make an object; wrap a function in a Metric."
    )


def _check_name(name: object) -> None:
    if name is not None and (not isinstance(name, str) or not name):
        raise ArgumentError(f"a name of a metric must be text; got {name!r}.")


def _check_distinct(names: list[str]) -> None:
    for index, name in enumerate(names):
        if name == "loss":
            raise ArgumentError(
                "a name of a metric must be another than 'loss', which the history "
                "has already."
            )
        if name in names[:index]:
            raise ArgumentError(
                f"metrics must have names that differ; got {name!r} twice. "
                "Give them names in a mapping: metrics={'first': …, 'second': …}."
            )


class _TotalSum:
    """Totals of batches, in float64 on the device, made one every 256 batches.

    In float32 where the device has no float64.
    """

    def __init__(self, metric: Metric) -> None:
        self.name = metric.name
        self._metric = metric
        self._totals: list[Tensor] = []
        self._samples = 0

    def update(self, output: Tensor, target: Tensor) -> None:
        if not len(target):
            return
        with torch.no_grad():
            total = self._check_total(self._metric.total(output, target))
            self._totals.append(total.to(sum_dtype(total.device)))
            self._samples += len(target)
            if len(self._totals) >= _BATCHES_KEPT:
                self._totals = [self._combine()]

    def compute(self) -> float:
        if not self._samples:
            return float("nan")
        totals = self._combine().cpu().double()
        if self._metric.finish is not None:
            return float(self._metric.finish(totals, self._samples))
        if totals.numel() != 1:
            raise ArgumentError(
                f"metric {self.name!r} must have `finish`, for its total has shape "
                f"{tuple(totals.shape)}. Without it, one number is divided by the "
                "samples."
            )
        return totals.item() / self._samples

    def state_dict(self) -> dict[str, Any]:
        if len(self._totals) > 1:
            self._totals = [self._combine()]
        totals = encode_state(self._totals, f"metric {self.name}")
        return {"samples": self._samples, "totals": totals}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._samples = int(state["samples"])
        self._totals = decode_state(state["totals"])

    def _combine(self) -> Tensor:
        if len(self._totals) == 1:
            return self._totals[0]
        with torch.no_grad():
            device = self._totals[-1].device  # what was loaded lies on the CPU
            stacked = torch.stack([total.to(device) for total in self._totals])
            combine = self._metric.combine
            return stacked.sum(0) if combine is None else combine(stacked)

    def _check_total(self, total: object) -> Tensor:
        if not isinstance(total, Tensor):
            raise ArgumentError(
                f"`total` of metric {self.name!r} must return a tensor; got {total!r}. "
                "Leave it on the device: what is read back at each batch is slow."
            )
        if self._totals and total.shape != self._totals[0].shape:
            raise ArgumentError(
                f"`total` of metric {self.name!r} must return one shape for all "
                f"batches; got {tuple(total.shape)} after "
                f"{tuple(self._totals[0].shape)}. Sum over the samples."
            )
        return total


def _named(
    name: str,
    total: Callable[[Tensor, Tensor], Tensor],
    finish: Callable[[Tensor, int], float] | None = None,
    combine: Callable[[Tensor], Tensor] | None = None,
) -> tuple[str, Metric]:
    return name, Metric(name, total, finish, metric_improves_upward(name), combine)


_NAMED: dict[str, Metric] = dict(
    [
        _named("accuracy", count_right, finish_share),
        _named("top5_accuracy", count_right_of_five, finish_share),
        _named("balanced_accuracy", count_outcomes, finish_balanced),
        _named("precision", count_outcomes, finish_precision),
        _named("recall", count_outcomes, finish_recall),
        _named("f1", count_outcomes, finish_f1),
        _named("mae", total_absolute),
        _named("mse", total_squared),
        _named("rmse", total_squared, finish_root),
        _named("r2", total_spread, finish_r2, combine_spreads),
    ]
)
