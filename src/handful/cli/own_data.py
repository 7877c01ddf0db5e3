"""What ``handful train`` prints and keeps of own data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from handful.errors import ArgumentError
from handful.recipes.own_data import is_own_data, parse_own_data
from handful.recipes.own_data_checks import CSV, find_kind
from handful.recipes.own_data_facts import OwnDataRecipe
from handful.train.recipe import Recipe

MOST_SCHEMA_CHARACTERS = 16_000
"""A longer description of columns is not kept: a configuration has at most 64 KiB."""


def check_cache(recipe: str) -> None:
    """Refuse ``--cache`` for what is no CSV file of the user's.

    Raises:
        ArgumentError: It is none.
    """
    if is_own_data(recipe) and find_kind(parse_own_data(recipe)) == CSV:
        return
    raise ArgumentError(
        f"--cache must go with --data and a CSV file; got {recipe!r}. Only text takes "
        "long to read."
    )


def print_facts(recipe: Recipe) -> None:
    """Print what was found in own data; nothing for another recipe."""
    if isinstance(recipe, OwnDataRecipe):
        for line in recipe.facts.lines():
            typer.echo(line)


def describe_own_data(name: str, recipe: Recipe) -> dict[str, Any]:
    """Return what a run's configuration has of own data; nothing of another recipe.

    Args:
        name: The recipe's name, ``data:PATH:TARGET``.
        recipe: The recipe.
    """
    if not isinstance(recipe, OwnDataRecipe):
        return {}
    from handful.recipes.own_data_checks import fingerprint_own_data

    kept: dict[str, Any] = {"fingerprint": fingerprint_own_data(parse_own_data(name))}
    schema = dict(recipe.facts.schema)
    if len(json.dumps(schema)) <= MOST_SCHEMA_CHARACTERS:
        kept["schema"] = schema
    return {"data": kept}


def print_test(recipe: Recipe, run_dir: Path, device: str | None) -> None:
    """Measure a run's best model on the test part, and print it with the baseline."""
    if not isinstance(recipe, OwnDataRecipe):
        return
    from handful.train.run_recipe import evaluate_run

    measured = evaluate_run(run_dir, recipe, split="test", device=device or "auto")
    for line in recipe.facts.result_lines(measured):
        typer.echo(line)
