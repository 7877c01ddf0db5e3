"""What becomes of steps that a guard left out: the run ends, or goes on without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from handful.errors import NonfiniteError
from handful.train.callbacks import FitState
from handful.train.engine import StepResult
from handful.train.feed import Feed
from handful.train.nonfinite import StepGuard
from handful.train.nonfinite_cause import Place, explain_nonfinite
from handful.train.precision import MOST_SKIPPED
from handful.train.step import Step

MOST_EVENTS = 20
"""Steps left out that are told of one by one; the others are only counted."""

_KEPT = "The state from before that step is kept."
_REMEDY = (
    "Correct the data, lower lr or clip gradients; on_nonfinite='skip' leaves such "
    "steps out."
)


class NonfiniteSteps:
    """Judges steps whose loss or gradients were not finite.

    Args:
        policy: ``"stop"`` to end the run with the state from before the first such
            step, ``"skip"`` to leave such steps out.
        guard: Has left them out.
        model: The model.
        step: Computes a batch's loss.
        on_skip: Takes a sentence for each of the first `MOST_EVENTS` left out.

    Attributes:
        guard: As given.
        skipped: Steps left out in the whole run.
        is_lost: Whether weights are not finite, so that the state is worth nothing.
    """

    def __init__(
        self,
        policy: str,
        *,
        guard: StepGuard,
        model: nn.Module,
        step: Step,
        on_skip: Callable[[str], None],
    ) -> None:
        self.skipped = 0
        self.is_lost = False
        self._in_a_row = 0
        self._last_step = -1
        self._policy = policy
        self.guard = guard
        self._model = model
        self._step = step
        self._on_skip = on_skip

    def judge(
        self, result: StepResult, batches: Sequence[Any], state: FitState, feed: Feed
    ) -> NonfiniteError | None:
        """Take in a step that was left out.

        Args:
            result: What it did.
            batches: Its micro-batches.
            state: Where the training stands, without it.
            feed: Has handed out the batches.

        Returns:
            The error with which the run must end, None where it goes on.
        """
        self.is_lost = not self.guard.has_finite_weights()
        is_over = self._policy == "stop" or self.is_lost
        if not is_over:
            is_next = state.step == self._last_step + 1
            self.skipped += 1
            self._in_a_row = self._in_a_row + 1 if is_next else 1
            self._last_step = state.step
            if self.skipped > MOST_EVENTS and self._in_a_row <= MOST_SKIPPED:
                return None
        first, last = feed.step_batches
        place = Place(
            step=state.step + 1,
            epoch=state.epoch,
            first_batch=first,
            last_batch=last,
            samples=feed.step_samples(),
        )
        said = explain_nonfinite(place, result.loss, self._model, self._step, batches)
        if is_over:
            kept = "" if self.is_lost else f" {_KEPT}"
            return NonfiniteError(f"{said}{kept} {_REMEDY}")
        if self._in_a_row > MOST_SKIPPED:
            row = f"{self._in_a_row} steps in a row were left out."
            return NonfiniteError(f"{said} {row} {_REMEDY}")
        last_one = self.skipped == MOST_EVENTS
        more = " Further ones are only counted, in skipped_steps." if last_one else ""
        self._on_skip(f"Left out: {said}{more}")
        return None

    def note_finite(self) -> None:
        """Take in steps whose numbers were looked at, and were finite."""
        self._in_a_row = 0

    def state_dict(self) -> dict[str, int]:
        """Return what was counted."""
        return {
            "skipped": self.skipped,
            "in_a_row": self._in_a_row,
            "last_step": self._last_step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from what `state_dict` returned."""
        self.skipped = int(state.get("skipped", 0))
        self._in_a_row = int(state.get("in_a_row", 0))
        self._last_step = int(state.get("last_step", -1))
