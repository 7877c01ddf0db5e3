"""The training loop, read downward.

::

    run_start
    while epochs or steps are left:
        rates of the epoch
        for micro-batches of a step:
            rates of the step
            forward, backward, (clip), update             the engine
            step                                          callbacks
            record, where validation is due in mid-epoch
            checkpoint, where one is due in mid-epoch
        record: validation, history, callbacks, checkpoint
    run_end

Nothing is read back from the device between two records unless someone asked, or a
checkpoint is due.

A record is due at the end of each epoch, and every ``valid_every`` steps. One that is
made only because the run ends is its ``ending``: if the run is continued, nothing of
it stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from handful.errors import NonfiniteError
from handful.train.averaging import AveragedWeights
from handful.train.callbacks import Callback, FitState, overrides
from handful.train.checkpoint import Checkpoint
from handful.train.engine import Engine, StepResult
from handful.train.feed import Feed
from handful.train.generators import all_generators_preserved
from handful.train.monitor import Monitor
from handful.train.nonfinite_steps import NonfiniteSteps
from handful.train.out_of_memory import StepMemory
from handful.train.precision import Precision
from handful.train.rates import Rates
from handful.train.record import Recorder
from handful.train.resuming import capture
from handful.train.signals import StopRequest
from handful.train.step_log import StepLog
from handful.train.stopping import EarlyStopping


class Observed(Protocol):
    """What is measured on the batches that are trained on."""

    def start(self) -> None:
        """Begin anew, with an epoch."""

    def values(self) -> Mapping[str, float]:
        """Return what was measured since, by its names in the history."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured since, to go on from."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""


