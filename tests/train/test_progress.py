"""Progress: lines that can be searched, and a table above a bar on a terminal."""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from handful.errors import ArgumentError
from handful.runs.run import Run
from handful.train.callbacks import Callback, FitState
from handful.train.progress import make_progress
from handful.train.progress_bar import Pace

STEPS = 4


class CountedLoss:
    """A number that counts how often it is read."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.reads = 0

    def __float__(self) -> float:
        self.reads += 1
        return self.value


def by_steps(max_steps: int, **fields: Any) -> FitState:
    """Return the state of a run that only a number of steps limits."""
    return FitState(
        run=Run(), epochs=None, steps_per_epoch=STEPS, max_steps=max_steps, **fields
    )


def fit(
    progress: Callback,
    losses: tuple[float, ...] = (0.5, 0.75, 0.25),
    *,
    on_step: Callable[[FitState], None] = lambda _: None,
    steps_per_epoch: int | None = STEPS,
    run: Run | None = None,
    **metrics: float,
) -> list[CountedLoss]:
    """Call a callback as a training of some epochs would; return its steps' losses."""
    run = Run() if run is None else run
    state = FitState(run=run, epochs=len(losses), steps_per_epoch=steps_per_epoch)
    read = []
    progress.on_run_start(state)
    try:
        for epoch, loss in enumerate(losses, start=1):
            state.epoch = epoch
            for _ in range(STEPS):
                state.step, state.samples = state.step + 1, state.samples + 32
                state.lr, state.loss = 0.001, CountedLoss(loss)
                read.append(state.loss)
                progress.on_step(state)
                on_step(state)
            record: dict[str, Any] = {"epoch": epoch, "step": state.step}
            record |= {"samples": state.samples, "train_loss": loss}
            record |= {"valid_loss": 2 * loss, **metrics, "lr": 0.001, "seconds": 1.5}
            run.history.append(record)
            progress.on_epoch_end(state, record)
    finally:
        progress.on_run_end(state)
    return read


def piped() -> Console:
    return Console(file=io.StringIO(), width=80)


def terminal(width: int = 80) -> Console:
    return Console(
        file=io.StringIO(), width=width, force_terminal=True, _environ={"TERM": "xterm"}
    )


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def shown(console: Console) -> list[str]:
    """Return the lines that a terminal shows after all that was written to it."""
    lines, row = [""], 0
    for token in re.findall(
        r"\x1b\[[0-9;?]*[A-Za-z]|\n|\r|[^\x1b\n\r]+", text(console)
    ):
        if token == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif token == "\x1b[1A":
            row -= 1
        elif token == "\x1b[2K":
            lines[row] = ""
        elif not token.startswith(("\x1b", "\r")):
            lines[row] += token
    return [line.rstrip() for line in lines if line.strip()]


def test_piped_output_is_a_line_of_names_and_values_per_epoch() -> None:
    console = piped()
    fit(make_progress(console=console), valid_accuracy=0.9611)
    assert text(console).splitlines()[0] == (
        "epoch=1/3 step=4 train_loss=0.5000 valid_loss=1.0000 "
        "valid_accuracy=0.9611 lr=0.001 seconds=1.50"
    )
    assert len(text(console).splitlines()) == 3


def test_lines_are_never_wrapped() -> None:
    console = Console(file=io.StringIO(), width=20)
    fit(make_progress("lines", console=console), (0.5,))
    assert len(text(console).splitlines()) == 1


def test_a_line_is_flushed_when_its_epoch_ends(tmp_path: Any) -> None:
    path = tmp_path / "log"
    with path.open("w") as file:
        progress = make_progress(console=Console(file=file))
        state = FitState(run=Run(), epochs=9, steps_per_epoch=1)
        progress.on_epoch_end(state, {"epoch": 1, "train_loss": 0.5})
        assert path.read_text() == "epoch=1/9 train_loss=0.5000\n"


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("batch", [1, 2, 3, 4, 5, 6, 7, 8]),
        (3, [3, 6]),
        ("3", [3, 6]),
        (1, [*range(1, 9)]),
    ],
)
def test_every_says_which_steps_get_a_line(every: str | int, steps: list[int]) -> None:
    console = piped()
    fit(make_progress(every=every, console=console), (0.5, 0.25))
    found = re.findall(r"^step=(\d+) epoch=", text(console), re.MULTILINE)
    assert [int(step) for step in found] == steps


