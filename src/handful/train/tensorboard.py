"""TensorBoard: a training's numbers as scalars that TensorBoard draws."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from handful.errors import ArgumentError, RunError
from handful.extras import import_extra
from handful.train.callbacks import Callback

if TYPE_CHECKING:
    from handful.train.callbacks import FitState

__all__ = ["TensorBoard"]

BLOCK_STEPS = 100
"""Steps whose losses are read back from the device at once."""


class TensorBoard(Callback):
    """Writes scalars for TensorBoard: ``tensorboard --logdir FOLDER``.

    ``step/loss`` and ``step/lr`` are those of single steps; every number of a history
    record has its own name (``valid_loss``) and stands at the record's ``step``. Losses
    stay on the device until a block of 100 is read back at once, an epoch ends or the
    run does; every record is on the disk before the training goes on.

    A run that starts or is resumed at step s hides what the folder holds for the steps
    after s, so that none is shown twice. After a kill, up to 100 steps before a resume
    in the middle of an epoch may be missing here; the run's own files have them.

    Args:
        folder: Where to write; it is made. Give each run its own.
        every: Write every N-th step, N from 1 on.

    Raises:
        ArgumentError: ``every`` is no such number.
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path, *, every: int = 1) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ArgumentError(
                f"every must be a whole number from 1 on; got {every!r}. "
                "It counts optimisation steps."
            )
        self.folder = Path(folder)
        self.every = every
        self._module = _import_writer()
        self._writer: Any = None
        self._losses: list[Tensor] = []
        self._rows: list[tuple[int, float, float]] = []

    def on_run_start(self, state: FitState) -> None:
        """Open the folder.

        Raises:
            RunError: It can't be written.
        """
        self._losses, self._rows = [], []
        try:
            # With TensorFlow installed, the writer's own errors are of its kinds.
            self.folder.mkdir(parents=True, exist_ok=True)
            self._writer = self._module.SummaryWriter(
                str(self.folder), purge_step=state.step + 1
            )
        except OSError as error:
            raise RunError(
                f"folder must be one that TensorBoard's files can be written to; got "
                f"{str(self.folder)!r}: {error.strerror}."
            ) from None

    def on_step(self, state: FitState) -> None:
        """Keep the step's loss, which is read back with others."""
        if state.step % self.every:
            return
        # An engine may write the next loss into the same tensor.
        self._losses.append(state.loss.detach().clone())
        self._rows.append((state.step, state.lr, time.time()))
        if len(self._rows) >= BLOCK_STEPS:
            self._write_steps()

    def on_validation(self, state: FitState, record: Mapping[str, Any]) -> None:
        """Write what `on_epoch_end` writes."""
        self.on_epoch_end(state, record)

    def on_epoch_end(
        self,
        state: FitState,  # noqa: ARG002
        record: Mapping[str, Any],
    ) -> None:
        """Write the steps that wait and the record's numbers."""
        self._write_steps()
        for name, value in record.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and name != "step":
                self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def on_run_end(self, state: FitState) -> None:  # noqa: ARG002
        """Write what waits and close the files, also after an error."""
        if self._writer is None:
            return
        try:
            self._write_steps()
        finally:
            self._writer.close()
            self._writer = None

    def _write_steps(self) -> None:
        if not self._losses:
            return
        losses = torch.stack(self._losses).float().tolist()
        rows, self._rows, self._losses = self._rows, [], []
        for loss, (step, lr, now) in zip(losses, rows, strict=True):
            self._writer.add_scalar("step/loss", loss, step, walltime=now)
            self._writer.add_scalar("step/lr", lr, step, walltime=now)


def _import_writer() -> Any:
    purpose = "Writing scalars for TensorBoard"
    # First, so that an error names the package that is missing.
    import_extra("tensorboard", extra="tensorboard", purpose=purpose)
    return import_extra("torch.utils.tensorboard", extra="tensorboard", purpose=purpose)
