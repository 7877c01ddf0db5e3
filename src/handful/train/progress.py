"""What a training shows while it runs: a bar and a table, or plain lines.

On a terminal, a table grows by a row per epoch and a bar below it shows the current
one; the bar goes away at the end. A notebook has one table that is updated in place.
Elsewhere each epoch is a line of ``name=value``, and so is a validation inside one::

    step=30 epoch=1/10 valid_loss=0.5210
    epoch=1/10 step=45 train_loss=0.8123 valid_loss=0.4100 lr=0.001 seconds=0.12
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from handful.errors import ArgumentError, unknown_choice
from handful.train.callbacks import Callback
from handful.train.progress_bar import ProgressBar, terminal_may_go
from handful.train.progress_notebook import NotebookTable, find_display
from handful.train.record_text import write_epoch, write_number, write_record

if TYPE_CHECKING:
    from handful.train.callbacks import FitState

__all__ = ["make_progress"]

MODES = ("auto", "bar", "lines", "notebook", "off")


def make_progress(
    mode: str = "auto",
    *,
    every: str | int = "epoch",
    batch_line: str | None = None,
    epoch_line: str | None = None,
    console: Console | None = None,
) -> Callback:
    """Make the callback that shows a training's progress.

    Args:
        mode: ``"bar"``; ``"notebook"``, a table in a notebook of Jupyter or Colab and
            lines outside of one; ``"lines"``; ``"off"``; or ``"auto"``: where ``every``
            is ``"epoch"``, the table in a notebook and the bar on a terminal, else
            lines.
        every: What gets a line: ``"epoch"``; ``"batch"`` for each step as well; or a
            whole number N for every N-th step as well. Such a line reads the loss
            back from the device.
        batch_line: Format of a step's line (`str.format`), with the fields ``step``,
            ``epoch``, ``epochs``, ``loss`` and ``lr``; None for
            ``step=10 epoch=1/10 loss=0.1234 lr=0.001``. ``epochs`` is missing in a run
            that only a number of steps limits.
        epoch_line: Format of an epoch's line, with the fields of its history record
            and ``epochs``; None for ours. Tables don't use it, nor do the lines of
            validations inside an epoch.
        console: Where to write; None for the standard output, or a notebook's cell.

    Returns:
        The callback.

    Raises:
        ArgumentError: ``mode``, ``every`` or a format cannot be used, or ``mode`` is
            ``"bar"`` or ``"notebook"`` and ``every`` asks for lines of steps.
    """
    if mode not in MODES:
        raise unknown_choice("mode", mode, MODES)
    steps = _step_interval(every)
    _check_format("batch_line", batch_line, _BATCH_FIELDS)
    _check_format("epoch_line", epoch_line, _AnyField(_EPOCH_FIELDS))
    if mode in ("bar", "notebook") and steps is not None:
        raise ArgumentError(
            f"every must be 'epoch' with the mode {mode!r}; got {every!r}. "
            "Lines of steps need the mode 'lines'."
        )
    if mode == "off":
        return Callback()
    if steps is not None:
        return _StepLines(console or Console(), epoch_line, batch_line, steps)
    table = _make_table(mode, console)
    return _EpochLines(console or Console(), epoch_line) if table is None else table


def _make_table(mode: str, console: Console | None) -> Callback | None:
    """Make the table that a mode shows here, None for lines."""
    # A console that was asked for gets what is written, also in a notebook.
    if mode == "notebook" or (mode == "auto" and console is None):
        display = find_display()
        if display is not None:
            return NotebookTable(display)
    console = Console() if console is None else console
    if mode == "bar" or (mode == "auto" and console.is_terminal):
        return ProgressBar(console)
    return None


class _EpochLines(Callback):
    """A line per epoch."""

    def __init__(self, console: Console, epoch_line: str | None) -> None:
        self._console = console
        self._epoch_line = epoch_line

    def on_run_start(self, state: FitState) -> None:
        if state.epochs is None:
            fields = {k: v for k, v in _EPOCH_FIELDS.items() if k != "epochs"}
            _check_format("epoch_line", self._epoch_line, _AnyField(fields))

    def on_validation(self, state: FitState, record: Mapping[str, Any]) -> None:
        self._write(write_record(record, state.epochs))

    def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
        if self._epoch_line is None:
            self._write(write_record(record, state.epochs))
            return
        fields = _with_epochs(record, state.epochs)
        try:
            self._write(self._epoch_line.format_map(fields))
        except KeyError as error:
            raise ArgumentError(
                f"epoch_line must use fields of the epoch's record, "
                f"{', '.join(fields)}; got {error.args[0]!r}."
            ) from None

    def _write(self, line: str) -> None:
        # Not through rich, which would wrap the line at the width of the terminal.
        with terminal_may_go():
            self._console.file.write(line + "\n")
            self._console.file.flush()


class _StepLines(_EpochLines):
    """A line per epoch and a line every few steps."""

    def __init__(
        self,
        console: Console,
        epoch_line: str | None,
        batch_line: str | None,
        interval: int,
    ) -> None:
        super().__init__(console, epoch_line)
        self._batch_line = batch_line
        self._interval = interval

    def on_run_start(self, state: FitState) -> None:
        super().on_run_start(state)
        if state.epochs is None:
            fields = {k: v for k, v in _BATCH_FIELDS.items() if k != "epochs"}
            _check_format("batch_line", self._batch_line, fields)

    def on_step(self, state: FitState) -> None:
        if state.step % self._interval:
            return
        loss = float(state.loss)
        if self._batch_line is None:
            self._write(
                f"step={state.step} epoch={write_epoch(state.epoch, state.epochs)} "
                f"loss={write_number(loss)} lr={state.lr:g}"
            )
            return
        fields = {"step": state.step, "epoch": state.epoch, "loss": loss}
        fields = _with_epochs({**fields, "lr": state.lr}, state.epochs)
        self._write(self._batch_line.format_map(fields))


_BATCH_FIELDS = {"step": 1, "epoch": 1, "epochs": 1, "loss": 0.5, "lr": 0.5}
_EPOCH_FIELDS = {"epoch": 1, "step": 1, "samples": 1, "epochs": 1}


class _AnyField(dict[str, Any]):
    """Stand-in for a record: it has every field, but for ``epochs`` if not given."""

    def __missing__(self, name: str) -> float:
        if name == "epochs":
            raise KeyError(name)
        return 0.5


def _step_interval(every: str | int) -> int | None:
    """Return after how many steps a line is written, None for never."""
    if every == "epoch":
        return None
    if every == "batch":
        return 1
    text = "" if isinstance(every, bool) else str(every)
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise ArgumentError(
            "every must be 'epoch', 'batch' or a whole number from 1 on; "
            f"got {every!r}."
        )
    return int(text)


def _check_format(name: str, line: str | None, fields: Mapping[str, Any]) -> None:
    """Try a format before the training starts."""
    if line is None:
        return
    try:
        line.format_map(fields)
    except KeyError as error:
        raise unknown_choice(f"a field of {name}", error.args[0], fields) from None
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise ArgumentError(
            f"{name} must be a format such as 'loss {{loss:.4f}}'; "
            f"got {line!r}: {error}."
        ) from None


def _with_epochs(fields: Mapping[str, Any], epochs: int | None) -> dict[str, Any]:
    return {**fields} if epochs is None else {**fields, "epochs": epochs}
