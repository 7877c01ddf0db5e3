"""Lock probe: what a thread does with its time, as the system and a second thread see.

::

    reading thread   ── computes, holding the interpreter's lock or not ──▶
    probe            sleeps a ms · asks for the lock · sleeps a ms · asks …

A probe that gets the lock at once met code that had released it, or that waited; one
that has to wait met Python code, or C code that keeps the lock.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SLEEP_SECONDS = (3e-4, 2.5e-3)
"""How long the probe sleeps between two looks, at least and at most: never twice the
same, since its waiting for the lock would bring it into step with what releases it."""

LATE_SECONDS = 2.5e-4
"""From so much delay on, the lock was held; a system wakes a thread sooner."""

_SCHEDULE = Path("/proc/thread-self/schedstat")


@dataclass
class ThreadUse:
    """What a thread did in a while.

    Attributes:
        seconds: How long it was.
        computing: Seconds in which it computed.
        waiting: Seconds in which it neither computed nor waited for a processor that
            others were using; the latter is known on Linux alone.
        locked: Share of the looks at which the lock was held, 0 to 1; 0 without any.
        looks: How often the probe looked.
    """

    seconds: float = 0.0
    computing: float = 0.0
    waiting: float = 0.0
    locked: float = 0.0
    looks: int = 0


@contextmanager
def watched_thread() -> Iterator[ThreadUse]:
    """Watch this thread for a while; what is yielded is filled in at the end."""
    use, probe = ThreadUse(), _Probe()
    try:
        probe.start()
        before = time.perf_counter(), time.thread_time(), queued_seconds()
        yield use
        after = time.perf_counter(), time.thread_time(), queued_seconds()
    finally:
        probe.stop()
    use.seconds, use.computing, queued = (
        end - start for start, end in zip(before, after, strict=True)
    )
    use.waiting = max(use.seconds - use.computing - queued, 0.0)
    use.looks = probe.looks
    use.locked = probe.late / probe.looks if probe.looks else 0.0


def queued_seconds() -> float:
    """Return how long this thread has waited for a processor so far; 0 if unknown."""
    try:
        return int(_SCHEDULE.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


class _Probe(threading.Thread):
    """Looks again and again whether it gets the lock at once."""

    def __init__(self) -> None:
        super().__init__(name="handful-lock-probe", daemon=True)
        self._is_over = threading.Event()
        self.looks = 0
        self.late = 0

    def run(self) -> None:
        clock, draw = time.perf_counter, random.Random(0)
        while not self._is_over.is_set():
            seconds = draw.uniform(*SLEEP_SECONDS)
            queued, began = queued_seconds(), clock()
            time.sleep(seconds)
            delay = clock() - began - seconds - (queued_seconds() - queued)
            self.looks += 1
            self.late += delay > LATE_SECONDS

    def stop(self) -> None:
        self._is_over.set()
        if self.ident is not None:
            self.join()
