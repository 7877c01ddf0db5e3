"""The bar of the current epoch below a growing table of epochs.

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

from handful.train.callbacks import Callback
from handful.train.record_text import (
    LAST_NAMES,
    metric_names,
    monitored_loss,
    write_number,
)

if TYPE_CHECKING:
    from handful.train.callbacks import FitState

__all__ = ["ProgressBar"]

REFRESH_SECONDS = 0.1
"""The least time between two drawings of the bar."""


class ProgressBar(Callback):
    """A growing table of epochs above a bar for the current one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._table = EpochTable(console)
        self._pace = _Pace()
        self._lines = _BarLines()
        self._live: Live | None = None
        self._due = 0.0

    def on_run_start(self, state: FitState) -> None:
        """Show the bar, empty."""
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
        """Draw the bar anew where it is due."""
        if monotonic() >= self._due:
            self._draw(state)

    def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
        """Add the epoch to the table."""
        self._table.add(state, record)
        self._pace.end_epoch(state)
        if monotonic() >= self._due:
            self._draw(state)

    def on_run_end(self, state: FitState) -> None:  # noqa: ARG002
        """Take the bar away; the table stays."""
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


class EpochTable:
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
            self._best = best[monitored_loss(best)]

    def add(self, state: FitState, record: Mapping[str, Any]) -> None:
        names = metric_names(record)
        if not self._columns or not self._seen.issuperset(names):
            self._seen.update(names)
            self._add_header(state, record)
        value = record.get(monitored_loss(record), math.nan)
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
        metrics = metric_names(record)
        ends = {"epoch": max(5, 2 * len(str(state.epochs)) + 1)}
        last = {name: 8 for name in LAST_NAMES if name in record} | {"best": 4}
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
            parts.insert(0, f"loss {write_number(float(state.loss))}")
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


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "lr":
        return f"{value:.3g}"
    if name == "seconds":
        return f"{value:.2f}"
    return write_number(value)


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
