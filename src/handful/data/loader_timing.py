"""Loader timing: how many samples a second a loader gives, a step takes, both do."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from handful.data.loader_copies import close_loader, end_pass
from handful.errors import ArgumentError

MOST_WINDOWS = 5
"""A measurement's batches are cut into so many groups, whose rates are its spread."""

LEAST_BATCHES = 2
"""Batches that are counted in any case, unless they take three times too long."""

WARM_STEPS, WARM_SECONDS = 8, 0.5
"""Steps after the first that are not counted either: so many, unless they take longer.
Some engines look at the first ones before they are at their best."""

CLEARLY_SLOWED = 0.25
"""Workers are taken to slow the step down if it then loses this share of its rate; less
may be chance."""


@dataclass(frozen=True)
class Timing:
    """What was measured of batches that came, or were trained on, one after another.

    Attributes:
        samples_per_second: Samples over seconds, of all that was counted.
        low: The least rate of a group of batches, samples a second.
        high: The greatest.
        waiting: Share of the time in which the next batch was waited for, 0 to 1.
        first_batch_seconds: Time until the first batch, which is not counted.
        batches: Batches that were counted.
        first_batch: The first batch itself.
    """

    samples_per_second: float
    low: float
    high: float
    waiting: float = 0.0
    first_batch_seconds: float = 0.0
    batches: int = 0
    first_batch: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class _Lap:
    """One batch: its samples, the seconds it took, and those waited for it."""

    samples: int
    seconds: float
    waited: float


def time_loader(
    loader: Iterable[Any],
    *,
    seconds: float,
    step: Callable[[Any], Any] | None = None,
    ahead: int = 0,
    least: int = LEAST_BATCHES,
) -> Timing:
    """Measure a loader alone, or with a step that takes each batch.

    Passes follow one another, and what begins one counts. An iterable that gives
    nothing after its first pass ends the measurement.

    Args:
        loader: Gives batches; a loader is closed afterwards, its workers ended.
        seconds: How long to count. A batch that has begun is waited for.
        step: Called with each batch; None to drop it.
        ahead: Batches that may lie ready once the first is there, and don't count.
        least: Batches to count in any case, unless they take three times too long:
            workers that began together also send together.

    Returns:
        What was measured.

    Raises:
        ArgumentError: The loader gives no batch.
    """
    batches, size = repeat_passes(loader), _batch_size(loader)
    try:
        started = time.perf_counter()
        kept = next(batches, _END)
        first = time.perf_counter() - started
        if kept is _END:
            raise ArgumentError("loader must give at least one batch; it gave none.")
        if step is not None:
            step(kept)
        _synchronize()
        _warm_up(batches, step, ahead, seconds)
        laps = list(_run_laps(batches, step, seconds, least=least, size=size))
        if not laps:  # There was one batch, and there won't be another.
            laps = [_Lap(count_samples(kept, size), first, first)]
    finally:
        batches.close()  # type: ignore[attr-defined]
        close_loader(loader)
    return replace(_summarize(laps, first), first_batch=kept)


def time_step(
    step: Callable[[Any], Any],
    batch: Any,
    *,
    seconds: float,
    batch_size: int | None = None,
) -> Timing:
    """Measure a step alone, on the same batch again and again.

    Args:
        step: Called with the batch.
        batch: The batch.
        seconds: How long to count.
        batch_size: As for `count_samples`.
    """
    started = time.perf_counter()
    step(batch)
    _synchronize()
    first = time.perf_counter() - started
    _warm_up(itertools.repeat(batch), step, WARM_STEPS, WARM_SECONDS)
    _synchronize()
    repeated = itertools.repeat(batch)
    laps = list(
        _run_laps(repeated, step, seconds, least=LEAST_BATCHES, size=batch_size)
    )
    return _summarize(laps, first)


