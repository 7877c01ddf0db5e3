"""A population: trials of one architecture, trained as one model with stacked weights.

::

    until the epochs are over, or every trial has ended:
        each trial's rate
        for each step:   each trial's batch, losses and gradients of all, one update
        for each trial that goes on:
            record: its losses, validation, monitor; it ends if that says so

A trial that has ended keeps the weights that it ended with. What is computed for it
after that counts nowhere. One whose numbers become NaN or infinite is lost: it is
trained once more by itself, which says at which step and why.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from handful.data.columns import Columns
from handful.runs.run import Run
from handful.studies.population_batches import Slot, TrialData
from handful.studies.population_model import (
    ApartError,
    Stack,
    StackedLoss,
    check_recordable,
    make_evaluation_replay,
    make_training_replay,
)
from handful.studies.population_update import KINDS, Update
from handful.studies.trial import Bench
from handful.train.assembly import make_monitor
from handful.train.callbacks import FitState
from handful.train.environment import describe_identity
from handful.train.evaluation import observe_output
from handful.train.metrics import start_metrics
from handful.train.monitor import Monitor
from handful.train.optimizers import make_optimizer
from handful.train.replay import Replay
from handful.train.schedules import Constant, check_total
from handful.train.step import StepOutput

MOST_PASSES = 8
"""Batches that validation may have; with more, trials train one by one."""

TIMED_STEPS = 8
"""Steps that are timed, without effect, before a population trains."""

TOLERANCE = 1e-4
"""Most that a trial's first loss and gradients may differ from the model's own, as a
share of the largest."""


@dataclass(kw_only=True)
class Member:
    """A trial of a population, and where it stands."""

    bench: Bench
    optimizer: Optimizer
    monitor: Monitor
    state: FitState
    kept: dict[str, Tensor] | None = field(default=None, init=False)
    """The weights and buffers with which it ended; None while it goes on."""
    is_lost: bool = field(default=False, init=False)
    """Whether its numbers became NaN or infinite, so that nothing of it counts."""

    @classmethod
    def of(cls, bench: Bench, *, steps_per_epoch: int, size: int) -> Member:
        """Make one of a bench."""
        trainer, recipe = bench.trainer, bench.recipe
        optimizer = make_optimizer(
            trainer.optimizer,
            trainer.model,
            trainer.lr,
            decay_biases_and_norms=trainer.decay_biases_and_norms,
        )
        if type(optimizer) not in KINDS:
            raise ApartError(f"{type(optimizer).__name__} has no formula for them")
        if len(optimizer.param_groups) != 1:
            raise ApartError("their optimizers have several groups")
        identity = describe_identity(
            engine="population",
            optimizer=optimizer,
            device=trainer.device,
            precision=trainer.precision,
        )
        own = {"memory_format": "contiguous", "population": size}
        bench.run = Run(identity={**identity, "optimizer_kernel": "stacked", **own})
        return cls(
            bench=bench,
            optimizer=optimizer,
            monitor=make_monitor(trainer, is_validated=bench.valid is not None),
            state=FitState(
                bench.run,
                epochs=recipe.epochs,
                max_steps=recipe.options.get("max_steps"),
                steps_per_epoch=steps_per_epoch,
            ),
        )

    @property
    def lr(self) -> float:
        """Its rate at the start."""
        return float(self.optimizer.param_groups[0]["lr"])


class Population:
    """Trains the trials of some benches as one model.

    Args:
        benches: The trials, which differ in no more than seed, rate and numbers of
            the optimiser.

    Attributes:
        size: How many they are, K.
        members: The trials.

    Raises:
        ApartError: They can't be trained so.
    """

    def __init__(self, benches: Sequence[Bench]) -> None:
        first = benches[0]
        check_recordable(bench.trainer.model for bench in benches)
        self.size = len(benches)
        self._recipe, self._trainer = first.recipe, first.trainer
        self._sizes = _cut(first)
        self.members = [
            Member.of(bench, steps_per_epoch=len(self._sizes), size=self.size)
            for bench in benches
        ]
        seeds = [bench.seed for bench in benches]
        self._data = TrialData(
            [_columns(bench.data) for bench in benches],
            seeds,
            shuffle=self._recipe.shuffle,
        )
        self.stack = Stack([bench.trainer.model for bench in benches])
        assert self._trainer.criterion is not None
        if self._data.holds(self._trainer.criterion.ignore_index):
            raise ApartError("their data may have labels that count nothing")
        self._loss = StackedLoss(
            self.stack, self._trainer.layout, self._trainer.criterion
        )
        self._valid = None
        if first.valid is not None:
            valid = [_columns(bench.valid) for bench in benches]
            self._valid = TrialData(valid, seeds, shuffle=False)
        self._slots = {size: self._data.make_slot(size) for size in set(self._sizes)}
        self._check_first()
        shared = self._data.is_shared
        self._steps = {
            size: make_training_replay(
                self._loss, slot.batch, slot.fields, is_shared=shared
            )
            for size, slot in self._slots.items()
        }
        self._passes = list(self._make_passes())
        self._update = self._make_update()
        self._losses = torch.empty(
            len(self._sizes), self.size, dtype=self.stack.weights.dtype
        )
        self._rows = list(self._losses)

    def time_step(self) -> float:
        """Return the seconds of a step of all trials; nothing is changed by it."""
        before = self.stack.weights.clone()
        buffers = [buffer.clone() for buffer in self.stack.buffers.values()]
        least = math.inf
        places = next(self._data.orders(0, self._sizes))
        with torch.no_grad():
            for _ in range(TIMED_STEPS):
                started = time.perf_counter()
                self._do_step(0, places)
                least = min(least, time.perf_counter() - started)
            self.stack.weights.copy_(before)
            for buffer, kept in zip(self.stack.buffers.values(), buffers, strict=True):
                buffer.copy_(kept)
        self._update = self._make_update()
        return least

    @property
    def num_steps(self) -> int:
        """Steps of each trial."""
        state = self.members[0].state
        assert state.epochs is not None
        steps = state.epochs * len(self._sizes)
        return steps if state.max_steps is None else min(steps, state.max_steps)

    def train(self) -> None:
        """Train all trials to their end; their benches then have runs and weights."""
        for member in self.members:
            member.bench.watch.on_run_start(member.state)
        self._recorded_at = time.perf_counter()
        with torch.no_grad():
            for epoch in range(-(-self.num_steps // len(self._sizes))):
                self._train_epoch(epoch)
                if not any(self._going_on()):
                    break
            for index, member in enumerate(self.members):
                self._hand_over(index, member)

    def _hand_over(self, index: int, member: Member) -> None:
        """Give a trial's own model the weights that it ended with."""
        if member.kept is not None:
            self.stack.write(index, member.kept)
        values = self.stack.read(index)
        parameters = (values[name] for name in self.stack.params)
        member.is_lost |= not all(bool(v.isfinite().all()) for v in parameters)
        member.bench.trainer.model.load_state_dict(values, strict=False)

    def _train_epoch(self, epoch: int) -> None:
        done = epoch * len(self._sizes)
        sizes = self._sizes[: self.num_steps - done]
        started, rates = time.perf_counter(), self._read_rates(epoch, len(sizes))
        for step, places in enumerate(self._data.orders(epoch, sizes)):
            if step < len(rates):
                self._update.set_rates(rates[step])
            self._do_step(step, places)
        sums = self._losses[: len(sizes)].double().sum(0)
        means = (sums / sum(self._steps[size][2] for size in sizes)).tolist()
        seconds = (time.perf_counter() - started) / self.size
        found = self._validate()
        now = time.perf_counter()
        share, self._recorded_at = (now - self._recorded_at) / self.size, now
        for index, member in enumerate(self.members):
            if member.kept is not None:
                continue
            state = member.state
            state.epoch, state.step = epoch + 1, done + len(sizes)
            state.samples += sum(sizes)
            state.lr = rates[-1][index] if rates else state.lr
            record: dict[str, Any] = {
                "epoch": state.epoch,
                "step": state.step,
                "samples": state.samples,
                **({} if len(sizes) == len(self._sizes) else {"partial": True}),
                "train_loss": means[index],
                **{f"valid_{name}": value for name, value in found[index].items()},
                "lr": state.lr,
                "seconds": share,
            }
            self._keep(index, member, record, seconds)

    def _do_step(self, step: int, places: Tensor) -> None:
        size = self._sizes[step]
        self._data.fill(self._slots[size], places)
        replay, grads, _ = self._steps[size]
        self._rows[step].copy_(replay.run(())[0])
        self._update.step(grads)

    def _keep(
        self, index: int, member: Member, record: dict[str, Any], seconds: float
    ) -> None:
        """Add a trial's record, and see whether it ends there."""
        state, watch = member.state, member.bench.watch
        member.monitor.add(record)
        state.run.history.append(record)
        watch.add(seconds)
        stopping = member.bench.trainer.early_stopping
        if stopping is not None and not state.stop:
            state.stop = stopping.reason_to_stop(
                member.monitor.values,
                higher_is_better=member.monitor.higher_is_better,
                name=member.monitor.name,
            )
        watch.on_epoch_end(state, record)
        member.is_lost = not math.isfinite(record["train_loss"])
        if state.stop or member.is_lost:
            member.kept = self.stack.read(index)

    def _going_on(self) -> Iterator[bool]:
        return (member.kept is None for member in self.members)

    def _read_rates(self, epoch: int, num_steps: int) -> list[list[float]]:
        """Return the rates of all trials at each step; a list of one for all steps."""
        schedule: Any = self._trainer.schedule
        if type(schedule) is Constant and epoch:
            return []
        is_per_step = schedule.unit == "step"
        begun = -(-self.num_steps // len(self._sizes))
        total = self.num_steps if is_per_step else begun
        first = epoch * len(self._sizes) if is_per_step else epoch
        check_total(schedule, total)
        return [
            [
                schedule.lr_at(
                    first + offset,
                    lr=member.lr,
                    total=total,
                    losses=member.monitor.losses(),
                )
                for member in self.members
            ]
            for offset in range(num_steps if is_per_step else 1)
        ]

    def _validate(self) -> list[Mapping[str, float]]:
        """Return each trial's values on its validation data."""
        if self._valid is None:
            return [{}] * self.size
        sums = [start_metrics(self._trainer.metrics) for _ in self.members]
        totals, count = torch.zeros(self.size, dtype=torch.float64), 0.0
        for slot, (replay, weight) in self._passes:
            losses, outputs = replay.run(())
            totals += losses.double()
            count += weight
            if self._trainer.metrics:
                _observe(sums, losses, outputs, self._targets(slot))
        means = (totals / count).tolist()
        return [
            {"loss": mean, **{metric.name: metric.compute() for metric in own}}
            for mean, own in zip(means, sums, strict=True)
        ]

    def _targets(self, slot: Slot) -> list[Tensor]:
        target = self._trainer.layout.split(slot.batch)[2]
        assert self._valid is not None
        return [target] * self.size if self._valid.is_shared else list(target)

    def _make_passes(self) -> Iterator[tuple[Slot, tuple[Replay, float]]]:
        if self._valid is None:
            return
        bench = self.members[0].bench
        assert bench.valid_loader is not None
        slots = self._valid.read_slots(int(bench.valid_loader.batch_size or 1))
        if len(slots) > MOST_PASSES:
            raise ApartError(f"validation has more than {MOST_PASSES} batches")
        for slot in slots:
            shared = self._valid.is_shared
            yield (
                slot,
                make_evaluation_replay(
                    self._loss, slot.batch, slot.fields, is_shared=shared
                ),
            )

    def _check_first(self) -> None:
        """Compare losses and gradients of a batch with those of the models alone."""
        for (size, slot), places in zip(
            self._slots.items(), self._first_places(), strict=True
        ):
            self._data.fill(slot, places)
            if size == self._sizes[0]:
                self._compare(slot)

    def _first_places(self) -> Iterator[Tensor]:
        for size in self._slots:
            yield next(self._data.orders(0, [size]))

    def _compare(self, slot: Slot) -> None:
        shared, params = self._data.is_shared, self.stack.params
        buffers = [buffer.clone() for buffer in self.stack.buffers.values()]
        sums, _, weight = self._loss.measure(
            slot.batch, is_shared=shared, is_training=True
        )
        losses = sums / weight
        found = torch.autograd.grad(losses.sum(), list(params.values()))
        losses = losses.detach()
        for buffer, kept in zip(self.stack.buffers.values(), buffers, strict=True):
            buffer.copy_(kept)
        for index, member in enumerate(self.members):
            batch = slot.batch if shared else _pick(slot.batch, index)
            loss, grads = _measure_alone(member.bench, batch)
            stacked = [losses[index], *(grad[index] for grad in found)]
            largest = max(float(value.detach().abs().max()) for value in grads)
            is_close = _is_close(stacked[0], loss, float(loss.abs()))
            if not is_close or not all(
                _is_close(one, other, largest)
                for one, other in zip(stacked[1:], grads, strict=True)
            ):
                raise ApartError("stacked, their models give other numbers")

    def _make_update(self) -> Update:
        groups = [member.optimizer.param_groups[0] for member in self.members]
        kind = type(self.members[0].optimizer)
        try:
            return Update(kind, groups, self.stack.owners, self.stack.weights)
        except ValueError as error:
            raise ApartError(str(error)) from None


def _cut(bench: Bench) -> list[int]:
    """Return the samples of each step of an epoch."""
    count = len(_columns(bench.data))
    size = bench.recipe.batch_size
    size = count if size == "full" else min(int(size), count)
    sizes = [min(size, count - start) for start in range(0, count, size)]
    drops = bench.recipe.last_batch == "drop" and sizes[-1] < size
    return sizes[:-1] if drops else sizes


def _columns(data: Any) -> Columns:
    if type(data) is not Columns:
        raise ApartError("their data do not lie in arrays")
    columns: Columns = data
    return columns


def _pick(batch: Any, index: int) -> Any:
    if isinstance(batch, dict):
        return {name: value[index] for name, value in batch.items()}
    return tuple(value[index] for value in batch)


def _measure_alone(bench: Bench, batch: Any) -> tuple[Tensor, Sequence[Tensor]]:
    """Return the loss and the gradients of a trial's own model, left as it is."""
    trainer = bench.trainer
    assert trainer.criterion is not None
    args, kwargs, target, _ = trainer.layout.split(batch)
    kept = [buffer.clone() for buffer in trainer.model.buffers()]
    trainer.model.train()
    loss = trainer.criterion.mean(trainer.model(*args, **kwargs), target)
    grads = torch.autograd.grad(loss, list(trainer.model.parameters()))
    loss = loss.detach()
    with torch.no_grad():
        for buffer, value in zip(trainer.model.buffers(), kept, strict=True):
            buffer.copy_(value)
    return loss, grads


def _is_close(one: Tensor, other: Tensor, largest: float) -> bool:
    return math.isfinite(largest) and torch.allclose(
        one, other, rtol=TOLERANCE, atol=TOLERANCE * max(largest, 1e-6)
    )


def _observe(
    sums: Sequence[Any], losses: Tensor, outputs: Any, targets: Sequence[Tensor]
) -> None:
    """Add each trial's outputs to its metrics."""
    for index, own in enumerate(sums):
        made = StepOutput(losses[index], 1, outputs[index], targets[index])
        observe_output(own, made)
