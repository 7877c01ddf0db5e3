"""A notebook's table: one output, updated in place, that stays small."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from handful.runs.run import Run
from handful.train.callbacks import FitState
from handful.train.progress_notebook import (
    NotebookTable,
    find_display,
    is_notebook_shell,
)

STEPS = 4


class Outputs:
    """A cell's outputs: what was shown, and how often it was replaced."""

    def __init__(self) -> None:
        self.shown: list[Mapping[str, str]] = []
        self.updates = 0

    def __call__(self, bundle: Mapping[str, str], *, update: bool) -> None:
        if update:
            self.shown[-1] = bundle
            self.updates += 1
        else:
            self.shown.append(bundle)

    @property
    def html(self) -> str:
        return self.shown[-1]["text/html"]

    @property
    def lines(self) -> list[str]:
        return self.shown[-1]["text/plain"].splitlines()

    @property
    def rows(self) -> list[list[str]]:
        """The table's cells as text, the header first."""
        rows = re.findall(r"<tr.*?>(.*?)</tr>", self.html)
        return [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in rows]


def fit(
    outputs: Outputs,
    losses: list[float],
    *,
    on_step: Callable[[FitState], None] = lambda _: None,
    state: FitState | None = None,
    **fields: Any,
) -> FitState:
    """Call the table as a training of some epochs would."""
    table = NotebookTable(outputs)
    if state is None:
        state = FitState(run=Run(), epochs=len(losses), steps_per_epoch=STEPS)
    table.on_run_start(state)
    try:
        for state.epoch, state.loss in enumerate(losses, start=1):
            for _ in range(STEPS):
                state.step += 1
                table.on_step(state)
                on_step(state)
            record = {"epoch": state.epoch, "step": state.step}
            table.on_epoch_end(state, {**record, "train_loss": state.loss, **fields})
    finally:
        table.on_run_end(state)
    return state


