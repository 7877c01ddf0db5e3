"""Worker health: what to say of worker processes that died or make no progress."""

from __future__ import annotations

import re
import signal
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from handful.data.worker_stacks import WorkerStacks
from handful.errors import WorkerError

STALL_SECONDS = 60.0
"""How long workers may send nothing before a warning says so, once."""

DEATH_SECONDS = 5.0
"""How long after its pipe broke a worker may take to be gone."""

SLICE_SECONDS = 1.0
"""How long is waited at a time; longer ones are not counted, see `Patience`."""

_MOST_BETWEEN_LOOKS = 10.0

_SHOWN_SAMPLES = 64

Held = Mapping[int, Sequence[Any]]
"""By worker, the indices of each batch that it has yet to send, the next one first."""


_DEATH = re.compile(r"DataLoader worker \(pid\S* [\d, ]+\) (exited|is killed)")


def tells_of_death(error: RuntimeError) -> bool:
    """Say whether an error is PyTorch's of a worker that has ended."""
    is_ours = isinstance(error, WorkerError)
    return not is_ours and _DEATH.match(str(error)) is not None


def describe_dead(workers: Sequence[Any]) -> str | None:
    """Return PyTorch's message for workers that have ended, None if none has.

    The pipe of a worker that dies while it is sending breaks before the system says
    that the process is gone, and so does its sentinel: both are waited for.

    Args:
        workers: All worker processes.
    """
    ended = wait([worker.sentinel for worker in workers], DEATH_SECONDS)
    for worker in workers:
        if worker.sentinel in ended:
            worker.join(DEATH_SECONDS)
    pids = [str(worker.pid) for worker in workers if not worker.is_alive()]
    if not pids:
        return None
    return f"DataLoader worker (pid(s) {', '.join(pids)}) exited unexpectedly"


def explain_death(text: str, workers: Sequence[Any], held: Held) -> WorkerError:
    """Make the error for workers that ended before their batches were made.

    Args:
        text: PyTorch's message, which names the pids.
        workers: All worker processes.
        held: What each was to read.

    Returns:
        The error. The caller raises it.
    """
    pids = set(re.findall(r"\d+", text))
    causes = [
        f"worker {number}, pid {worker.pid}, {_describe_exit(worker.exitcode)} and "
        f"held {_describe_held(held.get(number, ()))}"
        for number, worker in enumerate(workers)
        if str(worker.pid) in pids
    ]
    return WorkerError(
        f"{text.rstrip('. ')}: {'; '.join(causes)}. "
        "Its batches are lost: go on from a saved state, with fewer workers if memory "
        "was short."
    )


def explain_hang(
    seconds: float, workers: Sequence[Any], held: Held, stacks: WorkerStacks | None
) -> WorkerError:
    """Make the error for workers that have sent nothing until the time-out.

    Args:
        seconds: The loader's time-out.
        workers: All worker processes.
        held: What each was to read.
        stacks: Knows where they are; None where that can't be known.

    Returns:
        The error. The caller raises it.
    """
    waiting = [(number, workers[number].pid) for number in held]
    names = "; ".join(
        f"worker {number}, pid {pid}, holds {_describe_held(held[number])}"
        for number, pid in waiting
    )
    text = f"DataLoader timed out after {seconds} seconds: {names}."
    for number, pid in waiting:
        stack = "" if stacks is None else stacks.read(pid)
        if stack:
            text += f"\nWorker {number}, most recent call first:\n{stack}"
    return WorkerError(text)


class Patience:
    """A time-out that doesn't run on while this process is stopped.

    Waiting goes by slices, none of which counts for more than it was to take: a
    process that was suspended for an hour has not waited for its workers for an hour.

    Args:
        seconds: How long to wait in all.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self._most = min(seconds / 4, SLICE_SECONDS)

    @property
    def slice_seconds(self) -> float:
        """How long to wait now."""
        return min(self.left, self._most)

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Count what is waited in here."""
        most, began = self.slice_seconds, time.monotonic()
        try:
            yield
        finally:
            self.left -= min(time.monotonic() - began, most)


class StallWatch:
    """Warns once when workers have sent nothing for `STALL_SECONDS`."""

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._waited = 0.0
        self._has_warned = False

    def note(self, *, got: bool, workers: Sequence[Any], held: Held) -> None:
        """Note that a result came, or that none came for a while.

        Args:
            got: Whether one came.
            workers: All worker processes.
            held: What each is to read.
        """
        now = time.monotonic()
        # PyTorch looks every five seconds; more passes only where this process stops.
        self._waited += min(now - self._looked, _MOST_BETWEEN_LOOKS)
        self._looked = now
        if got:
            self._waited = 0.0
        elif self._waited > STALL_SECONDS and not self._has_warned:
            self._has_warned = True
            stalled = "; ".join(
                f"worker {number}, pid {workers[number].pid}, holds "
                f"{_describe_held(batches)}"
                for number, batches in held.items()
            )
            warnings.warn(
                "no worker of a DataLoader has sent a batch for "
                f"{self._waited:.0f} seconds: {stalled}. "
                "Give the loader a timeout to stop instead.",
                RuntimeWarning,
                stacklevel=4,
            )

    def restart(self) -> None:
        """Begin to wait for a result now."""
        self._looked, self._waited = time.monotonic(), 0.0


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "ended"
    if code >= 0:
        return f"exited with status {code}"
    name = signal.Signals(-code).name
    why = ", perhaps for want of memory," if name == "SIGKILL" else ""
    return f"was killed by {name}{why}"


def _describe_held(batches: Sequence[Any]) -> str:
    samples: list[Any] = []
    for batch in batches:
        samples += batch if isinstance(batch, (list, tuple)) else [batch]
    if not samples:
        return "no samples"
    if samples[0] is None:
        return f"{len(batches)} batches of an iterable data set"
    shown = ", ".join(map(str, samples[:_SHOWN_SAMPLES]))
    more = f" and {len(samples) - _SHOWN_SAMPLES} more"
    return f"samples {shown}{more if len(samples) > _SHOWN_SAMPLES else ''}"
