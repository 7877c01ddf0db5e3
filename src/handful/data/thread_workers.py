"""Thread workers: the threads of one loader, started when first needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from handful.data.batch_memory import BatchMemory

THREAD_NAME = "handful-loader"
"""How the names of all such threads begin."""


class ThreadWorkers:
    """Threads that read for a loader, pass after pass.

    They end when the loader and its iterators are gone. A copy of a loader, one that
    was pickled, and one in a process that was forked start threads of their own.

    Args:
        count: Number of threads; with 0 the caller does the work itself.

    Attributes:
        memory: Where batches are made.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.memory = BatchMemory()
        self._executor: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    def submit(self, work: Callable[..., None], *args: Any) -> None:
        """Let a thread call a function, which must not raise.

        Args:
            work: The function.
            *args: Its arguments.
        """
        if self.count == 0:
            work(*args)
            return
        if self._executor is None or self._process != os.getpid():
            # The threads of a process are not there in one forked from it.
            self._process = os.getpid()
            self._executor = ThreadPoolExecutor(self.count, THREAD_NAME)
        self._executor.submit(work, *args)

    def __reduce__(self) -> tuple[Any, ...]:
        return ThreadWorkers, (self.count,)