def test_a_steps_line_names_its_loss_and_rate() -> None:
    console = piped()
    fit(make_progress(every="batch", console=console), (0.5, 0.25))
    assert text(console).splitlines()[5] == "step=5 epoch=2/2 loss=0.2500 lr=0.001"


def test_steps_without_a_line_read_no_loss() -> None:
    losses = fit(make_progress(every=3, console=piped()), (0.5, 0.25))
    assert [loss.reads for loss in losses] == [0, 0, 1, 0, 0, 1, 0, 0]


def test_epoch_lines_do_not_listen_to_steps() -> None:
    assert type(make_progress(console=piped())).on_step is Callback.on_step


def test_given_formats_replace_both_lines() -> None:
    console = piped()
    progress = make_progress(
        every="batch",
        batch_line="Batch Loss: {loss:.4f}",
        epoch_line="Epoch [{epoch}/{epochs}] Average Loss: {train_loss:.4f}",
        console=console,
    )
    fit(progress, (0.5,))
    assert text(console).splitlines() == [
        *["Batch Loss: 0.5000"] * STEPS,
        "Epoch [1/1] Average Loss: 0.5000",
    ]


def test_lines_of_steps_are_lines_on_a_terminal_too() -> None:
    console = terminal()
    fit(make_progress(every="batch", console=console), (0.5,))
    assert text(console).startswith("step=1 epoch=1/1 loss=0.5000 lr=0.001\n")


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make_console", [piped, terminal])
def test_losses_that_are_not_finite_are_shown(
    loss: float, make_console: Callable[[], Console]
) -> None:
    console = make_console()
    fit(make_progress(console=console), (loss,))
    assert str(loss) in "\n".join(shown(console))


def test_small_and_large_losses_are_written_with_an_exponent() -> None:
    console = piped()
    fit(make_progress(console=console), (0.00012345, 1234567.0))
    assert "train_loss=1.234e-04" in text(console)
    assert "train_loss=1.235e+06" in text(console)


def test_a_terminal_keeps_the_table_and_nothing_else() -> None:
    console = terminal()
    fit(make_progress(console=console), valid_accuracy=0.9)
    assert shown(console) == [
        "epoch  train_loss  valid_loss  valid_accuracy        lr   seconds  best",
        "  1/3      0.5000      1.0000          0.9000     0.001      1.50     *",
        "  2/3      0.7500      1.5000          0.9000     0.001      1.50",
        "  3/3      0.2500      0.5000          0.9000     0.001      1.50     *",
    ]


def test_a_terminal_gets_each_row_once() -> None:
    console = terminal()
    fit(make_progress(console=console))
    assert [text(console).count(f"  {epoch}/3   ") for epoch in (1, 2, 3)] == [1, 1, 1]
    assert text(console).count("train_loss") == 1


def test_the_bar_shows_the_epoch_the_steps_and_the_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("handful.train.progress_bar.REFRESH_SECONDS", 0.0)
    console = terminal()
    seen: list[list[str]] = []
    progress = make_progress("bar", console=console)
    fit(progress, on_step=lambda _: seen.append(shown(console)[-2:]))
    bar, numbers = seen[5]
    assert re.fullmatch(r"epoch 2/3  ━+  2/4", bar)
    assert len(bar) == 79
    assert re.match(r" +loss 0\.7500  .* steps/s  .* samples/s  \d+:\d\d left", numbers)


def test_between_two_drawings_no_loss_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handful.train.progress_bar.REFRESH_SECONDS", math.inf)
    losses = fit(make_progress("bar", console=terminal()))
    assert sum(loss.reads for loss in losses) == 0


def test_a_drawing_reads_the_last_loss_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handful.train.progress_bar.REFRESH_SECONDS", 0.0)
    losses = fit(make_progress("bar", console=terminal()), (0.5,))
    # The last step's is read for the drawing at the epoch's end too.
    assert [loss.reads for loss in losses] == [1, 1, 1, 2]


