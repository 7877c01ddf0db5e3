"""Where a loader's workers are, when one of them hangs: their Python stacks.

A worker process writes its own stack, from C, when it gets SIGUSR1: that works while
its Python code hangs, unless the process is stuck in the system. Threads of this
process are simply looked at.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

WAIT_SECONDS = 1.0
"""How long a worker has to write its stack."""

_MOST_LINES = 40

_files: list[TextIO] = []
"""In a worker, the file that its stack goes to, kept open."""


@dataclass(frozen=True)
class WorkerStart:
    """What a worker calls first: prepares its stack, then calls the user's function.

    Attributes:
        folder: Where the stack goes, into a file named by the pid.
        then: The user's ``worker_init_fn``, None for none.
    """

    folder: str
    then: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        """Prepare the worker of this number."""
        is_free = signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        if is_free:  # a handler that came with the process stays
            file = Path(self.folder, str(os.getpid())).open("w")  # noqa: SIM115
            _files.append(file)
            faulthandler.register(signal.SIGUSR1, file=file)
        if self.then is not None:
            self.then(worker)


class WorkerStacks:
    """The stacks of worker processes that were started with `start`."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="handful-stacks-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    @staticmethod
    def are_possible() -> bool:
        """Say whether this system lets a process write its stack on a signal."""
        return hasattr(faulthandler, "register")

    def start(self, then: Callable[[int], None] | None) -> WorkerStart:
        """Return what workers call first, and then a function of the user's."""
        return WorkerStart(self._folder, then)

    def read(self, pid: int) -> str:
        """Return a worker's stack, most recent call first; empty if it is silent."""
        path = Path(self._folder, str(pid))
        if not path.exists():
            return ""
        try:
            os.kill(pid, signal.SIGUSR1)
        except ProcessLookupError:
            return ""
        text, deadline = "", time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.02)
            before, text = text, path.read_text(errors="replace")
            if text and text == before:
                break
        return "\n".join(text.splitlines()[:_MOST_LINES])


def thread_stacks(prefix: str) -> str:
    """Return the stacks of this process's threads whose names begin so."""
    frames = sys._current_frames()
    parts = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if thread.name.startswith(prefix) and frame is not None:
            lines = "".join(traceback.format_stack(frame)).splitlines()
            parts += [f"Stack of {thread.name}:", *lines[-_MOST_LINES:]]
    return "\n".join(parts)
