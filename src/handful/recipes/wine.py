"""Wine: three cultivars told apart by 13 chemical measurements."""

from __future__ import annotations

from torch import nn

from handful.data.columns import Columns
from handful.datasets.splits import standardize, stratified_split
from handful.datasets.tables import load_wine
from handful.train.recipe import Recipe, Splits


def make_data(seed: int) -> Splits:
    """Hold out a stratified 20 %; standardise with the statistics of the rest."""
    wine = load_wine()
    rest, held_out = stratified_split(wine.target, 0.2, seed)
    train, valid = standardize(wine.features[rest], wine.features[held_out])
    return (
        Columns(train, wine.target[rest]),
        Columns(valid, wine.target[held_out]),
        None,
    )


def make_raw_data(seed: int) -> Splits:  # noqa: ARG001
    """Return all 178 samples as they are, for training alone."""
    wine = load_wine()
    return Columns(wine.features, wine.target), None, None


def make_model() -> nn.Module:
    """Make the perceptron 13-10-10-3."""
    return nn.Sequential(
        nn.Linear(13, 10),
        nn.ReLU(),
        nn.Linear(10, 10),
        nn.ReLU(),
        nn.Linear(10, 3),
    )


as_seed = Recipe(
    name="wine",
    summary="the lesson's program: all samples, raw features, no validation",
    make_data=make_raw_data,
    make_model=make_model,
    lr=1e-3,
    batch_size=32,
    epochs=10,
    class_names=("class_0", "class_1", "class_2"),
    batch_line="Batch Loss: {loss:.4f}",
    epoch_line="Epoch [{epoch}/{epochs}] Average Loss: {train_loss:.4f}",
)

recipe = Recipe(
    name="wine",
    summary="three kinds of wine from 13 measurements",
    make_data=make_data,
    make_model=make_model,
    lr=1e-2,
    batch_size=16,
    epochs=30,
    metrics=("accuracy",),
    class_names=("class_0", "class_1", "class_2"),
    variants={"as-seed": as_seed},
)
