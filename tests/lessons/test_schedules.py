"""Schedules side by side, against PyTorch's schedulers and loops written out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_regression
from sklearn.preprocessing import scale
from torch.optim import lr_scheduler

from handful.lessons.lesson import LessonOptions, LessonResult
from handful.lessons.schedules import CONSTANT, NAMES, run

START = 0.8822692632675171
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=7, gamma=0.1),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.01 ** (1 / 20)),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 20),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(
        o, factor=0.5, patience=3
    ),
}


@pytest.fixture(scope="module")
def corrected() -> LessonResult:
    return run(LessonOptions(quick=True, seed=3))


@pytest.fixture(scope="module")
def as_printed() -> LessonResult:
    return run(LessonOptions(quick=True, as_printed=True))


@functools.cache
def make_points() -> tuple[np.ndarray, np.ndarray]:
    x, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=42)
    return scale(x)[:, 0], y


def descend(name: str, lr: float, size: int, seed: int) -> tuple[list[float], float]:
    """Return the rates of 20 epochs and the last weight, with PyTorch's scheduler."""
    x, y = make_points()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = SCHEDULERS[name](optimizer) if name in SCHEDULERS else None
    orders, weight, rates = np.random.default_rng(seed), START, []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        order = orders.permutation(100)
        for begin in range(0, 100, size):
            part = order[begin : begin + size]
            slope = 2 * np.mean(x[part] * (weight * x[part] - y[part]))
            weight -= rates[-1] * slope
        optimizer.step()
        if name == "ReduceLROnPlateau":
            scheduler.step(np.mean((weight * x - y) ** 2))
        elif scheduler is not None:
            scheduler.step()
    return rates, weight


def find_excess(weight: float) -> float:
    x, y = make_points()
    best = np.sum(x * y) / np.sum(x**2)
    return float(np.mean(x**2) * (weight - best) ** 2)


@pytest.mark.parametrize("name", [CONSTANT, *NAMES])
def test_corrected_descents_are_those_of_pytorchs_schedulers(
    name: str, corrected: LessonResult
) -> None:
    found = corrected.numbers["points"][name]
    for number in range(2):
        rates, weight = descend(name, 0.5, 10, seed=3 + number)
        if number == 0:
            assert found["rates"] == pytest.approx(rates, rel=1e-5)
        assert found["weights"][number] == pytest.approx(weight, rel=1e-6)
        expected = find_excess(weight)
        assert found["excess"][number] == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("name", [CONSTANT, *NAMES])
def test_as_printed_takes_all_samples_and_a_constant_rate_is_best(
    name: str, as_printed: LessonResult
) -> None:
    found = as_printed.numbers["points"]
    rates, weight = descend(name, 0.1, 100, seed=0)
    assert found[name]["rates"] == pytest.approx(rates, rel=1e-5)
    assert found[name]["weights"] == pytest.approx([weight], rel=1e-6)
    assert found[CONSTANT]["excess"][0] <= found[name]["excess"][0]
    assert "wine" not in as_printed.numbers


def test_constant_rate_on_the_parabola_shrinks_by_one_factor(
    as_printed: LessonResult,
) -> None:
    x, _ = make_points()
    factor = (1 - 2 * 0.1 * np.mean(x**2)) ** (2 * 20)
    expected = find_excess(START) * factor
    (excess,) = as_printed.numbers["points"][CONSTANT]["excess"]
    assert excess == pytest.approx(expected, rel=1e-6)


def test_with_noise_every_schedule_ends_nearer_than_a_constant_rate() -> None:
    found = run(LessonOptions(quick=True, seed=11)).numbers["points"]
    for name in NAMES:
        assert max(found[name]["excess"]) < max(found[CONSTANT]["excess"])


def test_wine_rates_are_those_of_the_schedules(corrected: LessonResult) -> None:
    found = corrected.numbers["wine"]
    cosine = [0.1 * (1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert found["CosineAnnealingLR"]["rates"] == pytest.approx(cosine)
    assert found["StepLR"]["rates"] == pytest.approx([0.1, 0.1, 0.01, 0.01])
    assert found[CONSTANT]["rates"] == [0.1] * 4
    assert all(len(found[name]["valid_loss"]) == 2 for name in NAMES)


def test_figures_have_a_line_for_each_schedule(
    corrected: LessonResult, as_printed: LessonResult
) -> None:
    wine = {"wine-rate", "wine-train-loss", "wine-valid-loss"}
    assert set(as_printed.figures) == {"points-rate", "points-loss"}
    assert set(corrected.figures) == set(as_printed.figures) | wine
    for figure in corrected.figures.values():
        texts = {text.get_text() for text in figure.axes[0].texts}
        assert {CONSTANT, *NAMES} <= texts


def test_command_line_compares_schedules(run_handful: Any, tmp_path: Path) -> None:
    out = tmp_path / "s"
    done = run_handful("study", "schedules", "--quick", "--as-printed", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "One weight, batches of 100, rate 0.1 at the start" in done.stdout
    assert "kept as printed: It names the schedules" in done.stdout
    assert (out / "points-loss.svg").is_file()
