"""Four rates on one parabola, against the closed form and plain loops."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_regression
from sklearn.preprocessing import scale

from handful.lessons.learning_rates import run
from handful.lessons.lesson import LessonOptions

START = 0.8822692632675171
GOLDEN = [
    ("0.001", 8.4495, 1489.068),
    ("0.01", 37.0590, 350.650),
    ("0.1", 42.5904, 318.793),
    ("0.9", 42.5904, 318.793),
]


@functools.cache
def make_points() -> tuple[np.ndarray, np.ndarray]:
    x, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=42)
    return scale(x)[:, 0], y


def loss_of(weight: float) -> float:
    x, y = make_points()
    return float(np.mean((weight * x - y) ** 2))


def descend(lr: float, steps: int) -> list[float]:
    """Return the weights of a plain loop, the start included."""
    x, y = make_points()
    weights = [START]
    for _ in range(steps):
        weights.append(weights[-1] - lr * 2 * np.mean(x * (weights[-1] * x - y)))
    return weights


@pytest.mark.parametrize("as_printed", [False, True])
def test_final_weights_are_those_of_100_plain_steps(as_printed: bool) -> None:
    rows = run(LessonOptions(as_printed=as_printed)).numbers["rates"]
    for lr, weight, last_step_loss in GOLDEN:
        assert rows[lr]["weight"] == pytest.approx(descend(float(lr), 100)[-1], 1e-5)
        assert rows[lr]["weight"] == pytest.approx(weight, abs=2e-4)
        assert rows[lr]["last_step_loss"] == pytest.approx(last_step_loss, abs=2e-3)


def test_corrected_loss_is_that_of_the_last_weight() -> None:
    rows = run(LessonOptions(quick=True)).numbers["rates"]
    for lr, row in rows.items():
        assert row["loss"] == pytest.approx(loss_of(descend(float(lr), 20)[-1]))
    assert rows["0.01"]["loss"] < rows["0.01"]["last_step_loss"]


def test_as_printed_loss_is_that_of_the_weight_before() -> None:
    rows = run(LessonOptions(as_printed=True, quick=True)).numbers["rates"]
    for lr, row in rows.items():
        expected = loss_of(descend(float(lr), 20)[-2])
        assert row["loss"] == row["last_step_loss"] == pytest.approx(expected, 1e-5)


def test_steps_in_closed_form_are_those_that_a_loop_counts() -> None:
    numbers = run(LessonOptions(quick=True)).numbers
    bound = 1.01 * numbers["least_loss"]
    for lr, row in numbers["rates"].items():
        losses = [loss_of(weight) for weight in descend(float(lr), 1600)]
        first = next(step for step, loss in enumerate(losses) if loss <= bound)
        assert row["steps_to_1_percent"] == first


def test_rate_diverges_from_the_limit_on_and_not_below() -> None:
    numbers = run(LessonOptions(quick=True)).numbers
    x, _ = make_points()
    assert numbers["diverges_from"] == pytest.approx(1 / np.mean(x**2))
    start = loss_of(START)
    assert loss_of(descend(numbers["diverges_from"] * 0.99, 50)[-1]) < start
    assert loss_of(descend(numbers["diverges_from"] * 1.01, 50)[-1]) > start
    assert numbers["beyond"]["last_loss"] > numbers["beyond"]["first_loss"]
    one_step = descend(numbers["fastest_rate"], 1)[-1]
    assert one_step == pytest.approx(numbers["best_weight"])


@pytest.mark.parametrize("as_printed", [False, True])
def test_figures_show_four_paths_and_four_curves(as_printed: bool) -> None:
    figures = run(LessonOptions(as_printed=as_printed, quick=True)).figures
    assert set(figures) == {"paths", "loss-epoch", "excess-epoch"}
    assert len(figures["paths"].axes) == 4
    ends = [axes.get_title(loc="left") for axes in figures["paths"].axes]
    assert [end.split(" →")[0] for end in ends] == [f"lr {lr}" for lr, *_ in GOLDEN]


def test_command_line_runs_it_as_printed(run_handful: Any, tmp_path: Path) -> None:
    out = tmp_path / "s"
    done = run_handful(
        "study", "learning-rates", "--quick", "--as-printed", "--out", out
    )
    assert done.returncode == 0, done.stderr
    assert "no nearer at 1, diverging beyond" in done.stdout
    assert "RuntimeError: both arguments to matmul" in done.stdout
    assert "kept as printed: The printed step" in done.stdout
    assert (out / "paths.svg").is_file()