def test_prints_of_the_user_stay_above_the_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console = terminal()
    monkeypatch.setattr("sys.stdout", console.file)
    fit(make_progress("bar", console=console), on_step=lambda state: print(state.step))  # noqa: T201
    numbers = [int(line) for line in shown(console) if line.strip().isdecimal()]
    assert numbers == [*range(1, 13)]
    assert len(shown(console)) == 12 + 4


def test_errors_that_go_to_a_file_stay_out_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = io.StringIO()
    monkeypatch.setattr("sys.stderr", errors)
    console = terminal()
    fit(
        make_progress("bar", console=console),
        on_step=lambda _: print("careful", file=sys.stderr),  # noqa: T201
    )
    assert errors.getvalue() == "careful\n" * 12
    assert "careful" not in text(console)


def test_the_bar_goes_away_after_an_error() -> None:
    console = terminal()

    def on_step(state: FitState) -> None:
        if state.step == 6:
            raise KeyboardInterrupt("at step 6")

    with pytest.raises(KeyboardInterrupt, match="at step 6"):
        fit(make_progress("bar", console=console), on_step=on_step)
    assert [line.split()[0] for line in shown(console)] == ["epoch", "1/3"]
    assert text(console).count("\x1b[?25h") == 1


def test_a_loader_without_a_length_gets_a_bar_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("handful.train.progress_bar.REFRESH_SECONDS", 0.0)
    console = terminal()
    fit(make_progress("bar", console=console), steps_per_epoch=None)
    assert "step 1" in text(console)
    # From the second epoch on, an epoch is known to have as many steps as the first.
    assert re.search(r"epoch 2/3  ━+  1/4", re.sub(r"\x1b\[\d*m", "", text(console)))
    assert len(shown(console)) == 4


def test_a_resumed_run_remembers_its_best() -> None:
    console = terminal()
    run = Run(history=[{"epoch": 1, "train_loss": 0.1, "valid_loss": 0.2}])
    fit(make_progress("bar", console=console), run=run)
    assert not any(line.endswith("*") for line in shown(console))


def test_metrics_without_room_are_named() -> None:
    console = terminal(60)
    fit(make_progress(console=console), valid_accuracy=0.9, valid_mae=0.1)
    assert shown(console)[:2] == [
        "no room for valid_accuracy, valid_mae: see the run's history",
        "epoch  train_loss  valid_loss        lr   seconds  best",
    ]


def test_a_metric_that_comes_later_gets_a_new_header() -> None:
    console = terminal()
    progress = make_progress("bar", console=console)
    state = FitState(run=Run(), epochs=2, steps_per_epoch=1)
    progress.on_run_start(state)
    progress.on_epoch_end(state, {"epoch": 1, "train_loss": 0.5})
    progress.on_epoch_end(state, {"epoch": 2, "train_loss": 0.4, "valid_loss": 0.3})
    progress.on_run_end(state)
    assert [line.split()[:3] for line in shown(console)] == [
        ["epoch", "train_loss", "best"],
        ["1/2", "0.5000", "*"],
        ["epoch", "train_loss", "valid_loss"],
        ["2/2", "0.4000", "0.3000"],
    ]


def test_a_narrow_terminal_does_not_break_the_bar() -> None:
    console = terminal(30)
    fit(make_progress(console=console))
    assert shown(console)[1:] == [
        "epoch        lr   seconds  best",
        "  1/3     0.001      1.50     *",
        "  2/3     0.001      1.50",
        "  3/3     0.001      1.50     *",
    ]


VALIDATION = {"epoch": 2, "step": 6, "valid_loss": 0.5, "partial": True}
EPOCH = {"epoch": 2, "step": 8, "train_loss": 0.25, "valid_loss": 0.75}


@pytest.mark.parametrize("every", ["epoch", 1000])
def test_a_validation_inside_an_epoch_is_a_line_that_starts_with_its_step(
    every: str | int,
) -> None:
    console = piped()
    progress = make_progress(every=every, epoch_line="{train_loss}", console=console)
    state = FitState(run=Run(), epochs=10, steps_per_epoch=STEPS)
    progress.on_validation(state, VALIDATION)
    progress.on_epoch_end(state, EPOCH)
    assert text(console) == "step=6 epoch=2/10 valid_loss=0.5000\n0.25\n"


