"""One weight: the printed descent and the corrected one, against closed forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_regression
from sklearn.preprocessing import scale

from handful.lessons.gradient_descent import run
from handful.lessons.lesson import LessonOptions

START = 0.8822692632675171
"""What torch.rand(1) draws after torch.manual_seed(42)."""


def make_points() -> tuple[np.ndarray, np.ndarray]:
    x, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=42)
    return scale(x)[:, 0], y


def walk(lr: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return steps + 1 weights and their losses, the distance shrinking as it must."""
    x, y = make_points()
    best = (x @ y) / (x @ x)
    weights = best + (START - best) * (1 - 2 * lr * np.mean(x**2)) ** np.arange(
        steps + 1
    )
    return weights, np.array([np.mean((w * x - y) ** 2) for w in weights])


def test_start_is_what_torch_draws_and_the_generator_is_left_alone() -> None:
    torch.manual_seed(42)
    assert torch.rand(1).item() == START
    state = torch.get_rng_state()
    run(LessonOptions(quick=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_corrected_pairs_each_weight_with_its_own_loss() -> None:
    numbers = run(LessonOptions()).numbers
    weights, losses = walk(0.1, 100)
    np.testing.assert_allclose(numbers["weights"], weights, rtol=1e-10)
    np.testing.assert_allclose(numbers["losses"], losses, rtol=1e-10)
    assert round(numbers["weights"][-1], 4) == 42.5904
    assert round(numbers["least_loss"], 4) == 318.7931


def test_as_printed_pairs_each_weight_with_the_loss_before_it() -> None:
    numbers = run(LessonOptions(as_printed=True)).numbers
    weights, losses = walk(0.1, 100)
    np.testing.assert_allclose(numbers["weights"], weights[1:], rtol=1e-5)
    np.testing.assert_allclose(numbers["losses"], losses[:-1], rtol=1e-5)


def test_as_printed_shows_that_the_printed_product_is_refused() -> None:
    result = run(LessonOptions(as_printed=True, quick=True))
    x = torch.tensor(make_points()[0][:, None])
    with pytest.raises(RuntimeError, match="at least 1D") as caught:
        torch.matmul(x.float(), torch.tensor(START))
    assert result.numbers["error"] == f"RuntimeError: {caught.value}"
    assert run(LessonOptions(quick=True)).numbers["error"] is None


@pytest.mark.parametrize("as_printed", [False, True])
def test_step_with_a_matrix_follows_the_formula(as_printed: bool) -> None:
    options = LessonOptions(as_printed=as_printed, quick=True, seed=3)
    step = run(options).numbers["vectorised"]
    generator = np.random.default_rng(3)
    X, y = generator.normal(size=(100, 3)), generator.normal(size=(100, 1))
    expected = 0.1 * 2 / 100 * X.T @ y
    np.testing.assert_allclose(step["weight"], expected[:, 0], rtol=1e-4)
    assert step["loss"] == pytest.approx(np.mean(y**2), rel=1e-5)
    assert step["shapes"]["moved"] == [3, 1]


@pytest.mark.parametrize(("as_printed", "first"), [(False, 0), (True, 1)])
def test_figure_draws_the_points_and_the_parabola(as_printed: bool, first: int) -> None:
    result = run(LessonOptions(as_printed=as_printed, quick=True))
    left, right = result.figures["loss-weight"].axes
    grid, height = left.lines[0].get_data()
    x, y = make_points()
    np.testing.assert_allclose(height, [np.mean((w * x - y) ** 2) for w in grid])
    epochs, losses = right.lines[0].get_data()
    assert epochs[0] == first
    np.testing.assert_allclose(losses, result.numbers["losses"])
    points = np.asarray(left.collections[0].get_offsets())
    np.testing.assert_allclose(points[:, 0], result.numbers["weights"])


def test_command_line_runs_it(run_handful: Any, tmp_path: Path) -> None:
    done = run_handful("study", "gradient-descent", "--quick", "--out", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert "epochs 10, lr 0.1" in done.stdout
    assert "corrected here: The printed step stops" in done.stdout
    numbers = json.loads((tmp_path / "s" / "numbers.json").read_text())["numbers"]
    assert numbers["epochs"] == 10
    assert (tmp_path / "s" / "loss-weight.png").is_file()
