"""A run that goes on: where it is found, what is read of it, and what has changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.errors import ArgumentError, CheckpointError, RunError
from handful.runs.changes import describe_changes
from handful.runs.run import (
    STEP_DTYPE,
    Run,
    read_config,
    read_lines,
    read_meta,
    read_steps,
)
from handful.runs.salvage import salvage
from handful.train.checkpoint import (
    Checkpoint,
    is_checkpoint,
    load_checkpoint,
    newest_checkpoint,
)


@dataclass(frozen=True)
class Origin:
    """Where a run that goes on comes from.

    Attributes:
        run_dir: The folder of the run.
        checkpoint: The folder of the checkpoint to go on from; None for the newest that
            is valid.
    """

    run_dir: Path
    checkpoint: Path | None = None


def find_origin(resume: bool | str | Path, run_dir: str | Path | None) -> Origin | None:
    """Say where a run comes from.

    Args:
        resume: False for a new run; true for the one in ``run_dir``; or a run's folder
            or a checkpoint's.
        run_dir: The folder that is written.

    Returns:
        The origin, None for a new run.

    Raises:
        ArgumentError: ``resume`` is true without a folder, or of a wrong kind.
    """
    if resume is False:
        return None
    if resume is True:
        if run_dir is None:
            raise ArgumentError("run_dir must be given when resume is true.")
        return Origin(Path(run_dir))
    if not isinstance(resume, (str, Path)):
        raise ArgumentError(
            "resume must be true, false, or the folder of a run or of a checkpoint; "
            f"got {resume!r}."
        )
    path = Path(resume)
    if is_checkpoint(path):
        return Origin(path.absolute().parent.parent, path)
    return Origin(path)


def continue_run(run: Run, origin: Origin, *, allow_changed: bool) -> Checkpoint:
    """Fill a run with what its origin holds up to the checkpoint that it goes on from.

    Args:
        run: The run about to go on, with its configuration and identity.
        origin: Where it comes from.
        allow_changed: Whether it may go on with another numeric identity.

    Returns:
        The checkpoint.

    Raises:
        RunError: The identity is another, or the run or its checkpoints are damaged.
    """
    folder = origin.run_dir
    before = read_meta(folder / "run.json").get("identity")
    changed = describe_changed_identity(before, run.identity)
    if changed and not allow_changed:
        raise RunError(
            f"{folder} would not go on to the same bits: {changed}. Go on all the same "
            "with --allow-changed (allow_changed=True)."
        )
    if origin.checkpoint is None:
        path, checkpoint, reasons = newest_checkpoint(folder / "checkpoints")
    else:
        path, reasons = origin.checkpoint, []
        checkpoint = load_checkpoint(path)
    progress = checkpoint.progress
    run.history = list(progress.get("history", []))
    run.steps = _first_steps(folder / "steps.npy", int(progress["step"]))
    run.events = salvage(read_lines, folder / "events.jsonl", [])
    run.events += [make_event("damaged checkpoint", reason) for reason in reasons]
    run.events.append(make_event("resumed", f"from {path.name}"))
    changes = describe_changes(read_config(folder / "config.yaml"), run.config)
    if changes:
        run.events.append(make_event("settings changed", changes))
    if changed:
        message = f"{changed}; not bitwise the same run"
        run.events.append(make_event("identity changed", message))
    return checkpoint


def describe_changed_identity(before: object, now: Mapping[str, Any]) -> str:
    """Say what of a numeric identity is another, empty if nothing is.

    Args:
        before: That of the run, as far as it is known.
        now: What it would go on with.
    """
    known = before if isinstance(before, Mapping) else {}
    return "; ".join(
        f"{name} was {known[name]}, is {value}"
        for name, value in now.items()
        if name in known and known[name] != value and not _is_refused(name, known, now)
    )


def _is_refused(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Say whether a change is one of the optimiser, which is refused in any case."""
    if name != "optimizer_kernel":
        return False
    one, other = (str(identity[name]).partition(" ")[0] for identity in (before, now))
    return one != other


def make_event(kind: str, message: str) -> dict[str, Any]:
    """Return a line of a run's events."""
    return {"time": time.time(), "kind": kind, "message": message}


def _first_steps(path: Path, count: int) -> NDArray[np.void]:
    """Read a run's first steps; those that a loss of power took are NaN."""
    try:
        steps = np.full(count, np.nan, STEP_DTYPE)
    except (MemoryError, ValueError):
        raise CheckpointError(
            f"{path.parent} has a checkpoint of step {count}, which is no real number "
            "of steps; it is damaged."
        ) from None
    try:
        found = read_steps(path)[:count]
    except RunError:
        return steps
    steps[: len(found)] = found
    return steps
