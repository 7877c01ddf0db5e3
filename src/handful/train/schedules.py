"""Learning-rate schedules: pure functions of the epoch and past losses; no torch.

Each gives the rate of an epoch from the rate at the start, the number of epochs and the
watched losses of the epochs before. None keeps state, so resuming needs nothing but the
history. The curves are those of the classes of `torch.optim.lr_scheduler` with the same
arguments, stepped once an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from handful.errors import ArgumentError
from handful.train.choices import ChoiceLike, parse_schedule


@runtime_checkable
class Schedule(Protocol):
    """What a schedule is: a rate for each epoch."""

    def lr_at(
        self, epoch: int, *, lr: float, epochs: int, losses: Sequence[float]
    ) -> float:
        """Return the learning rate of an epoch.

        Args:
            epoch: The epoch about to start, from 0 on.
            lr: The rate at the start, above 0.
            epochs: Epochs of the whole run.
            losses: The watched loss after each epoch before this one; length ``epoch``.

        Returns:
            The rate, 0 or above.
        """
        ...


@dataclass(frozen=True)
class Constant:
    """The same rate throughout."""

    def lr_at(
        self,
        epoch: int,  # noqa: ARG002
        *,
        lr: float,
        epochs: int,  # noqa: ARG002
        losses: Sequence[float],  # noqa: ARG002
    ) -> float:
        """Return ``lr``."""
        return lr


@dataclass(frozen=True)
class StepDecay:
    """Multiply by ``gamma`` every ``step_size`` epochs, as `StepLR`."""

    step_size: int = 10
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check_whole("step_size", self.step_size, least=1)
        _check("gamma", self.gamma, self.gamma > 0, "above 0")

    def lr_at(
        self,
        epoch: int,
        *,
        lr: float,
        epochs: int,  # noqa: ARG002
        losses: Sequence[float],  # noqa: ARG002
    ) -> float:
        """Return ``lr * gamma ** (epoch // step_size)``."""
        return lr * self.gamma ** (epoch // self.step_size)


@dataclass(frozen=True)
class ExponentialDecay:
    """Multiply by ``gamma`` every epoch, as `ExponentialLR`."""

    gamma: float = 0.95

    def __post_init__(self) -> None:
        _check("gamma", self.gamma, self.gamma > 0, "above 0")

    def lr_at(
        self,
        epoch: int,
        *,
        lr: float,
        epochs: int,  # noqa: ARG002
        losses: Sequence[float],  # noqa: ARG002
    ) -> float:
        """Return ``lr * gamma ** epoch``."""
        return lr * self.gamma**epoch


@dataclass(frozen=True)
class CosineAnnealing:
    """Fall along half a cosine to ``eta_min``, as `CosineAnnealingLR`.

    Loshchilov and Hutter 2017 (SGDR), equation 5, without restarts. The half ends at
    epoch ``t_max``, None being the number of epochs of the run; then the curve rises
    again.
    """

    t_max: int | None = None
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        if self.t_max is not None:
            _check_whole("t_max", self.t_max, least=1)
        _check("eta_min", self.eta_min, self.eta_min >= 0, "0 or more")

    def lr_at(
        self,
        epoch: int,
        *,
        lr: float,
        epochs: int,
        losses: Sequence[float],  # noqa: ARG002
    ) -> float:
        """Return ``eta_min + (lr - eta_min) * (1 + cos(pi * epoch / t_max)) / 2``."""
        turn = epoch / (self.t_max or epochs)
        return self.eta_min + (lr - self.eta_min) * (1 + math.cos(math.pi * turn)) / 2


@dataclass(frozen=True)
class ReduceOnPlateau:
    """Multiply by ``factor`` when the loss stops falling, as `ReduceLROnPlateau`.

    The watched loss is ``valid_loss``, or ``train_loss`` where nothing is validated.
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        _check("factor", self.factor, 0 < self.factor < 1, "between 0 and 1")
        _check_whole("patience", self.patience, least=0)
        _check_whole("cooldown", self.cooldown, least=0)
        _check("min_lr", self.min_lr, self.min_lr >= 0, "0 or more")
        _check(
            "threshold_mode",
            self.threshold_mode,
            self.threshold_mode in ("rel", "abs"),
            "'rel' or 'abs'",
        )

    def lr_at(
        self,
        epoch: int,  # noqa: ARG002
        *,
        lr: float,
        epochs: int,  # noqa: ARG002
        losses: Sequence[float],
    ) -> float:
        """Return the rate after the reductions that ``losses`` have caused."""
        best, bad, cooling = math.inf, 0, 0
        for loss in losses:
            if self._is_better(loss, best):
                best, bad = loss, 0
            else:
                bad += 1
            if cooling > 0:
                cooling, bad = cooling - 1, 0
            if bad > self.patience:
                lowered = max(lr * self.factor, self.min_lr)
                # PyTorch ignores changes below its eps of 1e-8.
                lr = lowered if lr - lowered > 1e-8 else lr
                cooling, bad = self.cooldown, 0
        return lr

    def _is_better(self, loss: float, best: float) -> bool:
        if self.threshold_mode == "rel":
            return loss < best * (1 - self.threshold)
        return loss < best - self.threshold


_SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "step": StepDecay,
    "exponential": ExponentialDecay,
    "cosine": CosineAnnealing,
    "plateau": ReduceOnPlateau,
}


def make_schedule(value: ChoiceLike | Schedule | None) -> Schedule:
    """Return the schedule of that name, or the schedule itself; None is constant.

    Args:
        value: ``"step"``, ``"step:step_size=5"``, ``{"name": "step", "step_size": 5}``
            or an object with `Schedule.lr_at`.

    Returns:
        The schedule.

    Raises:
        ArgumentError: The name, an argument or its value is unknown or out of range.

    Example:
        >>> make_schedule("step:step_size=5").lr_at(7, lr=1.0, epochs=9, losses=[])
        0.1
    """
    if value is not None and isinstance(value, Schedule):
        return value
    choice = parse_schedule(value)
    try:
        return _SCHEDULES[choice.name](**choice.args)
    except TypeError:
        raise ArgumentError(
            f"schedule {choice.name!r} has an argument of a wrong type; got {choice}."
        ) from None


def describe_schedule(schedule: Schedule) -> dict[str, Any] | str:
    """Return a schedule as a setting that `make_schedule` reads back."""
    for name, kind in _SCHEDULES.items():
        if type(schedule) is kind:
            return {"name": name, **asdict(schedule)}  # type: ignore[call-overload]
    return repr(schedule)


def _check_whole(name: str, value: object, *, least: int) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    _check(name, value, is_whole and value >= least, f"{least} or more, and whole")  # type: ignore[operator]


def _check(name: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise ArgumentError(f"{name} of the schedule must be {allowed}; got {value!r}.")
