"""Loader profile: who waits for whom in a training, and what would help, measured."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader as TorchDataLoader

from handful.data.collation import bare_collation
from handful.data.fetch import KEPT_BYTES
from handful.data.loader_advice import (
    WORTHWHILE,
    choose_trial,
    find_cause,
    write_advice,
)
from handful.data.loader_candidates import Candidate, count_cores, list_candidates
from handful.data.loader_copies import copy_loader, kept_state
from handful.data.loader_parts import SampleParts, measure_iteration, measure_parts
from handful.data.loader_timing import share_of_waiting, time_loader, time_step
from handful.data.loader_trials import AS_IT_IS, Trial, Trials, time_copy
from handful.errors import ArgumentError

__all__ = ["LoaderProfile", "profile_loader"]

WINDOW_SHARE, MOST_WINDOW_SECONDS = 1 / 25, 2.0
"""Each rate is measured for this share of all the time, and no longer than that."""

RESERVED_WINDOWS = 8
"""Windows that are kept for the step with the best settings, and for a second look."""

CLEAR_GAIN = 1.5
"""A gain that is less is measured once more."""

FINALISTS = 3
"""Settings that are also measured with the step, the loader's own aside."""


@dataclass(frozen=True)
class LoaderProfile:
    """Who waits for whom in a training, and what would help.

    All rates are in samples a second. *Making* a sample is reading it from the data set
    and its part of putting a batch together, without workers. The causes, of which the
    first that holds is given:

    ``"slow model"``
        With a step: it waits for data for less than a tenth of its time.
    ``"pickling cost"``
        The loader has worker processes, and handing a sample over from one takes longer
        than making it.
    ``"slow disk"``
        At least half of making a sample is spent waiting, neither computing nor
        queueing for a processor: for a disk, a network, a lock, a sleep.
    ``"nothing"``
        Samples are gathered from arrays, many at a time, and no ``batch_transform``
        takes half of the time; or they are tiny rows of a data set that gives a batch
        in one call, by ``__getitems__``.
    ``"tiny rows"``
        Making a sample takes less than 100 microseconds and its arrays have 64 KiB at
        most, but each is asked for by itself.
    ``"slow transform"``
        At least half of making a sample is spent in an attribute ``transform`` or
        ``transforms`` of the data set or in the user's collation; where there is no
        such attribute to be timed, the interpreter's lock is held at half of the looks
        at least, as Python code holds it.
    ``"slow decode"``
        Otherwise: making a sample takes computing that gives up the lock, as decoders
        do, or that is done before any transform.

    Attributes:
        cause: What holds the loader up; see above.
        advice: One sentence: what to set, and what that brings.
        settings: Arguments of the loader to set; empty to leave them as they are.
        needs: What else has to change: ``"handful.DataLoader"`` in place of PyTorch's,
            ``"handful.Columns"`` in place of the data set, or nothing.
        gain: How many times as many samples a second these settings gave, when both
            were measured again in turn; 1 where they are the loader's own.
        alone: Of the loader as it is, without a step.
        step: Of the step, without a loader; None without a step.
        both: Of both together; None without a step.
        waiting: Share of its time that the step waited for data, 0 to 1; None without a
            step. On an accelerator, and where workers slow the step down by a quarter
            or more, the share of the time of both that the step alone would not have
            taken.
        first_batch_seconds: Time until the first batch.
        parts: What a sample costs; None for samples from arrays.
        trials: What was measured, the loader as it is first.
        left_out: Settings that were not measured: name, and why.
        path: Which code makes the batches, as `DataLoader.path`.
        cores: Processors that this process may use.
        load: Mean number of programs that wanted a processor in the minute before; with
            more than a few tenths the rates are also those of the others' work. None
            where the system doesn't say.
        seconds: How long all of it took.
    """

    cause: str
    advice: str
    settings: dict[str, Any]
    needs: str
    gain: float
    alone: float
    step: float | None
    both: float | None
    waiting: float | None
    first_batch_seconds: float
    parts: SampleParts | None
    trials: tuple[Trial, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    path: str = ""
    cores: int = field(default_factory=count_cores)
    load: float | None = None
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain values, for JSON."""
        return {
            **vars(self),
            "settings": dict(self.settings),
            "parts": None if self.parts is None else self.parts.to_dict(),
            "trials": [dict(vars(trial)) for trial in self.trials],
            "left_out": [list(entry) for entry in self.left_out],
        }


def profile_loader(
    loader: Iterable[Any],
    step: Callable[[Any], Any] | None = None,
    *,
    seconds: float = 30.0,
) -> LoaderProfile:
    """Measure a loader, and copies of it with other settings, and say what would help.

    The loader itself is not touched: copies of it are measured, the global generators
    and those of the loader, its samplers and its data set are put back, and so is the
    state of a data set that has a ``state_dict``. What the data set's own code changes
    otherwise stays changed; an iterable that is no DataLoader is itself iterated over.
    The step is called some hundred times: give it a model of its own.

    Where worker processes are started afresh (``spawn``, ``forkserver``), a program
    must call this under ``if __name__ == "__main__":``.

    Args:
        loader: A loader of handful's or PyTorch's, of which settings are varied, or any
            iterable that gives batches.
        step: Trains on a batch, as ``step(batch)``; None to look at the loader alone.
        seconds: About how long all of it may take, from 1 on; batches that have begun
            and workers that start are waited for. From 10 on the rates are good to some
            percent on a machine that has nothing else to do.

    Returns:
        What was measured and what it says.

    Raises:
        ArgumentError: ``seconds`` is below 1, the loader gives no batch, or a starting
            worker process runs the program that calls this.
        Exception: Whatever the loader, its data set or the step raise. Settings under
            which only a copy fails are left out instead, and named.

    Example:
        >>> import torch
        >>> from handful import DataLoader
        >>> profile = profile_loader(DataLoader(torch.rand(64, 4), 8), seconds=1)
        >>> profile.cause, profile.settings
        ('nothing', {})
    """
    if not (isinstance(seconds, (int, float)) and 1 <= seconds < math.inf):
        raise ArgumentError(f"seconds must be a number from 1 on; got {seconds!r}.")
    _check_main_guard()
    _settle_memory()
    with kept_state(loader), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more workers than processors, and forks
        if isinstance(loader, TorchDataLoader):
            return _Doctor(loader, step, seconds).examine()
        return _examine_iterable(loader, step, seconds)


class _Doctor:
    """Measures one loader, part after part."""

    def __init__(
        self,
        loader: TorchDataLoader[Any],
        step: Callable[[Any], Any] | None,
        seconds: float,
    ) -> None:
        self._loader = loader
        self._step = step
        self._started, self._load = time.perf_counter(), read_load()
        self._window = min(seconds * WINDOW_SHARE, MOST_WINDOW_SECONDS)
        reserved = self._window * RESERVED_WINDOWS
        self._trials = Trials(
            loader,
            seconds=self._window,
            deadline=self._started + seconds - reserved,
        )

    def examine(self) -> LoaderProfile:
        window, loader = self._window, self._loader
        alone = time_copy(copy_loader(loader), seconds=2 * window)
        base = self._trials.note(AS_IT_IS, alone)
        stepped, both, waiting = self._examine_step(alone.first_batch)
        parts, transforming = None, None
        if _is_batched(loader):
            transforming = self._time_transform(base)
        else:
            parts = measure_parts(loader, seconds=2 * window)
        cause = find_cause(parts, waiting=waiting, transforming=transforming)
        chosen, gain = base, 1.0
        if parts is not None and cause != "slow model":
            self._trials.run(list_candidates(loader, cause, parts))
            chosen, gain = self._choose(both)
        return LoaderProfile(
            cause=cause,
            advice=write_advice(
                cause,
                chosen,
                gain,
                waiting=waiting,
                has_step=both is not None,
                lacked_time=self._trials.lacked_time,
            ),
            settings=dict(chosen.settings),
            needs=chosen.needs,
            gain=gain,
            alone=alone.samples_per_second,
            step=stepped,
            both=both,
            waiting=waiting,
            first_batch_seconds=alone.first_batch_seconds,
            parts=parts,
            trials=tuple(self._trials.done),
            left_out=tuple(self._trials.left_out),
            path=getattr(loader, "path", "pytorch: the loader is PyTorch's"),
            load=self._load,
            seconds=time.perf_counter() - self._started,
        )

    def _examine_step(
        self, batch: Any
    ) -> tuple[float | None, float | None, float | None]:
        """Return the rates of the step and of both, and the share of waiting."""
        if self._step is None:
            return None, None, None
        size = self._loader.batch_size
        stepped = time_step(self._step, batch, seconds=self._window, batch_size=size)
        twin = copy_loader(self._loader)
        both = time_copy(twin, seconds=2 * self._window, step=self._step)
        rate = both.samples_per_second
        has_workers = self._loader.num_workers > 0
        waiting = share_of_waiting(both, stepped, has_workers=has_workers)
        return stepped.samples_per_second, rate, waiting

    def _time_transform(self, base: Trial) -> float | None:
        """Return the share of the time that a loader's ``batch_transform`` takes."""
        if getattr(self._loader, "batch_transform", None) is None:
            return None
        collate = bare_collation(self._loader.collate_fn)
        settings = {"batch_transform": None, "collate_fn": collate}
        bare = time_copy(copy_loader(self._loader, settings), seconds=self._window)
        return max(1 - base.samples_per_second / bare.samples_per_second, 0.0)

    def _choose(self, both: float | None) -> tuple[Trial, float]:
        """Return the settings to take, and what they bring when measured again."""
        compared = self._trials.done
        if self._step is not None and both is not None:
            compared = self._add_step(both)
        base, *others = compared
        best = sorted(others, key=lambda trial: -trial.score)[:FINALISTS]
        if choose_trial([base, *best]) is base:
            return base, 1.0
        base, *best = self._look_again([base, *best])
        chosen = choose_trial([base, *best])
        if chosen is base:
            return base, 1.0
        for _ in range(2):
            base, chosen = self._look_again([base, chosen])
            gain = chosen.score / base.score
            if gain >= CLEAR_GAIN:
                break
        return (chosen, gain) if gain >= WORTHWHILE else (base, 1.0)

    def _look_again(self, trials: list[Trial]) -> list[Trial]:
        return [self._trials.look_again(trial, self._step) for trial in trials]

    def _add_step(self, both: float) -> list[Trial]:
        """Return the most promising trials, measured with the step."""
        assert self._step is not None
        trials, step = self._trials, self._step
        base, *others = trials.done
        trials.done[0] = replace(base, with_step=both)
        others.sort(key=lambda trial: -trial.samples_per_second)
        found = [trials.add_step(trial, step) for trial in others[:FINALISTS]]
        if torch.accelerator.is_available() and not self._loader.pin_memory:
            found += [self._try_pinning(found)]
        return [trials.done[0], *(trial for trial in found if trial is not None)]

    def _try_pinning(self, found: list[Trial | None]) -> Trial | None:
        """Measure the best settings so far with batches in page-locked memory."""
        known = [trial for trial in found if trial is not None]
        best = max(known or [self._trials.done[0]], key=lambda trial: trial.score)
        pinned = Candidate(
            f"{best.name}, pinned", {**best.settings, "pin_memory": True}, best.needs
        )
        self._trials.run([[pinned]])
        last = self._trials.done[-1]
        if last.name != pinned.name:
            return None
        assert self._step is not None
        return self._trials.add_step(last, self._step)


def _examine_iterable(
    loader: Iterable[Any], step: Callable[[Any], Any] | None, seconds: float
) -> LoaderProfile:
    """Measure what can be of an iterable that has no settings."""
    started, load, window = time.perf_counter(), read_load(), seconds / 5
    alone = time_loader(loader, seconds=window)
    stepped = both = waiting = None
    if step is not None:
        step_alone = time_step(step, alone.first_batch, seconds=window)
        together = time_loader(loader, seconds=window, step=step)
        stepped, both = step_alone.samples_per_second, together.samples_per_second
        waiting = share_of_waiting(together, step_alone, has_workers=False)
    parts = measure_iteration(loader, seconds=window)
    cause = find_cause(parts, waiting=waiting)
    return LoaderProfile(
        cause=cause,
        advice=write_advice(cause, None, 1.0, waiting=waiting),
        settings={},
        needs="",
        gain=1.0,
        alone=alone.samples_per_second,
        step=stepped,
        both=both,
        waiting=waiting,
        first_batch_seconds=alone.first_batch_seconds,
        parts=parts,
        trials=(),
        path=f"iterable: {type(loader).__name__} has no settings",
        load=load,
        seconds=time.perf_counter() - started,
    )


def _settle_memory() -> None:
    """Bring the C library to where a training brings it, before anything is measured.

    Once a large block was freed, glibc keeps the memory of those that follow, which
    can make the decoding of large images twice as fast; see `handful.data.fetch`. If
    one of the trials did so, those after it would look better than they are.
    """
    np.empty(KEPT_BYTES, np.uint8)


def read_load() -> float | None:
    """Return the system's load over the last minute; None where there is none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _is_batched(loader: Any) -> bool:
    return str(getattr(loader, "path", "")).startswith("batched")


def _check_main_guard() -> None:
    """Refuse to run in a worker process that is only importing the main program."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ArgumentError(
            'profile_loader must be called under `if __name__ == "__main__":` where '
            "worker processes start afresh; a starting one came here by importing the "
            "program. Put the call under that line."
        )
