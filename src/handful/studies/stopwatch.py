"""Stopwatch: how long a trial has trained, and whether it is to end; a callback."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from handful.runs.run import Run
from handful.studies.budget import Target
from handful.train.callbacks import Callback, FitState


class Stopwatch(Callback):
    """Measures the seconds of a training's steps, validation left out.

    The clock is read after each step; the time from the last step to the next epoch's
    start, in which validation lies, doesn't count. On an accelerator that works behind
    the program, what was still queued at that moment doesn't count either.

    Args:
        limit: Seconds after which the training is stopped; None for no limit.
        target: What is to be reached, or None.
        stop_at_target: Whether the training is stopped there.

    Attributes:
        run: The run, from its start on; also if it fails.
        seconds: Seconds trained so far.
        marks: `seconds` at each record of the history.
        reached: Where the target was first reached, or None.
    """

    def __init__(
        self,
        *,
        limit: float | None = None,
        target: Target | None = None,
        stop_at_target: bool = False,
    ) -> None:
        self.run: Run | None = None
        self.seconds = 0.0
        self.marks: list[float] = []
        self.reached: dict[str, float] | None = None
        self.state: FitState | None = None
        self.limit = limit
        self._target = target
        self._stops = stop_at_target
        self._before = 0.0
        self._mark = 0.0

    def add(self, seconds: float) -> None:
        """Count seconds of training that were measured elsewhere."""
        self.seconds = self._before + seconds

    def on_run_start(self, state: FitState) -> None:
        """Start the clock."""
        self.run, self.state = state.run, state
        self._mark = time.perf_counter()

    def on_step(self, state: FitState) -> None:
        """Read the clock."""
        self.seconds = self._before + time.perf_counter() - self._mark
        if self.limit is not None and self.seconds >= self.limit:
            state.stop = f"the budget of {self.limit:g} s is used up"

    def on_validation(self, state: FitState, record: Mapping[str, Any]) -> None:
        """Leave out the time since the last step; see whether the target is reached."""
        self.marks.append(self.seconds)
        self._look(state, record)
        self._before, self._mark = self.seconds, time.perf_counter()

    def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
        """Do as after a validation inside an epoch."""
        self.on_validation(state, record)

    def history(self) -> list[dict[str, Any]]:
        """Return the run's records, each with ``trained_seconds``."""
        records = [] if self.run is None else self.run.history
        # A record whose callbacks failed has no mark.
        return [
            {**record, "trained_seconds": seconds}
            for record, seconds in zip(records, self.marks, strict=False)
        ]

    def _look(self, state: FitState, record: Mapping[str, Any]) -> None:
        if self._target is None or self.reached is not None:
            return
        if self._target.is_reached(record):
            places = {name: record[name] for name in ("epoch", "step", "samples")}
            self.reached = {**places, "seconds": self.seconds}
            if self._stops:
                state.stop = f"the target {self._target} is reached"
