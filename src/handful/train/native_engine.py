"""The captured engine with a native player: recorded steps are done from C++.

Beyond what the captured engine does, whole steps - forward, loss, backward, clipping
and the update by a fused kernel - are tried on copies of the state, compared with the
step as ever, and from then on done many at a time, where nobody wants to be called
between them. Where the player's library is missing, or a step can't be played, all is
as with the captured engine; the numbers are the same in either case.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor

from handful.train.averaging import AveragedWeights
from handful.train.batch_kinds import Kind, flatten_step
from handful.train.captured import FAILURES, CapturedEngine
from handful.train.engine import Played, StepResult
from handful.train.kernels import FusedUpdate
from handful.train.native import NativeReplay, PlayerError
from handful.train.player_library import (
    BUILD_SECONDS,
    Build,
    find_compiler,
    is_off,
    load_library,
    look_again,
)
from handful.train.program import Program
from handful.train.recording import record_calls
from handful.train.replay import Replay
from handful.train.replay_proof import State, digest, find_written
from handful.train.whole_step import WholeStep

STRETCH_SECONDS = 0.1
"""About how long a call may take, so that a signal is answered soon."""

MOST_STEPS = 4096
"""Steps a call at most, whatever they take."""

MOST_BYTES = 2**28
"""Weights and state that are copied for the proof; with more, arithmetic decides."""

TIMED_RUNS, TIMED_SECONDS = 3, 0.02
"""How often a whole step is tried before it is compared, while no more than this is
used up; once in any case."""


class NativeEngine(CapturedEngine):
    """Records steps and plays them natively; the same numbers as the eager engine's.

    Args:
        *args: As for `CapturedEngine`.
        averages: Weights that are averaged after each step, by the caller of `step`,
            but by `play` itself; None for none.
        **options: As for `CapturedEngine`.
    """

    def __init__(
        self, *args: Any, averages: AveragedWeights | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._averages = averages
        self._wholes: dict[Hashable, WholeStep | None] = {}
        self._build: Build | None = None

    def look_again(self) -> None:
        """Notice changes of the model, and a library that has been built."""
        super().look_again()
        if not self._kinds:
            self._wholes = {}
        if self._build is not None and self._build.is_over:
            self._build = None
            look_again()
            if load_library() is not None:  # what was replayed is recorded anew
                self._kinds, self._wholes = {}, {}

    def most_steps(self) -> int:
        """Return how many steps take about `STRETCH_SECONDS`; 1 where none is known."""
        known = [whole.seconds for whole in self._wholes.values() if whole is not None]
        if not known or not self._may_be_whole():
            return 1
        return max(1, min(MOST_STEPS, int(STRETCH_SECONDS / max(known))))

    def step(self, batches: Sequence[Any]) -> StepResult:
        """Do one step; see `Engine.step`."""
        if not self._is_on or not self._may_be_whole():
            return super().step(batches)
        inputs, key = flatten_step(batches)
        kind = self._kinds.get((key, True))
        replay = None if kind is None else kind.replay
        if not isinstance(replay, NativeReplay) or key in self._wholes:
            return super().step(batches)
        assert kind is not None
        return self._learn_whole(kind, replay, key, batches, inputs)

    def play(
        self, stretch: Sequence[Any], rates: Sequence[Sequence[float]]
    ) -> Played | None:
        """Do the first steps of some that are of one kind; see `Engine.play`."""
        if self._is_watched:
            self.look_again()
        inputs, key = flatten_step(stretch[0])
        whole = self._wholes.get(key)
        if whole is None or not self._may_be_whole():
            return None
        if not whole.is_current():
            del self._wholes[key]
            return None
        rows = [inputs]
        for batches in stretch[1:]:
            inputs, other = flatten_step(batches)
            if other != key:
                break
            rows.append(inputs)
        played = whole.play(rows, rates)
        if played.num_steps < len(rows) and not whole.has_left_out:
            self._wholes[key] = None  # the step itself will say what is wrong
        if self._is_watched:
            self._own_gradients()
        return played if played.num_steps else None

    def _own_gradients(self) -> None:
        """Give the parameters gradients that somebody may keep."""
        for param in self._parameters():
            if param.grad is not None:
                param.grad = param.grad.clone()

    def _may_be_whole(self) -> bool:
        """Say whether nobody looks at a step between its batch and its update."""
        return (
            self._observe is None
            and self._on_gradients is None
            and isinstance(self._update, FusedUpdate)
            and (self._averages is None or self._averages.num_updates > 0)
        )

    def _make_replay(self, program: Program) -> tuple[Replay, str]:
        if load_library() is not None:
            try:
                return NativeReplay(program), " natively"
            except (PlayerError, *FAILURES) as error:
                self._on_note(f"Steps are not played natively: {error}.")
        return super()._make_replay(program)

    def _take_replay(self, kind: Kind) -> None:
        """Build the library beside a training that is long enough to gain by it."""
        to_come = self._steps_to_come()
        is_long = (to_come or 0) * kind.saved_seconds > 2 * BUILD_SECONDS
        wants = is_long and self._must_be_faster and self._build is None
        if wants and load_library() is None and not is_off() and find_compiler():
            self._build = Build()

    def _learn_whole(
        self,
        kind: Kind,
        replay: NativeReplay,
        key: Hashable,
        batches: Sequence[Any],
        inputs: Sequence[Tensor],
    ) -> StepResult:
        """Do a step as ever, and see whether a whole one does the same, and faster."""
        self._wholes[key] = None
        update = self._update
        assert isinstance(update, FusedUpdate)
        changed = self._list_changed(replay)
        if sum(tensor.nbytes for tensor in changed) > MOST_BYTES:
            return super().step(batches)
        state, rates = State(changed), [self._read_rates()]
        try:
            whole = self._make_whole(kind, replay, update, inputs)
            state.put_back()
            deadline = time.perf_counter() + TIMED_SECONDS
            for _ in range(TIMED_RUNS):
                played = whole.play([inputs], rates)
                if not played.num_steps and whole.has_left_out:
                    del self._wholes[key]  # another batch will do for the proof
                    return super().step(batches)
                if not played.num_steps:
                    raise whole.error
                is_last = time.perf_counter() > deadline
                now = self._digest(state, played.losses[0], played.grad_norms)
                state.put_back()
                if is_last:
                    break
        except (PlayerError, *FAILURES) as error:
            state.put_back()
            self._on_note(f"Steps are not played as a whole: {error}.")
            return super().step(batches)
        started = time.perf_counter()
        result = super().step(batches)
        seconds = time.perf_counter() - started
        if not result.is_finite:
            del self._wholes[key]
            return result
        norm = None if result.grad_norm is None else result.grad_norm.reshape(1)
        if now != self._digest_averaged(state, result.loss, norm):
            self._on_note("Steps are not played as a whole: they gave other numbers.")
        elif not self._must_be_faster or whole.seconds < seconds:
            self._wholes[key] = whole
            self._on_note(
                f"Steps of {kind.samples} samples are played as a whole, several a "
                f"call: {whole.seconds * 1e6:.0f} µs instead of {seconds * 1e6:.0f}."
            )
        return result

    def _make_whole(
        self,
        kind: Kind,
        replay: NativeReplay,
        update: FusedUpdate,
        inputs: Sequence[Tensor],
    ) -> WholeStep:
        """Do a step, and write down what it does behind its gradients."""
        result = self._replay(kind, replay, inputs)

        def finish() -> None:
            if self._touches_gradients:
                self._clip_gradients(result)
            update()
            if self._averages is not None:
                self._averages.update()
                self._averages.note_updates(-1)

        calls = record_calls(finish)
        if isinstance(calls, str):
            raise PlayerError(calls)
        return WholeStep(
            replay,
            kind.grads,
            calls,
            result.grad_norm,
            optimizer=self._optimizer,
            update=update,
            buffers=None if self._guard is None else self._find_buffers(replay),
            samples=kind.samples,
        )

    def _list_changed(self, replay: NativeReplay) -> list[Tensor]:
        """List what a whole step changes: buffers, weights, the optimiser's state."""
        buffers = self._find_buffers(replay)
        kept = [
            value
            for states in self._optimizer.state.values()
            for value in states.values()
            if isinstance(value, Tensor)
        ]
        averages = [] if self._averages is None else self._averages.tensors
        return [*buffers, *self._parameters(), *kept, *averages]

    def _digest_averaged(
        self, state: State, loss: Tensor, norm: Tensor | None
    ) -> list[Any]:
        """Return the digest of a step just done as if its weights were averaged."""
        averages = self._averages
        if averages is None:
            return self._digest(state, loss, norm)
        before = State(averages.tensors)
        averages.update()
        averages.note_updates(-1)
        try:
            return self._digest(state, loss, norm)
        finally:
            before.put_back()

    def _find_buffers(self, replay: NativeReplay) -> list[Tensor]:
        return find_written(replay.program, list(self._model.buffers())) or []

    def _digest(self, state: State, loss: Tensor, norm: Tensor | None) -> list[Any]:
        grads = [param.grad for param in self._parameters()]
        return [digest(value) for value in (*state.now(), *grads, loss, norm)]

    def _read_rates(self) -> list[float]:
        return [float(group["lr"]) for group in self._optimizer.param_groups]
