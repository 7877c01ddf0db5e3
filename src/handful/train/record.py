"""Recorder: keeps a run up to date, in memory and in its folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.errors import ArgumentError, CheckpointError, RunError
from handful.runs.changes import describe_changes
from handful.runs.folder import RunFolder
from handful.runs.run import (
    STEP_DTYPE,
    Run,
    read_config,
    read_lines,
    read_meta,
    read_steps,
)
from handful.train.checkpoint import (
    Checkpoint,
    drop_checkpoints_after,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from handful.train.generators import pack_within
from handful.train.snapshot import copy_checkpoint

SAVE_SHARE = 0.05
"""Share of a training's time that saving may take, the last save aside."""

COPY_SHARE = 0.02
"""Share that copying states may take which are neither the best nor to be saved."""

FIRST_SAVE_SECONDS = 0.05
"""What the first save is taken to cost: with `SAVE_SHARE`, it comes after a second."""

SKIPPED = "skipped sample"
"""The kind of event of a sample that was left out, as it could not be read."""

MOST_SKIPPED = 100
"""How many of them are listed, at most."""


class Recorder:
    """Keeps a run up to date, in memory and, where it has one, in its folder.

    Attributes:
        run: The run.
        resumed: The checkpoint that the run goes on from, None for a new run.
    """

    def __init__(
        self, run: Run, folder: RunFolder | None, resumed: Checkpoint | None
    ) -> None:
        self.run = run
        self.resumed = resumed
        self._folder = folder
        self._has_begun = resumed is None
        self._rows = _Rows(run.steps)
        self._best: Checkpoint | None = None
        self._last: Checkpoint | None = None
        self._spare: list[Checkpoint] = []
        self._kept: set[int] = set()
        self._best_step: int | None = None
        self._num_skipped = 0
        now = time.perf_counter()
        self._saved_at, self._save_seconds = now, FIRST_SAVE_SECONDS
        self._copied_at, self._copy_seconds = -math.inf, 0.0

    @classmethod
    @contextmanager
    def open(
        cls, run: Run, run_dir: str | Path | None, *, resume: bool
    ) -> Iterator[Recorder]:
        """Open the run's folder, and on leaving write how the run ended.

        Args:
            run: The run about to start or to go on, without history.
            run_dir: Its folder; None keeps it in memory.
            resume: Whether a run in the folder goes on.

        Raises:
            ArgumentError: ``resume`` without a folder.
            RunError: The folder can't be used, or holds no valid checkpoint.
        """
        if run_dir is None:
            if resume:
                raise ArgumentError("run_dir must be given when resume is true.")
            folder, resumed = None, None
        else:
            run.path = Path(run_dir)
            folder = RunFolder(run.path, resume=resume)
            try:
                resumed = _continue_run(run, folder) if resume else None
                if resumed is None:
                    folder.start(run)
            except BaseException:
                folder.close()
                raise
        recorder = cls(run, folder, resumed)
        try:
            yield recorder
        except BaseException as error:
            recorder._end("stopped" if _is_request(error) else "failed", error)
            raise
        recorder._end("stopped" if run.status == "stopped" else "finished", None)

    def begin(self) -> None:
        """Write a resumed run as it goes on; until then its folder is as it was.

        What came after the checkpoint is deleted: it will come again.
        """
        if self._has_begun:
            return
        assert self.resumed is not None
        if self._folder is not None:
            drop_checkpoints_after(self._folder.checkpoints, _step(self.resumed))
            self._folder.start(self.run)
        self._has_begun = True

    def record_identity(self, identity: Mapping[str, Any]) -> None:
        """Write what the run's last bits depend on, before its first update."""
        self.run.identity = dict(identity)
        if self._folder is not None:
            self._folder.write_status(self.run, sync=False)

    def record_steps(self, steps: NDArray[np.void]) -> None:
        """Add steps: loss and rate of each, shape ``(S,)``, dtype ``STEP_DTYPE``."""
        self.run.steps = self._rows.add(steps)
        if self._folder is not None and len(steps):
            self._folder.append_steps(steps)

    def record(self, record: Mapping[str, Any]) -> None:
        """Add a line to the history."""
        self.run.history.append(dict(record))
        if self._folder is not None:
            self._folder.append_history(record)

    def record_event(self, kind: str, message: str) -> None:
        """Add an event: a warning, a resume or the like."""
        event = _event(kind, message)
        self.run.events.append(event)
        if self._folder is not None:
            self._folder.append_event(event)

    def record_skipped(self, skipped: Sequence[Any]) -> None:
        """Add an event for each sample that was left out, `MOST_SKIPPED` at most.

        Args:
            skipped: All so far, each with ``path``, ``index`` and ``reason``; those
                that the run has already are not added again.
        """
        if len(skipped) == self._num_skipped:
            return
        self._num_skipped = len(skipped)
        listed = {e["message"] for e in self.run.events if e["kind"] == SKIPPED}
        for one in skipped:
            if len(listed) > MOST_SKIPPED:
                return
            where = f"sample {one.index}" + (f", {one.path}" if one.path else "")
            message = f"{where}: {one.reason}"
            if len(listed) == MOST_SKIPPED and message not in listed:
                message = "more samples, which are not listed"
            if message not in listed:
                listed.add(message)
                self.record_event(SKIPPED, message)

    def keep(
        self,
        capture: Callable[[], Checkpoint],
        *,
        step: int,
        is_best: bool = False,
        is_kept: bool = False,
        is_last: bool = False,
    ) -> bool:
        """Keep the training's state, on the disk where saving costs little enough.

        The best state is always copied, others as often as copying stays below
        `COPY_SHARE` of the time; they wait in memory. They are saved as often as keeps
        saving below `SAVE_SHARE` of the time, and when the training ends, fails or is
        asked to stop.

        Args:
            capture: Returns the state, with the training's own tensors; its progress
                has ``step``, ``records`` (lines of the history so far) and
                ``generators``.
            step: The step that it is of.
            is_best: Whether it is the best so far.
            is_kept: Whether it is to be saved now, and never deleted.
            is_last: Whether nothing comes after it, so that it is saved.

        Returns:
            Whether it is on the disk.

        Raises:
            CheckpointError: It can't be saved.
        """
        if self._folder is None:
            return False
        now = time.perf_counter()
        is_due = (now - self._saved_at) * SAVE_SHARE >= self._save_seconds
        is_saved = is_due or is_kept or is_last
        if is_kept:
            self._kept.add(step)
        if is_best:
            self._best_step = step
        if is_saved:
            self._save(capture(), now, is_best=is_best)
        elif is_best or (now - self._copied_at) * COPY_SHARE >= self._copy_seconds:
            self._copy(capture(), is_best=is_best)
            self._copied_at = time.perf_counter()
            self._copy_seconds = self._copied_at - now
        return is_saved

    def _copy(self, checkpoint: Checkpoint, *, is_best: bool) -> None:
        """Copy a state into memory that nobody refers to, interrupted or not."""
        self._release_last()
        if is_best:
            self._release_best()
        spare = self._spare.pop() if self._spare else None
        copied = copy_checkpoint(checkpoint, spare)
        self._last = copied
        if is_best:
            self._best = copied

    def _release_last(self) -> None:
        last, self._last = self._last, None
        if last is not None and last is not self._best:
            self._spare.append(last)

    def _release_best(self) -> None:
        best, self._best = self._best, None
        if best is not None and best is not self._last:
            self._spare.append(best)

    def _save(
        self, newest: Checkpoint | None, started: float, *, is_best: bool = False
    ) -> None:
        """Save the best state and the newest, where they wait; delete old ones."""
        assert self._folder is not None
        folder = self._folder.checkpoints
        newest = self._last if newest is None else newest
        former = None if is_best else self._best
        waiting = {_step(c): c for c in (former, newest) if c is not None}
        if waiting:
            self._folder.settle()
            for step in sorted(waiting):
                save_checkpoint(folder, self._in_full(waiting[step]))
            self._prune()
        self._release_last()
        self._release_best()
        self._saved_at = time.perf_counter()
        self._save_seconds = self._saved_at - started

    def _in_full(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint with what is put together only when it is saved."""
        progress = pack_within(checkpoint.progress)
        progress["history"] = self.run.history[: progress.pop("records")]
        progress["identity"] = self.run.identity
        progress["kept"] = sorted(self._kept)
        return replace(checkpoint, progress=progress)

    def _prune(self) -> None:
        """Delete all checkpoints but the last two, the best and those to be kept."""
        assert self._folder is not None
        folder = self._folder.checkpoints
        steps = [int(path.name[5:]) for path in list_checkpoints(folder)]
        keep = {*steps[-2:], *self._kept}
        if self._best_step is not None:
            keep.add(self._best_step)
        prune_checkpoints(folder, keep)

    def restore_kept(self, best_step: int | None) -> None:
        """Know again which checkpoints of a resumed run are not to be deleted."""
        self._best_step = best_step
        if self.resumed is not None:
            self._kept = set(self.resumed.progress.get("kept", ()))

    def _end(self, status: str, error: BaseException | None) -> None:
        self.run.status = status
        if self._folder is None or not self._has_begun:
            if self._folder is not None:
                self._folder.close()
            return
        try:
            if error is not None and status == "failed":
                self.record_event("failed", f"{type(error).__name__}: {error}")
            self._save_rest(error)
        finally:
            self._folder.close_as(self.run)

    def _save_rest(self, error: BaseException | None) -> None:
        """Save what waits; an error that ends the run comes before one of saving."""
        try:
            self._save(None, time.perf_counter())
        except CheckpointError as unsaved:
            if error is None:
                self.run.status = "failed"
            self.record_event("not saved", str(unsaved))
            if error is None:
                raise


class _Rows:
    """Rows of steps in memory that grows by doubling."""

    def __init__(self, rows: NDArray[np.void]) -> None:
        self._buffer = rows
        self._count = len(rows)

    def add(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        """Add rows; return all."""
        count = self._count + len(rows)
        if count > len(self._buffer):
            larger = np.empty(max(count, 2 * self._count), STEP_DTYPE)
            larger[: self._count] = self._buffer[: self._count]
            self._buffer = larger
        self._buffer[self._count : count] = rows
        self._count = count
        return self._buffer[:count]


def _step(checkpoint: Checkpoint) -> int:
    return int(checkpoint.progress["step"])


def _is_request(error: BaseException) -> bool:
    return isinstance(error, (KeyboardInterrupt, SystemExit))


def _continue_run(run: Run, folder: RunFolder) -> Checkpoint:
    """Fill a run with what its folder holds up to the newest valid checkpoint."""
    before = read_meta(folder.path / "run.json").get("identity") or {}
    path, checkpoint, reasons = newest_checkpoint(folder.checkpoints)
    run.history = list(checkpoint.progress["history"])
    run.steps = _first_steps(folder.path / "steps.npy", _step(checkpoint))
    run.events = read_lines(folder.path / "events.jsonl")
    run.events += [_event("damaged checkpoint", reason) for reason in reasons]
    run.events.append(_event("resumed", f"from {path.name}"))
    changes = describe_changes(read_config(folder.path / "config.yaml"), run.config)
    if changes:
        run.events.append(_event("settings changed", changes))
    for name, value in run.identity.items():
        saved = before.get(name)
        if saved != value:
            message = f"{name} was {saved}, is {value}; not bitwise the same run"
            run.events.append(_event("identity changed", message))
    return checkpoint


def _first_steps(path: Path, count: int) -> NDArray[np.void]:
    """Read a run's first steps; those that a loss of power took are NaN."""
    steps = np.full(count, np.nan, STEP_DTYPE)
    try:
        found = read_steps(path)[:count]
    except RunError:
        return steps
    steps[: len(found)] = found
    return steps


def _event(kind: str, message: str) -> dict[str, Any]:
    return {"time": time.time(), "kind": kind, "message": message}