def share_of_waiting(both: Timing, step: Timing, *, has_workers: bool) -> float:
    """Return the share of its time that a step waits for data, 0 to 1.

    An accelerator computes while the next batch is waited for, and workers may take a
    processor from the step: there, what the step takes longer than alone counts.

    Args:
        both: Of loader and step together.
        step: Of the step alone.
        has_workers: Whether the loader has workers.
    """
    lost = max(1 - both.samples_per_second / step.samples_per_second, 0.0)
    if torch.accelerator.is_available():
        return lost
    is_slowed = has_workers and lost >= CLEARLY_SLOWED
    return max(both.waiting, lost) if is_slowed else both.waiting


def count_samples(batch: Any, batch_size: int | None = None) -> int:
    """Return how many samples a batch has.

    Args:
        batch: Tensors or arrays with the samples first, in any containers; or a list of
            samples; what has no length is one sample.
        batch_size: How many it should have. It decides whether a list of so many arrays
            is one of samples or one of columns.
    """
    if isinstance(batch, Mapping):
        return count_samples(next(iter(batch.values())), batch_size) if batch else 0
    if hasattr(batch, "shape"):
        return int(batch.shape[0]) if len(batch.shape) else 1
    if not isinstance(batch, Sequence) or isinstance(batch, (str, bytes)):
        return 1
    is_of_columns = bool(batch) and (
        isinstance(batch[0], (Mapping, list, tuple)) or hasattr(batch[0], "shape")
    )
    if not is_of_columns:
        return len(batch)
    inner = count_samples(batch[0], batch_size)
    return len(batch) if inner != batch_size == len(batch) else inner


def _batch_size(loader: Any) -> int | None:
    size = getattr(loader, "batch_size", None)
    return size if isinstance(size, int) else None


def repeat_passes(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield what an iterable gives, pass after pass, until a pass gives nothing."""
    while True:
        is_empty = True
        iterator = iter(loader)
        try:
            for batch in iterator:
                is_empty = False
                yield batch
        finally:
            # A traceback would keep the iterator, and with it its workers.
            end_pass(loader, iterator)
        if is_empty:
            return


def _warm_up(
    batches: Iterator[Any],
    step: Callable[[Any], Any] | None,
    number: int,
    seconds: float,
) -> None:
    """Take the batches that lay ready, for no longer than is counted afterwards."""
    deadline = time.perf_counter() + seconds
    for batch in itertools.islice(batches, number):
        if step is not None:
            step(batch)
        if time.perf_counter() > deadline:
            return


_END = object()


def _run_laps(
    batches: Iterator[Any],
    step: Callable[[Any], Any] | None,
    seconds: float,
    *,
    least: int,
    size: int | None,
) -> Iterator[_Lap]:
    clock = time.perf_counter
    began = before = clock()
    for number in itertools.count(1):
        batch = next(batches, _END)
        if batch is _END:
            return
        got = now = clock()
        if step is not None:
            step(batch)
            now = clock()
        spent = now - began
        is_over = (spent >= seconds and number >= least) or spent >= 3 * seconds
        if is_over:
            _synchronize()
            now = clock()
        yield _Lap(count_samples(batch, size), now - before, got - before)
        before = clock()
        if is_over:
            return


def _summarize(laps: Sequence[_Lap], first_batch_seconds: float) -> Timing:
    size = -(-len(laps) // MOST_WINDOWS)
    groups = [laps[start : start + size] for start in range(0, len(laps), size)]
    rates = [_rate(group) for group in groups if len(group) == size]
    seconds = sum(lap.seconds for lap in laps)
    return Timing(
        samples_per_second=_rate(laps),
        low=min(rates),
        high=max(rates),
        waiting=sum(lap.waited for lap in laps) / max(seconds, 1e-9),
        first_batch_seconds=first_batch_seconds,
        batches=len(laps),
    )


def _rate(laps: Sequence[_Lap]) -> float:
    seconds = sum(lap.seconds for lap in laps)
    return sum(lap.samples for lap in laps) / max(seconds, 1e-9)


def _synchronize() -> None:
    """Wait until the accelerator, if there is one, has done what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
