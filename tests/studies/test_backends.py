"""Backends of a comparison: the trainer and the written-out descents, side by side."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from handful import Columns, Recipe, load_recipe, run_recipe
from handful.errors import ArgumentError, DataError, MissingExtraError
from handful.runs.study import Study
from handful.runs.study_agreement import measure_agreement
from handful.studies.compare import compare

HAS_KERAS = all(importlib.util.find_spec(name) for name in ("keras", "tensorflow"))
needs_keras = pytest.mark.skipif(not HAS_KERAS, reason="keras, tensorflow missing")
OURS = ["trainer", "numpy", "torch"]


def run(recipe: Recipe, vary: Any, **arguments: Any) -> Study:
    return compare(recipe, vary, **{"progress": "off", "seeds": 2, **arguments})


def wine(**changes: Any) -> Recipe:
    settings = {"optimizer": "sgd", "lr": 0.1, "batch_size": 32, "epochs": 3}
    return load_recipe("wine").override(**{**settings, **changes})


def tanh() -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(13, 5, bias=False), nn.Tanh(), nn.Linear(5, 3))
    )


RECIPES = {
    "network": wine(),
    "tanh, flat, a layer without bias": wine(make_model=tanh),
    "softmax": wine(make_model=lambda: nn.Linear(13, 3)),
    "line": load_recipe("regression").override(epochs=3),
    "in order": wine(shuffle=False),
}


@pytest.mark.parametrize("name", RECIPES)
def test_all_backends_arrive_where_the_trainer_does(name: str) -> None:
    study = run(RECIPES[name], {"backend": OURS, "batch_size": [7, "full", 500]})
    assert {row.status for row in study.rows} == {"finished"}
    initial = nn.utils.parameters_to_vector(RECIPES[name].make_model().parameters())
    for cell in measure_agreement(study):
        assert cell.weights is not None
        assert cell.losses is not None
        scale = 1e3 if name == "line" else 1.0  # its target has a spread of tens
        assert cell.weights <= 2e-6 * scale
        assert cell.losses <= 2e-6 * scale
        assert cell.step_seconds is not None
        assert 0 < cell.step_seconds.mean < 1
    for row in study.rows:
        assert row.weights is not None
        assert len(row.weights) == len(initial)
    # Agreement says something only where something was learnt.
    losses = [r["train_loss"] for r in study.rows[0].history]
    assert losses[0] - losses[-1] > 1e-3


def test_rows_of_a_descent_look_like_the_trainers() -> None:
    study = run(wine(), {"backend": OURS}, seeds=1, target="valid_loss<=1.2")
    trainer, *others = study.rows
    for row in others:
        assert (row.steps, row.samples, row.epoch_samples) == (15, 426, 142)
        assert list(row.final) == list(trainer.final)
        assert [list(record) for record in row.history] == [
            list(record) for record in trainer.history
        ]
        assert [record["step"] for record in row.history] == [5, 10, 15]
        assert row.final["valid_accuracy"] == trainer.final["valid_accuracy"]
        assert row.noise_start == trainer.noise_start
        assert row.train_eval["loss"] == pytest.approx(trainer.train_eval["loss"])
        assert row.generalization_gap == pytest.approx(
            trainer.generalization_gap, abs=1e-5
        )
        times = [record["trained_seconds"] for record in row.history]
        assert 0 < times[0] < times[1] < times[2] == row.seconds
        assert row.target is not None
        assert row.target["epoch"] == trainer.target["epoch"]  # type: ignore[index]
        assert row.identity == {"backend": row.settings["backend"]}


def test_the_trainer_among_backends_trains_as_it_does_alone() -> None:
    row = run(wine(), {"backend": ["trainer"]}, seeds=[3]).rows[0]
    alone = run_recipe(wine(options={"num_threads": 1}), seed=3)
    assert [r["train_loss"] for r in row.history] == [
        r["train_loss"] for r in alone.history
    ]
    assert run(wine(), {"lr": [0.1]}, seeds=[3]).rows[0].weights is None


def test_a_rate_too_high_diverges_in_each_backend_and_ends_there() -> None:
    study = run(wine(epochs=9), {"backend": OURS, "lr": [1e30]}, seeds=1)
    assert [row.status for row in study.rows] == ["diverged"] * 3
    assert {len(row.history) for row in study.rows} == {1}
    assert not math.isfinite(study.rows[1].final["train_loss"])
    assert {cell.weights for cell in measure_agreement(study)} == {None}


def test_a_descent_stops_at_the_target_when_asked() -> None:
    arguments = {"target": "train_loss<=1.05", "stop_at_target": True, "seeds": 1}
    study = run(wine(epochs=50), {"backend": OURS}, **arguments)
    assert len({len(row.history) for row in study.rows}) == 1
    assert len(study.rows[0].history) < 50


def test_backends_go_on_row_by_row(recipes: Any, tmp_path: Path) -> None:
    vary = {"backend": OURS, "batch_size": [8, "full"]}
    whole = run(recipes("line"), vary, out=tmp_path / "s")
    rows = tmp_path / "s" / "rows.jsonl"
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join(lines[::2]))
    again = run(recipes("line"), vary, out=tmp_path / "s")
    assert [row.key for row in again.rows] == [row.key for row in whole.rows]
    assert [row.weights for row in again.rows] == [row.weights for row in whole.rows]


def make_classes(target: torch.Tensor) -> Any:
    X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    return lambda seed: (Columns(X, target), None, None)


def conv() -> nn.Module:
    return nn.Sequential(nn.Linear(13, 4), nn.Sigmoid(), nn.Linear(4, 3))


def shared() -> nn.Module:
    layer = nn.Linear(13, 13)
    return nn.Sequential(layer, nn.ReLU(), layer)


def frozen() -> nn.Module:
    layer = nn.Linear(13, 3)
    layer.bias.requires_grad_(False)
    return layer


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"optimizer": "adam"}, r"optimizer must be sgd .* Add --vary optimizer=sgd"),
        ({"optimizer": "sgd:momentum=0.9"}, r"must be sgd .* got sgd:momentum=0\.9"),
        ({"schedule": "cosine"}, "schedule must be constant .* got cosine"),
        ({"last_batch": "drop"}, "last_batch must be keep .* got drop"),
        ({"loss": "mae"}, "loss must be mse or cross_entropy without arg.* got mae"),
        ({"loss": "cross_entropy:label_smoothing=0.1"}, "label_smoothing=0.1"),
        ({"loss": nn.CrossEntropyLoss()}, "loss must be mse or .*CrossEntropyLoss"),
        ({"loss": "mse"}, "loss must be mse with a single Linear .* got mse with 3 la"),
        ({"options": {"clip_norm": 1.0}}, r"clip_norm must be none .* clip_norm=none"),
        ({"options": {"accumulate": 2}}, "accumulate must be 1 .* got 2"),
        ({"options": {"max_steps": 5}}, "max_steps must be none .* Leave max_steps"),
        ({"options": {"train_metrics": ["accuracy"]}}, "Leave train_metrics out of"),
        ({"make_model": conv}, "model must be Linear .* got Linear, Sigmoid, Linear"),
        ({"make_model": shared}, "model must be Linear layers"),
        ({"make_model": frozen}, "model must be Linear layers .* all trained"),
        ({"make_model": lambda: nn.Sequential()}, "model must be Linear layers"),
    ],
)
def test_what_a_descent_lacks_is_refused_before_any_trial(
    changes: dict[str, Any], match: str, tmp_path: Path
) -> None:
    vary = {"backend": ["trainer", "numpy"]}
    with pytest.raises(ArgumentError, match=f"{match}.* This is with backend=numpy"):
        run(wine(**changes), vary, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("vary", "arguments", "match"),
    [
        ({}, {"budget": "7steps"}, "budget must be in epochs with backend=torch; got"),
        ({"num_threads": [2]}, {}, "num_threads must be 1 with backend=torch; got 2"),
    ],
)
def test_what_only_the_trainer_can_do_is_refused_of_a_study(
    vary: dict[str, Any], arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(ArgumentError, match=match):
        run(wine(), {"backend": ["torch"], **vary}, **arguments)


def test_random_transforms_and_samples_of_other_shapes_are_refused() -> None:
    class Noise:
        is_random = True

        def __call__(self, batch: Any) -> Any:
            return batch

    noisy = wine(batch_transform=Noise(), eval_transform=lambda batch: batch)
    with pytest.raises(ArgumentError, match="batch_transform must draw no random"):
        run(noisy, {"backend": ["numpy"]})
    three = Columns(torch.zeros(4, 13), torch.zeros(4), torch.zeros(4))
    tripled = wine(make_data=lambda seed: (three, None, None))
    with pytest.raises(ArgumentError, match=r"samples must be .* got a list of 3"):
        run(tripled, {"backend": ["numpy"]})
    model = {"make_model": lambda: nn.Linear(4, 3), "metrics": ()}
    shares = wine(make_data=make_classes(torch.ones(6, 3) / 3), **model)
    with pytest.raises(DataError, match=r"`y` must have shape \(6,\) for softmax"):
        run(shares, {"backend": ["numpy"]})


@pytest.mark.skipif(HAS_KERAS, reason="keras and tensorflow are installed")
def test_keras_that_is_missing_is_told_before_any_trial(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r'pip install "handful\[keras\]"'):
        run(wine(), {"backend": ["numpy", "keras"]}, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


@needs_keras
def test_keras_arrives_where_the_trainer_does() -> None:
    study = run(wine(), {"backend": ["trainer", "keras"], "batch_size": [32]})
    assert {row.status for row in study.rows} == {"finished"}
    for cell in measure_agreement(study):
        assert cell.weights is not None
        assert cell.weights <= 2e-6
