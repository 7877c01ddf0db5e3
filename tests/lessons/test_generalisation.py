"""Small and large batches on few samples, against loops written out in NumPy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from handful.lessons import generalisation
from handful.lessons.generalisation import (
    DIGITS,
    SIZES,
    WINE,
    make_model,
    measure_target,
    split_case,
)
from handful.lessons.lesson import LessonResult
from handful.lessons.over_seeds import format_spread, judge_pairs


def read_layers(model: nn.Module) -> list[list[np.ndarray]]:
    return [
        [p.detach().double().numpy().copy() for p in layer.parameters()]
        for layer in model
        if isinstance(layer, nn.Linear)
    ]


def pass_through(layers: list[list[np.ndarray]], x: np.ndarray) -> list[np.ndarray]:
    """Return the inputs of all layers, the logits last."""
    found = [x]
    for number, (weight, bias) in enumerate(layers):
        a = found[-1] @ weight.T + bias
        found.append(a if number == len(layers) - 1 else np.maximum(a, 0))
    return found


def find_loss(layers: list[list[np.ndarray]], x: np.ndarray, y: np.ndarray) -> float:
    logits = pass_through(layers, x)[-1]
    log_sums = np.log(np.exp(logits).sum(1))
    return float(np.mean(log_sums - logits[np.arange(len(y)), y]))


def step(
    layers: list[list[np.ndarray]], x: np.ndarray, y: np.ndarray, lr: float
) -> None:
    values = pass_through(layers, x)
    error = np.exp(values[-1]) / np.exp(values[-1]).sum(1, keepdims=True)
    error[np.arange(len(y)), y] -= 1
    error /= len(y)
    for number in reversed(range(len(layers))):
        weight, bias = layers[number]
        before = error @ weight * (values[number] > 0)
        weight -= lr * error.T @ values[number]
        bias -= lr * error.sum(0)
        error = before


def train(
    name: str, size: int | str, seed: int, epochs: int
) -> list[tuple[float, float]]:
    """Return training and validation loss before and after every step, in NumPy."""
    case = {"wine": WINE, "digits": DIGITS}[name]
    data = split_case(case, seed)
    x, valid = data.train_x.double().numpy(), data.valid_x.double().numpy()
    y, valid_y = data.train_y.numpy(), data.valid_y.numpy()
    layers = read_layers(make_model(case, seed))
    generator = torch.Generator().manual_seed(seed)
    losses = [(find_loss(layers, x, y), find_loss(layers, valid, valid_y))]
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator).numpy()
        width = len(x) if size == "full" else int(size)
        for begin in range(0, len(x), width):
            part = order[begin : begin + width]
            step(layers, x[part], y[part], case.lr)
            losses.append((find_loss(layers, x, y), find_loss(layers, valid, valid_y)))
    return losses


@pytest.mark.parametrize("name", ["wine", "digits"])
@pytest.mark.parametrize("size", SIZES)
def test_losses_after_three_epochs_are_those_written_out(
    name: str, size: int | str, corrected: LessonResult, as_printed: LessonResult
) -> None:
    losses = train(name, size, 3, 3)
    for result in (corrected, as_printed):
        found = result.numbers[name]["same_epochs"][str(size)]
        assert found["train"][0] == pytest.approx(losses[-1][0], rel=1e-3)
        assert found["valid"][0] == pytest.approx(losses[-1][1], rel=1e-3)
        assert found["steps"][0] == len(losses) - 1


@pytest.mark.parametrize("name", ["wine", "digits"])
@pytest.mark.parametrize("size", [4, 16, "full"])
def test_losses_at_the_target_are_those_written_out(
    name: str, size: int | str, corrected: LessonResult
) -> None:
    losses = train(name, size, 3, {4: 6, 16: 16, "full": 130}[size])
    at = next(number for number, (loss, _) in enumerate(losses) if loss <= 0.9)
    (before, low), (after, high) = losses[at - 1], losses[at]
    valid = np.interp(0.9, [after, before], [high, low])
    found = corrected.numbers[name]["same_loss"][str(size)]
    assert found["steps"][0] == at
    assert found["train"] == [0.9, 0.9]
    assert found["valid"][0] == pytest.approx(valid, rel=1e-3)


def test_as_printed_compares_after_the_same_epochs_only(
    as_printed: LessonResult,
) -> None:
    assert set(as_printed.numbers["wine"]) == {"same_epochs"}
    assert len(as_printed.figures["wine-losses"].axes) == 1


def test_few_samples_are_trained_on_and_none_is_held_out_twice() -> None:
    for case, count, total in ((WINE, 36, 178), (DIGITS, 180, 1797)):
        data = split_case(case, 0)
        assert len(data.train_x) + len(data.valid_x) == total
        assert abs(len(data.train_x) - count) <= 2
    data = split_case(WINE, 0)
    assert data.train_x.mean(0).abs().max() < 1e-5
    assert data.valid_x.mean(0).abs().max() > 1e-3


def test_target_out_of_reach_has_no_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generalisation, "MOST_STEPS", 3)
    found = measure_target(WINE, ("full",), [0])["full"]
    assert found["steps"] == [3]
    assert all(math.isnan(found[key][0]) for key in ("train", "valid"))


def test_pairs_are_judged_by_the_sign_test() -> None:
    eight = [float(number) for number in range(8)]
    more = [value + 1 + value / 8 for value in eight]
    assert "lower in 8 of 8 seeds, lower (sign test, p = 0.0078)" in judge_pairs(
        "a", eight, more
    )
    assert "lower in 0 of 8 seeds, higher" in judge_pairs("a", more, eight)
    assert "not told apart (sign test, p = 1)" in judge_pairs("a", [0, 3], [1, 1])
    assert judge_pairs("a", [3], [1]) == "a: 2; one seed cannot tell."
    assert format_spread([1.0, 3.0]) == "2 ± 1.4"


def test_figures_show_both_comparisons(corrected: LessonResult) -> None:
    assert set(corrected.figures) == {"wine-losses", "digits-losses"}
    for figure in corrected.figures.values():
        left, right = figure.axes
        assert left.get_title(loc="left") == "after 3 epochs"
        assert right.get_title(loc="left") == "at the same training loss"
        assert [t.get_text() for t in left.get_xticklabels()] == [*map(str, SIZES)]


def test_command_line_tells_the_gap(run_handful: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_handful("study", "generalisation", "--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "digits, at the same training loss, rate 0.1:" in done.stdout
    assert "corrected here: It says that the noise" in done.stdout
    kept = json.loads((out / "numbers.json").read_text())["numbers"]
    assert set(kept) == {"wine", "digits"}
