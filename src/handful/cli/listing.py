"""``handful recipes`` and ``handful env``."""

from __future__ import annotations

import typer

from handful.cli.tables import format_table
from handful.recipes.registry import AS_SEED, RECIPES


def list_recipes() -> None:
    """List the recipes that come with handful."""
    rows = [
        (name, summary + (" [--as-seed]" if name in AS_SEED else ""))
        for name, (_, summary) in RECIPES.items()
    ]
    typer.echo(format_table(("recipe", "what it trains"), rows, left=2))
    typer.echo("\nTrain one with `handful train RECIPE`, or your own with")
    typer.echo("`handful train file.py:name`, where name is a handful.Recipe.")


def show_environment() -> None:
    """Print versions and the machine."""
    # Only from here on is torch needed.
    import torch

    from handful.train.batches import choose_device
    from handful.train.environment import describe_environment

    device = choose_device("auto")
    facts = describe_environment()
    facts["device"] = str(device)
    if device.type == "cuda":
        facts["device"] += f" ({torch.cuda.get_device_name(device)})"
    facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    for name, value in facts.items():
        typer.echo(f"{name}: {value}")
