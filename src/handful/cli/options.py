"""Options that several commands share, and checks of what they were given."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from handful.errors import ArgumentError, unknown_choice
from handful.recipes.registry import RECIPES

SPLITS = ("train", "valid", "test")
"""The parts of a recipe's data."""

TABLE_SUFFIXES = (".csv", ".npy", ".parquet")
"""Endings of the files that predictions can be written to."""


def complete_recipe(incomplete: str) -> list[tuple[str, str]]:
    """Return the recipes that start with what was typed, for the shell."""
    return [
        (name, summary)
        for name, (_, summary) in RECIPES.items()
        if name.startswith(incomplete)
    ]


RunArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of the run.")
]
RecipeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        help="Where the run's recipe is now, if its file has moved.",
    ),
]
DeviceOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps [auto]"
    ),
]


def check_split(value: str) -> str:
    """Return the name of a split.

    Raises:
        ArgumentError: There is none of that name.
    """
    if value not in SPLITS:
        raise unknown_choice("--split", value, SPLITS)
    return value


def check_output(path: Path, *, name: str, suffixes: tuple[str, ...]) -> Path:
    """Check that a file of one of these kinds could be written there.

    Args:
        path: The file to be.
        name: The option that names it.
        suffixes: Endings that are known.

    Raises:
        ArgumentError: The ending is another, the path is a folder, or its folder is
            missing.
    """
    if path.suffix.lower() not in suffixes:
        raise ArgumentError(
            f"{name} must end in {' or '.join(suffixes)}; got {str(path)!r}."
        )
    if path.is_dir():
        raise ArgumentError(f"{name} must name a file; got the folder {str(path)!r}.")
    if not path.parent.is_dir():
        raise ArgumentError(
            f"{name} must lie in a folder that exists; got {str(path)!r}. "
            f"Make {str(path.parent)!r} first."
        )
    return path


def check_new_output(path: Path, *, name: str, force: bool) -> None:
    """Check that a file is not overwritten unasked.

    Raises:
        ArgumentError: The file exists and ``force`` is false.
    """
    if path.exists() and not force:
        raise ArgumentError(
            f"{name} must name a new file; {str(path)!r} exists. "
            "Add --force to overwrite it."
        )


def is_installed(package: str) -> bool:
    """Say whether a package could be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
