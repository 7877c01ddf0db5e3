"""Noise meter: the gradient noise of trials, before the first step and after the last.

Trials of one seed that differ in batch size or rate alone begin with the same weights
and the same data, so the noise before the first step is measured once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from handful.data.loader import DataLoader
from handful.data.order import mix_seed
from handful.runs.study_row import settings_key
from handful.studies.gradient_noise import (
    NUM_BATCHES,
    SMALL_BATCH,
    GradientNoise,
    measure_gradient_noise,
)
from handful.train.assembly import make_step
from handful.train.precision import Precision
from handful.train.recipe import Recipe
from handful.train.summary import has_lazy_layers
from handful.train.trainer import Trainer

AFTER_THE_START = (
    *("batch_size", "lr", "optimizer", "schedule", "epochs", "max_steps"),
    *("last_batch", "backend"),
)
"""Settings of which the gradients before the first step don't depend."""


class NoiseMeter:
    """Measures the noise of one recipe's trials, one after another."""

    def __init__(self) -> None:
        self._starts: dict[tuple[int, str], GradientNoise | None] = {}

    def measure_start(
        self,
        recipe: Recipe,
        trainer: Trainer,
        data: Dataset[Any],
        *,
        seed: int,
        settings: Mapping[str, Any],
    ) -> dict[str, float | None] | None:
        """Return the noise before the first step, as a row has it.

        Args:
            recipe: The recipe, with a trial's settings.
            trainer: Its trainer, with the initial weights.
            data: The training data of that seed.
            seed: The trial's seed.
            settings: The trial's settings, which tell it from the others.

        Returns:
            Values by name; None where they can't be had.
        """
        first = {k: v for k, v in settings.items() if k not in AFTER_THE_START}
        key = (seed, settings_key(first))
        if key not in self._starts:
            self._starts[key] = _measure(recipe, trainer, data, seed)
        return _describe(self._starts[key], recipe, _count(data))


def measure_noise(
    recipe: Recipe, trainer: Trainer, data: Dataset[Any], *, seed: int
) -> dict[str, float | None] | None:
    """Return the noise at the trainer's present weights; see `NoiseMeter`."""
    return _describe(_measure(recipe, trainer, data, seed), recipe, _count(data))


def _measure(
    recipe: Recipe, trainer: Trainer, data: Dataset[Any], seed: int
) -> GradientNoise | None:
    count = _count(data)
    if has_lazy_layers(trainer.model):
        return None
    try:
        return measure_gradient_noise(
            trainer.model,
            draw_batches(recipe, data, seed),
            step=make_step(trainer, Precision("float32", trainer.device)),
            device=trainer.device,
            small=SMALL_BATCH,
            num_samples=count,
            batch_size=step_samples(recipe, count),
        )
    except Exception:  # What is wrong with the model, the training itself says.
        return None


def _describe(
    noise: GradientNoise | None, recipe: Recipe, count: int
) -> dict[str, float | None] | None:
    if noise is None:
        return None
    return noise.at_batch_size(step_samples(recipe, count), count).describe()


def draw_batches(recipe: Recipe, data: Dataset[Any], seed: int) -> DataLoader[Any]:
    """Return batches of samples drawn with replacement, the same for each call."""
    generator = torch.Generator().manual_seed(mix_seed(seed, "noise"))
    size = SMALL_BATCH * NUM_BATCHES
    drawn = torch.randint(_count(data), (size,), generator=generator).tolist()
    transform = recipe.eval_transform or recipe.batch_transform
    return DataLoader(
        Subset(data, drawn), SMALL_BATCH, seed=0, batch_transform=transform
    )


def step_samples(recipe: Recipe, count: int) -> int:
    """Return how many samples a step of a recipe has."""
    if recipe.batch_size == "full":
        return count
    return int(recipe.batch_size) * int(recipe.options.get("accumulate", 1))


def _count(data: Dataset[Any]) -> int:
    return len(data)  # type: ignore[arg-type]
