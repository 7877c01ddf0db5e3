"""The bar of the current epoch below a growing table of epochs.

The bar is drawn by time, not by steps: between two drawings a step costs one look at
the clock, and nothing is read back from the device.
"""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from handful.train.callbacks import Callback
from handful.train.record_text import (
    LAST_NAMES,
    metric_names,
    monitored_loss,
    write_cell,
    write_epoch,
    write_number,
    write_short_epoch,
)

if TYPE_CHECKING:
    from handful.train.callbacks import FitState

__all__ = ["BestSoFar", "Pace", "ProgressBar", "Standing", "terminal_may_go"]

REFRESH_SECONDS = 0.1
"""The least time between two drawings of the bar."""


@contextmanager
def terminal_may_go() -> Iterator[None]:
    """Write to a terminal that may have gone away: then nobody reads, and all goes on.

    The training gets a signal of it (SIGHUP), and saves its state.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


class ProgressBar(Callback):
    """A growing table of epochs above a bar for the current one."""

    sees_each_step: ClassVar[bool] = False

    def __init__(self, console: Console) -> None:
        self._console = console
        self._table = EpochTable(console)
        self._pace = Pace()
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

    def on_validation(self, state: FitState, record: Mapping[str, Any]) -> None:
        """Add a validation to the table."""
        self._table.add(state, record)
        if monotonic() >= self._due:
            self._draw(state)

    def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
        """Add the epoch to the table."""
        self._pace.end_epoch(state)
        self.on_validation(state, record)

    def on_run_end(self, state: FitState) -> None:  # noqa: ARG002
        """Take the bar away; the table stays."""
        live, self._live = self._live, None
        with terminal_may_go():
            self._table.print_pending()
        if live is not None:
            with terminal_may_go():
                live.stop()

    def _draw(self, state: FitState) -> None:
        self._lines.standing = self._pace.describe(state)
        with terminal_may_go():
            # Printing above the bar draws it anew, so one of the two is enough.
            if not self._table.print_pending() and self._live is not None:
                self._live.refresh()
        self._due = monotonic() + REFRESH_SECONDS


class BestSoFar:
    """Which records have the least monitored loss so far."""

    def __init__(self) -> None:
        self._loss = math.inf

    def start(self, state: FitState) -> None:
        """Go on from the best record of a resumed run."""
        best = state.run.best
        self._loss = math.inf if best is None else best[monitored_loss(best)]

    def improves(self, record: Mapping[str, Any]) -> bool:
        """Take a record, and say whether it is the best."""
        loss = record.get(monitored_loss(record), math.nan)
        if not loss < self._loss:
            return False
        self._loss = loss
        return True


class EpochTable:
    """Rows of epochs, kept until there is time to print them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._columns: dict[str, int] = {}
        self._fields: dict[str, Any] = {}
        self._pending: list[Text] = []
        self._best = BestSoFar()

    def start(self, state: FitState) -> None:
        self._best.start(state)

    def add(self, state: FitState, record: Mapping[str, Any]) -> None:
        epoch = write_short_epoch(record, state.epochs)
        shown = {name: record[name] for name in _column_names(record)}
        is_new = not shown.keys() <= self._fields.keys()
        self._fields |= shown
        if is_new or len(epoch) > self._columns.get("epoch", 0):
            self._add_header(_epoch_width(state, record))
        is_best = self._best.improves(record)
        cells = {name: write_cell(name, record) for name in self._columns}
        cells |= {"epoch": epoch, "best": "*" if is_best else ""}
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

    def _add_header(self, epoch_width: int) -> None:
        metrics = metric_names(self._fields)
        ends = {"epoch": max(epoch_width, self._columns.get("epoch", 0))}
        last = {name: 8 for name in LAST_NAMES if name in self._fields} | {"best": 4}
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


@dataclass(frozen=True)
class Standing:
    """Where a training stands, written out."""

    label: str = ""
    """``epoch 2/10``, the number right-aligned."""

    count: str = ""
    """Steps of the epoch or of the run, ``15/45``; ``step 15`` without an end."""

    numbers: str = ""
    """Loss, rates and the time left."""

    done: float = 0.0
    """Steps done of those in ``count``, in [0, 1]."""


