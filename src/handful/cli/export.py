"""``handful export``: a run's best model as a file that needs no handful."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from handful.cli.measure import _load_recipe, _read_settings
from handful.cli.options import (
    RecipeOption,
    RunArgument,
    check_new_output,
    check_output,
)
from handful.errors import ArgumentError

LOADING = {
    ".pt2": ("import torch", "model = torch.export.load({path!r}).module()"),
    ".safetensors": (
        "from safetensors.torch import load_file",
        "model.load_state_dict(load_file({path!r}))",
    ),
    ".pt": (
        "import torch",
        "model.load_state_dict(torch.load({path!r}, weights_only=True))",
    ),
}
"""Ending of the file -> the lines of Python that load it."""


def export(
    run: RunArgument,
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            metavar="FILE",
            help="File to write: .pt2 (the model, by torch.export), or .safetensors "
            "or .pt (its weights).",
        ),
    ],
    recipe: RecipeOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file if it exists.")
    ] = False,
) -> None:
    """Write a run's best model to a file."""
    check_output(to, name="--to", suffixes=tuple(LOADING))
    check_new_output(to, name="--to", force=force)
    if to.suffix.lower() == ".pt2":
        _export_model(run, to, recipe)
    else:
        _export_weights(run, to, recipe)
    lines = [line.format(path=str(to)) for line in LOADING[to.suffix.lower()]]
    typer.echo(f"wrote {to.stat().st_size:,} bytes to {to}")
    typer.echo("\n".join(["to load it without handful:", *(f"  {x}" for x in lines)]))


def _export_model(run: Path, to: Path, recipe: str | None) -> None:
    loaded = _load_recipe(_read_settings(run, recipe))
    from handful.train.export_run import export_run

    export_run(run, loaded, to=to)


def _export_weights(run: Path, to: Path, recipe: str | None) -> None:
    """Copy weights from the checkpoint, for which the recipe's code is not needed."""
    if recipe is not None:
        raise ArgumentError(
            f"--recipe must go with a .pt2 file; got {str(to)!r}. "
            "Weights alone need no recipe: leave it out."
        )
    from handful.runs.run import Run

    Run.load(run)
    from handful.train.weight_files import read_weights, save_state

    save_state(read_weights(run)[1], to)
