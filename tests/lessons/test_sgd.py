"""Batches of 1, 10 and 100: the printed generator and the corrected one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_regression
from sklearn.preprocessing import scale

from handful.lessons.lesson import LessonOptions
from handful.lessons.sgd import find_cycles, run
from handful.reference.order import make_order


def make_points() -> tuple[np.ndarray, np.ndarray]:
    x, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=42)
    return scale(x)[:, 0], y


def printed_orders(epochs: int) -> Iterator[np.ndarray]:
    for _ in range(epochs):
        np.random.seed(42)  # The mistake.
        yield np.random.permutation(100)


def descend(orders: Any, size: int, lr: float) -> tuple[list[float], list[float]]:
    """Return weights and losses of a plain loop, the start included."""
    x, y = make_points()
    np.random.seed(42)
    weights, losses = [np.random.rand()], []
    for order in orders:
        for start in range(0, 100, size):
            rows = order[start : start + size]
            error = weights[-1] * x[rows] - y[rows]
            losses.append(float(np.mean(error**2)))
            weights.append(weights[-1] - lr * 2 * float(np.mean(x[rows] * error)))
    return weights, losses


def test_as_printed_ends_at_the_tutorials_weights() -> None:
    numbers = run(LessonOptions(as_printed=True)).numbers
    ends = {size: one["final_weight"] for size, one in numbers["reseeded"].items()}
    rounded = {size: round(weight, 4) for size, weight in ends.items()}
    assert rounded == {"1": 42.1798, "10": 42.5007, "100": 41.8782}
    for size, weight in ends.items():
        again = descend(printed_orders(100), int(size), 0.02)[0][-1]
        assert weight == pytest.approx(again, rel=1e-12)
    assert "anew" not in numbers


def test_corrected_shuffles_anew_and_shows_the_printed_values_too() -> None:
    numbers = run(LessonOptions(quick=True, seed=5)).numbers
    order = make_order(100, 20, seed=5)
    for size in (1, 10, 100):
        weights, losses = descend(order, size, 0.02)
        one = numbers["anew"][str(size)]
        assert one["final_weight"] == pytest.approx(weights[-1], rel=1e-12)
        assert one["greatest_loss"] == pytest.approx(max(losses[:100]))
        ends = weights[100 // size :: 100 // size][10:]
        assert one["late_mean"] == pytest.approx(np.mean(ends))
        assert one["late_range"] == pytest.approx(np.ptp(ends), abs=1e-9)
        printed = descend(printed_orders(20), size, 0.02)[0][-1]
        assert numbers["reseeded"][str(size)]["final_weight"] == pytest.approx(printed)


@pytest.mark.parametrize("as_printed", [False, True])
def test_four_steps_with_batches_of_50(as_printed: bool) -> None:
    options = LessonOptions(as_printed=as_printed, quick=True)
    short = run(options).numbers["short"]
    orders = printed_orders(2) if as_printed else make_order(100, 2, seed=0)
    weights, losses = descend(orders, 50, 0.1)
    assert len(short["losses"]) == 4
    np.testing.assert_allclose(short["weights"], weights)
    np.testing.assert_allclose(short["losses"], losses)


def test_repeated_order_cycles_at_the_weight_of_the_closed_form() -> None:
    x, y = (column[:, None] for column in make_points())
    order = next(printed_orders(1))[None]
    for size in (1, 10):
        (cycle,) = find_cycles(x, y, order, size)
        weights, _ = descend(printed_orders(60), size, 0.02)
        assert cycle == pytest.approx(weights[-1], rel=1e-8)


def test_cycles_differ_by_order_for_small_batches_alone() -> None:
    sds = run(LessonOptions(quick=True)).numbers["cycle_sds"]
    assert sds["1"] > 5 * sds["10"] > 0.1
    assert sds["100"] < 1e-9


@pytest.mark.parametrize("as_printed", [False, True])
def test_losses_that_the_tutorials_axis_hides_are_counted(as_printed: bool) -> None:
    result = run(LessonOptions(as_printed=as_printed, quick=True))
    _, losses = descend(printed_orders(1), 1, 0.02)
    hidden = sum(loss > 10_000 for loss in losses)
    assert hidden == result.numbers["reseeded"]["1"]["hidden_losses"] == 1
    (row,) = result.printed
    assert row.ours == f"{max(losses):,.0f} (1 beyond that)"
    panels = result.figures["first-batches"].axes
    drawn = panels[0 if as_printed else 3]
    assert max(drawn.lines[0].get_ydata()) == pytest.approx(max(losses))
    assert drawn.get_ylim()[1] > max(losses)


def test_figure_as_printed_shows_losses_of_batches_over_later_weights() -> None:
    figure = run(LessonOptions(as_printed=True, quick=True)).figures["paths"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "batch size 1",
        "batch size 10",
        "batch size 100",
    ]
    weights, losses = descend(printed_orders(20), 10, 0.02)
    across, up = figure.axes[1].lines[0].get_data()
    np.testing.assert_allclose(across, weights[1:])
    np.testing.assert_allclose(up, losses)


def test_command_line_runs_it(run_handful: Any, tmp_path: Path) -> None:
    out = tmp_path / "s"
    done = run_handful("study", "sgd", "--quick", "--seed", "2", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "20 epochs, lr 0.02, a new order in every epoch" in done.stdout
    assert "axis ends at 10,000" in done.stdout
    assert {"reseeded", "anew"} <= set(
        json.loads((out / "numbers.json").read_text())["numbers"]
    )
