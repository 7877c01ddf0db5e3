"""A run's best model as a program of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from handful.data.first_batch import first
from handful.errors import ArgumentError
from handful.runs.run import Run
from handful.train.batches import BatchLayout
from handful.train.export import export_model
from handful.train.recipe import Recipe
from handful.train.run_recipe import make_initial_model, make_split_loader
from handful.train.weights import load_weights

_EXAMPLE_ROWS = 8


def export_run(run_dir: str | Path, recipe: Recipe, *, to: Path) -> Path:
    """Export a run's best model, for batches of any size.

    Args:
        run_dir: The run's folder.
        recipe: The recipe that it trained.
        to: The file, ``.pt2``.

    Returns:
        The file.

    Raises:
        HandfulError: As `Run.load`, `load_weights` and `export_model`.
    """
    run = Run.load(run_dir)
    seed = int(run.config.get("seed") or 0)
    model = make_initial_model(recipe, seed)
    load_weights(model, run_dir)
    return export_model(model, _example_inputs(recipe, seed), to)


def _example_inputs(
    recipe: Recipe, seed: int
) -> Sequence[Tensor] | Mapping[str, Tensor]:
    try:
        loader = make_split_loader(recipe, "valid", seed)
    except ArgumentError:
        loader = make_split_loader(recipe, "train", seed)
    layout = BatchLayout(
        recipe.options.get("target"), recipe.options.get("sample_weight")
    )
    args, kwargs = layout.inputs(first(loader))
    if kwargs:
        return {name: value[:_EXAMPLE_ROWS] for name, value in kwargs.items()}
    return [value[:_EXAMPLE_ROWS] for value in args]