@pytest.fixture
def always_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw at every occasion, as if time went by."""
    monkeypatch.setattr("handful.train.progress_notebook.REFRESH_SECONDS", 0.0)
    monkeypatch.setattr("handful.train.progress_notebook.EPOCH_SECONDS", 0.0)


def test_a_run_leaves_one_table_with_a_row_per_epoch() -> None:
    outputs = Outputs()
    fit(outputs, [0.5, 0.75, 0.25], lr=0.001, seconds=1.5)
    assert len(outputs.shown) == 1
    assert outputs.rows == [
        ["epoch", "train_loss", "lr", "seconds", "best"],
        ["1/3", "0.5000", "0.001", "1.50", "*"],
        ["2/3", "0.7500", "0.001", "1.50", ""],
        ["3/3", "0.2500", "0.001", "1.50", "*"],
    ]
    assert outputs.html.endswith("</table>")


def test_the_table_is_there_as_text_too() -> None:
    outputs = Outputs()
    fit(outputs, [0.5, 0.25])
    assert outputs.lines == [
        "epoch=1/2 step=4 train_loss=0.5000",
        "epoch=2/2 step=8 train_loss=0.2500",
    ]


def test_only_the_best_row_of_all_is_bold() -> None:
    outputs = Outputs()
    fit(outputs, [0.5, 0.25, 0.75])
    assert re.findall(r'<tr style="font-weight:bold"><td>(.*?)</td>', outputs.html) == [
        "2/3"
    ]


def test_colours_are_left_to_the_theme() -> None:
    outputs = Outputs()
    fit(outputs, [0.5, 0.25])
    assert "text-align:right" in outputs.html
    assert "color" not in outputs.html
    assert "background" not in outputs.html


def test_many_fast_epochs_are_drawn_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(
        "handful.train.progress_notebook.monotonic", lambda: next(clock) / 1000
    )
    outputs = Outputs()
    fit(outputs, [1 / epoch for epoch in range(1, 201)])
    # One look at the clock per millisecond: 200 epochs in about a second.
    assert 5 < outputs.updates < 15


@pytest.mark.usefixtures("always_drawn")
def test_while_it_runs_the_current_epoch_stands_below_the_table() -> None:
    outputs, seen = Outputs(), []
    fit(
        outputs,
        [0.5, 0.25],
        on_step=lambda _: seen.append((outputs.html, outputs.lines[-1])),
    )
    html, line = seen[5]
    assert re.match(r"epoch 2/2 · 2/4 · loss 0\.2500  .* steps/s  0:00 left", line)
    assert '<progress max="1" value="0.500"></progress> epoch 2/2 ·' in html
    assert len(outputs.shown) == 1
    assert "progress" not in outputs.html


def test_between_two_drawings_no_loss_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handful.train.progress_notebook.REFRESH_SECONDS", math.inf)
    monkeypatch.setattr("handful.train.progress_notebook.EPOCH_SECONDS", math.inf)
    outputs = Outputs()
    table = NotebookTable(outputs)
    state = FitState(run=Run(), epochs=1, steps_per_epoch=STEPS, epoch=1)
    table.on_run_start(state)
    state.step, state.loss = 1, "reading this as a number would fail"
    table.on_step(state)
    table.on_epoch_end(state, {"epoch": 1, "step": 1, "train_loss": 0.5})
    table.on_run_end(state)
    assert outputs.updates == 1


def test_a_long_run_shows_first_best_and_last_rows() -> None:
    outputs = Outputs()
    losses = [1.0] * 200
    for epoch, loss in ((20, 0.9), (50, 0.8), (80, 0.7), (120, 0.6), (121, 0.5)):
        losses[epoch - 1] = loss
    fit(outputs, losses)
    first = [row[0].removesuffix("/200") for row in outputs.rows[1:]]
    assert first == [
        *("1", "2", "3", "4", "… 45 more", "50", "… 29 more", "80"),
        *("… 39 more", "120", "121", "… 63 more"),
        *map(str, range(185, 201)),
    ]
    assert len(outputs.lines) == len(first)


@pytest.mark.parametrize("num_epochs", [1, 24, 25, 30, 100, 2000])
def test_at_most_thirty_rows_are_visible(num_epochs: int) -> None:
    outputs = Outputs()
    fit(
        outputs, [1.0 if epoch % 9 else 1 / epoch for epoch in range(1, 1 + num_epochs)]
    )
    rows = outputs.rows[1:]
    assert len(rows) <= 30
    hidden = sum(int(row[0].split()[1]) for row in rows if len(row) == 1)
    assert hidden + sum(len(row) > 1 for row in rows) == num_epochs
    assert len(outputs.html) < 6000


def test_metric_names_are_escaped() -> None:
    outputs = Outputs()
    fit(outputs, [0.5], **{"valid_<b>": 0.25})
    assert "valid_&lt;b&gt;" in outputs.html
    assert "<b>" not in outputs.html


def test_an_error_leaves_the_table_and_says_where_it_ended() -> None:
    outputs = Outputs()

    def on_step(state: FitState) -> None:
        if state.step == 6:
            raise KeyboardInterrupt("at step 6")

    with pytest.raises(KeyboardInterrupt, match="at step 6"):
        fit(outputs, [0.5, 0.25], on_step=on_step)
    assert outputs.lines == [
        "epoch=1/2 step=4 train_loss=0.5000",
        "ended in epoch 2 at step 6",
    ]
    assert outputs.html.endswith("</table><div>ended in epoch 2 at step 6</div>")


def test_a_run_that_never_started_shows_nothing() -> None:
    outputs = Outputs()
    table = NotebookTable(outputs)
    state = FitState(run=Run(), epochs=1, steps_per_epoch=STEPS)
    table.on_run_end(state)
    assert outputs.shown == []
    table.on_run_start(state)
    table.on_run_end(state)
    table.on_run_end(state)
    assert outputs.updates == 1


def test_a_second_run_has_a_table_of_its_own() -> None:
    outputs = Outputs()
    table = NotebookTable(outputs)
    for loss in (0.5, 0.75):
        state = FitState(run=Run(), epochs=1, steps_per_epoch=1, epoch=1, step=1)
        table.on_run_start(state)
        table.on_epoch_end(state, {"epoch": 1, "step": 1, "train_loss": loss})
        table.on_run_end(state)
    assert len(outputs.shown) == 2
    assert outputs.rows[1:] == [["1/1", "0.7500", "*"]]


def test_a_resumed_run_remembers_its_best() -> None:
    run = Run(history=[{"epoch": 1, "step": 4, "train_loss": 0.1}])
    state = FitState(run=run, epochs=3, steps_per_epoch=STEPS, step=4, epoch=1)
    outputs = Outputs()
    fit(outputs, [0.5, 0.25], state=state)
    assert [row[-1] for row in outputs.rows] == ["best", "", ""]


def test_a_validation_inside_an_epoch_is_a_row_with_its_step() -> None:
    outputs = Outputs()
    table = NotebookTable(outputs)
    state = FitState(
        run=Run(), epochs=None, steps_per_epoch=None, max_steps=9, epoch=2, step=3
    )
    table.on_run_start(state)
    record = {"epoch": 2, "step": 3, "valid_loss": 0.5, "partial": True}
    table.on_validation(state, record)
    record = {"epoch": 2, "step": 9, "valid_loss": 0.4, "train_loss": 0.3}
    state.step = 9
    table.on_epoch_end(state, {**record, "skipped_steps": 0})
    table.on_run_end(state)
    assert outputs.rows == [
        ["epoch", "train_loss", "valid_loss", "best"],
        ["2 (3)", "-", "0.5000", "*"],
        ["2", "0.3000", "0.4000", "*"],
    ]


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("ipykernel.zmqshell", "ZMQInteractiveShell", True),
        ("google.colab._shell", "Shell", True),
        ("IPython.terminal.interactiveshell", "TerminalInteractiveShell", False),
        ("spyder_kernels.console.shell", "SpyderShell", False),
        ("elsewhere", "Shell", False),
    ],
)
def test_a_notebook_is_known_by_the_class_of_its_shell(
    module: str, name: str, expected: bool
) -> None:
    assert is_notebook_shell(type(name, (), {"__module__": module})()) is expected


def test_no_shell_is_no_notebook() -> None:
    assert not is_notebook_shell(None)
    assert find_display() is None


def test_ipython_is_not_imported_to_look_for_a_notebook() -> None:
    program = (
        "import sys\n"
        "from handful.train.progress import make_progress\n"
        "for mode in ('auto', 'notebook'):\n    make_progress(mode)\n"
        "assert 'IPython' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


CELL = """
from handful.runs.run import Run
from handful.train.callbacks import FitState
from handful.train.progress import make_progress

