"""Saver: one save at a time, beside the training, in a thread of its own.

What is saved is a copy by then, so that the training may go on.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from handful.errors import CheckpointError
from handful.runs.folder import RunFolder
from handful.train.checkpoint import (
    Checkpoint,
    list_checkpoints,
    prune_checkpoints,
    save_checkpoint,
)
from handful.train.generators import pack_within

NICENESS = 10
"""By how much the thread gives way to others, where a system knows that of threads."""


class Saver:
    """Runs one piece of work at a time beside the caller's.

    The thread ends with its work, so that none is left between two saves.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._is_done = threading.Event()
        self._seconds = 0.0
        self.is_busy = False
        """Whether work was started whose end nobody has taken note of yet."""

    @property
    def has_ended(self) -> bool:
        """Whether there is an end to take note of, without waiting."""
        return self.is_busy and self._is_done.is_set()

    def start(self, work: Callable[[], None]) -> None:
        """Begin work; none may be under way.

        Args:
            work: Writes files; it touches nothing that the training changes.
        """
        self._is_done.clear()
        self._error, self.is_busy = None, True
        thread = threading.Thread(
            target=self._run, args=(work, True), name="handful-saver", daemon=False
        )
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads for us
            self._run(work, False)
            return
        self._thread = thread

    def finish(self) -> tuple[float, BaseException | None]:
        """Wait for the end of the work that was started.

        Returns:
            The seconds that it took, and its error or None.
        """
        self._is_done.wait()
        if self._thread is not None:
            self._thread.join()
        self._thread, self.is_busy = None, False
        return self._seconds, self._error

    def _run(self, work: Callable[[], None], gives_way: bool) -> None:
        started = time.perf_counter()
        if gives_way:
            _give_way()
        try:
            work()
        except BaseException as error:
            self._error = error
        self._seconds = time.perf_counter() - started
        self._is_done.set()


def _give_way() -> None:
    """Let the training's threads come before this one, on Linux."""
    if sys.platform != "linux":
        return
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def save_states(
    run: RunFolder,
    states: Sequence[Checkpoint],
    kept: Collection[int],
    best_step: int | None,
) -> None:
    """Save states, then delete all but the last two, the best and those to keep.

    It touches nothing but the disk.

    Args:
        run: The run's folder.
        states: The states, oldest first, with all that a checkpoint has.
        kept: Steps whose checkpoints stay.
        best_step: The step of the best state so far, None where there is none.

    Raises:
        CheckpointError: The disk refuses; earlier checkpoints are as they were.
    """
    if not states:
        return
    try:
        run.settle()
    except OSError as error:
        raise CheckpointError(
            f"{run.path} cannot be flushed to the disk: {error.strerror}."
        ) from None
    for state in states:
        packed = pack_within(state.progress)
        save_checkpoint(run.checkpoints, replace(state, progress=packed))
    steps = [int(path.name[5:]) for path in list_checkpoints(run.checkpoints)]
    best = steps[-1] if best_step is None else best_step
    prune_checkpoints(run.checkpoints, {*steps[-2:], *kept, best})
