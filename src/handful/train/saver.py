"""Saver: one save at a time, beside the training, in a thread of its own."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

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
