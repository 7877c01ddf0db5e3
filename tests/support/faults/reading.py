"""Jobs that read batches by workers in trouble, and say what is raised."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

from faults.samples import Deadly
from handful import DataLoader

Say = Callable[..., None]


def read_deadly(say: Say, how: str, options: dict[str, Any]) -> None:
    """Read a data set one of whose samples is trouble; say what came of it."""
    began = time.monotonic()
    read_all(say, DataLoader(Deadly(how), 2, **options))
    say(seconds=time.monotonic() - began)


def read_all(say: Say, loader: Any) -> None:
    """Read a pass; say how many batches came, and what was raised."""
    kept: list[Any] = []
    error: BaseException | None = None
    say(batches_begin=True)
    batches: Any = None
    while True:
        try:
            try:
                batches = iter(loader) if batches is None else batches
                kept.extend(batches)
            except Exception as first:
                error = first
                if _is_of_handler(first):
                    continue
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            break
        except RuntimeError as again:
            error = error or again
    if error is not None:
        shown = "".join(traceback.format_exception(error))[-3000:]
        say(error=type(error).__name__, message=str(error)[:3000], shown=shown)
    say(batches=len(kept))


def _is_of_handler(error: Exception) -> bool:
    """Say whether PyTorch's handler of SIGCHLD told of a death outside of the loader.

    It does so wherever the process is just then; the loader says more when it is asked.
    """
    frames = "".join(traceback.format_tb(error.__traceback__))
    is_own = type(error) is RuntimeError and "DataLoader worker (pid" in str(error)
    return is_own and "torch_path" not in frames