def test_a_validation_inside_an_epoch_is_a_row_with_its_step() -> None:
    console = terminal()
    progress = make_progress(console=console)
    state = FitState(run=Run(), epochs=10, steps_per_epoch=STEPS, step=4, epoch=1)
    progress.on_run_start(state)
    state.step, state.epoch = 6, 2
    progress.on_validation(state, VALIDATION)
    progress.on_validation(state, {**VALIDATION, "step": 7, "lr": 0.1})
    state.step = 8
    progress.on_epoch_end(state, EPOCH)
    progress.on_validation(state, {**VALIDATION, "epoch": 10, "step": 39})
    progress.on_run_end(state)
    assert shown(console) == [
        "  epoch  valid_loss  best",
        "  2 (6)      0.5000     *",
        "  epoch  valid_loss        lr  best",
        "  2 (7)      0.5000       0.1",
        "  epoch  train_loss  valid_loss        lr  best",
        "   2/10      0.2500      0.7500         -",
        "10 (39)           -      0.5000         -",
    ]


def test_an_epoch_row_before_a_validation_keeps_its_columns() -> None:
    console = terminal()
    progress = make_progress(console=console)
    state = FitState(run=Run(), epochs=9, steps_per_epoch=None)
    progress.on_run_start(state)
    progress.on_epoch_end(state, {**EPOCH, "train_mae": 1.0})
    progress.on_validation(state, {**VALIDATION, "epoch": 3, "grad_norm": 2.0})
    progress.on_epoch_end(state, {**EPOCH, "epoch": 3})
    progress.on_run_end(state)
    assert [line.split() for line in shown(console)[2:]] == [
        ["epoch", "train_loss", "train_mae", "valid_loss", "grad_norm", "best"],
        ["3", "(6)", "-", "-", "0.5000", "2.0000", "*"],
        ["3/9", "0.2500", "-", "0.7500", "-"],
    ]


def test_a_validation_does_not_start_the_bar_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("handful.train.progress_bar.REFRESH_SECONDS", 0.0)
    console = terminal()
    progress = make_progress("bar", console=console)
    state = FitState(run=Run(), epochs=10, steps_per_epoch=None, epoch=1)
    progress.on_run_start(state)
    for state.step in range(1, 4):
        progress.on_step(state)
        progress.on_validation(state, {**VALIDATION, "epoch": 1, "step": state.step})
    assert shown(console)[-2].endswith("  step 3")
    progress.on_run_end(state)


def test_skipped_steps_are_shown_where_there_are_any() -> None:
    console = piped()
    progress = make_progress(console=console)
    state = FitState(run=Run(), epochs=2, steps_per_epoch=1)
    progress.on_epoch_end(state, {"epoch": 1, "skipped_steps": 0, "grad_norm": 2.0})
    progress.on_epoch_end(state, {"epoch": 2, "skipped_steps": 3})
    assert text(console) == "epoch=1/2 grad_norm=2.0000\nepoch=2/2 skipped_steps=3\n"


def test_a_table_gets_a_column_for_skipped_steps_when_there_are_some() -> None:
    console = terminal()
    progress = make_progress(console=console)
    state = FitState(run=Run(), epochs=3, steps_per_epoch=1)
    progress.on_run_start(state)
    for epoch, skipped in ((1, 0), (2, 3), (3, 0)):
        progress.on_epoch_end(state, {"epoch": epoch, "skipped_steps": skipped})
    progress.on_run_end(state)
    assert [line.split() for line in shown(console)] == [
        ["epoch", "best"],
        ["1/3"],
        ["epoch", "skipped_steps", "best"],
        ["2/3", "3"],
        ["3/3", "-"],
    ]


def test_a_run_limited_by_steps_names_no_number_of_epochs() -> None:
    console = piped()
    progress = make_progress(every=1, console=console)
    state = by_steps(6, epoch=2, step=5, lr=0.1, loss=CountedLoss(0.5))
    progress.on_run_start(state)
    progress.on_step(state)
    progress.on_epoch_end(state, EPOCH)
    assert text(console).splitlines() == [
        "step=5 epoch=2 loss=0.5000 lr=0.1",
        "epoch=2 step=8 train_loss=0.2500 valid_loss=0.7500",
    ]


