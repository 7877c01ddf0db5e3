"""Curves: what a run's figure shows, and that it is there whole or not at all."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handful.errors import ArgumentError, RunError
from handful.report.curves import draw_curves
from handful.runs.run import STEP_DTYPE, Run

STEPS_PER_EPOCH = 5


def make_run(
    losses: list[float], *, lrs: list[float] | None = None, **metrics: list[float]
) -> Run:
    """Make a run with five steps an epoch, each with its epoch's loss."""
    history: list[dict[str, Any]] = []
    for epoch, loss in enumerate(losses, start=1):
        record = {"epoch": epoch, "step": STEPS_PER_EPOCH * epoch, "train_loss": loss}
        record |= {name: values[epoch - 1] for name, values in metrics.items()}
        history.append({**record, "lr": 0.1, "seconds": 1.0})
    steps = np.empty(STEPS_PER_EPOCH * len(losses), STEP_DTYPE)
    steps["loss"] = np.repeat(losses, STEPS_PER_EPOCH)
    steps["lr"] = np.repeat(lrs or [0.1] * len(losses), STEPS_PER_EPOCH)
    return Run(config={"recipe": "digits", "lr": 0.1}, history=history, steps=steps)


def draw_text(run: Run, folder: Path) -> list[str]:
    """Draw a run and return the figure's texts, as its SVG notes them."""
    (path,) = draw_curves(run, folder / "curves", formats=("svg",))
    return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))


def test_a_png_is_as_wide_as_a_page_needs(tmp_path: Path) -> None:
    run = make_run([3.0, 2.0], valid_loss=[3.0, 2.5], valid_accuracy=[0.5, 0.6])
    (path,) = draw_curves(run, tmp_path / "curves.png")
    assert path == tmp_path / "curves.png"
    with Image.open(path) as image:
        assert image.size == (1600, 740)
        assert len(image.convert("RGB").getcolors(2**24)) > 100


def test_each_format_gets_its_file_and_no_other_is_left(tmp_path: Path) -> None:
    files = draw_curves(make_run([2.0]), tmp_path / "c.png", formats=("svg", "pdf"))
    assert [file.name for file in files] == ["c.svg", "c.pdf"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert files[1].read_bytes().startswith(b"%PDF")


def test_a_name_with_a_dot_keeps_it(tmp_path: Path) -> None:
    assert draw_curves(make_run([2.0]), tmp_path / "v1.2") == [tmp_path / "v1.2.png"]


def test_an_unknown_format_lists_the_formats(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"pdf, png, svg; got 'pngg'.*'png'"):
        draw_curves(make_run([2.0]), tmp_path / "curves", formats=("pngg",))


def test_a_run_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="run must have an epoch or a step to draw"):
        draw_curves(Run(), tmp_path / "curves.png")


def test_both_losses_and_the_best_epoch_are_named(tmp_path: Path) -> None:
    run = make_run([3.0, 2.0, 1.0], valid_loss=[3.0, 2.25, 2.5])
    texts = draw_text(run, tmp_path)
    assert {"each step", "train_loss", "valid_loss"} <= set(texts)
    assert "best: epoch 2, 2.25" in texts


def test_the_title_says_what_was_trained(tmp_path: Path) -> None:
    run = make_run([3.0])
    run.config |= {"optimizer": {"name": "sgd", "momentum": 0.9}, "batch_size": "full"}
    assert "digits · sgd · lr 0.1 · batch full" in draw_text(run, tmp_path)


def test_one_epoch_is_drawn_as_points_without_a_best(tmp_path: Path) -> None:
    texts = draw_text(make_run([3.0], valid_loss=[2.0]), tmp_path)
    assert "valid_loss" in texts
    assert not any(text.startswith("best") for text in texts)


