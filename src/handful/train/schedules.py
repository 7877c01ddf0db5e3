"""Learning-rate schedules: pure functions of the position and past losses; no torch.

Each gives the rate of an epoch, or of an optimisation step, from the rate that the user
set, the length of the run and the monitored values so far. None keeps state, so
resuming needs nothing but the history. The curves are those of the classes of
`torch.optim.lr_scheduler` with the same arguments; a linear warm-up may stand before
any of them.
"""

# ruff: noqa: ARG002 - every schedule takes the same arguments, whichever it needs.

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, runtime_checkable

from handful.errors import ArgumentError
from handful.train.choices import ChoiceLike, parse_schedule
from handful.train.schedule_arguments import (
    UNITS,
    Unit,
    check_number,
    check_whole,
    check_word,
)
from handful.train.schedule_shapes import (
    Constant,
    CosineAnnealing,
    CosineRestarts,
    ExponentialDecay,
    LinearChange,
    MultiStepDecay,
    OneCycle,
    PolynomialDecay,
    StepDecay,
)

__all__ = [
    "Constant",
    "CosineAnnealing",
    "CosineRestarts",
    "ExponentialDecay",
    "LinearChange",
    "MultiStepDecay",
    "OneCycle",
    "PolynomialDecay",
    "ReduceOnPlateau",
    "Schedule",
    "StepDecay",
    "Unit",
    "Warmup",
    "check_total",
    "describe_schedule",
    "make_schedule",
]


@runtime_checkable
class Schedule(Protocol):
    """What a schedule is: a rate for each epoch, or for each step."""

    @property
    def unit(self) -> Unit:
        """What positions count: ``"epoch"`` or ``"step"`` (of the optimiser)."""
        ...

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        """Return the learning rate of an epoch or step.

        It is a pure function: the same question has the same answer, in any order.

        Args:
            position: The epoch or step about to start, from 0 on.
            lr: The rate that the user set, above 0.
            total: Epochs or steps of the whole run, 1 or more; None where they are not
                known, as with a loader that has no length.
            losses: The monitored value of each validation so far, oldest first, one
                per record; smaller is better, so the caller negates a metric of which
                more is better.

        Returns:
            The rate, 0 or above.

        Raises:
            ArgumentError: ``total`` is None and the schedule needs it, at any position.
        """
        ...


