"""Shuffling: what a new order of the samples in each epoch is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handful.data.columns import Columns
from handful.lessons.lesson import LessonOptions, LessonResult
from handful.recipes import digits, wine
from handful.report.bands import SeedCurves, draw_bands
from handful.train.recipe import Recipe, Splits
from handful.train.run_recipe import run_recipe
from handful.train.threads import restored_threads

CORRECTION = (
    "It says that mixing the training data may help and measures nothing; one training "
    "with each order, all that is done as printed, cannot tell the order's effect from "
    "the seed's, so several seeds are compared, and shuffling once is told apart from "
    "shuffling anew."
)

SORTED, ONCE, ANEW = "sorted by class", "shuffled once", "shuffled each epoch"
ORDERS = (SORTED, ONCE, ANEW)
RECIPES: Mapping[str, Recipe] = {"wine": wine.recipe, "digits": digits.recipe}
VALUES = {"valid_loss": "validation loss", "valid_accuracy": "validation accuracy"}
NUM_SEEDS = 8
SIGNIFICANT = 0.05
"""Largest chance of a result as one-sided as that, were the orders equally good."""

Curves = dict[str, dict[str, list[list[float]]]]
"""Order -> value -> a list a seed, with an entry an epoch."""


def run(options: LessonOptions) -> LessonResult:
    """Train on sorted data without shuffling, shuffled once, and anew each epoch."""
    result = LessonResult(correction=CORRECTION)
    orders = (SORTED, ANEW) if options.as_printed else ORDERS
    for name, recipe in RECIPES.items():
        own = recipe.override(epochs=3) if options.quick else recipe
        curves = measure_orders(own, orders, choose_seeds(options))
        _tell(result, name, curves)
        result.numbers[name] = curves
        for value, label in VALUES.items():
            result.figures[f"{name}-{value.removeprefix('valid_')}"] = draw_bands(
                [_as_series(order, curves[order][value]) for order in orders],
                x_label="epoch",
                y_label=label,
                title=f"{name.capitalize()}: {label} by order of the samples",
            )
    return result


def choose_seeds(options: LessonOptions) -> list[int]:
    """Return the seeds: one as printed, else several from the option's on."""
    count = 1 if options.as_printed else 2 if options.quick else NUM_SEEDS
    return list(range(options.seed, options.seed + count))


def measure_orders(
    recipe: Recipe, orders: Sequence[str], seeds: Sequence[int]
) -> Curves:
    """Train once for each order and seed.

    With one seed, all orders have the same split and the same initial weights.

    Args:
        recipe: Data with labels in the second column, model and settings.
        orders: Some of `ORDERS`.
        seeds: The seeds.

    Returns:
        Validation loss (nats) and accuracy (share) after each epoch.
    """
    curves: Curves = {order: {value: [] for value in VALUES} for order in orders}
    with restored_threads():
        torch.set_num_threads(1)
        for seed in seeds:
            for order in orders:
                history = run_recipe(put_in_order(recipe, order), seed=seed).history
                for value in VALUES:
                    curves[order][value].append([record[value] for record in history])
    return curves


def put_in_order(recipe: Recipe, order: str) -> Recipe:
    """Return the recipe with its training samples sorted by class or shuffled.

    Args:
        recipe: Its data are `Columns` with the labels second.
        order: One of `ORDERS`. In each, the training data lie sorted by class, the
            samples of a class in the order of the split; shuffling starts from there.
    """
    make = partial(_arrange, recipe.make_data, is_shuffled=order == ONCE)
    return replace(recipe, make_data=make, shuffle=order == ANEW)


def _arrange(make_data: Any, seed: int, *, is_shuffled: bool) -> Splits:
    train, valid, test = make_data(seed)
    features, target = train.tensors
    order = torch.sort(target, stable=True).indices
    if is_shuffled:
        generator = torch.Generator().manual_seed(seed)
        order = order[torch.randperm(len(order), generator=generator)]
    return Columns(features[order], target[order]), valid, test


def _as_series(name: str, values: Sequence[Sequence[float]]) -> SeedCurves:
    array = np.array(values, np.float64)
    return SeedCurves(name, np.arange(1.0, array.shape[1] + 1), array)


def _tell(result: LessonResult, name: str, curves: Curves) -> None:
    seeds = len(next(iter(curves.values()))["valid_loss"])
    epochs = len(curves[SORTED]["valid_loss"][0])
    result.lines.append(
        f"{name}, after {epochs} epochs, {seeds} {'seed' if seeds == 1 else 'seeds'}:"
    )
    for order, values in curves.items():
        told = [
            f"{label} {_spread(_final(values[key]))}" for key, label in VALUES.items()
        ]
        result.lines.append(f"  {order:<20} {', '.join(told)}")
    result.lines += [
        f"  {sentence}"
        for sentence in judge_orders(
            {order: _final(values["valid_loss"]) for order, values in curves.items()}
        )
    ]


def _final(curves: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.array([curve[-1] for curve in curves], np.float64)


def _spread(values: NDArray[np.float64]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"


def judge_orders(losses: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Say, against each other order, whether shuffling each epoch is better.

    Args:
        losses: Final validation losses by order, shape ``(S,)`` each, paired by seed.
    """
    anew = losses[ANEW]
    return [
        _judge(order, anew, other) for order, other in losses.items() if order != ANEW
    ]


def _judge(order: str, anew: NDArray[np.float64], other: NDArray[np.float64]) -> str:
    lower, higher = int((anew < other).sum()), int((anew > other).sum())
    if len(anew) == 1:
        return f"One seed cannot tell shuffling each epoch from {order}."
    chance = sign_test(lower, higher)
    count = f"lower loss in {lower} of {len(anew)} seeds (sign test, p = {chance:.3g})"
    if chance > SIGNIFICANT:
        return f"Shuffling each epoch is not told apart from {order}: {count}."
    how = "better" if lower > higher else "worse"
    return f"Shuffling each epoch is {how} than {order}: {count}."


def sign_test(lower: int, higher: int) -> float:
    """Return the two-sided p-value of the sign test; ties are left out.

    Args:
        lower: Pairs with a difference below 0.
        higher: Pairs with a difference above 0.

    Returns:
        Chance, under a fair coin, of a split at least as uneven (Dixon and Mood 1946,
        "The Statistical Sign Test"); 1 without pairs.

    Example:
        >>> sign_test(8, 0)
        0.0078125
    """
    number = lower + higher
    tail = sum(math.comb(number, k) for k in range(min(lower, higher) + 1))
    return min(1.0, 2.0 * tail / 2.0**number)
