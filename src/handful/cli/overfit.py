"""``handful train --overfit-one-batch``: can the model learn one batch by heart?"""

from __future__ import annotations

from pathlib import Path

import typer

from handful.cli.plan import Plan
from handful.errors import ArgumentError
from handful.train.choices import check_count

MAX_STEPS = 300
"""Steps unless ``--max-steps`` says otherwise."""


def check_alone(
    *, epochs: str | None, out: Path | None, resume: bool, fresh: bool
) -> None:
    """Check that nothing is asked for beside it that needs a run.

    Raises:
        ArgumentError: Something is.
    """
    given = {
        "--epochs": epochs is not None,
        "--out": out is not None,
        "--resume": resume,
        "--fresh": fresh,
    }
    wrong = [flag for flag, is_given in given.items() if is_given]
    if wrong:
        raise ArgumentError(
            f"--overfit-one-batch must come without {wrong[0]}: it keeps no run and "
            "knows no epochs. --max-steps limits it."
        )


def show_overfit(
    plan: Plan, *, summary: bool, quiet: bool, max_steps: str | None, cache: bool
) -> None:
    """Train on the first batch and print what came of it.

    Args:
        plan: Names the recipe and its settings.
        summary: Whether the model's layers are printed first.
        quiet: Whether the verdict is printed alone.
        max_steps: What ``--max-steps`` says, if given.
        cache: Whether what is read of a CSV file is kept.

    Raises:
        typer.Exit: With the status 1: the loss did not fall to near zero.
    """
    most = MAX_STEPS
    if max_steps is not None:
        most = check_count(max_steps, name="--max-steps")
    from handful.recipes.registry import load_recipe
    from handful.train.overfit import overfit_one_batch
    from handful.train.run_recipe import summarize_recipe

    settings = plan.settings
    recipe = settings.apply_to(load_recipe(plan.recipe, cache=cache))
    seed = 0 if settings.seed is None else settings.seed
    if summary:
        typer.echo(f"{summarize_recipe(recipe, seed)}\n")
    found = overfit_one_batch(
        recipe, seed=seed, max_steps=most, device=settings.device or "auto"
    )
    if not quiet:
        typer.echo(f"first loss  {found.first_loss:.4g}")
        typer.echo(f"last loss   {found.last_loss:.4g}")
        typer.echo(f"steps       {found.steps}")
    typer.echo(found.verdict)
    if not found.has_learned:
        raise typer.Exit(1)
