"""Agreement of backends: differences from the first, and the time of a step."""

from __future__ import annotations

import math
from typing import Any

import pytest

from handful.runs.study import Study
from handful.runs.study_agreement import measure_agreement
from handful.runs.study_row import Row


def make_row(backend: str, seed: int, shift: float = 0.0, **changes: Any) -> Row:
    history = [
        {"step": 10, "train_loss": 2.0, "valid_loss": 3.0, "trained_seconds": 5.0},
        {"step": 20, "train_loss": 1.0 + shift, "trained_seconds": 5.5},
        {"step": 30, "train_loss": 1.0, "valid_loss": 1.0, "trained_seconds": 6.0},
    ]
    values = {
        "settings": {"backend": backend, "lr": 0.1},
        "seed": seed,
        "status": "finished",
        "history": history,
        "seconds": 6.0,
        "steps": 30,
        "weights": [1.0, 2.0 - 2 * shift, 3.0],
    }
    return Row(**{**values, **changes})


def measure(*rows: Row) -> list[Any]:
    axes = {"backend": ["numpy", "torch"], "lr": [0.1]}
    study = Study(recipe="r", axes=axes, seeds=[0, 1], rows=list(rows))
    return measure_agreement(study)


def test_differences_are_the_greatest_over_seeds_from_the_first_backend() -> None:
    first, second = measure(
        make_row("numpy", 0),
        make_row("numpy", 1, 0.5),
        make_row("torch", 0, 0.25),
        make_row("torch", 1, 0.375),
    )
    assert (first.weights, first.losses) == (0, 0)
    assert (second.weights, second.losses) == (0.5, 0.25)
    assert second.settings == {"backend": "torch", "lr": 0.1}


def test_the_first_epoch_is_left_out_of_a_steps_time() -> None:
    short = make_row("torch", 0, history=[make_row("torch", 0).history[0]])
    first, second = measure(make_row("numpy", 0), short)
    assert first.step_seconds.mean == pytest.approx(1 / 20)
    assert second.step_seconds.mean == pytest.approx(6 / 30)


def test_only_finished_pairs_of_a_seed_are_compared() -> None:
    first, second = measure(
        make_row("numpy", 0),
        make_row("numpy", 1, status="diverged"),
        make_row("torch", 1),
    )
    assert first.weights == 0
    assert (second.weights, second.losses) == (None, None)
    assert second.step_seconds is not None
    assert measure()[0].step_seconds is None


def test_trials_of_different_lengths_do_not_agree() -> None:
    longer = make_row("torch", 0, history=make_row("torch", 0).history[:2])
    _, second = measure(make_row("numpy", 0), longer)
    assert second.losses == math.inf


def test_a_study_of_one_backend_has_nothing_to_compare() -> None:
    study = Study(recipe="r", axes={"lr": [0.1]}, seeds=[0])
    assert measure_agreement(study) == []
