"""What of a run is left after a loss of power, so far as it is needed to go on.

Settings are flushed to the disk with the first checkpoint. History, steps, events are
only appended to, and not flushed: a disk may have lost a part of them, or have zeros in
its place. A checkpoint has the history up to its step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from handful.errors import RunError
from handful.runs.run import (
    STEP_DTYPE,
    Run,
    read_config,
    read_lines,
    read_meta,
    read_steps,
)

_Series = TypeVar("_Series")


def load_salvaged(folder: Path) -> Run:
    """Read a run; a series of it that is damaged is empty.

    Args:
        folder: The run's folder; it holds one.

    Raises:
        RunError: ``run.json`` or ``config.yaml`` is missing or damaged, or a newer
            version wrote them.
    """
    meta = read_meta(folder / "run.json")
    return Run(
        path=folder,
        status=str(meta.get("status", "running")),
        config=read_config(folder / "config.yaml"),
        history=salvage(read_lines, folder / "history.jsonl", []),
        steps=salvage(read_steps, folder / "steps.npy", np.empty(0, STEP_DTYPE)),
        events=salvage(read_lines, folder / "events.jsonl", []),
        environment=dict(meta.get("environment", {})),
        identity=dict(meta.get("identity", {})),
    )


def salvage(read: Callable[[Path], _Series], path: Path, otherwise: _Series) -> _Series:
    """Read a file; return something else where it is damaged."""
    try:
        return read(path)
    except RunError:
        return otherwise
