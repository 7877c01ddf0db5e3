"""Loader trials: a loader's copies with other settings, measured one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import DataLoader as TorchDataLoader

from handful.data.loader_candidates import COLUMNS, Candidate, make_candidate
from handful.data.loader_copies import batches_ahead
from handful.data.loader_timing import Timing, time_loader

AS_IT_IS = "as it is"
"""Name of the trial of the loader's own settings."""

CLIMB = 1.2
"""Twice as many workers are tried where the last doubling gave so many times more."""


@dataclass(frozen=True)
class Trial:
    """What was measured with some settings; rates in samples a second.

    Attributes:
        name: What they are, in few words.
        settings: Arguments of the loader that differ from its own.
        needs: What else has to change: ``"handful.DataLoader"`` in place of PyTorch's
            loader, ``"handful.Columns"`` in place of the data set, or nothing.
        samples_per_second: Of the loader alone.
        low: The least rate of a part of the time.
        high: The greatest.
        first_batch_seconds: Time until the first batch of all.
        with_step: Of loader and step together; None where that was not measured.
        looks: How often the rate that counts was measured; the rate is their mean.
    """

    name: str
    settings: dict[str, Any]
    needs: str
    samples_per_second: float
    low: float
    high: float
    first_batch_seconds: float
    with_step: float | None = None
    looks: int = 1

    @property
    def score(self) -> float:
        """What counts: with the step where that was measured, else alone."""
        return self.samples_per_second if self.with_step is None else self.with_step

    @property
    def cost(self) -> tuple[bool, int]:
        """What is preferred among equals is least of this: fewer changes, workers."""
        return self.needs == COLUMNS, int(self.settings.get("num_workers", 0))


def time_copy(
    twin: TorchDataLoader[Any],
    *,
    seconds: float,
    step: Callable[[Any], Any] | None = None,
) -> Timing:
    """Measure a copy of a loader, or the loader itself where it may be used up.

    Args:
        twin: What `make_candidate` returned.
        seconds: How long to count.
        step: What takes each batch; None for the loader alone.
    """
    return time_loader(
        twin,
        seconds=seconds,
        step=step,
        ahead=batches_ahead(twin),
        least=max(2, 4 * twin.num_workers),
    )


class Trials:
    """Measures candidates until they are done or the time is over.

    Args:
        loader: The user's.
        seconds: How long to count each.
        deadline: When to begin no more, on the clock `time.perf_counter`.

    Attributes:
        done: What was measured, in that order.
        left_out: What was not: its name, and why.
        lacked_time: Whether the time was why.
    """

    def __init__(
        self, loader: TorchDataLoader[Any], *, seconds: float, deadline: float
    ) -> None:
        self._loader = loader
        self._seconds = seconds
        self._deadline = deadline
        self._known: dict[str, Candidate] = {}
        self._in_arrays: dict[str, TorchDataLoader[Any]] = {}
        self._startup = 0.0
        self.done: list[Trial] = []
        self.left_out: list[tuple[str, str]] = []
        self.lacked_time = False

    def note(self, name: str, timing: Timing) -> Trial:
        """Take in what was measured elsewhere, of the loader as it is."""
        self._known[name] = Candidate(name)
        self.done.append(_to_trial(self._known[name], timing))
        return self.done[-1]

    def run(self, groups: Sequence[Sequence[Candidate]]) -> None:
        """Measure the loader alone with each candidate that is still worth it."""
        for group in groups:
            before = 0.0
            for candidate in group:
                trial = self._run(candidate)
                if trial is None or trial.samples_per_second < CLIMB * before:
                    break
                before = trial.samples_per_second

    def add_step(self, trial: Trial, step: Callable[[Any], Any]) -> Trial | None:
        """Measure a trial's settings with the step as well; None where it fails."""
        try:
            rate = self._measure(trial, step).samples_per_second
        except Exception as error:  # The user's loader is sound; these settings aren't.
            self.left_out.append((trial.name, _describe(error)))
            return None
        return self._replace(trial, with_step=rate)

    def look_again(self, trial: Trial, step: Callable[[Any], Any] | None) -> Trial:
        """Measure what counts once more; return the trial with the mean."""
        timing = self._measure(trial, step)
        looks = trial.looks + 1
        mean = trial.score + (timing.samples_per_second - trial.score) / looks
        if step is not None:
            return self._replace(trial, with_step=mean, looks=looks)
        low, high = min(trial.low, timing.low), max(trial.high, timing.high)
        return self._replace(
            trial, samples_per_second=mean, low=low, high=high, looks=looks
        )

    def _measure(self, trial: Trial, step: Callable[[Any], Any] | None) -> Timing:
        twin = self._make(self._known[trial.name])
        return time_copy(twin, seconds=self._seconds, step=step)

    def _replace(self, trial: Trial, **changes: Any) -> Trial:
        changed = replace(trial, **changes)
        self.done[self.done.index(trial)] = changed
        return changed

    def _run(self, candidate: Candidate) -> Trial | None:
        if candidate.name in self._known:
            return None
        self._known[candidate.name] = candidate
        needed = self._seconds + (self._startup if _has_workers(candidate) else 0.0)
        if time.perf_counter() + needed > self._deadline:
            self.lacked_time = True
            self.left_out.append((candidate.name, "there was no time left"))
            return None
        try:
            timing = time_copy(self._make(candidate), seconds=self._seconds)
        except Exception as error:  # Unsuitable settings: why is told in the profile.
            self.left_out.append((candidate.name, _describe(error)))
            return None
        if _has_workers(candidate):
            self._startup = max(self._startup, timing.first_batch_seconds)
        self.done.append(_to_trial(candidate, timing))
        return self.done[-1]

    def _make(self, candidate: Candidate) -> TorchDataLoader[Any]:
        """Return a copy of the loader; of those in arrays always the same."""
        if candidate.needs != COLUMNS:
            return make_candidate(self._loader, candidate)
        known = self._in_arrays
        if candidate.name not in known:
            known[candidate.name] = make_candidate(self._loader, candidate)
        return known[candidate.name]


def _to_trial(candidate: Candidate, timing: Timing) -> Trial:
    return Trial(
        candidate.name,
        candidate.settings,
        candidate.needs,
        timing.samples_per_second,
        timing.low,
        timing.high,
        timing.first_batch_seconds,
    )


def _describe(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}".rstrip(": ")


def _has_workers(candidate: Candidate) -> bool:
    return int(candidate.settings.get("num_workers", 0)) > 0
