"""The three regimes on Wine, against loops written out in plain PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from torch import nn

from handful.data.loader import DataLoader
from handful.lessons.lesson import LessonResult
from handful.lessons.regimes import ALL, FEW, RATES, SINGLE, SIZES
from handful.recipes import wine
from handful.train.run_recipe import make_initial_model


def train(
    x: torch.Tensor, y: torch.Tensor, size: int | str, optimizer: Any, seed: int
) -> nn.Module:
    """Train Wine's model for three epochs, in the order of the loader."""
    model = make_initial_model(wine.recipe, seed)
    steps = optimizer(model.parameters())
    width = len(x) if size == "full" else int(size)
    loader = DataLoader((x, y), width, shuffle=True, seed=seed)
    for _ in range(3):
        for features, target in loader:
            steps.zero_grad()
            nn.functional.cross_entropy(model(features), target).backward()
            steps.step()
    return model


def measure(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    with torch.no_grad():
        logits = model(x)
    accuracy = (logits.argmax(1) == y).float().mean().item()
    return nn.functional.cross_entropy(logits, y).item(), accuracy


@pytest.mark.parametrize("name", SIZES)
def test_as_printed_trains_on_all_raw_samples(
    name: str, as_printed: LessonResult
) -> None:
    raw = load_wine()
    x = torch.tensor(raw.data, dtype=torch.float32)
    y = torch.tensor(raw.target)
    found = as_printed.numbers["adam"][name]
    for number in range(2):
        model = train(
            x, y, SIZES[name], lambda p: torch.optim.Adam(p, 1e-3), 3 + number
        )
        loss, accuracy = measure(model, x, y)
        assert found["train_loss"][number] == pytest.approx(loss, rel=1e-3)
        assert found["accuracy"][number] == pytest.approx(accuracy, abs=0.012)
    assert "sgd" not in as_printed.numbers


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_corrected_trains_on_standardised_samples(
    name: str, optimizer: str, corrected: LessonResult
) -> None:
    found = corrected.numbers[optimizer][name]
    make = {
        "adam": lambda p: torch.optim.Adam(p, 1e-3),
        "sgd": lambda p: torch.optim.SGD(p, found.get("lr", 0.1)),
    }[optimizer]
    for number in range(2):
        data, valid, _ = wine.make_data(3 + number)
        model = train(*data.tensors, SIZES[name], make, 3 + number)
        loss, accuracy = measure(model, *valid.tensors)
        assert found["valid_loss"][number] == pytest.approx(loss, rel=1e-3)
        assert found["accuracy"][number] == pytest.approx(accuracy, abs=0.03)


def test_steps_are_those_of_three_epochs(
    corrected: LessonResult, as_printed: LessonResult
) -> None:
    for result, count in ((corrected, 142), (as_printed, 178)):
        adam = result.numbers["adam"]
        assert adam[SINGLE]["steps"] == 3 * count
        assert adam[FEW]["steps"] == 3 * -(-count // 32)
        assert adam[ALL]["steps"] == 3


def test_noise_falls_with_the_batch_and_is_none_for_all(
    corrected: LessonResult,
) -> None:
    single, few, full = (corrected.numbers["adam"][n]["noise"] for n in SIZES)
    assert full == [0.0, 0.0]
    # Without replacement: variance / B (N - B) / (N - 1), N = 142.
    expected = np.sqrt(1 / 32 * (142 - 32) / 141)
    assert np.divide(few, single) == pytest.approx([expected] * 2, rel=1e-6)


def test_rates_are_chosen_among_those_tried(corrected: LessonResult) -> None:
    for name in SIZES:
        assert corrected.numbers["sgd"][name]["lr"] in RATES[name][2:4]


def test_figures_have_four_axes_and_the_batch_sizes(
    corrected: LessonResult, as_printed: LessonResult
) -> None:
    assert set(as_printed.figures) == {"adam-four-axes", "scaling"}
    assert set(corrected.figures) == {"adam-four-axes", "sgd-four-axes", "scaling"}
    assert len(corrected.figures["sgd-four-axes"].axes) == 5
    assert len(corrected.figures["scaling"].axes) == 2


def test_command_line_compares_the_regimes(run_handful: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_handful("study", "regimes", "--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "Plain descent, a rate each:" in done.stdout
    assert "corrected here: It trains on raw features" in done.stdout
    kept = json.loads((out / "numbers.json").read_text())["numbers"]
    assert set(kept["adam"]) == {SINGLE, FEW, ALL}
