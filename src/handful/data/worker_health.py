"""Worker health: what to say of worker processes that died or make no progress."""

from __future__ import annotations

import re
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from handful.errors import WorkerError

STALL_SECONDS = 60.0
"""How long workers may send nothing before a warning says so, once."""

_SHOWN_SAMPLES = 64

Held = Mapping[int, Sequence[Any]]
"""By worker, the indices of each batch that it has yet to send, the next one first."""


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
        f"{text}: {'; '.join(causes)}. Its batches are lost: go on from a saved state, "
        "with fewer workers if memory was short."
    )


class StallWatch:
    """Warns once when workers have sent nothing for `STALL_SECONDS`."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._has_warned = False

    def note(self, *, got: bool, workers: Sequence[Any], held: Held) -> None:
        """Note that a result came, or that none came for a while.

        Args:
            got: Whether one came.
            workers: All worker processes.
            held: What each is to read.
        """
        now = time.monotonic()
        if got:
            self._since = now
        elif now - self._since > STALL_SECONDS and not self._has_warned:
            self._has_warned = True
            stalled = "; ".join(
                f"worker {number}, pid {workers[number].pid}, holds "
                f"{_describe_held(batches)}"
                for number, batches in held.items()
            )
            warnings.warn(
                "no worker of a DataLoader has sent a batch for "
                f"{now - self._since:.0f} seconds: {stalled}. "
                "Give the loader a timeout to stop instead.",
                RuntimeWarning,
                stacklevel=4,
            )

    def restart(self) -> None:
        """Begin to wait for a result now."""
        self._since = time.monotonic()


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