@dataclass(kw_only=True)
class Loop:
    """One call of `Trainer.fit`: the parts of a training, and how they take turns."""

    state: FitState
    model: nn.Module
    optimizer: Optimizer
    engine: Engine
    feed: Feed
    rates: Rates
    recorder: Recorder
    monitor: Monitor
    precision: Precision
    log: StepLog
    memory: StepMemory
    """Does steps, and meets those that do not fit into memory."""
    callbacks: Sequence[Callback]
    request: StopRequest
    observed: Observed
    """What is measured on the batches that are trained on."""
    validate: Callable[[], Mapping[str, float]] | None = None
    """Measures the model on validation data: names without ``valid_``, and values."""
    valid_every: int | None = None
    """Steps between validations; None for each epoch's end."""
    checkpoint_every: int | None = None
    """Epochs between checkpoints that stay; None for none such."""
    early_stopping: EarlyStopping | None = None
    averages: AveragedWeights | None = None
    nonfinite: NonfiniteSteps | None = None
    """What becomes of steps that were left out since their numbers went wrong."""
    weight_norm: Callable[[nn.Module], float] | None = None
    """Measures the weights for each record."""
    prepare: Callable[[Sequence[Any]], None] | None = None
    """Called with the micro-batches of the first step of all, before it."""
    carried_seconds: float = 0.0
    """Of a run that goes on: seconds that its last record does not have."""

    ending: str | None = field(default=None, init=False)
    """What the last record is only for the run's end: ``record`` for all of it,
    ``validation`` for its ``valid_`` values, None for nothing."""
    _validation: Mapping[str, float] = field(default_factory=dict, init=False)
    _validated_step: int = field(default=-1, init=False)
    _recorded_step: int = field(default=-1, init=False)
    _saved_step: int = field(default=-1, init=False)
    _recorded_at: float = field(default=0.0, init=False)
    _is_checked: bool = field(default=False, init=False)
    """Whether the optimiser's state, which the first step makes, is known to be one
    that can be saved."""
    _is_unseen: bool = field(default=False, init=False)
    """Whether nobody asks to be called between two steps."""

    def run(self) -> None:
        """Train until all is done, or someone asks to stop."""
        self._check_storable()
        self.recorder.begin()
        self._recorded_at = time.perf_counter() - self.carried_seconds
        try:
            self._call("on_run_start")
            while not self.is_done():
                self._train_epoch()
            self._finish()
        finally:
            self.recorder.record_skipped(self.feed.skipped)
            self.rates.reset()
            self._call_at_end()
        if self.request.signal is not None and not self._has_all_epochs():
            self.state.run.status = "stopped"
            self.recorder.record_event("stopped", f"by {self.request.name}")
        elif self.state.stop:
            self.recorder.record_event("stopped early", str(self.state.stop))

    def _train_epoch(self) -> None:
        """Train for an epoch, or for the rest of one."""
        state = self.state
        if self.feed.delivered == 0:
            state.epoch += 1
            self.log.start_epoch()
            self.observed.start()
        if self.rates.unit == "epoch":
            losses = self.monitor.losses(before_epoch=state.epoch)
            self.rates.set(state.epoch - 1, losses)
        on_step = [c for c in self.callbacks if overrides(c, "on_step")]
        self._is_unseen = all(not c.sees_each_step for c in on_step)
        self._set_training()
        self.engine.look_again()
        for stretch in self.feed.stretches(state.epoch - 1, self._steps_until_due):
            if self.prepare is not None:
                self.prepare(stretch[0])
                self.prepare = None
            self._do_stretch(stretch)
            for callback in on_step:
                callback.on_step(state)
            if self._must_pause():
                if self._is_due() and not self.feed.is_at_end:
                    self._record(partial=True)
                    self._set_training()
                    self.engine.look_again()
                elif not self._is_over() and not self.feed.is_at_end:
                    self._save_within()
                if self._is_over() and not self._ends_with_epoch():
                    return
        self._record(partial=False)

    def _steps_until_due(self) -> int:
        """Say how many steps may be done before something else is to be."""
        if not self._may_play():
            return 1
        step = self.state.step
        most = min(self.engine.most_steps(), self.recorder.steps_until_save(step))
        if self.valid_every is not None:
            most = min(most, self.valid_every - step % self.valid_every)
        if self.state.max_steps is not None:
            most = min(most, self.state.max_steps - step)
        return max(most, 1)

    def _may_play(self) -> bool:
        """Say whether the engine may do a step from its batch to its update."""
        is_seen = self.prepare is not None or not self._is_unseen
        sets_more = self.rates.unit == "step" and self.rates.changes_groups
        # A step that is split is cut anew from the last batch.
        return not (is_seen or sets_more or self.precision.scales or self.memory.splits)

    def _do_stretch(self, stretch: Sequence[Sequence[Any]]) -> None:
        """Do steps with nothing between them, as many at once as the engine can."""
        may_play = self._may_play() and self.engine.most_steps() > 1
        while stretch:
            done = self._play(stretch) if may_play else 0
            if not done:
                self.feed.ahead = len(stretch) - 1
                self._step(stretch[0])
                done = 1
            stretch = stretch[done:]
        self.feed.ahead = 0

    def _play(self, stretch: Sequence[Sequence[Any]]) -> int:
        """Let the engine do several steps at once; return how many it did."""
        state, rates, rows = self.state, self.rates, []
        updates = state.step - self.num_skipped
        for ahead in range(len(stretch)):
            if rates.unit == "step":
                rates.set(updates + ahead, self.monitor.losses())
            rows.append(rates.all)
        played = self.engine.play(stretch, rows)
        if played is None:
            return 0
        lrs = [row[0] for row in rows[: played.num_steps]]
        state.step += played.num_steps
        state.samples += played.num_steps * played.samples
        state.lr, state.loss = lrs[-1], played.losses[-1]
        self.log.add_played(played, lrs)
        if self.nonfinite is not None:
            self.nonfinite.note_finite()
        if self.averages is not None:
            self.averages.note_updates(played.num_steps)
        return int(played.num_steps)

    def _step(self, batches: Sequence[Any]) -> None:
        """Do one step, and all that comes with it; nothing is read back."""
        state, is_per_step = self.state, self.rates.unit == "step"
        if is_per_step:
            updates = state.step - self.num_skipped
            self.rates.set(updates, self.monitor.losses())
        state.lr = self.rates.lr
        result = self.memory.step(batches)
        if not result.is_finite:
            self._look_at(result, batches)
        state.step += 1
        state.samples += result.samples
        state.loss = result.loss
        self.log.add(result, state.lr)
        if not self._is_checked:
            self._check_storable()
            self._is_checked = True
        if not result.was_taken:
            return
        if self.averages is not None:
            self.averages.update()
        if is_per_step:
            self.rates.advance(None)

    def _look_at(self, result: StepResult, batches: Sequence[Any]) -> None:
        """End the run where a step's numbers went wrong, unless it may be left out.

        Raises:
            NonfiniteError: The run ends; the state from before the step is kept.
        """
        assert self.nonfinite is not None
        error = self.nonfinite.judge(result, batches, self.state, self.feed)
        if error is None:
            return
        state, epoch = self.state, self.state.epoch
        self.recorder.record_steps(self.log.flush())
        self.feed.go_back()
        if self.feed.delivered == 0:
            state.epoch -= 1
        if state.step and not self.nonfinite.is_lost:
            self.recorder.keep(self._capture_state, step=state.step, is_last=True)
        self.log.add(result, state.lr)
        self.recorder.record_steps(self.log.flush())
        self.recorder.record(
            {
                "epoch": epoch,
                "step": state.step + 1,
                "samples": state.samples + result.samples,
                "partial": True,
                **self.log.means(),
                "train_loss": float(result.loss),
                "lr": state.lr,
                "seconds": self.seconds_since_record,
            }
        )
        raise error

    def _record(self, *, partial: bool) -> None:
        """Validate if that is due, write a line of history, keep the state."""
        self.recorder.record_steps(self.log.flush())
        is_due = self._is_due() or (self.valid_every is None and not partial)
        self.ending = None if is_due else self._ending_of(partial=partial)
        record = self._make_record(partial=partial, validates=is_due or self.ending)
        is_best = self._watch(record, partial=partial)
        self.recorder.record(record)
        self.recorder.record_skipped(self.feed.skipped)
        self._recorded_step = self.state.step
        try:
            self._call("on_validation" if partial else "on_epoch_end", record)
        except BaseException:
            self._keep(record, is_best=is_best, is_last=True)
            raise
        # After the callbacks, which may change what is saved.
        self._keep(record, is_best=is_best, is_last=self.is_done())
        _check_finite(record)

    def _make_record(self, *, partial: bool, validates: object) -> dict[str, Any]:
        """Return a line of the history, with a validation where it has one."""
        state = self.state
        record: dict[str, Any] = {
            "epoch": state.epoch,
            "step": state.step,
            "samples": state.samples,
            **({"partial": True} if partial else {}),
            **self.log.means(),
            **self.observed.values(),
        }
        if self.weight_norm is not None:
            record["weight_norm"] = self.weight_norm(self.model)
        if self.validate is not None and validates:
            record |= {f"valid_{k}": v for k, v in self._measure().items()}
        if self.precision.scales or self.num_skipped:
            record["skipped_steps"] = self.num_skipped
        now = time.perf_counter()
        record |= {"lr": state.lr, "seconds": now - self._recorded_at}
        self._recorded_at = now
        return record

    def _watch(self, record: Mapping[str, Any], *, partial: bool) -> bool:
        """Look at the monitored value and act on it; return whether it is the best.

        A value that is there only because the run ends decides nothing.
        """
        monitor, epoch = self.monitor, self.state.epoch
        latest = monitor.latest(epoch)
        is_best = monitor.add(record)
        counts = self.ending is None or (
            self.ending == "validation" and not monitor.name.startswith("valid_")
        )
        if counts:
            latest = monitor.latest(epoch)
            self._decide_to_stop()
        if not partial and self.rates.unit == "epoch":
            self.rates.advance(latest)
        return is_best and counts

    def _keep(self, record: Mapping[str, Any], *, is_best: bool, is_last: bool) -> None:
        """Keep the state as it is, unless it is broken."""
        if not math.isfinite(record["train_loss"]):
            self.recorder.skip(self.state.step)
            return
        every, step = self.checkpoint_every, self.state.step
        is_whole = "partial" not in record
        is_saved = self.recorder.keep(
            self._capture_state,
            step=step,
            is_best=is_best,
            is_kept=every is not None and is_whole and self.state.epoch % every == 0,
            is_last=is_last,
        )
        self._saved_step = step if is_saved else -1

    def _save_within(self, *, is_last: bool = False) -> None:
        """Keep the state as it is, without a record."""
        self.recorder.record_steps(self.log.flush())
        rest = {**self.log.means(), "partial": True}
        self._keep(rest, is_best=False, is_last=is_last)

    def _check_storable(self) -> None:
        """Refuse a state that can't be saved before there is much to lose."""
        self.recorder.check(
            lambda: Checkpoint(
                self.model.state_dict(), self.optimizer.state_dict(), progress={}
            )
        )

    def _capture_state(self) -> Checkpoint:
        return capture(self)

    def _finish(self) -> None:
        """Record, or save for the resuming, what the end has left."""
        if self.request.signal is not None:
            if self.state.step and self._saved_step != self.state.step:
                self._save_within(is_last=True)
        elif self.state.step and self._lacks_record():
            self._record(partial=True)

    def _lacks_record(self) -> bool:
        """Say whether the last step has no record, or one without a validation."""
        step = self.state.step
        is_unrecorded = self.feed.delivered > 0 and self._recorded_step != step
        return is_unrecorded or (
            self.validate is not None and self._validated_step != step
        )

    def _measure(self) -> Mapping[str, float]:
        """Validate, unless that was done at this very step."""
        if self._validated_step == self.state.step:
            return self._validation
        assert self.validate is not None
        with ExitStack() as stack:
            if self.ending is not None:  # what goes on draws as if it had not been
                stack.enter_context(all_generators_preserved())
            if self.averages is not None:
                stack.enter_context(self.averages.swapped_in())
            self._validation = self.validate()
        self._validated_step = self.state.step
        return self._validation

    def _ending_of(self, *, partial: bool) -> str | None:
        """Say what of a record that is not due is there because the run ends."""
        if partial:
            return "record"
        has_ended = self._is_finished() or self._has_all_epochs()
        return "validation" if has_ended and self.validate is not None else None

    def _is_due(self) -> bool:
        """Say whether it is time for one of the validations every few steps."""
        return self.valid_every is not None and self.state.step % self.valid_every == 0

    def _must_pause(self) -> bool:
        """Say whether something is to be done between this step and the next."""
        is_due = self.recorder.is_save_due(self.state.step)
        return is_due or self._is_due() or self._is_over()

    def _ends_with_epoch(self) -> bool:
        """Say whether a run that is over is also at an epoch's end, as far as known."""
        return self.feed.is_at_end and self.request.signal is None

    def _is_finished(self) -> bool:
        """Say whether all steps are done, or someone has a reason to stop."""
        state = self.state
        has_all = state.max_steps is not None and state.step >= state.max_steps
        return has_all or bool(state.stop)

    def _is_over(self) -> bool:
        """Say whether the run ends here, in mid-epoch or not."""
        return self.request.signal is not None or self._is_finished()

    def _has_all_epochs(self) -> bool:
        state = self.state
        between = self.feed.delivered == 0
        return between and state.epochs is not None and state.epoch >= state.epochs

    def is_done(self) -> bool:
        """Say whether the run is over, or has all its epochs."""
        return self._is_over() or self._has_all_epochs()

    def review(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Take in the history of a run that goes on: what is best, whether to stop."""
        for record in history:
            self.monitor.add(record)
            self._recorded_step = int(record["step"])
            values = {n[6:]: v for n, v in record.items() if n.startswith("valid_")}
            if values:
                self._validation, self._validated_step = values, self._recorded_step
        self._saved_step = self.state.step
        self._decide_to_stop()

    @property
    def num_skipped(self) -> int:
        """Steps of the whole run that updated nothing."""
        left_out = 0 if self.nonfinite is None else self.nonfinite.skipped
        return self.precision.skipped + left_out

    @property
    def seconds_since_record(self) -> float:
        """What the next record's ``seconds`` would be now."""
        return time.perf_counter() - self._recorded_at

    def _decide_to_stop(self) -> None:
        if self.early_stopping is None or self.state.stop:
            return
        self.state.stop = self.early_stopping.reason_to_stop(
            self.monitor.values,
            higher_is_better=self.monitor.higher_is_better,
            name=self.monitor.name,
        )

    def _set_training(self) -> None:
        if not all(module.training for module in self.model.modules()):
            self.model.train()

    def _call(self, moment: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, moment)(self.state, *args)

    def _call_at_end(self) -> None:
        """Call each callback's `on_run_end`, also where one before it fails."""
        with ExitStack() as stack:
            for callback in reversed(self.callbacks):
                stack.callback(callback.on_run_end, self.state)


def _check_finite(record: Mapping[str, Any]) -> None:
    if not math.isfinite(record["train_loss"]):
        raise NonfiniteError(
            f"train_loss is {record['train_loss']} after epoch {record['epoch']}; the "
            "training diverged. Lower lr, or look for NaN in the data."
        )
