"""A notebook's view of a training: one table, updated in place.

It is drawn by time, so a training of many short epochs sends few messages, and it
shows a limited number of rows, so the saved notebook stays small. Colours are left to
the notebook's theme.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from html import escape
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from handful.extras import import_extra
from handful.train.callbacks import Callback
from handful.train.progress_bar import BestSoFar, Pace, Standing
from handful.train.record_text import (
    LAST_NAMES,
    metric_names,
    write_cell,
    write_record,
    write_short_epoch,
)

if TYPE_CHECKING:
    from handful.train.callbacks import FitState

__all__ = ["Display", "NotebookTable", "find_display"]

REFRESH_SECONDS = 0.5
"""The least time between two drawings of the current epoch."""

EPOCH_SECONDS = 0.1
"""The least time between two drawings for the ends of epochs."""

FIRST_ROWS, BEST_ROWS, LAST_ROWS = 4, 4, 16
"""Rows shown of a long table: with the gaps between them at most 29."""


class Display(Protocol):
    """Shows one output in a notebook, or replaces what it showed."""

    def __call__(self, bundle: Mapping[str, str], *, update: bool) -> None:
        """Show an output.

        Args:
            bundle: MIME type -> content.
            update: Whether it takes the place of the one before.
        """


class NotebookTable(Callback):
    """A table of epochs, and a line for the current one while the training runs.

    Args:
        display: Where to show it.
    """

    sees_each_step: ClassVar[bool] = False

    def __init__(self, display: Display) -> None:
        self._display = display
        self._pace = Pace()
        self._rows = Rows()
        self._is_running = False
        self._drawn = 0.0

    def on_run_start(self, state: FitState) -> None:
        """Show the line of the first epoch."""
        self._rows = Rows()
        self._rows.start(state)
        self._pace.start(state)
        self._draw(state, update=False)
        self._is_running = True

    def on_step(self, state: FitState) -> None:
        """Draw the current epoch anew where it is due."""
        if monotonic() - self._drawn >= REFRESH_SECONDS:
            self._draw(state)

    def on_validation(self, state: FitState, record: Mapping[str, Any]) -> None:
        """Add a validation to the table."""
        self._rows.add(state, record)
        if monotonic() - self._drawn >= EPOCH_SECONDS:
            self._draw(state)

    def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
        """Add the epoch to the table."""
        self._pace.end_epoch(state)
        self.on_validation(state, record)

    def on_run_end(self, state: FitState) -> None:
        """Leave the table, and where a training stopped inside an epoch."""
        if not self._is_running:
            return
        self._is_running = False
        note = ""
        if state.step != self._rows.last_step:
            note = f"ended in epoch {max(1, state.epoch)} at step {state.step}"
        self._show(note, note)

    def _draw(self, state: FitState, *, update: bool = True) -> None:
        now = self._pace.describe(state)
        line = _write_standing(now)
        self._show(f"{_write_bar(now)}{escape(line)}", line, update=update)
        self._drawn = monotonic()

    def _show(self, html: str, text: str, *, update: bool = True) -> None:
        below = f"<div>{html}</div>" if html else ""
        bundle = {
            "text/html": f"{self._rows.write_html()}{below}",
            "text/plain": "\n".join(filter(None, [*self._rows.write_lines(), text])),
        }
        self._display(bundle, update=update)


class Rows:
    """The records so far, and which of them are shown."""

    def __init__(self) -> None:
        self.last_step = 0
        self._epochs: int | None = None
        self._records: list[tuple[dict[str, Any], bool]] = []
        self._best_at: list[int] = []
        self._fields: dict[str, Any] = {}
        self._best = BestSoFar()

    def start(self, state: FitState) -> None:
        """Take what a resumed run has done."""
        self.last_step = state.step
        self._epochs = state.epochs
        self._best.start(state)

    def add(self, state: FitState, record: Mapping[str, Any]) -> None:
        """Add a record."""
        is_best = self._best.improves(record)
        if is_best:
            self._best_at.append(len(self._records))
        self._records.append((dict(record), is_best))
        self.last_step = record.get("step", state.step)
        names = [*metric_names(record), *LAST_NAMES]
        self._fields |= {name: record[name] for name in names if name in record}

    def write_html(self) -> str:
        """Write the table, nothing before the first record."""
        if not self._records:
            return ""
        last = [name for name in LAST_NAMES if name in self._fields]
        names = [*metric_names(self._fields), *last]
        head = "".join(f"<th>{escape(name)}</th>" for name in ("epoch", *names, "best"))
        rows = (self._write_row(item, names) for item in self._visible())
        # Numbers stand below each other; everything else is the theme's.
        style = "text-align:right;font-variant-numeric:tabular-nums"
        return (
            f'<table style="{style}"><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table>"
        )

    def write_lines(self) -> list[str]:
        """Write the visible rows as lines of text."""
        return [
            item if isinstance(item, str) else self._write_line(item)
            for item in self._visible()
        ]

    def _visible(self) -> list[int | str]:
        """Return the rows to show and, between them, how many are not."""
        shown: list[int | str] = []
        before = -1
        for index in _choose(len(self._records), self._best_at):
            if index > before + 1:
                shown.append(f"… {index - before - 1} more")
            shown.append(index)
            before = index
        return shown

    def _write_row(self, item: int | str, names: Sequence[str]) -> str:
        if isinstance(item, str):
            return f'<tr><td colspan="{len(names) + 2}">{item}</td></tr>'
        record, is_best = self._records[item]
        cells = [write_short_epoch(record, self._epochs)]
        cells += [write_cell(name, record) for name in names]
        cells.append("*" if is_best else "")
        row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        is_best_of_all = is_best and item == self._best_at[-1]
        style = ' style="font-weight:bold"' if is_best_of_all else ""
        return f"<tr{style}>{row}</tr>"

    def _write_line(self, index: int) -> str:
        return write_record(self._records[index][0], self._epochs)


def find_display() -> Display | None:
    """Return the display of the notebook that runs this; None outside of one.

    IPython is looked at only where it is loaded already, as it is in a notebook.
    """
    ipython = sys.modules.get("IPython")
    get_shell = getattr(ipython, "get_ipython", None)
    if get_shell is None or not is_notebook_shell(get_shell()):
        return None
    return _CellOutput()


def is_notebook_shell(shell: object) -> bool:
    """Say whether a shell of IPython is that of a notebook: Jupyter's or Colab's."""
    kind = type(shell)
    # Shells that derive from Jupyter's, such as Spyder's, may show no HTML.
    return kind.__name__ == "ZMQInteractiveShell" or (
        (kind.__module__, kind.__name__) == ("google.colab._shell", "Shell")
    )


class _CellOutput:
    """The output of a notebook's cell, shown and updated through IPython."""

    def __init__(self) -> None:
        self._module = import_extra(
            "IPython.display", extra="notebook", purpose="Progress in a notebook"
        )
        self._handle: Any = None

    def __call__(self, bundle: Mapping[str, str], *, update: bool) -> None:
        if update and self._handle is not None:
            self._handle.update(dict(bundle), raw=True)
            return
        self._handle = self._module.display(dict(bundle), raw=True, display_id=True)


def _choose(count: int, best_at: Sequence[int]) -> list[int]:
    """Return the indices of rows to show: all, or the first, the best and the last."""
    if count <= FIRST_ROWS + BEST_ROWS + LAST_ROWS:
        return list(range(count))
    ends = {*range(FIRST_ROWS), *range(count - LAST_ROWS, count)}
    inside = (index for index in reversed(best_at) if index not in ends)
    return sorted({*ends, *islice(inside, BEST_ROWS)})


def _write_bar(now: Standing) -> str:
    return f'<progress max="1" value="{now.done:.3f}"></progress> '


def _write_standing(now: Standing) -> str:
    return " · ".join(filter(None, [now.label, now.count.strip(), now.numbers]))
