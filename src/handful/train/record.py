"""Recorder: keeps a run up to date, in memory and in its folder."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from handful.errors import ArgumentError, CheckpointError, RunError
from handful.runs.folder import RunFolder
from handful.runs.run import Run
from handful.train.callbacks import FitState
from handful.train.checkpoint import (
    Checkpoint,
    drop_checkpoints_after,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from handful.train.generators import (
    capture_generators,
    pack_generators,
    restore_generators,
)

SAVE_SHARE = 0.05
"""Share of a training's time that saving may take, the first and last save aside."""


class Recorder:
    """Keeps a run up to date, in memory and, where it has one, in its folder.

    Attributes:
        run: The run.
    """

    def __init__(
        self, run: Run, folder: RunFolder | None, checkpoint: Checkpoint | None
    ) -> None:
        self.run = run
        self._folder = folder
        self._checkpoint = checkpoint
        self._waiting: list[Checkpoint] = []
        self._saved_at = -math.inf
        self._save_seconds = 0.0

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
            folder, checkpoint = None, None
        else:
            run.path = Path(run_dir)
            folder = RunFolder(run.path, resume=resume)
            checkpoint = _continue_run(run, folder) if resume else None
            try:
                folder.start(run)
            except BaseException:
                folder.close()
                raise
        recorder = cls(run, folder, checkpoint)
        try:
            yield recorder
        except BaseException as error:
            recorder._end("stopped" if _is_request(error) else "failed", error)
            raise
        recorder._end("finished", None)

    def restore(self, state: FitState, model: nn.Module, optimizer: Optimizer) -> None:
        """Put a resumed training back to its checkpoint; else do nothing.

        Args:
            state: Gets the checkpoint's step, epoch and samples.
            model: Gets its weights and buffers.
            optimizer: Gets its state, but keeps its own settings.

        Raises:
            CheckpointError: The checkpoint is of another model or optimiser.
        """
        if self._checkpoint is None:
            return
        progress = self._checkpoint.progress
        saved_kernel = str(progress.get("identity", {}).get("optimizer_kernel", ""))
        if saved_kernel.partition(" ")[0] not in ("", type(optimizer).__name__):
            raise CheckpointError(
                f"optimizer must be the one that {self.run.path} was trained with; got "
                f"{type(optimizer).__name__}, and its state is of {saved_kernel}."
            )
        try:
            model.load_state_dict(self._checkpoint.model)
            saved = self._checkpoint.optimizer
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({**saved, "param_groups": groups})
            restore_generators(progress["generators"])
            state.step = int(progress["step"])
            state.epoch = int(progress["epoch"])
            state.samples = int(progress["samples"])
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            reason = str(error).replace("\n", " ")
            raise CheckpointError(
                f"the checkpoint of {self.run.path} does not fit: {reason}"
            ) from None
        self._checkpoint = None

    def record_identity(self, identity: Mapping[str, Any]) -> None:
        """Write what the run's last bits depend on, before its first update."""
        self.run.identity = dict(identity)
        if self._folder is not None:
            self._folder.write_status(self.run)

    def record_epoch(self, record: Mapping[str, Any], steps: NDArray[np.void]) -> None:
        """Add an epoch's record and its steps.

        Args:
            record: The history's line.
            steps: Loss and rate of its steps, shape ``(S,)``, dtype ``STEP_DTYPE``.
        """
        self.run.history.append(dict(record))
        self.run.steps = np.concatenate([self.run.steps, steps])
        if self._folder is not None:
            self._folder.append_steps(steps)
            self._folder.append_history(record)

    def record_event(self, kind: str, message: str) -> None:
        """Add an event: a warning, a resume or the like."""
        event = {"time": time.time(), "kind": kind, "message": message}
        self.run.events.append(event)
        if self._folder is not None:
            self._folder.append_event(event)

    def save(self, state: FitState, model: nn.Module, optimizer: Optimizer) -> None:
        """Keep the training's state, on the disk where saving costs little enough.

        The first epoch is always saved; after that as often as keeps saving below
        `SAVE_SHARE` of the time. Between two saves the last and the best state wait in
        memory: a training that ends, fails or is asked to stop writes them.

        Raises:
            CheckpointError: It can't be saved.
        """
        if self._folder is None:
            return
        now = time.perf_counter()
        is_due = (now - self._saved_at) * SAVE_SHARE >= self._save_seconds
        take = _same if is_due else _copy
        checkpoint = Checkpoint(
            model=take(model.state_dict()),
            optimizer=take(optimizer.state_dict()),
            progress={
                "step": state.step,
                "epoch": state.epoch,
                "samples": state.samples,
                "identity": self.run.identity,
                "generators": capture_generators(),
                "history": list(self.run.history),
            },
        )
        best = self.run.best
        if best is not None and best["step"] == state.step:
            self._waiting = [checkpoint]
        else:
            self._waiting = [w for w in self._waiting if _step(w) == self._best_step()]
            self._waiting.append(checkpoint)
        if is_due:
            self._write_waiting()
            self._save_seconds = time.perf_counter() - now
            self._saved_at = time.perf_counter()

    def _best_step(self) -> int | None:
        best = self.run.best
        return None if best is None else int(best["step"])

    def _write_waiting(self) -> None:
        """Save the states that wait; then delete all but the last two and the best."""
        assert self._folder is not None
        folder = self._folder.checkpoints
        for checkpoint in self._waiting:
            generators = pack_generators(checkpoint.progress["generators"])
            progress = {**checkpoint.progress, "generators": generators}
            save_checkpoint(folder, replace(checkpoint, progress=progress))
        self._waiting = []
        steps = [int(path.name[5:]) for path in list_checkpoints(folder)]
        keep = steps[-2:]
        best = self._best_step()
        prune_checkpoints(folder, keep if best is None else [*keep, best])

    def _end(self, status: str, error: BaseException | None) -> None:
        self.run.status = status
        if error is not None and status == "failed":
            self.record_event("failed", f"{type(error).__name__}: {error}")
        if self._folder is None:
            return
        try:
            self._write_waiting()
        finally:
            self._folder.write_status(self.run)
            self._folder.close()


def _step(checkpoint: Checkpoint) -> int:
    return int(checkpoint.progress["step"])


def _same(state: Any) -> Any:
    return state


def _copy(state: Any) -> Any:
    """Copy a state_dict with its tensors, which the next step would change."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: _copy(value) for key, value in state.items()}
    return [_copy(value) for value in state] if isinstance(state, list) else state


def _is_request(error: BaseException) -> bool:
    return isinstance(error, (KeyboardInterrupt, SystemExit))


def _continue_run(run: Run, folder: RunFolder) -> Checkpoint:
    """Fill a run with what its folder holds up to the newest valid checkpoint."""
    try:
        before = Run.load(folder.path)
        path, checkpoint, reasons = newest_checkpoint(folder.checkpoints)
    except RunError:
        folder.close()
        raise
    step = int(checkpoint.progress["step"])
    drop_checkpoints_after(folder.checkpoints, step)
    run.history = list(checkpoint.progress["history"])
    run.steps = before.steps[:step]
    run.events = before.events
    run.events += [_event("damaged checkpoint", reason) for reason in reasons]
    run.events.append(_event("resumed", f"from {path.name}"))
    for name, value in run.identity.items():
        saved = before.identity.get(name)
        if saved != value:
            message = f"{name} was {saved}, is {value}; not bitwise the same run"
            run.events.append(_event("identity changed", message))
    return checkpoint


def _event(kind: str, message: str) -> dict[str, Any]:
    return {"time": time.time(), "kind": kind, "message": message}
