"""Monitor: the value of the history that says how good a state is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Monitor:
    """Follows one value of the history's records.

    Attributes:
        name: ``"valid_loss"``, ``"train_loss"``, ``"valid_accuracy"`` and the like.
        higher_is_better: Whether a rise is an improvement.
        values: The value of each record that has it, oldest first.
        epochs: The epoch of each.
        best_step: Step of the best, None before the first that is a number.
        last_step: Step of the last, None before the first.
    """

    name: str
    higher_is_better: bool = False
    values: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    best_step: int | None = None
    last_step: int | None = None
    _best: float = math.nan

    def add(self, record: Mapping[str, Any]) -> bool:
        """Take in a record; return whether it is the best so far.

        Of two records of the same step, as at an epoch's end that was not known to be
        one, the first counts: one measurement is one value.
        """
        if self.name not in record or record["step"] == self.last_step:
            return False
        value, self.last_step = float(record[self.name]), int(record["step"])
        self.values.append(value)
        self.epochs.append(int(record["epoch"]))
        if math.isnan(value) or not (math.isnan(self._best) or self._improves(value)):
            return False
        self._best, self.best_step = value, self.last_step
        return True

    def latest(self, epoch: int) -> float | None:
        """Return the newest value of an epoch, None where it has none."""
        return self.values[-1] if epoch in self.epochs[-1:] else None

    def losses(self, before_epoch: int | None = None) -> Sequence[float]:
        """Return the values so that less is better, for schedules.

        Args:
            before_epoch: Leave out those of this epoch and later; None for none.
        """
        count = len(self.values)
        if before_epoch is not None:
            while count and self.epochs[count - 1] >= before_epoch:
                count -= 1
        values = self.values[:count]
        return [-value for value in values] if self.higher_is_better else values

    def _improves(self, value: float) -> bool:
        return value > self._best if self.higher_is_better else value < self._best
