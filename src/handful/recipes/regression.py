"""Regression: one weight fitted to 100 noisy points by gradient descent."""

from __future__ import annotations

import numpy as np
from torch import nn

from handful.data.columns import Columns
from handful.datasets.tables import load_regression
from handful.train.recipe import Recipe, Splits


def make_data(seed: int) -> Splits:  # noqa: ARG001
    """Return the 100 points, one standardised feature, for training alone."""
    points = load_regression()
    features = points.features.astype(np.float32)
    return Columns(features, points.target.astype(np.float32)), None, None


def make_model() -> nn.Module:
    """Make the line through the origin, y = w x."""
    return nn.Linear(1, 1, bias=False)


recipe = Recipe(
    name="regression",
    summary="a straight line through 100 noisy points",
    make_data=make_data,
    make_model=make_model,
    loss="mse",
    optimizer="sgd",
    lr=0.02,
    batch_size=10,
    epochs=100,
)
