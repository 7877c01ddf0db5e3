"""Digits: 1,797 handwritten digits of 8x8 pixels."""

from __future__ import annotations

from torch import nn

from handful.data.columns import Columns
from handful.datasets.splits import stratified_split
from handful.datasets.tables import load_digits
from handful.train.recipe import Recipe, Splits


def make_data(seed: int) -> Splits:
    """Hold out a stratified 20 % for testing, and 20 % of the rest for validation."""
    digits = load_digits()
    features, target = digits.features / 16, digits.target
    rest, test = stratified_split(target, 0.2, seed)
    train, valid = stratified_split(target[rest], 0.2, seed)
    train, valid = rest[train], rest[valid]
    return (
        Columns(features[train], target[train]),
        Columns(features[valid], target[valid]),
        Columns(features[test], target[test]),
    )


def make_model() -> nn.Module:
    """Make the perceptron 64-64-10."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


recipe = Recipe(
    name="digits",
    summary="8x8 handwritten digits",
    make_data=make_data,
    make_model=make_model,
    lr=3e-3,
    batch_size=32,
    epochs=20,
    metrics=("accuracy",),
    class_names=tuple("0123456789"),
)
