"""What a training shows while it runs: a bar and a table, or plain lines.

On a terminal, a table grows by a row per epoch and a bar below it shows the current
one; the bar goes away at the end. Elsewhere each epoch is a line of ``name=value``::

    epoch=1/10 step=45 train_loss=0.8123 valid_loss=0.4100 lr=0.001 seconds=0.12
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from handful.errors import ArgumentError, unknown_choice
from handful.train.callbacks import Callback
from handful.train.progress_bar import ProgressBar
from handful.train.record_text import metric_names, write_number

if TYPE_CHECKING:
    from handful.train.callbacks import FitState

__all__ = ["make_progress"]

MODES = ("auto", "bar", "lines", "off")


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
        mode: ``"bar"``, ``"lines"``, ``"off"``, or ``"auto"``: the bar where the
            standard output is a terminal and ``every`` is ``"epoch"``, else lines.
        every: What gets a line: ``"epoch"``; ``"batch"`` for each step as well; or a
            whole number N for every N-th step as well. Such a line reads the loss
            back from the device.
        batch_line: Format of a step's line (`str.format`), with the fields ``step``,
            ``epoch``, ``epochs``, ``loss`` and ``lr``; None for
            ``step=10 epoch=1/10 loss=0.1234 lr=0.001``.
        epoch_line: Format of an epoch's line, with the fields of its history record
            and ``epochs``; None for ours. The table of the bar does not use it.
        console: Where to write; None for the standard output.

    Returns:
        The callback.

    Raises:
        ArgumentError: ``mode``, ``every`` or a format cannot be used, or ``mode`` is
            ``"bar"`` and ``every`` asks for lines of steps.
    """
    if mode not in MODES:
        raise unknown_choice("mode", mode, MODES)
    steps = _step_interval(every)
    _check_format("batch_line", batch_line, _batch_fields(1, 1, 1, 0.5, 0.5))
    _check_format("epoch_line", epoch_line, _AnyField(epoch=1, step=1, samples=1))
    if mode == "bar" and steps is not None:
        raise ArgumentError(
            f"every must be 'epoch' with the mode 'bar'; got {every!r}. "
            "Lines of steps need the mode 'lines'."
        )
    if mode == "off":
        return Callback()
    console = Console() if console is None else console
    if mode == "bar" or (mode == "auto" and steps is None and console.is_terminal):
        return ProgressBar(console)
    if steps is None:
        return _EpochLines(console, epoch_line)
    return _StepLines(console, epoch_line, batch_line, steps)


class _EpochLines(Callback):
    """A line per epoch."""

    def __init__(self, console: Console, epoch_line: str | None) -> None:
        self._console = console
        self._epoch_line = epoch_line

    def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
        if self._epoch_line is None:
            self._write(_epoch_text(record, state.epochs))
            return
        fields = {**record, "epochs": state.epochs}
        try:
            self._write(self._epoch_line.format_map(fields))
        except KeyError as error:
            raise ArgumentError(
                f"epoch_line must use fields of the epoch's record, "
                f"{', '.join(fields)}; got {error.args[0]!r}."
            ) from None

    def _write(self, line: str) -> None:
        # Not through rich, which would wrap the line at the width of the terminal.
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

    def on_step(self, state: FitState) -> None:
        if state.step % self._interval:
            return
        loss = float(state.loss)
        if self._batch_line is None:
            self._write(
                f"step={state.step} epoch={state.epoch}/{state.epochs} "
                f"loss={write_number(loss)} lr={state.lr:g}"
            )
            return
        fields = _batch_fields(state.step, state.epoch, state.epochs, loss, state.lr)
        self._write(self._batch_line.format_map(fields))


class _AnyField(dict[str, Any]):
    """Stand-in for a record: it has every field."""

    def __missing__(self, name: str) -> float | int:
        return 1 if name == "epochs" else 0.5


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


def _batch_fields(
    step: int, epoch: int, epochs: int, loss: float, lr: float
) -> dict[str, Any]:
    return {"step": step, "epoch": epoch, "epochs": epochs, "loss": loss, "lr": lr}


def _epoch_text(record: Mapping[str, Any], epochs: int) -> str:
    fields = [f"epoch={record['epoch']}/{epochs}"]
    if "step" in record:
        fields.append(f"step={record['step']}")
    fields += [f"{name}={write_number(record[name])}" for name in metric_names(record)]
    if "lr" in record:
        fields.append(f"lr={record['lr']:g}")
    if "seconds" in record:
        fields.append(f"seconds={record['seconds']:.2f}")
    return " ".join(fields)
