"""Early stopping: when a training that no longer improves ends; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from handful.errors import ArgumentError

__all__ = ["EarlyStopping"]


@dataclass(frozen=True)
class EarlyStopping:
    """Stop once the monitored value has not improved for some validations.

    The decision is a function of the values so far and of nothing else, so a resumed
    run stops where the uninterrupted one would have.

    The rule is that of Keras' ``EarlyStopping``: a value improves where it beats the
    best so far by more than ``min_delta``, and a patience of 0 is one of 1. It differs
    in one case: a NaN never counts as an improvement, also as the first value, so that
    a number after it does.

    Args:
        patience: Validations without an improvement before the training stops, 0 or
            more.
        min_delta: Least improvement that counts, in the units of the value; finite,
            0 or more.
        start: Validations at the beginning that are not looked at, 0 or more.

    Raises:
        ArgumentError: A value is out of its range.

    Example:
        >>> stopping = EarlyStopping(patience=2)
        >>> stopping.reason_to_stop([0.5, 0.3, 0.4], higher_is_better=False)
        >>> stopping.reason_to_stop(
        ...     [0.5, 0.3, 0.4, 0.3], higher_is_better=False, name="valid_loss"
        ... )
        'valid_loss has not improved for 2 validations (best 0.3 at 2).'
    """

    patience: int = 5
    min_delta: float = 0.0
    start: int = 0

    def __post_init__(self) -> None:
        _check_count("patience", self.patience)
        _check_count("start", self.start)
        _check_delta(self.min_delta)

    def reason_to_stop(
        self,
        values: Sequence[float],
        *,
        higher_is_better: bool,
        name: str = "the monitored value",
    ) -> str | None:
        """Say why the training should stop after the last of these values.

        Args:
            values: The monitored value of every validation so far, oldest first.
            higher_is_better: Whether an improvement is a rise.
            name: What the values are called in the sentence.

        Returns:
            One sentence, which counts validations from 1 on; None to go on.
        """
        if len(values) <= self.start:
            return None
        best_at = self._find_best(values, higher_is_better)
        waited = len(values) - 1 - (self.start if best_at is None else best_at)
        if waited < max(1, self.patience):
            return None
        plural = "s" if waited > 1 else ""
        if best_at is None:
            return f"{name} has been NaN for {waited + 1} validations."
        return (
            f"{name} has not improved for {waited} validation{plural} "
            f"(best {values[best_at]:.6g} at {best_at + 1})."
        )

    def _find_best(self, values: Sequence[float], higher_is_better: bool) -> int | None:
        """Return the index of the last improvement, None where all are NaN."""
        best_at: int | None = None
        for index in range(self.start, len(values)):
            value = values[index]
            if math.isnan(value):
                continue
            if best_at is None or self._improves(
                value, values[best_at], higher_is_better
            ):
                best_at = index
        return best_at

    def _improves(self, value: float, best: float, higher_is_better: bool) -> bool:
        if higher_is_better:
            return value - self.min_delta > best
        return value + self.min_delta < best


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ArgumentError(
            f"{name} must be a whole number from 0 on; got {value!r}. "
            "It counts validations."
        )


def _check_delta(value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:  # type: ignore[operator]
        raise ArgumentError(
            f"min_delta must be a finite number from 0 on; got {value!r}. "
            "It is the least improvement that counts, for falling and rising values."
        )
