"""The curves of schedules that look only at the position; no torch.

Each traces the class of `torch.optim.lr_scheduler` that its docstring names, with the
same arguments, computed from the position alone: by a closed form, in float64. PyTorch
reaches most of them by one multiplication per step, so the two agree up to rounding.
"""

# ruff: noqa: ARG002 - every schedule takes the same arguments, whichever it needs.

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from handful.errors import ArgumentError
from handful.train.schedule_arguments import (
    UNITS,
    Unit,
    check_flag,
    check_milestones,
    check_number,
    check_whole,
    check_word,
    choose_length,
)


def _is_positive(value: float) -> bool:
    return value > 0


def _is_not_negative(value: float) -> bool:
    return value >= 0


def _fall(start: float, end: float, share: float) -> float:
    """Return the point at ``share`` of half a cosine from ``start`` to ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _go_straight(start: float, end: float, share: float) -> float:
    return start + (end - start) * share


@dataclass(frozen=True)
class Constant:
    """The same rate throughout."""

    unit: Unit = field(default="epoch", kw_only=True)

    def __post_init__(self) -> None:
        check_word("unit", self.unit, UNITS)

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        """Return ``lr``."""
        return lr


@dataclass(frozen=True)
class StepDecay:
    """Multiply by ``gamma`` every ``step_size`` units, as `StepLR`.

    Attributes:
        step_size: Units at one rate, 1 or more.
        gamma: The factor, above 0.
    """

    step_size: int = 10
    gamma: float = 0.1
    unit: Unit = field(default="epoch", kw_only=True)

    def __post_init__(self) -> None:
        check_word("unit", self.unit, UNITS)
        check_whole("step_size", self.step_size, least=1)
        check_number("gamma", self.gamma, _is_positive, "above 0")

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        """Return ``lr * gamma ** (position // step_size)``."""
        return lr * self.gamma ** (position // self.step_size)


@dataclass(frozen=True)
class MultiStepDecay:
    """Multiply by ``gamma`` at each milestone, as `MultiStepLR`.

    Attributes:
        milestones: Positions, whole numbers from 1 on, each above the one before; they
            may be given as a list, or as one number.
        gamma: The factor, above 0.
    """

    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    unit: Unit = field(default="epoch", kw_only=True)

    def __post_init__(self) -> None:
        check_word("unit", self.unit, UNITS)
        object.__setattr__(self, "milestones", check_milestones(self.milestones))
        check_number("gamma", self.gamma, _is_positive, "above 0")

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        """Return ``lr * gamma ** m``, with ``m`` milestones at or before position."""
        return lr * self.gamma ** bisect_right(self.milestones, position)


@dataclass(frozen=True)
class ExponentialDecay:
    """Multiply by ``gamma`` every unit, as `ExponentialLR`.

    Attributes:
        gamma: The factor, above 0.
    """

    gamma: float = 0.95
    unit: Unit = field(default="epoch", kw_only=True)

    def __post_init__(self) -> None:
        check_word("unit", self.unit, UNITS)
        check_number("gamma", self.gamma, _is_positive, "above 0")

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        """Return ``lr * gamma ** position``."""
        return lr * self.gamma**position


@dataclass(frozen=True)
class CosineAnnealing:
    """Fall along half a cosine to ``eta_min``, as `CosineAnnealingLR`.

    Loshchilov and Hutter 2017 (SGDR), equation 5, without restarts. After ``t_max`` the
    curve rises again.

    Attributes:
        t_max: Position at which the half ends, 1 or more; None: the end of the run.
        eta_min: The rate there, 0 or more.
    """

    t_max: int | None = None
    eta_min: float = 0.0
    unit: Unit = field(default="epoch", kw_only=True)

    def __post_init__(self) -> None:
        check_word("unit", self.unit, UNITS)
        if self.t_max is not None:
            check_whole("t_max", self.t_max, least=1)
        check_number("eta_min", self.eta_min, _is_not_negative, "0 or more")

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        """Return ``eta_min + (lr - eta_min) * (1 + cos(pi * position / t_max)) / 2``.

        Raises:
            ArgumentError: Both ``t_max`` and ``total`` are None.
        """
        length = choose_length("t_max", self.t_max, total, self.unit)
        return _fall(lr, self.eta_min, position / length)


@dataclass(frozen=True)
class CosineRestarts:
    """Fall along half a cosine again and again, as `CosineAnnealingWarmRestarts`.

    Loshchilov and Hutter 2017 (SGDR), equation 5.

    Attributes:
        t_0: Units of the first fall, 1 or more.
        t_mult: How many times longer each fall is than the one before, whole, 1 or
            more.
        eta_min: The rate that each fall heads for, 0 or more.
    """

    t_0: int = 10
    t_mult: int = 1
    eta_min: float = 0.0
    unit: Unit = field(default="epoch", kw_only=True)

    def __post_init__(self) -> None:
        check_word("unit", self.unit, UNITS)
        check_whole("t_0", self.t_0, least=1)
        check_whole("t_mult", self.t_mult, least=1)
        check_number("eta_min", self.eta_min, _is_not_negative, "0 or more")

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        """Return ``eta_min + (lr - eta_min) * (1 + cos(pi * since / length)) / 2``.

        ``since`` counts the units since the last restart; ``length`` is that fall's.
        """
        since, length = self._find_fall(position)
        return _fall(lr, self.eta_min, since / length)

    def _find_fall(self, position: int) -> tuple[int, int]:
        if self.t_mult == 1:
            return position % self.t_0, self.t_0
        since, length = position, self.t_0
        while since >= length:
            since, length = since - length, length * self.t_mult
        return since, length


@dataclass(frozen=True)
class LinearChange:
    """Go in a straight line from one factor to another, as `LinearLR`.

    Attributes:
        start_factor: Factor at position 0, above 0, at most 1.
        end_factor: Factor from position ``total_iters`` on, from 0 to 1.
        total_iters: Units of the way, 1 or more.
    """

    start_factor: float = 1 / 3
    end_factor: float = 1.0
    total_iters: int = 5
    unit: Unit = field(default="epoch", kw_only=True)

    def __post_init__(self) -> None:
        check_word("unit", self.unit, UNITS)
        start, end = self.start_factor, self.end_factor
        check_number("start_factor", start, lambda v: 0 < v <= 1, "above 0, at most 1")
        check_number("end_factor", end, lambda v: 0 <= v <= 1, "from 0 to 1")
        check_whole("total_iters", self.total_iters, least=1)

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        """Return ``lr`` times the factor at that share of the way."""
        share = min(position / self.total_iters, 1.0)
        return lr * _go_straight(self.start_factor, self.end_factor, share)


@dataclass(frozen=True)
class PolynomialDecay:
    """Fall to 0 along a power of the way left, as `PolynomialLR`.

    Attributes:
        total_iters: Position from which the rate is 0, 1 or more; None: the end of the
            run. PyTorch's own default is 5.
        power: The exponent, above 0; 1 is a straight line.
    """

    total_iters: int | None = None
    power: float = 1.0
    unit: Unit = field(default="epoch", kw_only=True)

    def __post_init__(self) -> None:
        check_word("unit", self.unit, UNITS)
        if self.total_iters is not None:
            check_whole("total_iters", self.total_iters, least=1)
        check_number("power", self.power, _is_positive, "above 0")

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        """Return ``lr * (1 - position / total_iters) ** power``, from the end on 0.

        Raises:
            ArgumentError: Both ``total_iters`` and ``total`` are None.
        """
        length = choose_length("total_iters", self.total_iters, total, self.unit)
        return lr * math.pow(1 - min(position / length, 1.0), self.power)


@dataclass(frozen=True)
class OneCycle:
    """Rise to ``lr``, then fall far below the start, as `OneCycleLR`.

    Smith and Topin 2018 (Super-convergence). The ``lr`` that the user gives is the
    *peak*, PyTorch's ``max_lr``; the first rate is ``lr / div_factor`` and the last
    ``lr / div_factor / final_div_factor``. The cycle spans the whole run; past it the
    last rate stays, where PyTorch's class raises. Momentum is left alone
    (``cycle_momentum=False``).

    Attributes:
        pct_start: Share of the run spent rising, from 0 to 1; with ``three_phase`` at
            most 0.5.
        anneal_strategy: ``"cos"``, half a cosine for each phase, or ``"linear"``.
        div_factor: Peak over first rate, above 0.
        final_div_factor: First over last rate, above 0.
        three_phase: Whether to fall back to the first rate in as many units as the rise
            took, and only then to the last.
        unit: What the cycle counts; steps unless told otherwise.
    """

    pct_start: float = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False
    unit: Unit = field(default="step", kw_only=True)

    def __post_init__(self) -> None:
        check_word("unit", self.unit, UNITS)
        share = self.pct_start
        check_number("pct_start", share, lambda v: 0 <= v <= 1, "from 0 to 1")
        check_word("anneal_strategy", self.anneal_strategy, ("cos", "linear"))
        check_number("div_factor", self.div_factor, _is_positive, "above 0")
        check_number("final_div_factor", self.final_div_factor, _is_positive, "above 0")
        check_flag("three_phase", self.three_phase)
        if self.three_phase and share > 0.5:
            raise ArgumentError(
                "pct_start of the schedule must be at most 0.5 with three_phase, since "
                f"the rise and the fall take that share each; got {share!r}."
            )

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        """Return the rate at that share of the phase in which the position lies.

        Raises:
            ArgumentError: ``total`` is None.
        """
        length = choose_length("", None, total, self.unit)
        rates, ends = self._find_phases(lr, length)
        phase, begin = 0, 0.0
        while position > ends[phase] and phase < len(ends) - 1:
            phase, begin = phase + 1, ends[phase]
        end = ends[phase]
        # A phase of no length is at its end; PyTorch's class divides by zero there.
        share = min((position - begin) / (end - begin), 1.0) if end > begin else 1.0
        anneal = _fall if self.anneal_strategy == "cos" else _go_straight
        return anneal(rates[phase], rates[phase + 1], share)

    def _find_phases(
        self, lr: float, total: int
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the rates between which phases go, and the positions of their ends."""
        first = lr / self.div_factor
        last = first / self.final_div_factor
        rise = self.pct_start * total
        if self.three_phase:
            return (first, lr, first, last), (rise - 1, 2 * rise - 2, total - 1)
        return (first, lr, last), (rise - 1, total - 1)
