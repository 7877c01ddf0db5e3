"""Recorder: keeps a run up to date, in memory and in its folder."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.errors import CheckpointError, RunError
from handful.runs.folder import RunFolder
from handful.runs.run import Run
from handful.train.checkpoint import (
    Checkpoint,
    check_storable,
    drop_checkpoints_after,
)
from handful.train.continuing import continue_run, find_origin, make_event
from handful.train.save_times import Saving
from handful.train.saver import Saver, save_states
from handful.train.step_rows import StepRows
from handful.train.waiting import WaitingStates, step_of

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
        self,
        run: Run,
        folder: RunFolder | None,
        resumed: Checkpoint | None,
        *,
        saving: Saving,
    ) -> None:
        self.run = run
        self.resumed = resumed
        self._folder = folder
        self._saving, self._times = saving, saving.times
        self._has_begun = resumed is None
        self._rows = StepRows(run.steps)
        self._waiting = WaitingStates()
        self._saver = Saver()
        self._flight: list[Checkpoint] = []
        self._kept: set[int] = set()
        self._best_step: int | None = None
        self._num_skipped = 0
        self._told: set[str] = set()
        now = time.perf_counter()
        self._saved_step = 0 if resumed is None else step_of(resumed)
        self._saved_at, self._save_seconds = now, FIRST_SAVE_SECONDS
        self._copied_at, self._copy_seconds = -math.inf, 0.0

    @classmethod
    @contextmanager
    def open(
        cls,
        run: Run,
        run_dir: str | Path | None,
        *,
        resume: bool | str | Path,
        allow_changed: bool = False,
        saving: Saving | None = None,
    ) -> Iterator[Recorder]:
        """Open the run's folder, and on leaving write how the run ended.

        Args:
            run: The run about to start or to go on, without history.
            run_dir: Its folder; None keeps it in memory, or goes on in the folder of
                the run that ``resume`` names.
            resume: Whether a run in the folder goes on, or the folder of the run or
                the checkpoint to go on from.
            allow_changed: Whether it may go on with another numeric identity.
            saving: When it is saved, and what an error of saving does.

        Raises:
            ArgumentError: ``resume`` is true without a folder.
            RunError: The folder can't be used, holds no valid checkpoint, or its run
                has another numeric identity.
        """
        origin = find_origin(resume, run_dir)
        if origin is not None and run_dir is None:
            run_dir = origin.run_dir
        if run_dir is None:
            folder, resumed = None, None
        else:
            run.path = Path(run_dir)
            is_same = origin is not None and _is_same(run.path, origin.run_dir)
            folder = RunFolder(run.path, resume=is_same)
            try:
                resumed = None
                if origin is not None:
                    resumed = continue_run(run, origin, allow_changed=allow_changed)
                else:
                    folder.start(run)
            except BaseException:
                folder.close()
                raise
        recorder = cls(run, folder, resumed, saving=saving or Saving())
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
            drop_checkpoints_after(self._folder.checkpoints, step_of(self.resumed))
            self._write(lambda folder: folder.start(self.run))
        self._has_begun = True

    def check(self, capture: Callable[[], Checkpoint]) -> None:
        """Check that a state can be saved, if it is going to be; copies nothing.

        Raises:
            CheckpointError: It can't.
        """
        if self._folder is not None:
            check_storable(capture())

    def record_identity(self, identity: Mapping[str, Any]) -> None:
        """Write what the run's last bits depend on, before its first update."""
        self.run.identity = dict(identity)
        self._write(lambda folder: folder.write_status(self.run, sync=False))

    def record_steps(self, steps: NDArray[np.void]) -> None:
        """Add steps: loss and rate of each, shape ``(S,)``, dtype ``STEP_DTYPE``."""
        self.run.steps = self._rows.add(steps)
        if len(steps):
            self._write(lambda folder: folder.append_steps(steps))

    def record(self, record: Mapping[str, Any]) -> None:
        """Add a line to the history."""
        self.run.history.append(dict(record))
        self._write(lambda folder: folder.append_history(record))

    def record_event(self, kind: str, message: str) -> None:
        """Add an event: a warning, a resume or the like."""
        event = make_event(kind, message)
        self.run.events.append(event)
        self._write(lambda folder: folder.append_event(event))

    def is_save_due(self, step: int) -> bool:
        """Say whether the state is to be saved now, between two records.

        Takes note of a save that has ended meanwhile.

        Raises:
            CheckpointError: That one failed, and the run is to stop then.
        """
        if self._folder is None:
            return False
        if self._saver.has_ended:
            self._take_note()
        return self._is_due(step, time.perf_counter())

    def steps_until_save(self, step: int) -> int:
        """Return how many steps after this one the next save by steps may come.

        Args:
            step: The step that has been done.

        Returns:
            At least 1; very many where saves are not counted in steps.
        """
        steps = self._times.steps
        if self._folder is None or steps is None:
            return sys.maxsize
        return steps - step % steps

    def skip(self, step: int) -> None:
        """Leave out a save that is due, of a state that is broken."""
        self._saved_at, self._saved_step = time.perf_counter(), step

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
        saving below `SAVE_SHARE` of the time, or as was asked for, and when the
        training ends, fails or is asked to stop. But for the last save the training
        waits for a copy only; the rest is done beside it, one save at a time.

        Args:
            capture: Returns the state, with the training's own tensors; its progress
                has ``step``, ``records`` (lines of the history so far) and
                ``generators``.
            step: The step that it is of.
            is_best: Whether it is the best so far.
            is_kept: Whether it is to be saved now, and never deleted.
            is_last: Whether nothing comes after it, so that it is saved.

        Returns:
            Whether it is on the disk, or on its way there.

        Raises:
            CheckpointError: It can't be saved, or an earlier one couldn't.
        """
        if self._folder is None:
            return False
        if is_kept:
            self._kept.add(step)
        if is_best:
            self._best_step = step
        if is_kept or is_last or self._saver.has_ended:
            self.wait()
        now = time.perf_counter()
        if is_last:
            return self._save_at_once(capture(), is_best=is_best)
        if is_kept or self._is_due(step, now) or self._is_cheap(now):
            self._waiting.copy(capture(), is_best=is_best)
            self._start(step, now)
            return True
        if is_best or (now - self._copied_at) * COPY_SHARE >= self._copy_seconds:
            self._waiting.copy(capture(), is_best=is_best)
            self._copied_at = time.perf_counter()
            self._copy_seconds = self._copied_at - now
        return False

    def wait(self) -> None:
        """Wait until what is being saved is on the disk.

        Raises:
            CheckpointError: It can't be saved, and the run is to stop then.
        """
        if self._saver.is_busy:
            self._take_note()

    def restore_kept(self, best_step: int | None) -> None:
        """Know again which checkpoints of a resumed run are not to be deleted."""
        self._best_step = best_step
        if self.resumed is not None:
            self._kept = set(self.resumed.progress.get("kept", ()))

    def _is_due(self, step: int, now: float) -> bool:
        times = self._times
        if times.is_free:
            return self._is_cheap(now)
        if times.steps is not None:
            is_due = step // times.steps > self._saved_step // times.steps
        else:
            is_due = now - self._saved_at >= (times.seconds or math.inf)
        if is_due and self._saver.is_busy:
            self._tell_once(
                "note",
                f"saving takes longer than save_every={self._saving.every!r}; "
                "checkpoints come as often as the disk allows",
            )
            return False
        return is_due

    def _is_cheap(self, now: float) -> bool:
        """Say whether another save keeps saving below its share."""
        is_cheap = (now - self._saved_at) * SAVE_SHARE >= self._save_seconds
        return is_cheap and not self._saver.is_busy

    def _start(self, step: int, started: float) -> None:
        """Begin to save what waits, beside the training."""
        self._flight = self._waiting.take()
        full = [self._in_full(checkpoint) for checkpoint in self._flight]
        kept, best_step = frozenset(self._kept), self._best_step
        folder = self._folder
        assert folder is not None
        self._saver.start(lambda: save_states(folder, full, kept, best_step))
        self._saved_at, self._saved_step = time.perf_counter(), step
        self._save_seconds = self._saved_at - started

    def _take_note(self) -> None:
        """Wait for the save under way; what could not be saved waits again."""
        seconds, error = self._saver.finish()
        flight, self._flight = self._flight, []
        self._save_seconds += seconds
        if error is None:
            self._waiting.give_back(flight)
            return
        self._waiting.put_back(flight, self._best_step)
        self._refuse(error)

    def _save_at_once(self, newest: Checkpoint | None, *, is_best: bool) -> bool:
        """Save the best state and the newest, where they wait, and wait for the disk.

        Args:
            newest: The newest, None for the one that waits.
            is_best: Whether it is the best.
        """
        waiting = self._waiting
        newest = waiting.last if newest is None else newest
        former = None if is_best else waiting.best
        found = {step_of(c): c for c in (former, newest) if c is not None}
        full = [self._in_full(found[step]) for step in sorted(found)]
        try:
            assert self._folder is not None
            save_states(self._folder, full, self._kept, self._best_step)
        except CheckpointError as error:
            self._refuse(error)
            return False
        waiting.forget()
        self._saved_at = time.perf_counter()
        if newest is not None:
            self._saved_step = step_of(newest)
        return True

    def _in_full(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint with what is put together only when it is saved."""
        progress = dict(checkpoint.progress)
        progress["history"] = self.run.history[: progress.pop("records")]
        progress["identity"] = self.run.identity
        progress["kept"] = sorted(self._kept)
        return replace(checkpoint, progress=progress)

    def _write(self, write: Callable[[RunFolder], None]) -> None:
        """Write into the folder, where there is one."""
        if self._folder is None:
            return
        try:
            write(self._folder)
        except OSError as error:
            self._refuse(
                RunError(f"{self._folder.path} cannot be written: {error.strerror}.")
            )

    def _refuse(self, error: BaseException) -> None:
        """Stop the run for something that could not be saved, or say so and go on."""
        if self._saving.stops or not isinstance(error, RunError):
            raise error
        self._tell_once("not saved", str(error))

    def _tell_once(self, kind: str, message: str) -> None:
        """Record an event of a kind that might come over and over, the first time."""
        if kind not in self._told:
            self._told.add(kind)
            self.record_event(kind, message)

    def _end(self, status: str, error: BaseException | None) -> None:
        self.run.status = status
        if self._folder is None or not self._has_begun:
            if self._folder is not None:
                self._folder.close()
            return
        unsaved: RunError | None = None
        try:
            if error is not None and status == "failed":
                with suppress(RunError):
                    self.record_event("failed", f"{type(error).__name__}: {error}")
            unsaved = self._save_rest()
            if unsaved is not None and error is None:
                self.run.status = "failed"
        finally:
            try:
                self._folder.close_as(self.run)
            except OSError as unwritten:
                reason = f"cannot be written: {unwritten.strerror}."
                unsaved = unsaved or RunError(f"{self._folder.path} {reason}")
        # An error that ends the run comes before one of saving.
        if unsaved is not None and error is None and self._saving.stops:
            raise unsaved

    def _save_rest(self) -> RunError | None:
        """Save what waits; return an error that the run has not heard of yet."""
        with suppress(RunError):  # it waits again, and is tried once more
            self.wait()
        try:
            self._save_at_once(None, is_best=False)
        except RunError as unsaved:
            with suppress(RunError):
                self.record_event("not saved", str(unsaved))
            return unsaved
        return None


def _is_request(error: BaseException) -> bool:
    return isinstance(error, (KeyboardInterrupt, SystemExit))


def _is_same(one: Path, other: Path) -> bool:
    return one.absolute() == other.absolute() or (
        one.exists() and other.exists() and one.samefile(other)
    )
