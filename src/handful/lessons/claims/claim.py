"""Claim: a sentence of a tutorial, and the experiment that tests it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

HOLDS, FAILS = "holds", "does not hold"
NOT_MEASURED = "not measured here (GPU)"


@dataclass(frozen=True)
class Finding:
    """What the figures say of a claim.

    Attributes:
        verdict: `HOLDS`, `FAILS`, `NOT_MEASURED`, or ``holds when …``.
        figures: The figures, in a sentence without its full stop.
    """

    verdict: str
    figures: str


@dataclass
class Bench:
    """What experiments are run with, and what they found: each is run once.

    Attributes:
        seed: The first seed.
        quick: A small part of the work.
    """

    seed: int = 0
    quick: bool = False
    _found: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def seeds(self) -> list[int]:
        """Five seeds from the first on; two in a quick run."""
        return [self.seed + number for number in range(2 if self.quick else 5)]

    def run(self, experiment: Experiment) -> dict[str, Any]:
        """Return what an experiment found, running it the first time."""
        name = f"{experiment.__module__}.{experiment.__qualname__}"
        if name not in self._found:
            self._found[name] = experiment(self)
        found: dict[str, Any] = self._found[name]
        return found


Experiment = Callable[[Bench], dict[str, Any]]
"""Measures something; returns plain values by name."""

Judge = Callable[[Mapping[str, Any]], Finding]
"""Reads an experiment's values."""


@dataclass(frozen=True)
class Claim:
    """A sentence or a table row of a tutorial.

    Attributes:
        tutorial: Its document's title.
        lines: Where it stands there: ``"19"`` or ``"509-512"``.
        text: What it says, in our words.
        experiment: What tests it.
        judge: Says what the experiment's values mean for it.
    """

    tutorial: str
    lines: str
    text: str
    experiment: Experiment
    judge: Judge


def decide(holds: bool, figures: str, *, when: str = "") -> Finding:
    """Return a verdict.

    Args:
        holds: Whether the figures bear the claim out.
        figures: The figures.
        when: A condition under which alone they do: ``holds when …``.
    """
    if not holds:
        return Finding(FAILS, figures)
    return Finding(f"holds when {when}" if when else HOLDS, figures)


def spread(values: ArrayLike, digits: int = 3) -> str:
    """Write median and range of values over seeds or rounds.

    Args:
        values: Shape ``(S,)``, one or more.
        digits: Significant digits.

    Example:
        >>> spread([1.0, 2.0, 4.0]), spread([0.5, 0.5])
        ('2 (1 to 4)', '0.5')
    """
    found = np.asarray(values, np.float64)
    low, middle, high = (_short(v, digits) for v in np.quantile(found, [0, 0.5, 1]))
    return middle if low == high else f"{middle} ({low} to {high})"


def _short(value: float, digits: int) -> str:
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def judge_gpu(found: Mapping[str, Any]) -> Finding:
    """Answer what only a GPU could tell."""
    return Finding(NOT_MEASURED, str(found["device"]))
