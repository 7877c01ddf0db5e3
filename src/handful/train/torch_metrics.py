"""Metrics with torchmetrics' interface, recognised by it: nothing is imported.

Such an object keeps sums, or whole outputs, as its state between ``update(output,
target)`` and ``compute()``. handful never updates the object that it is given: each
accumulation works on a copy.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handful.errors import ArgumentError
from handful.train.plain_state import decode_state, encode_state

_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True, eq=False)
class TorchMetric:
    """An object with torchmetrics' interface, under a name.

    Attributes:
        name: Its name in the history, after ``train_`` or ``valid_``.
        metric: Has ``update(output, target)``, ``compute()`` and ``reset()``, and can
            be copied by `copy.deepcopy`; where it has ``to(device)``, copies are moved
            to the device of the outputs.
        higher_is_better: Which way it improves; None where the object doesn't know.
    """

    name: str
    metric: Any
    higher_is_better: bool | None

    def start(self) -> TorchMetricSum:
        """Return a fresh accumulation on a copy of the object."""
        return TorchMetricSum(self)


class TorchMetricSum:
    """One accumulation by a copy of an object with torchmetrics' interface.

    Objects whose state is a list keep the tensors that `update` gets: nobody may
    write into them before `compute`. Where a process group is running, torchmetrics'
    own objects gather the ranks' states in `compute`, so all ranks must call it.
    """

    def __init__(self, metric: TorchMetric) -> None:
        self.name = metric.name
        self._metric = copy.deepcopy(metric.metric)
        self._metric.reset()
        self._samples = 0

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch: the model's output and its target, as the object wants them."""
        if not len(target):
            return
        if not self._samples and hasattr(self._metric, "to"):
            self._metric = self._metric.to(output.device)
        with torch.no_grad():
            self._metric.update(output.detach(), target)
        self._samples += len(target)

    def compute(self) -> float:
        """Return the value over all batches so far, NaN where no sample was seen.

        Raises:
            ArgumentError: The object gives something else than one number.
        """
        if not self._samples:
            return float("nan")
        value = self._metric.compute()
        if isinstance(value, Tensor) and value.numel() == 1:
            return float(value.item())
        if isinstance(value, int | float):
            return float(value)
        raise ArgumentError(
            f"metric {self.name!r} must give one number; got {_describe(value)}. "
            "Choose an average over its values, or a metric that has one."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what was accumulated, as plain values.

        An object without torchmetrics' ``metric_state`` has none that is known: it
        begins anew when a training goes on in the middle of an epoch.
        """
        state = getattr(self._metric, "metric_state", {})
        return {
            "samples": self._samples,
            "state": encode_state(state, f"metric {self.name}"),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        values = decode_state(state["state"])
        if not values:
            return
        self._samples = int(state["samples"])
        for name, value in values.items():
            setattr(self._metric, name, value)


def is_torch_metric(value: object) -> bool:
    """Tell whether an object has torchmetrics' interface, or is a collection of such.

    A metric has ``update``, ``compute``, ``reset`` and ``higher_is_better``; a
    collection (``MetricCollection``) has ``items`` instead of the last.
    """
    if isinstance(value, type):
        return False
    methods = ("update", "compute", "reset")
    return all(callable(getattr(value, method, None)) for method in methods) and (
        hasattr(value, "higher_is_better") or _items(value) is not None
    )


def wrap_torch_metric(value: Any, name: str | None = None) -> list[TorchMetric]:
    """Give names to an object with torchmetrics' interface, or to a collection's.

    Args:
        value: An object for which `is_torch_metric` holds.
        name: Its name; None for that of its class in snake case:
            ``MulticlassAccuracy`` becomes ``multiclass_accuracy``. A collection's
            metrics have the collection's own names in snake case, and ``name_`` before
            them where a name is given.

    Returns:
        One metric, or all those of a collection; each is updated on its own, without
        the states that a collection's metrics may share.

    Raises:
        ArgumentError: A collection holds something else than metrics.
    """
    items = _items(value)
    if items is None:
        own_name = _snake_case(type(value).__name__)
        return [TorchMetric(name or own_name, value, value.higher_is_better)]
    prefix = f"{name}_" if name else ""
    found = []
    for key, member in items():
        if not hasattr(member, "higher_is_better"):
            raise ArgumentError(
                f"an entry of a collection of metrics must have higher_is_better; got "
                f"{key!r}, a {type(member).__name__}. Give it by itself."
            )
        found.append(
            TorchMetric(prefix + _snake_case(key), member, member.higher_is_better)
        )
    return found


def _items(value: object) -> Callable[[], Any] | None:
    """Return the method that lists a collection's metrics, None for one metric."""
    if hasattr(value, "higher_is_better"):
        return None
    items = getattr(value, "items", None)
    return items if callable(items) else None


def _snake_case(name: str) -> str:
    return _WORD_STARTS.sub("_", name).lower()


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
