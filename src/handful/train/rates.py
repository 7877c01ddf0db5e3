"""Rates: the optimiser's learning rates, set by the schedule at its moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from torch.optim import Optimizer

from handful.errors import ArgumentError
from handful.torch_private import note_stepped
from handful.train.schedules import Schedule, check_total
from handful.train.torch_schedule import TorchSchedule

_Change: TypeAlias = "tuple[float, float]"
"""A rate that someone set, and the schedule's that it was set instead of."""

_MODES = ("min", "max")


class Rates:
    """Sets the learning rates of an optimiser's groups.

    A schedule gives the rate of the first group; the others keep their ratio to it. A
    rate that someone else sets in the meantime, such as a callback, stays as a factor
    on the rates that the schedule gives that group from then on.

    Args:
        optimizer: The optimiser, with the rates at the start.
        schedule: Ours, or one of PyTorch's.
        epochs: Epochs of the run, or None.
        steps: Steps of the run, or None where they are not known.
        steps_per_epoch: Steps of an epoch, or None where they are not known. With
            ``steps`` it tells how many epochs are begun.
        higher_is_better: Whether the monitored value should rise; None where it is
            not known.

    Raises:
        ArgumentError: The schedule needs a length that is not known, or is a
            `ReduceLROnPlateau` that waits for the wrong direction.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule | TorchSchedule,
        *,
        epochs: int | None,
        steps: int | None,
        steps_per_epoch: int | None = None,
        higher_is_better: bool | None = None,
    ) -> None:
        self._optimizer = optimizer
        self._schedule = schedule
        self._at_start = [_options(group) for group in optimizer.param_groups]
        self._base = [_read_lr(options) for options in self._at_start]
        self._scheduled = list(self._base)  # what the schedule says
        self._written = list(self._base)  # what the groups were left with
        self._changes: list[_Change | None] = [None] * len(self._base)
        self._is_restored = False
        self._schedule_at_start: dict[str, Any] = {}
        if isinstance(schedule, TorchSchedule):
            schedule.bind(optimizer)
            self._total = None
            self._schedule_at_start = schedule.state_dict()
            _check_direction(self._schedule_at_start["state"], higher_is_better)
        else:
            is_per_epoch = schedule.unit == "epoch"
            begun = _count_epochs(epochs, steps, steps_per_epoch)
            self._total = begun if is_per_epoch else steps
            check_total(schedule, self._total)
        self.unit = schedule.unit

    @property
    def lr(self) -> float:
        """The first group's rate."""
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def all(self) -> list[float]:
        """Each group's rate."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    @property
    def changes_groups(self) -> bool:
        """Whether the schedule sets more than our rates: then groups are restored."""
        return isinstance(self._schedule, TorchSchedule)

    def set(self, position: int, losses: Sequence[float]) -> None:
        """Set the rates for an epoch or step about to start.

        Args:
            position: The epoch or step, from 0 on.
            losses: The monitored values so far; smaller is better.
        """
        if isinstance(self._schedule, TorchSchedule):
            return  # it has set them, when it was advanced
        if not self._is_restored:
            self._notice_changes()
        self._is_restored = False
        base = self._base[0]
        lr = self._schedule.lr_at(position, lr=base, total=self._total, losses=losses)
        factor = lr / base if base else 1.0
        # Groups that a callback added have rates of their own.
        groups = zip(self._optimizer.param_groups, self._base, strict=False)
        for i, (group, rate) in enumerate(groups):
            self._scheduled[i] = lr if rate == base else rate * factor
            _write_lr(group, _apply(self._changes[i], self._scheduled[i]))
            self._written[i] = float(group["lr"])

    def _notice_changes(self) -> None:
        """Take in what rates someone else has set since they were written."""
        groups = zip(self._optimizer.param_groups, self._written, strict=False)
        for i, (group, written) in enumerate(groups):
            now = float(group["lr"])
            if now != written:
                self._changes[i] = (now, self._scheduled[i])
                self._written[i] = now

    def advance(self, loss: float | None) -> None:
        """Tell a scheduler of PyTorch that an epoch or step is over."""
        if isinstance(self._schedule, TorchSchedule):
            self._schedule.advance(loss)

    def reset(self) -> None:
        """Put rates and schedule back to the start, for the optimiser's next run.

        With a scheduler of PyTorch, which may also set momenta and leave notes in the
        groups, all their options are as they were.
        """
        groups = zip(self._optimizer.param_groups, self._at_start, strict=False)
        for (group, options), rate in zip(groups, self._base, strict=False):
            if isinstance(self._schedule, TorchSchedule):
                for name in group.keys() - options.keys() - {"params"}:
                    del group[name]
                group.update({k: v for k, v in options.items() if k != "lr"})
            _write_lr(group, rate)
        if isinstance(self._schedule, TorchSchedule):
            self._schedule.load_state_dict(self._schedule_at_start)

    def state_dict(self) -> dict[str, Any]:
        """Return what a scheduler of PyTorch remembers; of ours, changed rates."""
        if isinstance(self._schedule, TorchSchedule):
            return self._schedule.state_dict()
        if not self._is_restored:
            self._notice_changes()
        return {"changes": list(self._changes)} if any(self._changes) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the schedule back to what `state_dict` returned.

        Rates that were changed are set with the next ones; until then a callback that
        sets them again, as it did when the run began, changes nothing.
        """
        if isinstance(self._schedule, TorchSchedule):
            if state:
                self._schedule.load_state_dict(dict(state))
                # What PyTorch's schedulers look at before they warn of a wrong order.
                note_stepped(self._optimizer)
            return
        changes = [change and tuple(change) for change in state.get("changes", ())]
        if len(changes) == len(self._changes):
            self._changes, self._is_restored = changes, True


def _apply(change: _Change | None, scheduled: float) -> float:
    """Return a group's rate, from the schedule's and what someone else has set."""
    if change is None:
        return scheduled
    now, instead_of = change
    if scheduled == instead_of:
        return now
    return scheduled * (now / instead_of) if instead_of else scheduled


def _count_epochs(
    epochs: int | None, steps: int | None, steps_per_epoch: int | None
) -> int | None:
    """Return how many epochs a run begins, None where they are not known."""
    if steps is None or not steps_per_epoch:
        return epochs
    begun = -(-steps // steps_per_epoch)
    return begun if epochs is None else min(epochs, begun)


def _check_direction(state: Mapping[str, Any], higher_is_better: bool | None) -> None:
    """Check the direction of a plateau's scheduler, by its own state."""
    mode = state.get("mode")
    if higher_is_better is None or "patience" not in state or mode not in _MODES:
        return
    fitting = "max" if higher_is_better else "min"
    if mode != fitting:
        raise ArgumentError(
            f"mode of ReduceLROnPlateau must be {fitting!r}, as the monitored value "
            f"should {'rise' if higher_is_better else 'fall'}; got {mode!r}. It would "
            "lower the rate while the training improves."
        )


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _read_lr(options: Mapping[str, Any]) -> float:
    if "lr" not in options:
        raise ArgumentError(
            "optimizer must have a rate lr in each of its groups; got one with "
            f"{', '.join(options) or 'nothing'}. Set it, schedules or not."
        )
    return float(options["lr"])


def _write_lr(group: dict[str, Any], lr: float) -> None:
    """Set a group's rate; one in a tensor stays in it, where captured graphs read."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