@pytest.mark.parametrize(
    ("first", "scale"), [(190.0, "loss"), (210.0, "loss (log scale)")]
)
def test_more_than_two_decades_make_the_axis_logarithmic(
    first: float, scale: str, tmp_path: Path
) -> None:
    assert scale in draw_text(make_run([first, 2.0]), tmp_path)


def test_a_loss_of_zero_keeps_the_axis_linear(tmp_path: Path) -> None:
    assert "loss" in draw_text(make_run([1000.0, 0.0]), tmp_path)


def test_values_below_a_logarithmic_axis_are_counted(tmp_path: Path) -> None:
    run = make_run([1000.0, 1.0])
    run.steps["loss"][[6, 8]] = 0.0, 1e-9
    note = "Note: loss lies below the axis at 2 steps."
    assert note in draw_text(run, tmp_path)


def test_values_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    run = make_run([3.0, math.inf, 1.0, 0.5], valid_loss=[1.0, 2.0, math.nan, 3.0])
    note = " ".join(draw_text(run, tmp_path))
    assert "loss is not finite at 5 of 20 steps (gaps)" in note
    assert "train_loss is not finite at 1 of 4 epochs (gaps)" in note
    assert "valid_loss is not finite at 1 of 4 epochs (gaps)" in note


def test_a_run_without_any_finite_value_is_drawn(tmp_path: Path) -> None:
    run = make_run([math.nan, math.nan], valid_loss=[math.inf, math.nan])
    assert "loss" in draw_text(run, tmp_path)


def test_a_finite_run_has_no_note(tmp_path: Path) -> None:
    assert not any("Note" in text for text in draw_text(make_run([3.0, 2]), tmp_path))


def test_each_metric_has_a_panel(tmp_path: Path) -> None:
    run = make_run([3.0, 2.0], valid_accuracy=[0.5, 0.6], valid_mae=[0.9, 0.8])
    assert {"valid_accuracy", "valid_mae"} <= set(draw_text(run, tmp_path))


def test_one_metric_of_two_splits_shares_a_panel(tmp_path: Path) -> None:
    run = make_run([3.0, 2.0], train_accuracy=[0.5, 0.6], valid_accuracy=[0.5, 0.6])
    texts = draw_text(run, tmp_path)
    assert {"accuracy", "train_accuracy", "valid_accuracy"} <= set(texts)


def test_a_rate_that_changes_is_drawn(tmp_path: Path) -> None:
    assert "lr" in draw_text(make_run([3.0, 2.0], lrs=[0.1, 0.05]), tmp_path)
    assert "lr" not in draw_text(make_run([3.0, 2.0]), tmp_path)


def test_a_rate_over_more_than_two_decades_has_a_logarithmic_axis(
    tmp_path: Path,
) -> None:
    run = make_run([3.0, 2.0], lrs=[0.1, 0.0005], valid_mae=[1.0, 2.0])
    assert "lr (log)" in draw_text(run, tmp_path)


def test_steps_of_an_epoch_that_did_not_end_follow_the_others(tmp_path: Path) -> None:
    run = make_run([3.0, 2.0, 1.0])
    run.history.pop()
    assert "3" in draw_text(run, tmp_path)


def test_steps_alone_are_drawn_against_their_number(tmp_path: Path) -> None:
    run = make_run([3.0, 2.0])
    run.history.clear()
    texts = draw_text(run, tmp_path)
    assert "step" in texts
    assert "epoch" not in texts


def test_epochs_alone_are_drawn(tmp_path: Path) -> None:
    run = make_run([3.0, 2.0])
    run.steps = run.steps[:0]
    texts = draw_text(run, tmp_path)
    assert "train_loss" in texts
    assert "each step" not in texts


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(OSError, match=r"curves\.png"):
        draw_curves(make_run([2.0]), tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_drawing_loads_neither_pyplot_nor_torch() -> None:
    code = (
        "import sys; import handful.report.curves, handful.report.images; "
        "sys.exit(bool({'matplotlib.pyplot', 'torch'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