@dataclass(frozen=True)
class ReduceOnPlateau:
    """Multiply by ``factor`` when the loss stops falling, as `ReduceLROnPlateau`.

    It looks only at the losses, never at the position. Values from 0 on are compared as
    with PyTorch's ``mode="min"``, values below 0, such as a negated accuracy, as with
    ``mode="max"`` before they were negated. PyTorch itself takes a share of the best
    value with its sign, so that below 0 in ``"min"`` a loss counts as better although
    it has risen a little; here it never does.

    Attributes:
        factor: The factor of a reduction, above 0 and below 1.
        patience: Losses without improvement that are borne before one, 0 or more.
        threshold: How much lower a loss must be to be an improvement, 0 or more.
        threshold_mode: Whether that is a share of the best loss's size, ``"rel"``, or
            a difference, ``"abs"``.
        cooldown: Losses after a reduction that are not counted, 0 or more.
        min_lr: The rate below which none is reduced, 0 or more.
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    unit: Unit = field(default="epoch", kw_only=True)

    def __post_init__(self) -> None:
        check_word("unit", self.unit, UNITS)
        check_number("factor", self.factor, lambda v: 0 < v < 1, "between 0 and 1")
        check_whole("patience", self.patience, least=0)
        check_number("threshold", self.threshold, lambda v: v >= 0, "0 or more")
        check_word("threshold_mode", self.threshold_mode, ("rel", "abs"))
        check_whole("cooldown", self.cooldown, least=0)
        check_number("min_lr", self.min_lr, lambda v: v >= 0, "0 or more")

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        """Return the rate after the reductions that ``losses`` have caused."""
        return _reduce(self, lr, tuple(losses))

    def is_better(self, loss: float, best: float) -> bool:
        """Tell whether a loss improves on the best before it."""
        if self.threshold_mode == "abs":
            return loss < best - self.threshold
        share = -self.threshold if best >= 0 else self.threshold
        return loss < best * (1 + share)


@functools.lru_cache(maxsize=8)
def _reduce(schedule: ReduceOnPlateau, lr: float, losses: tuple[float, ...]) -> float:
    """Return the reduced rate; kept, since every step between two losses asks for it.

    The key is the whole question, so that no other run's answer can be taken for it.
    """
    best, bad, cooling = math.inf, 0, 0
    for loss in losses:
        if schedule.is_better(loss, best):
            best, bad = loss, 0
        else:
            bad += 1
        if cooling > 0:
            cooling, bad = cooling - 1, 0
        if bad > schedule.patience:
            lowered = max(lr * schedule.factor, schedule.min_lr)
            # PyTorch ignores changes of at most its eps of 1e-8.
            lr = lowered if lr - lowered > 1e-8 else lr
            cooling, bad = schedule.cooldown, 0
    return lr


@dataclass(frozen=True)
class Warmup:
    """Rise in a straight line before another schedule starts.

    As ``SequentialLR([LinearLR(start_factor=start, end_factor=1.0,
    total_iters=length), schedule], milestones=[length])``: the schedule itself starts
    at position ``length``, with that much less of the run before it. The rise ends at
    ``lr``; before `OneCycle`, whose ``lr`` is the peak, at the rate of its start.
    Losses count from the first on, those of the warm-up included.

    Attributes:
        schedule: What comes after, no `Warmup` itself.
        length: Units of the warm-up, 1 or more.
        start: Factor of the first rate, above 0, at most 1.
    """

    schedule: Schedule
    length: int
    start: float = 0.01

    def __post_init__(self) -> None:
        check_whole("warmup", self.length, least=1)
        name, allowed = "warmup_start", "above 0, at most 1"
        check_number(name, self.start, lambda v: 0 < v <= 1, allowed)
        if not isinstance(self.schedule, Schedule) or isinstance(self.schedule, Warmup):
            raise ArgumentError(
                "schedule of Warmup must be another schedule, without a warm-up; "
                f"got {self.schedule!r}."
            )

    @property
    def unit(self) -> Unit:
        """What positions count, ``length`` included: as the schedule that follows."""
        return self.schedule.unit

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        """Return the rate of the warm-up, or that of the schedule after it.

        In the warm-up it is ``lr * (start + (1 - start) * position / length)``.
        """
        if position < self.length:
            is_peak = isinstance(self.schedule, OneCycle)
            top = lr / self.schedule.div_factor if is_peak else lr  # type: ignore[attr-defined]
            return top * (self.start + (1 - self.start) * position / self.length)
        # A run that is shorter than its warm-up has nothing left for the schedule; 1 is
        # the shortest length there is.
        left = None if total is None else max(total - self.length, 1)
        return self.schedule.lr_at(
            position - self.length, lr=lr, total=left, losses=losses
        )


_SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "step": StepDecay,
    "multistep": MultiStepDecay,
    "exponential": ExponentialDecay,
    "cosine": CosineAnnealing,
    "cosine_restarts": CosineRestarts,
    "plateau": ReduceOnPlateau,
    "linear": LinearChange,
    "polynomial": PolynomialDecay,
    "one_cycle": OneCycle,
}


def make_schedule(value: ChoiceLike | Schedule | None) -> Schedule:
    """Return the schedule of that name, or the schedule itself; None is constant.

    Beside its own arguments each name takes ``unit`` (``"epoch"`` or ``"step"``),
    ``warmup`` (units of a linear rise before it, 0 being none) and ``warmup_start``
    (factor of the first rate, above 0, at most 1; 0.01 unless told otherwise).

    Args:
        value: ``"step"``, ``"cosine:warmup=500,unit=step"``,
            ``"multistep:milestones=30;80"``, the same as a mapping,
            ``{"name": "multistep", "milestones": [30, 80]}``, or an object with
            `Schedule.unit` and `Schedule.lr_at`.

    Returns:
        The schedule.

    Raises:
        ArgumentError: The name, an argument or its value is unknown or out of range.

    Example:
        >>> schedule = make_schedule("step:step_size=5")
        >>> schedule.lr_at(7, lr=1.0, total=9, losses=[])
        0.1
        >>> schedule = make_schedule("cosine:warmup=4,warmup_start=0.2,unit=step")
        >>> rates = [schedule.lr_at(n, lr=1.0, total=8, losses=[]) for n in range(8)]
        >>> [f"{rate:.2f}" for rate in rates]
        ['0.20', '0.40', '0.60', '0.80', '1.00', '0.85', '0.50', '0.15']
    """
    if hasattr(value, "lr_at"):
        return _check_object(value)
    choice = parse_schedule(value)
    args = dict(choice.args)
    if "warmup_start" in args and "warmup" not in args:
        raise ArgumentError(
            "warmup of the schedule must be given with warmup_start; got none. "
            "Give warmup, the length of the warm-up, as well."
        )
    warmup, start = args.pop("warmup", 0), args.pop("warmup_start", Warmup.start)
    check_whole("warmup", warmup, least=0)
    schedule = _SCHEDULES[choice.name](**args)
    # Made in any case, so that a wrong start is refused beside a warm-up of 0 as well.
    warmed = Warmup(schedule, warmup or 1, start)
    return warmed if warmup else schedule


def describe_schedule(schedule: Schedule) -> dict[str, Any] | str:
    """Return a schedule as a setting that `make_schedule` reads back.

    Args:
        schedule: Any schedule.

    Returns:
        A mapping of plain values: its name, its arguments, and its unit where that is
        not the usual one. An object of another class, which has no name, is described
        by its ``repr``, which `make_schedule` does not read.
    """
    inner = schedule.schedule if isinstance(schedule, Warmup) else schedule
    for name, kind in _SCHEDULES.items():
        if type(inner) is kind:
            described = {"name": name, **_describe_arguments(inner)}
            if isinstance(schedule, Warmup):
                described["warmup"] = schedule.length
                described["warmup_start"] = schedule.start
            return described
    return repr(schedule)


def check_total(schedule: Schedule, total: int | None) -> None:
    """Check that a schedule can do with what is known of the run's length.

    To be asked before the first step: some schedules otherwise find out in the middle
    of the run, when their warm-up ends.

    Args:
        schedule: Any schedule.
        total: Epochs or steps of the whole run, whichever the schedule counts; None
            where they are not known.

    Raises:
        ArgumentError: The schedule needs the length, and it is not known. The message
            names the arguments that give it.
    """
    inner = schedule.schedule if isinstance(schedule, Warmup) else schedule
    inner.lr_at(0, lr=1.0, total=total, losses=())


def _check_object(value: Any) -> Schedule:
    if isinstance(value, type) or not isinstance(value, Schedule):
        raise ArgumentError(
            "schedule must be a name or an object with `unit` and `lr_at`; "
            f"got {value!r}. Its `unit` is 'epoch' or 'step'; a class is to be called."
        )
    check_word("unit", value.unit, UNITS)
    return value


def _describe_arguments(schedule: Any) -> dict[str, Any]:
    values = {f.name: getattr(schedule, f.name) for f in fields(schedule)}
    if values["unit"] == type(schedule).unit:
        del values["unit"]
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
