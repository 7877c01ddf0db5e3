"""``handful show``: what happened in a run, from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handful.cli.options import RunArgument
from handful.cli.tables import format_figure, format_record, format_table

if TYPE_CHECKING:
    from handful.runs.run import Run

_FIRST_ROWS = 5
_LAST_ROWS = 10


def show(
    run: RunArgument,
    whole: Annotated[
        bool, typer.Option("--all", help="Print every epoch of a long table.")
    ] = False,
) -> None:
    """Print settings, epochs and files of a run."""
    # NumPy and the reader of YAML load only once a command needs them.
    from handful.runs.run import Run

    loaded = Run.load(run)
    for block in _describe_run(loaded, run, whole=whole):
        typer.echo(block)


def describe_settings(config: Mapping[str, Any]) -> str:
    """Return settings as two columns: name and value."""
    rows = [(name, describe_value(value)) for name, value in config.items()]
    return format_table(("", ""), rows, left=2)


def describe_value(value: Any) -> str:
    """Return a setting's value as its flag would be written; ``-`` for none."""
    if value is None:
        return "-"
    if isinstance(value, Mapping) and "name" in value:
        given = [f"{k}={v}" for k, v in value.items() if k != "name" and v is not None]
        return str(value["name"]) + (":" + ",".join(given) if given else "")
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def format_history(run: Run, *, whole: bool) -> str:
    """Return a run's epochs as a table, the best one marked with ``*``.

    Args:
        run: The run.
        whole: Whether a long table keeps its middle.
    """
    names = list(dict.fromkeys(name for record in run.history for name in record))
    best = run.best
    rows = [
        [format_figure(name, record.get(name)) for name in names]
        + ["*" if best is not None and record is best else ""]
        for record in run.history
    ]
    left_out = len(rows) - _FIRST_ROWS - _LAST_ROWS
    if not whole and left_out > 1:
        gap = ["...", *[""] * len(names)]
        rows = [*rows[:_FIRST_ROWS], gap, *rows[-_LAST_ROWS:]]
    table = format_table([*names, ""], rows)
    if not whole and left_out > 1:
        table += f"\n({left_out} epochs left out; --all prints them)"
    return table


def _describe_run(run: Run, path: Path, *, whole: bool) -> list[str]:
    blocks = [
        f"run     {path}",
        f"status  {_describe_status(run)}",
        "",
        "settings",
        _indent(describe_settings(run.config)),
        "",
    ]
    if run.history:
        blocks += ["epochs", _indent(format_history(run, whole=whole)), ""]
    if run.best is not None:
        blocks += [f"best    epoch {run.best['epoch']}: {format_record(run.best)}"]
    if run.events:
        blocks += [f"events  {len(run.events)}, in {path / 'events.jsonl'}"]
    files = sorted(entry for entry in path.iterdir() if entry.suffix != ".lock")
    blocks += ["files   " + ", ".join(f.name + "/" * f.is_dir() for f in files)]
    return blocks


def _describe_status(run: Run) -> str:
    epochs = run.config.get("epochs")
    done = f"{len(run.history)} of {epochs}" if epochs else str(len(run.history))
    return f"{run.status}, {done} epochs, {len(run.steps)} steps, {run.seconds:.2f} s"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
