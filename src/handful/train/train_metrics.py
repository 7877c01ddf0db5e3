"""Metrics of the batches that are trained on, added up over an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from handful.train.evaluation import observe_output
from handful.train.metrics import start_metrics
from handful.train.step import StepOutput


class TrainMetrics:
    """Metrics over an epoch's batches, measured as they are trained on.

    Args:
        metrics: The metrics.
    """

    def __init__(self, metrics: Sequence[Any]) -> None:
        self._metrics = metrics
        self._sums = start_metrics(metrics)

    def start(self) -> None:
        """Begin anew, with an epoch."""
        self._sums = start_metrics(self._metrics)

    def add(self, made: StepOutput) -> None:
        """Take in what the step says of a micro-batch."""
        observe_output(self._sums, made)

    def values(self) -> dict[str, float]:
        """Return what was measured since the start."""
        return {f"train_{metric.name}": metric.compute() for metric in self._sums}

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured since the start, to go on from; plain values."""
        return {metric.name: metric.state_dict() for metric in self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; unknown metrics begin anew."""
        for metric in self._sums:
            if metric.name in state:
                metric.load_state_dict(state[metric.name])
