"""The captured engine: steps that were recorded once and are replayed.

For batches of each shape that comes often enough:

1. the first step is done as ever;
2. the next two are, and are recorded when they are done once more without effect: both
   must be the same program, with the same numbers as before;
3. the next is replayed *and* done as ever, and both must agree to the last bit: loss,
   gradients, buffers, random generators;
4. from then on steps are replayed.

What fails any of this goes on as ever, and the run says why once. What is replayed is
forward, loss and backward; clipping and the update are the eager engine's.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handful.train.batch_kinds import Kind, flatten_step, with_own_memory
from handful.train.batches import count_samples
from handful.train.engine import EagerEngine, StepResult
from handful.train.kernel_calls import Ways
from handful.train.model_guard import Snapshot, effects_noticed, why_not_recordable
from handful.train.program import Place, Program
from handful.train.recorded_step import own, read_shown, run_step
from handful.train.recording import can_record, is_observed, record
from handful.train.replay import Replay
from handful.train.replay_proof import (
    State,
    digest,
    find_own,
    find_written,
    try_replay,
)
from handful.train.step import CriterionStep, StepOutput

MOST_SHAPES = 8
"""Kinds of batches that are recorded; of more, the later ones are done as ever."""

MOST_RESTARTS = 4
"""How often a model may change between steps before recording it is given up."""

WORTHWHILE_STEPS = 48
"""Steps of a kind that must be to come for recording them to be worth it: recording and
proving take as long as some six steps, and replays save an eighth of a step or more."""

FAILURES = (RuntimeError, ValueError, TypeError, LookupError, NotImplementedError)
"""Errors of a replay, which the step itself may have or not."""


class CapturedEngine(EagerEngine):
    """Records steps and replays them; the same numbers as the eager engine's.

    Args:
        model: The model, on the CPU.
        step: Computes a batch's loss, by a criterion.
        optimizer: The optimiser of the model's parameters.
        steps_to_come: Returns how many steps are left; None where nobody knows.
        is_watched: Whether functions of the user's run between steps: they may change
            the model, and keep gradients.
        on_note: Takes a sentence that says what is replayed, or why not.
        must_be_faster: Whether steps are recorded only where enough of them are to
            come, and replayed only where that takes less time.
        **options: As for `EagerEngine`.
    """

    def __init__(
        self,
        model: nn.Module,
        step: CriterionStep,
        optimizer: Any,
        *,
        steps_to_come: Callable[[], int | None],
        is_watched: bool,
        on_note: Callable[[str], None],
        must_be_faster: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, step, optimizer, **options)
        self._steps_to_come = steps_to_come
        self._is_watched = is_watched
        self._on_note = on_note
        self._must_be_faster = must_be_faster
        self._criterion_step = step
        self._kinds: dict[Hashable, Kind] = {}
        self._seen = 0
        self._known: Snapshot | None = None
        self._restarts = 0
        self._is_on = can_record()
        self._ways = Ways()
        self._noted: set[str] = set()
        if not self._is_on:
            self._say_not("this PyTorch does not show what a step computes")

    def look_again(self) -> None:
        """Notice changes of the model; see `Engine.look_again`."""
        if self._known is None or not self._known.has_changed():
            return
        self._kinds, self._known = {}, None
        self._restarts += 1
        if self._restarts > MOST_RESTARTS:
            self._stop("the model changes between steps")

    def recover(self) -> None:
        """Let go of what a step that failed has left behind, replays included."""
        super().recover()
        self._kinds = {}

    def _fill_gradients(self, batches: Sequence[Any]) -> StepResult:
        if not self._is_on or self._on_first is not None:
            return super()._fill_gradients(batches)
        if self._is_watched:
            self.look_again()
        inputs, key = flatten_step(batches)
        kind = self._kinds.get((key, self._observe is None))
        if kind is not None and kind.replay is not None:
            return self._replay(kind, kind.replay, inputs)
        return self._learn(kind, key, batches, inputs)

    def _learn(
        self,
        kind: Kind | None,
        key: Hashable,
        batches: Sequence[Any],
        inputs: Sequence[Tensor],
    ) -> StepResult:
        """Do a step of a kind that can't be replayed yet."""
        self._seen += 1
        if key is None:
            self._say_not("their batches hold more than plain tensors and values")
            return super()._fill_gradients(batches)
        if kind is None:
            if len(self._kinds) >= MOST_SHAPES:
                self._say_not(f"of more than {MOST_SHAPES} kinds of batches")
                return super()._fill_gradients(batches)
            kind = self._kinds[key, self._observe is None] = Kind()
        kind.seen += 1
        if not self._is_worthwhile(kind):
            return self._do_eagerly(kind, batches)
        if kind.program is not None and kind.is_confirmed:
            return self._prove(kind, kind.program, batches, inputs)
        return self._record(kind, batches, inputs)

    def _is_worthwhile(self, kind: Kind) -> bool:
        """Say whether enough steps of a kind are to come, and it may be recorded."""
        if kind.reason is not None or kind.seen == 1:
            return False
        to_come = self._steps_to_come()
        if to_come is None or not self._must_be_faster:
            return True
        return to_come * kind.seen / self._seen >= WORTHWHILE_STEPS

    def _do_eagerly(self, kind: Kind, batches: Sequence[Any]) -> StepResult:
        started = time.perf_counter()
        result = super()._fill_gradients(batches)
        kind.seconds = min(kind.seconds, time.perf_counter() - started)
        return result

    def _replay(
        self, kind: Kind, replay: Replay, inputs: Sequence[Tensor]
    ) -> StepResult:
        if replay.is_released:  # what it takes now, the gradients before may give
            self._clear_gradients()
        results = replay.run(inputs)
        for param, position, copy in kind.grads:
            grad = results[position]
            if copy is not None:
                grad = copy.copy_(grad)
            if self._is_watched and grad is not None:
                grad = grad.clone()
            if param.grad is not grad:
                param.grad = grad
        return self._tell(results, kind)

    def _tell(self, results: Sequence[Any], kind: Kind) -> StepResult:
        """Return what a step did; its tensors are not those of the next step."""
        loss, weight = map(own, results[:2])
        if self._observe is not None:
            for made in read_shown(results, len(kind.grads)):
                made.ignore_index = self._criterion_step.criterion.ignore_index
                self._observe(made)
        return StepResult(loss, weight, kind.samples)

    def _record(
        self, kind: Kind, batches: Sequence[Any], inputs: Sequence[Tensor]
    ) -> StepResult:
        """Do a step as ever; if it leaves no traces in Python, do it again on trial."""
        reason = self._begin()
        if reason is not None or self._known is None:
            self._stop(reason or "what it depends on is not known")
            return super()._fill_gradients(batches)
        buffers = find_own(self._model.buffers())
        versions = self._known.versions(inputs)
        before, effects = State(buffers), list[str]()
        result = self._do_watched(batches, effects)
        if effects:
            self._give_up(kind, f"its step calls {effects[0]}")
        elif versions != self._known.versions(inputs):
            self._give_up(kind, "its step writes into what is no buffer")
        elif self._known.has_changed():
            self._stop("the step changes what it depends on, in the model or beside it")
        else:
            after = State(buffers)
            before.put_back()
            try:
                program = self._write_down(kind, batches, inputs, result)
            except FAILURES as error:
                program = f"it can't be recorded ({error})"
            finally:
                after.put_back()
            self._take(kind, program)
        return result

    def _do_watched(self, batches: Sequence[Any], effects: list[str]) -> StepResult:
        """Do a step as ever, and note what else it does; only then it is observed."""
        observe, shown = self._observe, list[StepOutput]()
        if observe is not None:
            self._observe = shown.append
        try:
            with effects_noticed(effects):
                result = super()._fill_gradients(batches)
        finally:
            self._observe = observe
        if observe is not None:
            for made in shown:
                observe(made)
        return result

    def _write_down(
        self,
        kind: Kind,
        batches: Sequence[Any],
        inputs: Sequence[Tensor],
        result: StepResult,
    ) -> Program | str:
        """Record a step that was done; the second time, with the ways to call it."""
        params = self._parameters()
        fixed = [*params, *self._model.parameters(), *self._model.buffers()]
        ways = None if kind.program is None else self._ways
        if len(batches) != 1:
            batches, inputs = with_own_memory(batches, inputs)
        run = functools.partial(
            run_step,
            self._model,
            self._criterion_step,
            params,
            batches,
            is_shown=self._observe is not None,
        )
        results, program = record(run, inputs, fixed, ways)
        # Watched by PyTorch's own means, some operations compute in another way.
        if not self._is_same(result, [digest(value) for value in results]):
            return "its numbers are others when it is recorded"
        return program

    def _is_same(self, result: StepResult, digests: Sequence[Any]) -> bool:
        """Say whether loss, weight and gradients are those of a step just done."""
        grads = [param.grad for param in self._parameters()]
        done = [digest(value) for value in (result.loss, result.weight, *grads)]
        return [*digests[:2], *digests[len(digests) - len(grads) :]] == done

    def _begin(self) -> str | None:
        """Look at the model before it is first recorded; return what forbids it."""
        if self._known is not None:
            return None
        params = self._parameters()
        own = {id(param) for param in params}
        if any(p.requires_grad and id(p) not in own for p in self._model.parameters()):
            return "a parameter with a gradient is not the optimizer's"
        if is_observed():
            return "somebody else looks at the operations"
        reason = why_not_recordable(self._model)
        if reason is None:
            loss = self._criterion_step.criterion.mean
            try:
                self._known = Snapshot([self._model, loss], params)
            except (AttributeError, *FAILURES) as error:
                return f"what it depends on can't be looked at ({error})"
            reason = self._known.reason
        return reason

    def _take(self, kind: Kind, program: Program | str) -> None:
        """Take in what was recorded of a step."""
        if not isinstance(program, str):
            program = self._find_fault(program) or program
        if isinstance(program, str):
            self._give_up(kind, program)
        elif kind.program is None:
            kind.program = program
        elif program.is_same(kind.program):
            kind.program, kind.is_confirmed = program, True
        else:
            self._give_up(kind, "its step is another one for other data")

    def _find_fault(self, program: Program) -> str | None:
        """Return a clause that says why a program can't be replayed, or None."""
        if find_written(program, list(self._model.buffers())) is None:
            return "its step writes into what is no buffer"
        for operation in program.operations:
            kinds = {program.memories[place.memory].kind for place in operation.places}
            if operation.is_view_in_place and kinds != {"made"}:
                return "its step changes the shape of what it is given"
            values = [*operation.args, *operation.kwargs.values()]
            if any(isinstance(value, torch.Generator) for value in values):
                return "its step has a generator of its own"
        if self._observe is not None and not all(
            isinstance(place, Place)
            for made in read_shown(program.results, len(self._parameters()))
            for place in (made.output, made.target)
        ):
            return "its output or target is no tensor"
        return None

    def _plan_gradients(
        self, program: Program, replay: Replay
    ) -> list[tuple[nn.Parameter, int, Tensor | None]]:
        """Say where each gradient is found, and whether it must be copied."""
        memories = [getattr(p, "memory", None) for p in program.results]
        plan: list[Any] = []
        params = self._parameters()
        first = len(program.results) - len(params)
        for position, param in enumerate(params, start=first):
            place = program.results[position]
            if place is None:
                plan.append((param, position, None))
                continue
            is_own = (
                replay.makes(position)
                and memories.count(place.memory) == 1
                and place.stride == param.stride()
            )
            plan.append((param, position, None if is_own else torch.empty_like(param)))
        return plan

    def _prove(
        self,
        kind: Kind,
        program: Program,
        batches: Sequence[Any],
        inputs: Sequence[Tensor],
    ) -> StepResult:
        """Do a step as ever, and see whether the replay does the same, and faster."""
        kind.program, player = None, ""
        state = State(find_written(program, list(self._model.buffers())) or [])
        try:
            replay, player = self._make_replay(program)
            trial = try_replay(replay, inputs, state)
        except FAILURES as error:
            self._give_up(kind, f"a replay failed ({error})")
            return self._do_eagerly(kind, batches)
        result = self._do_eagerly(kind, batches)
        now = [digest(value) for value in state.now()]
        count = len(trial.digests) - len(now)
        if trial.digests[count:] != now or not self._is_same(
            result, trial.digests[:count]
        ):
            self._give_up(kind, "a replay gave other numbers")
        elif self._must_be_faster and trial.seconds >= kind.seconds:
            self._give_up(kind, "a replay is no faster")
        else:
            kind.grads = self._plan_gradients(program, replay)
            kind.replay, kind.samples = replay, sum(map(count_samples, batches))
            kind.saved_seconds = kind.seconds - trial.seconds
            self._on_note(
                f"Steps of {kind.samples} samples are replayed{player}: forward and "
                f"backward in {trial.seconds * 1e6:.0f} µs instead of "
                f"{kind.seconds * 1e6:.0f}."
            )
            self._take_replay(kind)
        return result

    def _take_replay(self, kind: Kind) -> None:
        """Act on a replay that was proved."""

    def _make_replay(self, program: Program) -> tuple[Replay, str]:
        """Return a program's replay, and by whom it is done, if not from Python."""
        return Replay(program), ""

    def _give_up(self, kind: Kind, reason: str) -> None:
        kind.program = None
        kind.reason = reason
        self._say_not(reason)

    def _stop(self, reason: str) -> None:
        """Do all further steps as ever."""
        self._is_on = False
        self._kinds, self._known = {}, None
        self._say_not(reason)

    def _say_not(self, reason: str) -> None:
        """Say, once, why steps are not replayed."""
        if reason not in self._noted:
            self._noted.add(reason)
            self._on_note(f"Steps are not replayed: {reason}.")