class Pace:
    """How fast a training goes and how long it still takes."""

    def start(self, state: FitState) -> None:
        """Start the clock."""
        self._began = self._since = monotonic()
        self._first_step = self._since_step = state.step
        self._since_samples = state.samples
        self._epoch_step = state.step
        self._steps_per_epoch = state.steps_per_epoch

    def end_epoch(self, state: FitState) -> None:
        """Take the length of an epoch, and start its rates anew."""
        self._epoch_step = state.step
        if state.steps_per_epoch is None:
            self._steps_per_epoch = round(state.step / max(1, state.epoch))
        # Rates are those of the current epoch, or of several where epochs are short.
        if monotonic() - self._since >= 1.0:
            self._since = monotonic()
            self._since_step, self._since_samples = state.step, state.samples

    def describe(self, state: FitState) -> Standing:
        """Write out where the training stands; reads the last loss back."""
        count, total = self._progress(state)
        epoch = write_epoch(max(1, state.epoch), state.epochs)
        full = write_epoch(state.epochs or 1, state.epochs)
        return Standing(
            label=f"epoch {epoch.rjust(len(full))}",
            count=f"{count:{len(str(total))}}/{total}" if total else f"step {count}",
            numbers="  ".join(self._numbers(state)),
            done=min(1.0, count / total) if total else 0.0,
        )

    def _progress(self, state: FitState) -> tuple[int, int | None]:
        """Return what the bar counts: steps done, and of how many."""
        if state.epochs is None and state.max_steps:
            return state.step, state.max_steps
        if state.steps_per_epoch is None:
            return state.step - self._epoch_step, self._steps_per_epoch
        # Right also for a run that is resumed in the middle of an epoch.
        before = max(0, state.epoch - 1) * state.steps_per_epoch
        return state.step - before, self._steps_per_epoch

    def _numbers(self, state: FitState) -> Iterator[str]:
        if state.loss is not None:
            yield f"loss {write_number(float(state.loss))}"
        seconds = monotonic() - self._since
        for unit, since, now in (
            ("steps", self._since_step, state.step),
            ("samples", self._since_samples, state.samples),
        ):
            if now > since and seconds > 0:
                yield f"{_short((now - since) / seconds)} {unit}/s"
        done = state.step - self._first_step
        total = _total_steps(state, self._steps_per_epoch)
        if done and total:
            left = (monotonic() - self._began) * max(0, total - state.step) / done
            yield f"{_clock(left)} left"


class _BarLines:
    """The bar in one line and its numbers in a second."""

    def __init__(self) -> None:
        self.standing = Standing()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        # One column stays free: a full line would make some terminals wrap.
        now = self.standing
        width = options.max_width - 1 - len(now.label) - len(now.count) - 4
        full = round(max(0, width) * now.done)
        mark, rest = ("#", "-") if options.ascii_only else ("━", "━")
        yield Text.assemble(
            f"{now.label}  ",
            (mark * full, "green"),
            (rest * (width - full), "bright_black"),
            f"  {now.count}\n",
            " " * (len(now.label) + 2),
            now.numbers,
            no_wrap=True,
            overflow="crop",
        )


def _column_names(record: Mapping[str, Any]) -> list[str]:
    return [*metric_names(record), *(name for name in LAST_NAMES if name in record)]


def _total_steps(state: FitState, steps_per_epoch: int | None) -> int | None:
    """Return the steps of the whole run, None where they are not known."""
    ends = [state.max_steps]
    if state.epochs and steps_per_epoch:
        ends.append(state.epochs * steps_per_epoch)
    return min((end for end in ends if end), default=None)


def _epoch_width(state: FitState, record: Mapping[str, Any]) -> int:
    """Return the width of the table's first column: for all rows to come, or so."""
    epochs = state.epochs or 10 * record["epoch"]
    if not record.get("partial"):
        return max(5, 2 * len(str(epochs)) + 1)
    total = _total_steps(state, state.steps_per_epoch) or 10 * record["step"]
    return max(5, len(str(epochs)) + len(str(total)) + 3)


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