def fit(mode, epochs, fails_at=0):
    table = make_progress(mode)
    state = FitState(run=Run(), epochs=epochs, steps_per_epoch=5)
    table.on_run_start(state)
    try:
        for state.epoch in range(1, epochs + 1):
            for _ in range(5):
                state.step += 1
                state.loss = 1 / state.step
                table.on_step(state)
                if state.step == fails_at:
                    raise RuntimeError("failed as asked")
            record = {"epoch": state.epoch, "step": state.step}
            record |= {"train_loss": state.loss, "valid_loss": state.loss}
            table.on_epoch_end(state, {**record, "lr": 0.001, "seconds": 0.5})
    finally:
        table.on_run_end(state)
"""
FAILING_CELL = """
import threading
before = threading.active_count()
try:
    fit("auto", 2, fails_at=7)
except RuntimeError as error:
    print(error, threading.active_count() - before)
"""


def test_a_saved_notebook_holds_one_small_output_per_run(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    make_cell = nbformat.v4.new_code_cell
    sources = [CELL, 'fit("auto", 200)', 'fit("notebook", 2)', FAILING_CELL]
    notebook = nbformat.v4.new_notebook(cells=list(map(make_cell, sources)))
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    nbformat.write(notebook, tmp_path / "saved.ipynb")
    assert (tmp_path / "saved.ipynb").stat().st_size < 20_000
    saved = nbformat.read(tmp_path / "saved.ipynb", as_version=4)
    nbformat.validate(saved)
    setup, long, short, failing = (cell.outputs for cell in saved.cells)
    assert setup == []
    assert [output.output_type for output in long] == ["display_data"]
    html = long[0].data["text/html"]
    assert html.count("<table") == 1
    assert "<td>200/200</td>" in html
    assert "more</td>" in html
    assert "<progress" not in html
    assert len(short) == 1
    assert short[0].data["text/plain"].startswith("epoch=1/2 step=5 train_loss=0.2000")
    table, printed = failing
    assert "ended in epoch 2 at step 7" in table.data["text/html"]
    assert printed.text == "failed as asked 0\n"