def test_the_bar_of_a_run_limited_by_steps_counts_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("handful.train.progress_bar.REFRESH_SECONDS", 0.0)
    console = terminal()
    progress = make_progress("bar", console=console)
    state = by_steps(20, epoch=1)
    progress.on_run_start(state)
    state.epoch, state.step = 2, 5
    progress.on_step(state)
    bar, numbers = shown(console)[-2:]
    assert re.fullmatch(r"epoch 2  ━+   5/20", bar)
    assert numbers.endswith("left")
    progress.on_epoch_end(state, EPOCH)
    progress.on_run_end(state)
    assert shown(console)[1].split() == ["2", "0.2500", "0.7500", "*"]


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "max_steps", "total"),
    [
        (3, 4, None, 12),
        (3, 4, 9, 9),
        (3, 4, 99, 12),
        (None, 4, 9, 9),
        (None, None, 9, 9),
        (3, None, None, None),
    ],
)
def test_the_time_left_is_that_of_the_limit_that_comes_first(
    epochs: int | None,
    steps_per_epoch: int | None,
    max_steps: int | None,
    total: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 60.0, 60.0])
    monkeypatch.setattr("handful.train.progress_bar.monotonic", lambda: next(clock))
    state = FitState(
        run=Run(),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        max_steps=max_steps,
    )
    pace = Pace()
    pace.start(state)
    state.step = 1
    left = re.findall(r"(\d+):00 left", pace.describe(state).numbers)
    assert left == ([] if total is None else [str(total - 1)])


@pytest.mark.parametrize("name", ["batch_line", "epoch_line"])
def test_a_format_with_epochs_is_refused_before_the_first_step_of_such_a_run(
    name: str,
) -> None:
    progress = make_progress(every=1, console=piped(), **{name: "{epoch}/{epochs}"})
    with pytest.raises(ArgumentError, match=f"a field of {name} .*got 'epochs'"):
        progress.on_run_start(by_steps(6))


def test_off_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    fit(make_progress("off"))
    assert capsys.readouterr().out == ""


def test_the_standard_output_is_where_lines_go(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fit(make_progress("lines"), (0.5,))
    assert capsys.readouterr().out.startswith("epoch=1/1 step=4 train_loss=0.5000")


@pytest.mark.parametrize("every", [0, -1, True, "1.5", "batches", "²", None])
def test_every_must_be_a_known_word_or_a_whole_number(every: Any) -> None:
    with pytest.raises(
        ArgumentError, match="every must be 'epoch', 'batch' or a whole"
    ):
        make_progress(every=every)


def test_an_unknown_mode_lists_the_modes() -> None:
    with pytest.raises(
        ArgumentError, match=r"auto, bar, lines, notebook, off; got 'lins'.*'lines'"
    ):
        make_progress("lins")


@pytest.mark.parametrize("mode", ["bar", "notebook"])
def test_a_table_with_lines_of_steps_is_refused(mode: str) -> None:
    with pytest.raises(
        ArgumentError, match=f"every must be 'epoch' with the mode '{mode}'"
    ):
        make_progress(mode, every="batch")


def test_outside_of_a_notebook_its_mode_writes_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fit(make_progress("notebook"), (0.5,))
    assert capsys.readouterr().out.startswith("epoch=1/1 step=4 train_loss=0.5000")


def test_a_batch_line_with_an_unknown_field_is_refused_at_once() -> None:
    with pytest.raises(ArgumentError, match=r"field of batch_line.*got 'los'.*'loss'"):
        make_progress(batch_line="{los}")


@pytest.mark.parametrize("line", ["{loss", "{}", "{loss:q}", "{loss.x}"])
def test_a_malformed_format_is_refused_at_once(line: str) -> None:
    with pytest.raises(ArgumentError, match="batch_line must be a format such as"):
        make_progress(batch_line=line)


def test_an_epoch_line_names_the_field_that_no_record_has() -> None:
    progress = make_progress(epoch_line="{valid_los:.4f}", console=piped())
    with pytest.raises(ArgumentError, match=r"valid_loss, .*got 'valid_los'"):
        fit(progress)
