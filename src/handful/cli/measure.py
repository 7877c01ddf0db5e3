"""``handful evaluate`` and ``handful predict``: a run's model on its recipe's data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handful.cli.options import (
    TABLE_SUFFIXES,
    DeviceOption,
    RecipeOption,
    RunArgument,
    check_new_output,
    check_output,
    check_split,
    is_installed,
)
from handful.cli.settings import (
    Settings,
    check_device,
    check_recipe_and_variant,
    normalize_recipe,
)
from handful.cli.tables import format_figure, format_table
from handful.errors import ArgumentError, MissingExtraError

if TYPE_CHECKING:
    from handful.train.recipe import Recipe


def evaluate(
    run: RunArgument,
    split: Annotated[
        str,
        typer.Option("--split", metavar="NAME", help="train, valid or test."),
    ] = "valid",
    device: DeviceOption = None,
    recipe: RecipeOption = None,
) -> None:
    """Measure loss and metrics of a run's model."""
    check_split(split)
    chosen = check_device(device or "auto", name="--device")
    settings = _read_settings(run, recipe)
    loaded = _load_recipe(settings)
    from handful.train.run_recipe import evaluate_run

    figures = evaluate_run(run, loaded, split=split, device=chosen)
    rows = [(name, format_figure(name, value)) for name, value in figures.items()]
    typer.echo(format_table(("", ""), rows, left=1))


def predict(
    run: RunArgument,
    to: Annotated[
        Path,
        typer.Option(
            "--to", metavar="FILE", help="File to write: .csv, .npy or .parquet."
        ),
    ],
    split: Annotated[
        str,
        typer.Option("--split", metavar="NAME", help="train, valid or test."),
    ] = "test",
    device: DeviceOption = None,
    recipe: RecipeOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file if it exists.")
    ] = False,
) -> None:
    """Write what a run's model predicts to a file."""
    check_split(split)
    chosen = check_device(device or "auto", name="--device")
    check_output(to, name="--to", suffixes=TABLE_SUFFIXES)
    check_new_output(to, name="--to", force=force)
    if to.suffix.lower() == ".parquet" and not is_installed("pyarrow"):
        raise MissingExtraError(
            "writing .parquet needs pyarrow. Install it with "
            "`pip install handful[arrow]`, or write .csv or .npy."
        )
    settings = _read_settings(run, recipe)
    loaded = _load_recipe(settings)
    from handful.train.run_recipe import predict_run

    count = predict_run(run, loaded, to=to, split=split, device=chosen)
    typer.echo(f"wrote {count} rows to {to}")


def _read_settings(run: Path, recipe: str | None) -> Settings:
    """Read a run's settings; ``recipe`` says where its recipe is now."""
    from handful.cli.config import read_config
    from handful.runs.run import Run

    Run.load(run)
    settings = read_config(run / "config.yaml")
    if recipe is not None:
        settings = replace(settings, recipe=normalize_recipe(recipe))
    elif settings.recipe is None:
        raise ArgumentError(
            f"{run} was not trained by name; say with --recipe file.py:name "
            "what it was trained from."
        )
    try:
        check_recipe_and_variant(settings)
    except ArgumentError as error:
        if recipe is not None:
            raise
        raise ArgumentError(
            f"{error} The run {str(run)!r} was trained from it: go to the folder where "
            "that was done, or say with --recipe where it is now."
        ) from None
    return settings


def _load_recipe(settings: Settings) -> Recipe:
    from handful.recipes.registry import load_recipe

    assert settings.recipe is not None
    return settings.apply_to(load_recipe(settings.recipe))
