"""PyTorch's own schedulers as schedules of a training.

A `TorchSchedule` drives any class of `torch.optim.lr_scheduler`, or one written in its
image. The scheduler itself sets the rates of the optimiser that it was built over;
here it is built or checked, stepped, and stored as plain values::

    bind(optimizer) -> [load_state_dict(state)] -> advance(loss), advance(loss), ...
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CyclicLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from handful.errors import ArgumentError, TrainingError
from handful.train.plain_state import decode_state, encode_state
from handful.train.schedule_arguments import UNITS, Unit, check_word

SchedulerMaker: TypeAlias = "Callable[[Optimizer], LRScheduler]"

_PER_STEP = (OneCycleLR, CyclicLR)
"""Classes that PyTorch documents as stepped after every batch."""


class TorchSchedule:
    """A scheduler of PyTorch, driven by the training.

    The scheduler's own object goes on from where it stands; a function makes a fresh
    one each time that it is bound.

    Args:
        scheduler: An object such as `StepLR`, over the optimiser that trains, or a
            function of one argument that makes it:
            ``lambda optimizer: StepLR(optimizer, 30)``, or
            ``functools.partial(StepLR, step_size=30)``.
        unit: When it is stepped: after every ``"epoch"``, after every ``"step"``, or
            ``"auto"``: every step for `OneCycleLR` and `CyclicLR`, alone or within
            `SequentialLR` and `ChainedScheduler`, else every epoch.

    Raises:
        ArgumentError: The scheduler is neither, or the unit is unknown.

    Example:
        >>> import torch
        >>> from torch.optim import SGD, lr_scheduler
        >>> schedule = TorchSchedule(lambda o: lr_scheduler.StepLR(o, 30))
        >>> schedule.bind(SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
        >>> schedule.unit, schedule.last_lrs()
        ('epoch', [0.1])
    """

    def __init__(
        self,
        scheduler: LRScheduler | SchedulerMaker,
        unit: Literal["auto", "epoch", "step"] = "auto",
    ) -> None:
        check_word("unit", unit, ("auto", *UNITS))
        if not (isinstance(scheduler, LRScheduler) or callable(scheduler)):
            raise ArgumentError(
                "scheduler must be a scheduler of PyTorch, or a function from an "
                f"optimiser to one; got {scheduler!r}."
            )
        self._given = scheduler
        self._unit = unit
        self._bound: LRScheduler | None = None

    def __repr__(self) -> str:
        is_object = isinstance(self._given, LRScheduler)
        name = _name_classes(self._given) if is_object else _name_maker(self._given)
        return f"TorchSchedule({name}, unit={self._unit!r})"

    @property
    def unit(self) -> Unit:
        """When the scheduler is stepped: after every ``"epoch"`` or ``"step"``.

        Raises:
            TrainingError: It is to be found out, and no scheduler has been made yet.
        """
        if self._unit != "auto":
            return self._unit
        given = self._given
        scheduler = given if isinstance(given, LRScheduler) else self._scheduler
        return "step" if _is_per_step(scheduler) else "epoch"

    def bind(self, optimizer: Optimizer) -> None:
        """Make the scheduler over an optimiser, or check that it is over that one.

        Making one may change the optimiser's rates, as PyTorch's classes do.

        Args:
            optimizer: The optimiser that trains, before its first step.

        Raises:
            ArgumentError: The scheduler is over another optimiser, the function does
                not make a scheduler, its state cannot be stored, or it is a
                `ReduceLROnPlateau` that is to be stepped every step. Nothing is bound.
        """
        scheduler = self._given
        if not isinstance(scheduler, LRScheduler):
            scheduler = _make_scheduler(scheduler, optimizer)
        if getattr(scheduler, "optimizer", None) is not optimizer:
            raise ArgumentError(
                f"scheduler must be over the optimiser that trains; got a "
                f"{type(scheduler).__name__} over another. Give a function that makes "
                "it, such as lambda optimizer: StepLR(optimizer, 30), and leave the "
                "optimiser to the training."
            )
        if self._unit == "step" and isinstance(scheduler, ReduceLROnPlateau):
            raise ArgumentError(
                "unit of ReduceLROnPlateau must be 'epoch' or 'auto'; got 'step'. It "
                "goes by the monitored value, and a step alone has none."
            )
        _read_state(scheduler)
        self._bound = scheduler

    def advance(self, loss: float | None) -> None:
        """Step the scheduler once, after the optimiser's step or the epoch's last one.

        Args:
            loss: The monitored value as it was recorded, or None where there is none
                since the last call. Only `ReduceLROnPlateau` looks at it, and its own
                ``mode`` says which way is better; None leaves that scheduler as it is.

        Raises:
            TrainingError: The schedule is not bound to an optimiser.
        """
        scheduler = self._scheduler
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()
        elif loss is not None:
            scheduler.step(loss)

    def last_lrs(self) -> list[float]:
        """Return the rates now in force, one per parameter group of the optimiser.

        Raises:
            TrainingError: The schedule is not bound to an optimiser.
        """
        return [float(group["lr"]) for group in self._scheduler.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state: nested mappings and lists of plain values.

        The rates themselves are part of the optimiser's state.

        Returns:
            Its class, by which `load_state_dict` knows it again, and its values; a copy
            that later steps leave alone.

        Raises:
            TrainingError: The schedule is not bound to an optimiser.
            ArgumentError: The state has come to hold something that is not plain.
        """
        scheduler = self._scheduler
        return {"scheduler": _name_classes(scheduler), "state": _read_state(scheduler)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the scheduler where it stood when the state was taken.

        The optimiser is left alone: load its state too, after `bind`.

        Args:
            state: What `state_dict` returned, as it was or read back from JSON.

        Raises:
            TrainingError: The schedule is not bound to an optimiser.
            ArgumentError: The state is another scheduler's, or no such state.
        """
        scheduler = self._scheduler
        if not {"scheduler", "state"} <= state.keys():
            raise ArgumentError(
                "state must be what state_dict returned, with the keys 'scheduler' and "
                f"'state'; got the keys {sorted(state)}."
            )
        saved, here = state["scheduler"], _name_classes(scheduler)
        if saved != here:
            raise ArgumentError(
                f"state must be that of the scheduler here, {here}; got that of "
                f"{saved}. Continue with the scheduler that the run started with."
            )
        scheduler.load_state_dict(decode_state(state["state"]))

    @property
    def _scheduler(self) -> LRScheduler:
        if self._bound is not None:
            return self._bound
        raise TrainingError(
            "The schedule must be bound to an optimiser before it is used; it is not. "
            "Call bind(optimizer) first."
        )


def is_torch_schedule(value: object) -> bool:
    """Tell whether a setting stands for a scheduler of PyTorch.

    Args:
        value: Any setting of a schedule.

    Returns:
        True for a `TorchSchedule`, a scheduler, a scheduler's class, and functions,
        which are taken to make one from an optimiser; `functools.partial` counts as
        what it calls. False for names, mappings and objects with ``lr_at``.
    """
    if isinstance(value, type):
        return issubclass(value, LRScheduler)
    if isinstance(value, functools.partial):
        return is_torch_schedule(value.func)
    kinds = (TorchSchedule, LRScheduler, types.FunctionType, types.MethodType)
    return isinstance(value, kinds)


def _make_scheduler(make: SchedulerMaker, optimizer: Optimizer) -> LRScheduler:
    try:
        made: object = make(optimizer)
    except TypeError as error:
        raise ArgumentError(
            "scheduler must be a function that takes the optimiser alone; "
            f"{_name_maker(make)} failed: {error}. Give the other arguments before, "
            "as in functools.partial(StepLR, step_size=30)."
        ) from error
    if not isinstance(made, LRScheduler):
        raise ArgumentError(
            "scheduler must be a function from an optimiser to a scheduler of PyTorch; "
            f"{_name_maker(make)} returned {made!r}."
        )
    return made


def _parts(scheduler: LRScheduler) -> list[LRScheduler]:
    """Return the schedulers within a `SequentialLR` or `ChainedScheduler`."""
    return list(getattr(scheduler, "_schedulers", ()))


def _is_per_step(scheduler: LRScheduler) -> bool:
    return isinstance(scheduler, _PER_STEP) or any(
        _is_per_step(part) for part in _parts(scheduler)
    )


def _name_classes(scheduler: Any) -> str:
    """Return a scheduler's class, followed by those within it."""
    inner = ", ".join(_name_classes(part) for part in _parts(scheduler))
    return type(scheduler).__name__ + (f"({inner})" if inner else "")


def _name_maker(make: Any) -> str:
    if isinstance(make, functools.partial):
        return _name_maker(make.func)
    return getattr(make, "__qualname__", None) or type(make).__name__


def _read_state(scheduler: LRScheduler) -> Any:
    name = _name_classes(scheduler)
    try:
        state = scheduler.state_dict()
    except AttributeError as error:
        raise ArgumentError(
            f"The state of scheduler {name} must be readable, so that checkpoints can "
            f"hold it; got the error {str(error)!r}. A built-in function has no state "
            "to read: wrap it, as in lambda epoch: f(epoch)."
        ) from error
    return encode_state(state, f"scheduler {name}")
