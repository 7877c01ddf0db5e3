"""The settings of one training, from a configuration file, from flags, or from both.

None means "as the recipe says". Everything here is checked without torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from handful.cli.argument_values import check_argument_values
from handful.errors import ArgumentError, unknown_choice
from handful.recipes.own_data import is_own_data, parse_own_data
from handful.recipes.own_data_facts import OwnDataRecipe
from handful.recipes.registry import AS_SEED, RECIPES, check_recipe_name
from handful.train.choices import (
    Choice,
    ChoiceLike,
    parse_loss,
    parse_optimizer,
    parse_schedule,
)
from handful.train.options import OPTIONS
from handful.train.recipe import Recipe
from handful.train.schedules import make_schedule

LOSS_AVERAGES = ("samples", "batches")
"""How an epoch's losses are averaged: every sample, or every batch, counts the same."""

AS_SEED_VARIANT = "as-seed"

_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a training is told beside its recipe's own code.

    Attributes are None where the recipe decides, or where nothing was said; so are
    options that are missing. ``data`` is what a run keeps of own data: a fingerprint,
    and what the columns are. Two pairs belong together, so that whoever gives one of a
    pair decides both: ``epochs`` and ``max_steps``, which limit a run, and ``monitor``
    and ``monitor_mode``.
    """

    recipe: str | None = None
    variant: str | None = None
    data: Mapping[str, Any] | None = None
    epochs: int | None = None
    batch_size: int | str | None = None
    last_batch: str | None = None
    num_workers: int | None = None
    worker_type: str | None = None
    lr: float | None = None
    optimizer: Choice | None = None
    schedule: Choice | None = None
    seed: int | None = None
    device: str | None = None
    loss: Choice | None = None
    metrics: tuple[str, ...] | None = None
    loss_average: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def says_length(self) -> bool:
        """Whether these say how long a run is."""
        return self.epochs is not None or "max_steps" in self.options

    def updated_by(self, other: Settings) -> Settings:
        """Return a copy in which the values that ``other`` has replace these."""
        given = _given(other)
        if other.says_length:
            given["epochs"] = other.epochs
        return replace(self, **given, options=other.options_over(self.options))

    def options_over(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options, those that these settings have before others."""
        kept = dict(options)
        if self.says_length:
            kept.pop("max_steps", None)
        if "monitor" in self.options:
            kept.pop("monitor_mode", None)
        return {**kept, **self.options}

    def apply_to(self, recipe: Recipe) -> Recipe:
        """Return the recipe's variant that is asked for, with these settings."""
        chosen = recipe.variant(self.variant) if self.variant else recipe
        if isinstance(chosen, OwnDataRecipe) and self.seed is not None:
            chosen = chosen.divide(self.seed)
        given = _given(self)
        for free in ("recipe", "variant", "data", "seed", "device", "loss_average"):
            given.pop(free, None)
        if self.says_length:
            given["epochs"] = self.epochs
        return replace(chosen, **given, options=self.options_over(chosen.options))


def _given(settings: Settings) -> dict[str, Any]:
    """Return what settings say, the options aside."""
    values = {f.name: getattr(settings, f.name) for f in fields(settings)}
    del values["options"]
    return {name: value for name, value in values.items() if value is not None}


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


def check_loss(value: ChoiceLike) -> Choice:
    """Return a loss whose name, arguments and their kinds are known.

    Raises:
        ArgumentError: One of them is not.
    """
    return check_argument_values("loss", parse_loss(value))


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
    """Return an optimiser whose name, arguments and their kinds are known.

    Raises:
        ArgumentError: One of them is not.
    """
    return check_argument_values("optimizer", parse_optimizer(value))


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
            "`handful recipes` lists them, and --data trains on a file of your own."
        )
    check_recipe_name(name)
    if is_own_data(name):
        _check_unchanged(name, settings.data)
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


def check_data(value: object, *, name: str = "data") -> Mapping[str, Any]:
    """Return what a run keeps of own data.

    Raises:
        ArgumentError: The value is no mapping with a fingerprint.
    """
    fingerprint = value.get("fingerprint") if isinstance(value, Mapping) else None
    if not isinstance(fingerprint, str):
        raise ArgumentError(
            f"{name} must be what a run's config.yaml has there, with a fingerprint; "
            f"got {value!r}. Leave it out to train on the data as they are now."
        )
    assert isinstance(value, Mapping)
    return value


def settings_differ(
    old: Mapping[str, Any], new: Settings
) -> dict[str, tuple[Any, Any]]:
    """Return which of the values that ``new`` has differ from those of a run.

    Args:
        old: The run's configuration.
        new: Settings; its values that are None differ from nothing.

    Returns:
        Name -> (value in the run, new value), in the order of `Settings`, the options
        last.
    """
    differences = {}
    for name, value in (_given(new) | dict(new.options)).items():
        before = old.get(name)
        if not _same(name, before, value):
            differences[name] = (before, value)
    return differences


def _same(name: str, old: Any, new: Any) -> bool:
    if name == "schedule":
        return bool(make_schedule(old) == make_schedule(new))
    if name == "device" and new == "auto":
        return True
    if old is None:
        return new is None
    if name in ("optimizer", "loss"):
        parse = parse_optimizer if name == "optimizer" else parse_loss
        return bool(parse(old) == new)
    if name == "metrics":
        return tuple(old) == tuple(new)
    if name in OPTIONS:
        return bool(OPTIONS[name].check(old, name=name) == new)
    return bool(old == new)


def normalize_recipe(name: str) -> str:
    """Return a recipe's name in one spelling: ``./mine.py:net`` is ``mine.py:net``."""
    if is_own_data(name):
        return parse_own_data(name).recipe
    file, colon, attribute = name.rpartition(":")
    return f"{os.path.normpath(file)}:{attribute}" if colon and file else name


def _check_unchanged(name: str, known: Mapping[str, Any] | None) -> None:
    """Check that own data are still those that a run was trained on."""
    if known is None:
        return
    from handful.recipes.own_data_checks import check_fingerprint

    check_fingerprint(parse_own_data(name), known["fingerprint"])
