"""Rates: the optimiser's learning rates, set by the schedule at its moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from handful.errors import ArgumentError
from handful.train.schedules import Schedule, check_total
from handful.train.torch_schedule import TorchSchedule


class Rates:
    """Sets the learning rates of an optimiser's groups.

    A schedule gives the rate of the first group; the others keep their ratio to it.

    Args:
        optimizer: The optimiser, with the rates at the start.
        schedule: Ours, or one of PyTorch's.
        epochs: Epochs of the run, or None.
        steps: Steps of the run, or None where they are not known.

    Raises:
        ArgumentError: The schedule needs a length that is not known.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule | TorchSchedule,
        *,
        epochs: int | None,
        steps: int | None,
    ) -> None:
        self._optimizer = optimizer
        self._schedule = schedule
        self._at_start = [_options(group) for group in optimizer.param_groups]
        self._base = [_read_lr(options) for options in self._at_start]
        self._schedule_at_start: dict[str, Any] = {}
        if isinstance(schedule, TorchSchedule):
            schedule.bind(optimizer)
            self._total = None
            self._schedule_at_start = schedule.state_dict()
        else:
            self._total = epochs if schedule.unit == "epoch" else steps
            check_total(schedule, self._total)
        self.unit = schedule.unit

    @property
    def lr(self) -> float:
        """The first group's rate."""
        return float(self._optimizer.param_groups[0]["lr"])

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
        base = self._base[0]
        lr = self._schedule.lr_at(position, lr=base, total=self._total, losses=losses)
        factor = lr / base if base else 1.0
        # Groups that a callback added have rates of their own.
        for group, rate in zip(self._optimizer.param_groups, self._base, strict=False):
            _write_lr(group, lr if rate == base else rate * factor)

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
        """Return what a scheduler of PyTorch remembers; ours remember nothing."""
        if isinstance(self._schedule, TorchSchedule):
            return self._schedule.state_dict()
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put a scheduler of PyTorch back to what `state_dict` returned."""
        if isinstance(self._schedule, TorchSchedule) and state:
            self._schedule.load_state_dict(dict(state))
            # What PyTorch's schedulers look at before they warn of a wrong order.
            self._optimizer._opt_called = True  # type: ignore[attr-defined]


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
