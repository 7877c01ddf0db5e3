"""Recipes that the tests of studies train: a module that worker processes can run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from handful import Columns, Recipe
from handful.train.recipe import Splits


def make_data(seed: int) -> Splits:
    """Return 48 and 16 samples of a noisy line with four features."""
    log = os.environ.get("STUDY_DATA_LOG")
    if log:
        with Path(log).open("a") as file:
            file.write(f"{seed}\n")
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(64, 4, generator=generator)
    y = X @ torch.tensor([[1.0], [2.0], [-1.0], [0.5]])
    y += 0.5 * torch.randn(64, 1, generator=generator)
    return Columns(X[:48], y[:48]), Columns(X[48:], y[48:]), None


def make_model() -> nn.Module:
    """Return a linear model."""
    return nn.Linear(4, 1)


class Slow(nn.Linear):
    """A linear model whose passes take time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return super().forward(x)


def make_slow_model() -> nn.Module:
    return Slow(4, 1)


def make_dropout_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))


class Interrupted(nn.Linear):
    """A linear model during whose training Ctrl-C is pressed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            signal.raise_signal(signal.SIGINT)
        return super().forward(x)


def make_interrupted_model() -> nn.Module:
    return Interrupted(4, 1)


def fail_for_seed_one(seed: int) -> Splits:
    if seed == 1 and "STUDY_REPAIRED" not in os.environ:
        raise OSError("the disk is gone")
    return make_data(seed)


line = Recipe(
    name="line",
    make_data=make_data,
    make_model=make_model,
    loss="mse",
    optimizer="sgd",
    lr=0.05,
    batch_size=8,
    epochs=3,
    metrics=("mae", "r2"),
)
slow = line.override(name="slow", make_model=make_slow_model, epochs=2)
dropout = line.override(name="dropout", make_model=make_dropout_model)
failing = line.override(name="failing", make_data=fail_for_seed_one)
interrupted = line.override(name="interrupted", make_model=make_interrupted_model)
