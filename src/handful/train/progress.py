"""What a training shows while it runs: a bar and a table, or plain lines.

On a terminal, a table grows by a row per epoch and a bar below it shows the current
one; the bar goes away at the end. Elsewhere each epoch is a line of ``name=value``::

    epoch=1/10 step=45 train_loss=0.8123 valid_loss=0.4100 lr=0.001 seconds=0.12

The bar is drawn by time, not by steps: between two drawings a step costs one look at
the clock, and nothing is read back from the device.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from handful.errors import ArgumentError, unknown_choice
from handful.train.callbacks import Callback

if TYPE_CHECKING:
    from handful.train.callbacks import FitState

__all__ = ["make_progress"]

MODES = ("auto", "bar", "lines", "off")
REFRESH_SECONDS = 0.1
"""The least time between two drawings of the bar."""

_COUNTS = ("epoch", "step", "samples")
_LAST = ("lr", "seconds")


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
        return _Bar(console)
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
                f"loss={_number(loss)} lr={state.lr:g}"
            )
            return
        fields = _batch_fields(state.step, state.epoch, state.epochs, loss, state.lr)
        self._write(self._batch_line.format_map(fields))


class _Bar(Callback):
    """A growing table of epochs above a bar for the current one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._table = _EpochTable(console)
        self._pace = _Pace()
        self._lines = _BarLines()
        self._live: Live | None = None
        self._due = 0.0

    def on_run_start(self, state: FitState) -> None:
        self._table.start(state)
        self._pace.start(state)
        # What is sent to a file stays there: only a terminal's stderr is taken over.
        self._live = Live(
            self._lines,
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start()
        self._draw(state)

    def on_step(self, state: FitState) -> None:
        if monotonic() >= self._due:
            self._draw(state)

    def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
        self._table.add(state, record)
        self._pace.end_epoch(state)
        if monotonic() >= self._due:
            self._draw(state)

    def on_run_end(self, state: FitState) -> None:  # noqa: ARG002
        self._table.print_pending()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, state: FitState) -> None:
        self._pace.describe(state, self._lines)
        # Printing above the bar draws it anew, so one of the two is enough.
        if not self._table.print_pending() and self._live is not None:
            self._live.refresh()
        self._due = monotonic() + REFRESH_SECONDS


