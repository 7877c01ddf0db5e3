"""The settings of one training, from a configuration file, from flags, or from both.

None means "as the recipe says". Everything here is checked without torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from handful.errors import ArgumentError, unknown_choice
from handful.recipes.registry import AS_SEED, RECIPES, check_recipe_name
from handful.train.choices import (
    LOSSES,
    METRICS,
    Choice,
    ChoiceLike,
    parse_optimizer,
    parse_schedule,
)
from handful.train.recipe import Recipe
from handful.train.schedules import make_schedule

LOSS_AVERAGES = ("samples", "batches")
"""How an epoch's losses are averaged: every sample, or every batch, counts the same."""

AS_SEED_VARIANT = "as-seed"

_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a training is told beside its recipe's own code.

    Attributes are None where the recipe decides, or where nothing was said.
    """

    recipe: str | None = None
    variant: str | None = None
    epochs: int | None = None
    batch_size: int | str | None = None
    lr: float | None = None
    optimizer: Choice | None = None
    schedule: Choice | None = None
    seed: int | None = None
    device: str | None = None
    loss: str | None = None
    metrics: tuple[str, ...] | None = None
    loss_average: str | None = None

    def updated_by(self, other: Settings) -> Settings:
        """Return a copy in which the values that ``other`` has replace these."""
        given = {f.name: getattr(other, f.name) for f in fields(other)}
        return replace(self, **{k: v for k, v in given.items() if v is not None})

    def apply_to(self, recipe: Recipe) -> Recipe:
        """Return the recipe's variant that is asked for, with these settings."""
        chosen = recipe.variant(self.variant) if self.variant else recipe
        return chosen.override(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            optimizer=self.optimizer,
            schedule=self.schedule,
            loss=self.loss,
            metrics=self.metrics,
        )


def check_device(value: object, *, name: str = "device") -> str:
    """Return the name of a device, or ``"auto"``; whether it is here is not asked.

    Raises:
        ArgumentError: The value is no such name.
    """
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise ArgumentError(
            f"{name} must be auto, cpu, cuda, mps or xpu, with a number where there "
            f"are several (cuda:1); got {value!r}."
        )
    return value


def check_loss(value: object, *, name: str = "loss") -> str:
    """Return the name of a loss.

    Raises:
        ArgumentError: There is none of that name.
    """
    if not isinstance(value, str) or value not in LOSSES:
        raise unknown_choice(name, value, LOSSES)
    return value


def check_metrics(value: object, *, name: str = "metrics") -> tuple[str, ...]:
    """Return names of metrics.

    Raises:
        ArgumentError: The value is no list, or there is no metric of such a name.
    """
    if not isinstance(value, list | tuple):
        raise ArgumentError(f"{name} must be a list of names; got {value!r}.")
    for metric in value:
        if metric not in METRICS:
            raise unknown_choice(f"an entry of {name}", metric, METRICS)
    return tuple(value)


def check_loss_average(value: object, *, name: str = "loss_average") -> str:
    """Return how losses are averaged.

    Raises:
        ArgumentError: The value is neither ``samples`` nor ``batches``.
    """
    if not isinstance(value, str) or value not in LOSS_AVERAGES:
        raise unknown_choice(name, value, LOSS_AVERAGES)
    return value


def check_schedule(value: ChoiceLike) -> Choice:
    """Return a schedule whose name, arguments and their values can be used.

    Raises:
        ArgumentError: One of them cannot.
    """
    choice = parse_schedule(value)
    make_schedule(choice)
    return choice


def check_optimizer(value: ChoiceLike) -> Choice:
    """Return an optimiser whose name and names of arguments are known.

    Raises:
        ArgumentError: One of them is not.
    """
    return parse_optimizer(value)


def check_recipe_and_variant(settings: Settings) -> str:
    """Check that the recipe exists and, where that shows without torch, its variant.

    Returns:
        The recipe's name.

    Raises:
        ArgumentError: No recipe is named, or there is no such recipe or variant.
    """
    name = settings.recipe
    if name is None:
        raise ArgumentError(
            "RECIPE must be given, or named by --config; got neither. "
            "`handful recipes` lists them."
        )
    check_recipe_name(name)
    variant = settings.variant
    if variant is not None and name in RECIPES:
        if variant != AS_SEED_VARIANT:
            raise unknown_choice("variant", variant, [AS_SEED_VARIANT])
        if name not in AS_SEED:
            raise ArgumentError(
                f"--as-seed must go with a recipe that has the variant "
                f"{AS_SEED_VARIANT!r}: {', '.join(AS_SEED)}; got {name!r}."
            )
    return name


def settings_differ(
    old: Mapping[str, Any], new: Settings
) -> dict[str, tuple[Any, Any]]:
    """Return which of the values that ``new`` has differ from those of a run.

    Args:
        old: The run's configuration.
        new: Settings; its values that are None differ from nothing.

    Returns:
        Name -> (value in the run, new value), in the order of `Settings`.
    """
    before = asdict(Settings()) | {k: v for k, v in old.items() if v is not None}
    differences = {}
    for field in fields(new):
        value = getattr(new, field.name)
        if value is not None and not _same(field.name, before[field.name], value):
            differences[field.name] = (before[field.name], value)
    return differences


def _same(name: str, old: Any, new: Any) -> bool:
    if name == "schedule":
        return bool(make_schedule(old) == make_schedule(new))
    if name == "optimizer":
        return old is not None and parse_optimizer(old) == parse_optimizer(new)
    if name == "device" and new == "auto":
        return True
    if name == "metrics":
        return tuple(old or ()) == tuple(new)
    return bool(old == new)


def normalize_recipe(name: str) -> str:
    """Return a recipe's name in one spelling: ``./mine.py:net`` is ``mine.py:net``."""
    file, colon, attribute = name.rpartition(":")
    return f"{os.path.normpath(file)}:{attribute}" if colon and file else name
