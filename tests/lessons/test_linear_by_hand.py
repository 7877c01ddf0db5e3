"""The linear model by hand, against gradients written out in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful.lessons.lesson import LessonOptions
from handful.lessons.linear_by_hand import (
    TUTORIAL_LOSSES,
    find_stale_gradient,
    make_problem,
    run,
    update_data,
    update_no_grad,
)

BOTH = pytest.mark.parametrize("as_printed", [False, True])


def descend(seed: int, steps: int, lr: float, *, clears: bool = True) -> Any:
    """Return losses and weights of a loop in NumPy, float64, the bias last."""
    torch.manual_seed(seed)
    X = torch.rand(20, 5).double().numpy()
    model = torch.nn.Linear(5, 1)
    wanted = X @ [0.3, 4.0, 0.2, 2.5, 18.0] + 17
    first = [*model.weight.tolist()[0], *model.bias.tolist()]
    X1, w, total, losses = np.c_[X, np.ones(20)], np.array(first), np.zeros(6), []
    for _ in range(steps):
        error = X1 @ w - wanted
        losses.append(np.mean(error**2))
        gradient = 2 / 20 * X1.T @ error
        total = gradient if clears else total + gradient
        w = w - lr * total
    return losses, w


@BOTH
def test_ten_losses_are_those_of_gradients_written_out(as_printed: bool) -> None:
    result = run(LessonOptions(as_printed=as_printed, quick=True, seed=7))
    expected, _ = descend(7, 10, 1e-3)
    np.testing.assert_allclose(result.numbers["losses"], expected, rtol=1e-5)
    rows = result.printed[2:]
    assert [row.theirs for row in rows] == [f"{loss:.4f}" for loss in TUTORIAL_LOSSES]
    assert [float(row.ours) for row in rows] == pytest.approx(expected, rel=1e-5)
    assert all(row.is_sample for row in rows)


@BOTH
def test_gradients_that_are_never_cleared_add_up(as_printed: bool) -> None:
    numbers = run(LessonOptions(as_printed=as_printed, quick=True)).numbers
    expected, _ = descend(0, 40, 1e-3, clears=False)
    np.testing.assert_allclose(numbers["accumulated"], expected, rtol=1e-3)
    cleared, _ = descend(0, 40, 1e-3)
    np.testing.assert_allclose(numbers["cleared"], cleared, rtol=1e-4)


def test_never_cleared_comes_back_up_to_the_first_loss() -> None:
    losses = np.array(run(LessonOptions(as_printed=True)).numbers["accumulated"])
    lowest = losses.argmin()
    assert losses[lowest:].max() > 0.9 * losses[0] > 50 * losses[lowest]


def test_corrected_is_trained_to_the_true_weights() -> None:
    numbers = run(LessonOptions()).numbers
    assert numbers["weights"] == pytest.approx([0.3, 4.0, 0.2, 2.5, 18.0], abs=1e-3)
    assert numbers["bias"] == pytest.approx(17.0, abs=1e-3)
    expected, _ = descend(0, 1000, 0.2)
    np.testing.assert_allclose(numbers["trained"][:200], expected[:200], rtol=1e-3)
    assert numbers["trained"][-1] < 1e-6


def test_tutorials_first_loss_is_one_that_seeds_give() -> None:
    losses = run(LessonOptions()).numbers["first_losses"]
    expected = [descend(seed, 1, 1e-3)[0][0] for seed in range(100)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert min(losses) < TUTORIAL_LOSSES[0] < max(losses)


def test_as_printed_shows_the_error_of_updating_a_leaf_in_place() -> None:
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable") as caught:
        weight -= 1
    numbers = run(LessonOptions(as_printed=True, quick=True)).numbers
    assert numbers["error"] == f"RuntimeError: {caught.value}"
    assert "error" not in run(LessonOptions(quick=True)).numbers


def test_data_hides_a_change_that_no_grad_reports() -> None:
    """d(w²)/dw at w = 1 is 2; at 0, where the update leaves w, it is 0."""
    assert find_stale_gradient(update_data) == 0
    error = find_stale_gradient(update_no_grad)
    assert isinstance(error, str)
    assert error.endswith("modified by an inplace operation")


def test_both_updates_take_the_same_step_and_keep_the_parameter() -> None:
    ends = []
    for update in (update_data, update_no_grad):
        inputs, target, model = make_problem(1)
        before = model.weight
        (model(inputs)[:, 0] - target).square().mean().backward()
        update(model.parameters(), 0.1)
        assert model.weight is before
        assert model.weight.is_leaf
        ends.append(model.weight.detach())
    assert torch.equal(*ends)


def test_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    run(LessonOptions(quick=True))
    assert torch.equal(torch.get_rng_state(), state)


@BOTH
def test_figures_hold_the_tutorials_losses(as_printed: bool) -> None:
    figures = run(LessonOptions(as_printed=as_printed, quick=True)).figures
    lines = figures["ten-losses"].axes[0].lines
    assert any(
        np.array_equal(line.get_ydata(), np.array(TUTORIAL_LOSSES)) for line in lines
    )
    names = [text.get_text() for text in figures["gradients"].axes[0].texts]
    assert ("cleared, lr 0.2" in names) != as_printed


def test_command_line_runs_it(run_handful: Any, tmp_path: Path) -> None:
    out = tmp_path / "s"
    done = run_handful(
        "study", "linear-by-hand", "--quick", "--as-printed", "--out", out
    )
    assert done.returncode == 0, done.stderr
    assert "880.1790" in done.stdout
    assert "one of many: no seed there" in done.stdout
    assert "leaf Variable that requires grad" in done.stdout
    assert (out / "ten-losses.png").is_file()