class _EpochTable:
    """Rows of epochs, kept until there is time to print them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._columns: dict[str, int] = {}
        self._seen: set[str] = set()
        self._pending: list[Text] = []
        self._best = math.inf

    def start(self, state: FitState) -> None:
        best = state.run.best
        if best is not None:
            self._best = best[_monitor(best)]

    def add(self, state: FitState, record: Mapping[str, Any]) -> None:
        names = _metric_names(record)
        if not self._columns or not self._seen.issuperset(names):
            self._seen.update(names)
            self._add_header(state, record)
        value = record.get(_monitor(record), math.nan)
        is_best = value < self._best
        self._best = value if is_best else self._best
        cells = {name: _cell(name, record.get(name)) for name in self._columns}
        cells["epoch"] = f"{record['epoch']}/{state.epochs}"
        cells["best"] = "*" if is_best else ""
        row = self._align(cells)
        if is_best:
            row.stylize("green", len(row) - 1)
        self._pending.append(row)

    def print_pending(self) -> bool:
        """Print what waits, and say whether anything did."""
        if not self._pending:
            return False
        rows, self._pending = Text("\n").join(self._pending), []
        self._console.print(rows, no_wrap=True, overflow="ignore", crop=False)
        return True

    def _add_header(self, state: FitState, record: Mapping[str, Any]) -> None:
        metrics = _metric_names(record)
        ends = {"epoch": max(5, 2 * len(str(state.epochs)) + 1)}
        last = {name: 8 for name in _LAST if name in record} | {"best": 4}
        left_out: list[str] = []
        while True:
            columns = ends | {name: max(9, len(name)) for name in metrics} | last
            width = sum(columns.values()) + 2 * (len(columns) - 1)
            if width <= self._console.width or not metrics:
                break
            left_out.insert(0, metrics.pop())
        self._columns = columns
        if left_out:
            note = f"no room for {', '.join(left_out)}: see the run's history"
            self._pending.append(Text(note, "dim"))
        header = self._align({name: name for name in columns})
        header.stylize("bold")
        self._pending.append(header)

    def _align(self, cells: Mapping[str, str]) -> Text:
        texts = (cells[name].rjust(width) for name, width in self._columns.items())
        return Text("  ".join(texts))


class _Pace:
    """How fast a training goes and how long it still takes."""

    def start(self, state: FitState) -> None:
        self._began = self._since = monotonic()
        self._first_step = self._since_step = state.step
        self._since_samples = state.samples
        self._epoch_step = state.step
        self._steps_per_epoch = state.steps_per_epoch

    def end_epoch(self, state: FitState) -> None:
        self._epoch_step = state.step
        if state.steps_per_epoch is None:
            self._steps_per_epoch = round(state.step / max(1, state.epoch))
        # Rates are those of the current epoch, or of several where epochs are short.
        if monotonic() - self._since >= 1.0:
            self._since = monotonic()
            self._since_step, self._since_samples = state.step, state.samples

    def describe(self, state: FitState, lines: _BarLines) -> None:
        """Write into the lines where the training stands."""
        total = self._steps_per_epoch
        count = self._epoch_steps(state)
        lines.label = (
            f"epoch {max(1, state.epoch):{len(str(state.epochs))}}/{state.epochs}"
        )
        lines.count = f"{count:{len(str(total))}}/{total}" if total else f"step {count}"
        lines.done = min(1.0, count / total) if total else 0.0
        parts = [self._time_left(state)]
        if state.loss is not None:
            parts.insert(0, f"loss {_number(float(state.loss))}")
        seconds = monotonic() - self._since
        for unit, since, now in (
            ("steps", self._since_step, state.step),
            ("samples", self._since_samples, state.samples),
        ):
            if now > since and seconds > 0:
                parts.insert(-1, f"{_short((now - since) / seconds)} {unit}/s")
        lines.numbers = "  ".join(part for part in parts if part)

    def _epoch_steps(self, state: FitState) -> int:
        if state.steps_per_epoch is None:
            return state.step - self._epoch_step
        # Right also for a run that is resumed in the middle of an epoch.
        return state.step - max(0, state.epoch - 1) * state.steps_per_epoch

    def _time_left(self, state: FitState) -> str:
        done = state.step - self._first_step
        if not done or not self._steps_per_epoch:
            return ""
        steps = max(0, state.epochs * self._steps_per_epoch - state.step)
        return f"{_clock((monotonic() - self._began) * steps / done)} left"


class _BarLines:
    """The bar in one line and its numbers in a second."""

    def __init__(self) -> None:
        self.label = ""
        self.count = ""
        self.numbers = ""
        self.done = 0.0

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        # One column stays free: a full line would make some terminals wrap.
        width = options.max_width - 1 - len(self.label) - len(self.count) - 4
        full = round(max(0, width) * self.done)
        mark, rest = ("#", "-") if options.ascii_only else ("━", "━")
        yield Text.assemble(
            f"{self.label}  ",
            (mark * full, "green"),
            (rest * (width - full), "bright_black"),
            f"  {self.count}\n",
            " " * (len(self.label) + 2),
            self.numbers,
            no_wrap=True,
            overflow="crop",
        )


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
    fields += [f"{name}={_number(record[name])}" for name in _metric_names(record)]
    if "lr" in record:
        fields.append(f"lr={record['lr']:g}")
    if "seconds" in record:
        fields.append(f"seconds={record['seconds']:.2f}")
    return " ".join(fields)


def _metric_names(record: Mapping[str, Any]) -> list[str]:
    """Return the names of a record's losses and metrics: training, validation, rest."""
    names = [
        name
        for name, value in record.items()
        if name not in _COUNTS + _LAST and isinstance(value, int | float)
    ]
    rank = {"train": 0, "valid": 1}
    return sorted(names, key=lambda name: rank.get(name.partition("_")[0], 2))


def _monitor(record: Mapping[str, Any]) -> str:
    return "valid_loss" if "valid_loss" in record else "train_loss"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "lr":
        return f"{value:.3g}"
    if name == "seconds":
        return f"{value:.2f}"
    return _number(value)


def _number(value: float) -> str:
    """Write a loss or metric in at most nine characters, or ten below zero."""
    if isinstance(value, int):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e4 or not math.isfinite(value):
        return f"{value:.4f}"
    return f"{value:.3e}"


def _short(rate: float) -> str:
    """Write a rate with a suffix: 9.4, 812, 26k, 1.2M."""
    for suffix in ("", "k", "M"):
        if rate < 999.5:
            return f"{rate:.1f}{suffix}" if rate < 9.95 else f"{rate:.0f}{suffix}"
        rate /= 1000
    return f"{rate:.0f}G"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
