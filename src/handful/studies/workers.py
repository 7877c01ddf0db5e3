"""Workers: trials in processes of our own, or wherever an executor runs them.

::

    compare ── submit(trial) ──> worker: recipe, data of a seed (kept), training
       ^                            |
       └────────── row ─────────────┘   in the order in which trials end

A worker ignores Ctrl-C, which is the parent's to act on, and ends when the parent does.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from handful.errors import ArgumentError, TrainingError
from handful.runs.study_row import Row
from handful.studies.population_choice import (
    Choice,
    Outcome,
    describe_trials,
    run_together,
)
from handful.studies.transport import PackedRecipe, unpack_recipe
from handful.studies.trial import Trial, TrialRunner


def run_packed(packed: PackedRecipe, trial: Trial) -> Row:
    """Run a trial in this process; its recipe and data stay for the next one."""
    return _runner_of(packed).run(trial)


def run_packed_group(
    packed: PackedRecipe, trials: Sequence[Trial], population: str
) -> Outcome:
    """Run a group of trials in this process as one model, if that is faster."""
    return run_together(_runner_of(packed), trials, population)


@functools.lru_cache(maxsize=1)
def _runner_of(packed: PackedRecipe) -> TrialRunner:
    return TrialRunner(unpack_recipe(packed))


def check_executor(executor: Any, workers: int | None) -> None:
    """Check what is to run the trials.

    Raises:
        ArgumentError: Both are given, or the executor can't do it.
    """
    if executor is None:
        return
    if workers is not None:
        raise ArgumentError(
            f"workers and executor must not come together; got {workers} and "
            f"{executor!r}. An executor has workers of its own."
        )
    if not callable(getattr(executor, "submit", None)):
        raise ArgumentError(
            f"executor must have a method submit; got {executor!r}. A "
            "ProcessPoolExecutor and Dask's Client have one."
        )
    if isinstance(executor, ThreadPoolExecutor):
        raise ArgumentError(
            "executor must run trials in processes; got a ThreadPoolExecutor, whose "
            "threads share torch's random generators. Use workers, or a "
            "ProcessPoolExecutor."
        )


def run_in_workers(
    groups: Sequence[Sequence[Trial]],
    packed: PackedRecipe,
    *,
    workers: int,
    population: str,
) -> Generator[Row | Choice, None, None]:
    """Run trials in processes of our own; yield rows as they end.

    Leaving the iteration early ends the processes, whatever they do.

    Args:
        groups: The trials; those of a group may train as one.
        packed: The recipe.
        workers: Processes, 1 or more.
        population: ``"auto"`` or ``"always"``.

    Raises:
        TrainingError: A process ended by itself.
    """
    if not groups:
        return
    before = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        max_workers=min(workers, sum(map(len, groups))),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    )
    try:
        yield from run_by_executor(groups, packed, executor, population)
    except BrokenProcessPool:
        raise TrainingError(
            "workers must live until their trials are over; one of their processes "
            "ended. Rows that were finished are kept. It may have wanted more memory "
            "than there is: use fewer workers. In a program, call compare only under "
            'if __name__ == "__main__", since each worker runs its file anew.'
        ) from None
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def run_by_executor(
    groups: Sequence[Sequence[Trial]],
    packed: PackedRecipe,
    executor: Any,
    population: str,
) -> Generator[Row | Choice, None, None]:
    """Run trials by anything with ``submit``; yield rows as they end.

    A group is one piece of work, and so is each of its trials if they don't train as
    one after all.

    Args:
        groups: The trials; those of a group may train as one.
        packed: The recipe.
        executor: Its ``submit(function, *args)`` returns a future that has ``result``,
            ``cancel`` and ``add_done_callback``, as those of `concurrent.futures` and
            of Dask.
        population: ``"auto"`` or ``"always"``.

    Yields:
        Each row, and of each group of several trials how they trained.
    """
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    futures: list[Any] = []

    def submit(function: Any, *args: Any) -> None:
        futures.append(executor.submit(function, packed, *args))
        futures[-1].add_done_callback(done.put)

    try:
        for group in groups:
            if len(group) == 1:
                submit(run_packed, group[0])
            else:
                submit(run_packed_group, group, population)
        finished = 0
        while finished < len(futures):
            result = done.get().result()
            finished += 1
            if isinstance(result, Row):
                yield result
                continue
            yield result.choice
            if result.rows is not None:
                yield from result.rows
                continue
            for trial in _trials_of(groups, result):
                submit(run_packed, trial)
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _trials_of(groups: Sequence[Sequence[Trial]], outcome: Outcome) -> Sequence[Trial]:
    """Return the trials of a group that came back without rows."""
    wanted = outcome.choice.trials
    return next(
        group for group in groups if len(group) > 1 and describe_trials(group) == wanted
    )


def _start_worker() -> None:
    """Set a new process up."""
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended, by a kill for example."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
