"""Budgets and targets: how long each trial lasts, and what it is to reach; no torch."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handful.errors import ArgumentError

UNITS = ("epochs", "steps", "samples", "s")
"""Units of a budget; ``s`` are seconds of training alone."""

_NUMBER = r"([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?)"
_BUDGET = re.compile(rf"{_NUMBER}\s*(epochs?|steps?|samples?|s)")
_TARGET = re.compile(
    r"\s*(\w+)\s*(<=|>=)\s*([+-]?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*"
)
_COMPARE = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Budget:
    """What each trial may use.

    Attributes:
        amount: How much, above 0; a whole number but for seconds.
        unit: One of `UNITS`.
    """

    amount: float
    unit: str

    def __str__(self) -> str:
        is_whole = self.amount == int(self.amount)
        return f"{int(self.amount) if is_whole else self.amount}{self.unit}"


@dataclass(frozen=True)
class Limits:
    """When a trial ends; None where that doesn't end it.

    Attributes:
        epochs: Passes over the data.
        max_steps: Optimisation steps.
        seconds: Seconds of training alone.
    """

    epochs: int | None = None
    max_steps: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Target:
    """What a trial is to reach.

    Attributes:
        name: A loss or a metric of the history.
        sign: ``<=`` or ``>=``.
        value: The bound.
    """

    name: str
    sign: str
    value: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.value:g}"

    def is_reached(self, record: Mapping[str, Any]) -> bool:
        """Say whether a record of the history reaches it; without the value it can't.

        Example:
            >>> parse_target("valid_loss<=0.3").is_reached({"valid_loss": 0.25})
            True
        """
        if self.name not in record:
            return False
        return bool(_COMPARE[self.sign](record[self.name], self.value))


def parse_budget(text: object, *, name: str = "budget") -> Budget:
    """Read a budget.

    Args:
        text: ``"20epochs"``, ``"5000steps"``, ``"1e6samples"`` or ``"60s"``.
        name: How its user spells it.

    Raises:
        ArgumentError: The text is none of these.

    Example:
        >>> parse_budget("1e6samples")
        Budget(amount=1000000.0, unit='samples')
    """
    found = _BUDGET.fullmatch(text.strip()) if isinstance(text, str) else None
    amount = float(found[1]) if found else 0.0
    unit = found[2] if found else ""
    unit = unit if unit in ("", "s") else unit.rstrip("s") + "s"
    is_whole = unit == "s" or (math.isfinite(amount) and amount == int(amount))
    if not (0 < amount < math.inf) or not is_whole:
        raise ArgumentError(
            f"{name} must be a number above 0 and a unit, such as 20epochs, 5000steps, "
            f"1e6samples or 60s; got {text!r}."
        )
    return Budget(amount, unit)


def parse_target(text: object, *, name: str = "target") -> Target:
    """Read a target.

    Args:
        text: ``"valid_loss<=0.3"`` or ``"valid_accuracy>=0.95"``.
        name: How its user spells it.

    Raises:
        ArgumentError: The text is no such comparison.
    """
    found = _TARGET.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ArgumentError(
            f"{name} must be a value of the history, <= or >=, and a number, such as "
            f'"valid_loss<=0.3"; got {text!r}.'
        )
    return Target(found[1], found[2], float(found[3]))


def limit_trial(
    budget: Budget,
    *,
    num_samples: int,
    batch_size: int | str,
    accumulate: int,
    drop_last: bool,
) -> Limits:
    """Return when a trial with a budget ends.

    Samples become the least number of steps that see so many; steps and samples are
    also counted in epochs, begun ones included, for schedules that want to know.

    Args:
        budget: The budget.
        num_samples: Training samples, 1 or more.
        batch_size: Samples of a batch, or ``"full"``.
        accumulate: Batches of a step.
        drop_last: Whether a smaller last batch of an epoch is left out.
    """
    if budget.unit == "s":
        return Limits(seconds=budget.amount)
    if budget.unit == "epochs":
        return Limits(epochs=int(budget.amount))
    seen = epoch_samples(num_samples, batch_size, drop_last=drop_last)
    size = seen if batch_size == "full" else min(int(batch_size), seen)
    a_step = max(size, 1) * accumulate
    steps_per_epoch = max(-(-seen // a_step), 1)
    if budget.unit == "steps":
        max_steps = int(budget.amount)
    else:
        epochs, rest = divmod(int(budget.amount), max(seen, 1))
        max_steps = epochs * steps_per_epoch + -(-rest // a_step)
    return Limits(epochs=-(-max_steps // steps_per_epoch), max_steps=max_steps)


def epoch_samples(num_samples: int, batch_size: int | str, *, drop_last: bool) -> int:
    """Return how many samples an epoch has."""
    if batch_size == "full" or not drop_last:
        return num_samples
    return num_samples - num_samples % int(batch_size)
