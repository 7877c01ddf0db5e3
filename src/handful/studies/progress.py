"""What a study shows while it runs: a bar with the best so far, or a line a trial."""

from __future__ import annotations

import math
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from handful.errors import unknown_choice
from handful.runs.study_row import Row, format_settings
from handful.train.record_text import write_number

MODES = ("auto", "bar", "lines", "off")


class StudyProgress:
    """Shows nothing; the base of those that do.

    Args:
        name: The value by which the best trial is known, or None before one is.
        is_upward: Whether more of it is better.
    """

    def __init__(self, name: str, *, is_upward: bool) -> None:
        self.name = name
        self.best: Row | None = None
        self._sign = -1.0 if is_upward else 1.0

    def __enter__(self) -> StudyProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def start(self, rows: list[Row], total: int) -> None:  # noqa: ARG002
        """Take the rows that are there already."""
        for row in rows:
            self._look(row)

    def add(self, row: Row) -> None:
        """Take a row that has come."""
        self._look(row)

    def _look(self, row: Row) -> None:
        value = self._sign * row.final.get(self.name, math.nan)
        if row.status != "finished" or math.isnan(value):
            return
        if self.best is None or value < self._sign * self.best.final[self.name]:
            self.best = row


class StudyLines(StudyProgress):
    """A line for each trial that ends."""

    def __init__(self, console: Console, name: str, *, is_upward: bool) -> None:
        super().__init__(name, is_upward=is_upward)
        self._console = console
        self._done = self._total = 0

    def start(self, rows: list[Row], total: int) -> None:
        """Say how many trials are done already."""
        super().start(rows, total)
        self._done, self._total = len(rows), total
        if rows:
            self._write(f"resumed {len(rows)}/{total} trials")

    def add(self, row: Row) -> None:
        """Write a line."""
        super().add(row)
        self._done += 1
        parts = [f"trial={self._done}/{self._total}", format_settings(row.settings)]
        parts += [f"seed={row.seed}", f"status={row.status}"]
        parts += [f"{n}={write_number(value)}" for n, value in row.final.items()]
        parts.append(f"seconds={row.seconds:.3g}")
        if row.reason is not None:
            parts.append(f"reason={' '.join(row.reason.split())!r}")
        self._write(" ".join(parts))

    def _write(self, line: str) -> None:
        # Not through rich, which would wrap the line at the width of the terminal.
        self._console.file.write(line + "\n")
        self._console.file.flush()


class StudyBar(StudyProgress):
    """A bar of trials done, and below it the best so far."""

    def __init__(self, console: Console, name: str, *, is_upward: bool) -> None:
        super().__init__(name, is_upward=is_upward)
        # The best takes what room is left, so that it alone is cut where that is short.
        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._bar = Progress(
            TextColumn("trials"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            TextColumn("{task.fields[best]}", table_column=rest),
            console=console,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("trials", best="", total=None)

    def __enter__(self) -> StudyProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def start(self, rows: list[Row], total: int) -> None:
        """Set the bar to what is done already."""
        super().start(rows, total)
        self._bar.update(self._task, total=total, completed=len(rows))
        self._describe()

    def add(self, row: Row) -> None:
        """Move the bar."""
        super().add(row)
        self._bar.advance(self._task)
        self._describe()

    def _describe(self) -> None:
        if self.best is not None:
            value = write_number(self.best.final[self.name])
            text = f"best {self.name} {value} ({format_settings(self.best.settings)})"
            self._bar.update(self._task, best=text)


def check_progress(mode: str) -> str:
    """Return the name of a way to show progress.

    Raises:
        ArgumentError: There is none of that name.
    """
    if mode not in MODES:
        raise unknown_choice("progress", mode, MODES)
    return mode


def make_study_progress(
    mode: str, name: str, *, is_upward: bool, console: Console | None = None
) -> StudyProgress:
    """Make what shows a study's progress.

    Args:
        mode: ``"bar"``, ``"lines"``, ``"off"``, or ``"auto"``: the bar on a terminal,
            else lines.
        name: The value by which the best trial is known.
        is_upward: Whether more of it is better.
        console: Where to write; None for the standard output.
    """
    if mode == "off":
        return StudyProgress(name, is_upward=is_upward)
    console = Console() if console is None else console
    is_bar = mode == "bar" or (mode == "auto" and console.is_terminal)
    kind = StudyBar if is_bar else StudyLines
    return kind(console, name, is_upward=is_upward)
