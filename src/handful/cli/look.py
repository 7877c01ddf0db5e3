"""``handful look``: the first batch of a recipe, as numbers and as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from handful.cli.options import check_output, complete_recipe
from handful.cli.settings import Settings, check_recipe_and_variant, normalize_recipe
from handful.train.choices import check_batch_size, check_seed

PICTURE_SUFFIXES = (".png",)
"""Endings of the files that a grid of images can be written to."""


def look(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A name that `handful recipes` lists, or file.py:name.",
            autocompletion=complete_recipe,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where images are drawn. [look-RECIPE.png]"),
    ] = None,
    seed: Annotated[
        str, typer.Option(metavar="N", help="Decides splits and order.")
    ] = "0",
    batch_size: Annotated[
        str | None, typer.Option(metavar="N|full", help="Samples in the batch.")
    ] = None,
) -> None:
    """Look at one batch of a recipe's data."""
    chosen = Settings(
        recipe=normalize_recipe(recipe),
        seed=check_seed(seed, name="--seed"),
        batch_size=None
        if batch_size is None
        else check_batch_size(batch_size, name="--batch-size"),
    )
    name = check_recipe_and_variant(chosen)
    if out is not None:
        check_output(out, name="--out", suffixes=PICTURE_SUFFIXES)
    # Only from here on is torch needed.
    from handful.cli.first_batch import describe_first_batch
    from handful.recipes.registry import load_recipe

    loaded = chosen.apply_to(load_recipe(name))
    for line in describe_first_batch(loaded, seed=chosen.seed or 0, picture=out):
        typer.echo(line)
