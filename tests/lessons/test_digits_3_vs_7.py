from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from handful.lessons import digits_3_vs_7
from handful.lessons.digits_3_vs_7 import (
    KEPT,
    VARIANTS,
    ZEROED,
    ZEROED_RESHUFFLED,
    Digits,
    load_threes_and_sevens,
    train,
    update_as_printed,
)
from handful.lessons.lesson import LessonResult

LEAF_ERROR = "a leaf Variable that requires grad is being used in an in-place operation"


class RunHandful(Protocol):
    def __call__(self, *args: str | Path, timeout_seconds: float = 60): ...


@pytest.fixture(scope="module")
def small() -> Digits:
    return load_threes_and_sevens(is_small=True)


SEED = 1


def _descend_in_numpy(
    data: Digits, *, is_kept: bool, epochs: int, seed: int
) -> tuple[np.ndarray, list[float]]:
    """Return weights and accuracies of the descent in the data's own order."""
    generator = torch.Generator().manual_seed(seed)
    side = data.train_x.shape[1]
    w = 0.1 * torch.randn(side, 1, generator=generator).double().numpy()
    b = 0.1 * torch.randn(1, generator=generator).double().numpy()
    x, y = data.train_x.double().numpy(), data.train_y.double().numpy()
    sum_w, sum_b, accuracies = np.zeros_like(w), np.zeros_like(b), []
    for _ in range(epochs):
        for start in range(0, len(x), 256):
            xb, yb = x[start : start + 256], y[start : start + 256]
            p = 1 / (1 + np.exp(-(xb @ w + b)))
            # Mean probability of the wrong class: its slope at the logit is ∓p(1 - p).
            slope = (1 - 2 * yb) * p * (1 - p) / len(xb)
            sum_w = xb.T @ slope + (sum_w if is_kept else 0)
            sum_b = slope.sum(0) + (sum_b if is_kept else 0)
            w, b = w - sum_w, b - sum_b
        logits = data.valid_x.double().numpy() @ w + b
        accuracies.append(float(((logits > 0) == (data.valid_y.numpy() == 1)).mean()))
    return w, accuracies


@pytest.mark.parametrize("variant", [KEPT, ZEROED])
def test_training_by_hand_is_the_descent_in_numpy(small: Digits, variant: str) -> None:
    trained = train(small, variant, epochs=4, seed=2)
    weights, accuracies = _descend_in_numpy(
        small, is_kept=variant == KEPT, epochs=4, seed=2
    )
    assert trained.weights.detach().numpy() == pytest.approx(
        weights, rel=1e-3, abs=1e-4
    )
    assert trained.accuracies == pytest.approx(accuracies)


def test_as_printed_tells_the_training_with_kept_gradients(
    as_printed: LessonResult, small: Digits
) -> None:
    _, accuracies = _descend_in_numpy(small, is_kept=True, epochs=20, seed=1)
    at = as_printed.lines.index(f"Training, gradients {KEPT}:")
    shown = [line.rsplit(" ", 1)[1] for line in as_printed.lines[at + 1 : at + 21]]
    assert shown == [f"{accuracy:.4f}" for accuracy in accuracies]


def test_corrected_tells_the_training_with_zeroed_gradients_reshuffled(
    corrected: LessonResult,
) -> None:
    at = corrected.lines.index(f"Training, gradients {ZEROED_RESHUFFLED}:")
    last = float(corrected.lines[at + 20].rsplit(" ", 1)[1])
    assert last == pytest.approx(
        corrected.numbers[ZEROED_RESHUFFLED]["accuracy"][0][-1], abs=1e-4
    )
    assert last > 0.95


def test_update_as_printed_raises(
    small: Digits, corrected: LessonResult, as_printed: LessonResult
) -> None:
    assert LEAF_ERROR in update_as_printed(small.train_x, small.train_y, 0)
    for result in (corrected, as_printed):
        assert LEAF_ERROR in result.numbers["error"]
        assert any(LEAF_ERROR in line for line in result.lines)


def test_data_are_threes_then_sevens_each_once(small: Digits) -> None:
    images, labels = load_digits(return_X_y=True)
    wanted = np.isin(labels, (3, 7))
    found = torch.cat([small.train_x, small.valid_x]).numpy() * 16
    targets = torch.cat([small.train_y, small.valid_y])[:, 0].numpy()
    rows = sorted(map(tuple, np.column_stack([found, targets])))
    expected = np.column_stack([images[wanted], labels[wanted] == 3])
    assert rows == sorted(map(tuple, expected))
    assert bool((small.train_y[:, 0].diff() <= 0).all())


def test_shapes_of_first_batches_are_told(corrected: LessonResult) -> None:
    assert corrected.numbers["shapes"] == {
        "train": [[256, 64], [256, 1]],
        "valid": [[73, 64], [73, 1]],
        "test": [[4, 64]],
    }
    assert corrected.lines[0].startswith("scikit-learn's digits, 8x8 pixels, as the")


def test_without_mnist_small_digits_are_taken_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    data = load_threes_and_sevens(is_small=False)
    assert data.side == 8
    assert "since MNIST is not on this machine" in data.source


def test_mnist_is_told_apart_better_than_97_percent(
    real_mnist_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDFUL_DATA", str(real_mnist_dir))
    data = load_threes_and_sevens(is_small=False)
    assert (len(data.train_x), len(data.valid_x)) == (12_396, 2_038)
    trained = train(data, ZEROED_RESHUFFLED, epochs=5, seed=0)
    assert trained.accuracies[-1] >= 0.97
    kept = train(data, KEPT, epochs=2, seed=0)
    assert kept.accuracies[-1] == pytest.approx(1010 / 2038, abs=1e-3)


def test_perfect_model_has_no_figure_of_mistakes(small: Digits) -> None:
    trained = train(small, ZEROED_RESHUFFLED, epochs=200, seed=1)
    assert trained.accuracies[-1] == 1.0
    result = LessonResult()
    digits_3_vs_7._add_wrongest(result, small, trained)
    assert result.numbers["num_wrong"] == 0
    assert not result.figures


def test_figures_have_a_panel_and_a_line_for_every_variant(
    as_printed: LessonResult,
) -> None:
    assert set(as_printed.figures) >= {"accuracy", "weights"}
    titles = [axes.get_title() for axes in as_printed.figures["weights"].axes]
    assert [title.split("\n")[0] for title in titles] == list(VARIANTS)


def test_command_line_shows_the_error_and_the_correction(
    run_handful: RunHandful, tmp_path: Path
) -> None:
    done = run_handful(
        "study", "digits-3-vs-7", "--quick", "--as-printed", "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert LEAF_ERROR in done.stdout
    assert "kept as printed: Its update assigns in place" in done.stdout
    kept = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert set(VARIANTS) <= set(kept["numbers"])
