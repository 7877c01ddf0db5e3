"""Recipes run to their end, on real data, and reach what they promise."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from handful import Recipe, Run, load_recipe, run_recipe
from handful.data.augment import RandomCrop
from handful.datasets.tables import load_regression, load_wine
from handful.errors import ArgumentError
from handful.recipes.registry import AS_SEED, RECIPES
from handful.train.run_recipe import (
    evaluate_run,
    make_initial_model,
    make_split_loader,
    predict_run,
)


@pytest.mark.parametrize("name", RECIPES)
def test_every_listed_recipe_loads_under_its_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert ("as-seed" in recipe.variants) == (name in AS_SEED)


def test_wine_is_a_good_classifier_over_five_seeds() -> None:
    runs = [run_recipe(load_recipe("wine"), seed=seed) for seed in range(5)]
    accuracies = [run.history[-1]["valid_accuracy"] for run in runs]
    assert statistics.median(accuracies) >= 0.95


def test_wine_is_standardised_by_its_training_set_alone() -> None:
    train, valid, test = load_recipe("wine").make_data(3)
    assert test is None
    assert (len(train), len(valid)) == (142, 36)  # type: ignore[arg-type]
    features, labels = train.tensors  # type: ignore[attr-defined]
    assert features.mean(0).abs().max() < 1e-5
    assert (features.std(0, correction=0) - 1).abs().max() < 1e-5
    shares = np.bincount(labels) / len(labels)
    assert shares == pytest.approx(np.bincount(load_wine().target) / 178, abs=0.01)


def test_wine_as_seed_is_the_lessons_program() -> None:
    recipe = load_recipe("wine").variant("as-seed")
    train, valid, _ = recipe.make_data(0)
    assert valid is None
    assert np.array_equal(train.tensors[0], load_wine().features)  # type: ignore[attr-defined]
    run = run_recipe(recipe)
    assert [len(run.steps), len(run.history)] == [60, 10]
    assert recipe.batch_line is not None
    assert recipe.batch_line.format(loss=1.23456) == "Batch Loss: 1.2346"
    assert recipe.epoch_line is not None
    line = recipe.epoch_line.format(epochs=10, **run.history[0])
    assert line.startswith("Epoch [1/10] Average Loss: ")


def test_digits_learns(tmp_path: Path) -> None:
    run = run_recipe(load_recipe("digits"), run_dir=tmp_path / "run")
    assert run.best is not None
    assert run.best["valid_accuracy"] > 0.95
    again = evaluate_run(tmp_path / "run", load_recipe("digits"), split="valid")
    assert again["valid_loss"] == pytest.approx(run.best["valid_loss"], rel=1e-6)
    tested = evaluate_run(tmp_path / "run", load_recipe("digits"), split="test")
    assert tested["test_accuracy"] > 0.93
    rows = predict_run(
        tmp_path / "run", load_recipe("digits"), to=tmp_path / "p.npy", split="test"
    )
    assert np.load(tmp_path / "p.npy").shape == (rows, 10)


def test_regression_ends_near_the_least_squares_weight() -> None:
    recipe = load_recipe("regression").override(batch_size="full", epochs=300)
    run = run_recipe(recipe)
    points = load_regression()
    x, y = points.features[:, 0], points.target[:, 0]
    least = float(np.mean((y - x * (x @ y) / (x @ x)) ** 2))
    assert run.history[-1]["train_loss"] == pytest.approx(least, rel=1e-4)
    assert len(run.steps) == 300


def test_mnist_trains_on_the_real_images(
    real_mnist_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDFUL_DATA", str(real_mnist_dir))
    loader = make_split_loader(load_recipe("mnist"), "train", 0)
    assert loader.path.startswith("batched")
    images, labels = next(iter(loader))
    assert images.shape == (32, 1, 28, 28)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert 0.9 < images.max() <= 1
    run = run_recipe(load_recipe("mnist").override(epochs=1, batch_size=128))
    assert run.history[0]["samples"] == 50_000
    assert run.history[0]["valid_accuracy"] > 0.9


def test_fashion_mnist_trains_on_the_real_images(
    real_fashion_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDFUL_DATA", str(real_fashion_dir))
    run = run_recipe(load_recipe("fashion-mnist").override(epochs=1, batch_size=128))
    assert run.history[0]["valid_accuracy"] > 0.8


def test_initial_weights_depend_on_the_seed_alone() -> None:
    recipe = load_recipe("wine")
    torch.rand(3)
    one, same, other = (make_initial_model(recipe, seed) for seed in (1, 1, 2))
    assert torch.equal(_weight(one), _weight(same))
    assert not torch.equal(_weight(one), _weight(other))


def _weight(model: nn.Module) -> torch.Tensor:
    return next(model.parameters())


def test_runs_end_bit_for_bit_the_same_with_the_same_seed(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        run_recipe(load_recipe("wine"), seed=4, run_dir=tmp_path / name)
        last = sorted((tmp_path / name / "checkpoints").iterdir())[-1]
        files.append((last / "model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_a_recipe_is_loaded_from_the_users_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from handful.recipes.wine import recipe as base\n"
        "slow = base.override(lr=1e-4)\n"
        "other = 3\n"
    )
    assert load_recipe(f"{tmp_path}/mine.py:slow").lr == 1e-4
    with pytest.raises(ArgumentError, match=r"must be a handful.Recipe; got int"):
        load_recipe(f"{tmp_path}/mine.py:other")
    with pytest.raises(ArgumentError, match="must be in a file that exists"):
        load_recipe(f"{tmp_path}/none.py:slow")
    with pytest.raises(ArgumentError, match=r"Add the recipe's name: .*mine.py:recipe"):
        load_recipe(f"{tmp_path}/mine.py")
    with pytest.raises(ArgumentError, match="Did you mean 'digits'"):
        load_recipe("digit")


def test_recipes_check_their_settings() -> None:
    base = load_recipe("wine")
    assert base.override(lr=None, epochs=3).epochs == 3
    with pytest.raises(ArgumentError, match="batch_size must be a whole number"):
        base.override(batch_size=0)
    with pytest.raises(ArgumentError, match="eval_transform must be given when"):
        base.override(batch_transform=RandomCrop(4))
    with pytest.raises(ArgumentError, match="name of a recipe must be letters"):
        base.override(name="a/b")
    with pytest.raises(ArgumentError, match="optimizer must be one of"):
        base.override(optimizer="x")
    with pytest.raises(ArgumentError, match="has no variant 'x'; it has as-seed"):
        base.variant("x")


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    run_recipe(load_recipe("wine").override(epochs=1), run_dir=tmp_path / "run")
    with pytest.raises(ArgumentError, match="has: train, valid; got 'test'"):
        evaluate_run(tmp_path / "run", load_recipe("wine"), split="test")
    with pytest.raises(ArgumentError, match="split must be one of"):
        evaluate_run(tmp_path / "run", load_recipe("wine"), split="tset")


def test_configuration_repeats_the_run(tmp_path: Path) -> None:
    recipe = load_recipe("wine").override(optimizer="sgd:momentum=0.9", epochs=2)
    run_recipe(recipe, run_dir=tmp_path / "run")
    config = Run.load(tmp_path / "run").config
    names = ("epochs", "batch_size", "lr", "optimizer", "schedule")
    again = load_recipe("wine").override(**{name: config[name] for name in names})
    assert isinstance(again, Recipe)
    one, other = run_recipe(recipe), run_recipe(again)
    assert one.steps.tobytes() == other.steps.tobytes()
