"""``handful show``: what happened in a run, from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handful.cli.options import RunArgument
from handful.cli.show_schema import describe_schema
from handful.cli.tables import (
    describe_place,
    format_figure,
    format_record,
    format_table,
)
from handful.train.stopping import EarlyStopping

if TYPE_CHECKING:
    from handful.runs.run import Run

_FIRST_ROWS = 5
_LAST_ROWS = 10
_NOTES = ("note", "stopped early", "failed", "damaged checkpoint", "identity changed")
"""Kinds of events that are worth a line."""

_SKIPPED = "skipped sample"
"""The kind of event of which there is one for each sample that was left out."""


def show(
    run: RunArgument,
    whole: Annotated[
        bool, typer.Option("--all", help="Print every line of long tables.")
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
    if isinstance(value, EarlyStopping):
        value = vars(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={describe_value(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def format_history(run: Run, *, whole: bool) -> str:
    """Return a run's epochs as a table, the best one marked with ``*``.

    Validations inside an epoch have a row as well, their epoch in brackets.

    Args:
        run: The run.
        whole: Whether a long table keeps its middle.
    """
    names = list(dict.fromkeys(name for record in run.history for name in record))
    names = [name for name in names if name != "partial"]
    best = run.best
    rows = [
        [_format_cell(name, record) for name in names]
        + ["*" if best is not None and record is best else ""]
        for record in run.history
    ]
    left_out = len(rows) - _FIRST_ROWS - _LAST_ROWS
    if not whole and left_out > 1:
        gap = ["...", *[""] * len(names)]
        rows = [*rows[:_FIRST_ROWS], gap, *rows[-_LAST_ROWS:]]
    table = format_table([*names, ""], rows)
    if not whole and left_out > 1:
        table += f"\n({left_out} {_rows_of(run)} left out; --all prints them)"
    return table


def describe_notes(run: Run) -> list[str]:
    """Return a line for each event of a run that its user should know of."""
    lines = [
        "note    " + _describe_event(event)
        for event in run.events
        if event.get("kind") in _NOTES
    ]
    skipped = [event for event in run.events if event.get("kind") == _SKIPPED]
    if skipped:
        lines.append(f"note    left out: {_describe_skipped(skipped)}")
    return list(dict.fromkeys(lines))


def _describe_skipped(events: Sequence[Mapping[str, Any]]) -> str:
    first, count = events[0].get("message", ""), len(events)
    rest = f"; {count - 1} more in events.jsonl" if count > 1 else ""
    return f"{first}{rest}"


def _describe_event(event: Mapping[str, Any]) -> str:
    kind, message = event["kind"], event.get("message", "")
    return str(message) if kind == "note" else f"{kind}: {message}"


def _rows_of(run: Run) -> str:
    has_partial = any(record.get("partial") for record in run.history)
    return "rows" if has_partial else "epochs"


def _format_cell(name: str, record: Mapping[str, Any]) -> str:
    text = format_figure(name, record.get(name))
    return f"({text})" if name == "epoch" and record.get("partial") else text


def _describe_run(run: Run, path: Path, *, whole: bool) -> list[str]:
    blocks = [
        f"run     {path}",
        f"status  {_describe_status(run)}",
        "",
        "settings",
        _indent(describe_settings(_without_schema(run.config))),
        "",
    ]
    schema = describe_schema(run.config.get("data"), whole=whole)
    if schema:
        blocks += ["data", _indent("\n".join(schema)), ""]
    if run.history:
        blocks += ["epochs", _indent(format_history(run, whole=whole)), ""]
    if run.best is not None:
        blocks += [f"best    {describe_place(run.best)}: {format_record(run.best)}"]
    blocks += describe_notes(run)
    if run.events:
        blocks += [f"events  {len(run.events)}, in {path / 'events.jsonl'}"]
    files = sorted(entry for entry in path.iterdir() if entry.suffix != ".lock")
    blocks += ["files   " + ", ".join(f.name + "/" * f.is_dir() for f in files)]
    return blocks


def _without_schema(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which own data are a fingerprint alone."""
    kept, data = dict(config), config.get("data")
    if isinstance(data, Mapping) and "schema" in data:
        kept["data"] = {name: v for name, v in data.items() if name != "schema"}
    return kept


def _describe_status(run: Run) -> str:
    epochs, max_steps = run.config.get("epochs"), run.config.get("max_steps")
    done = sum(not record.get("partial") for record in run.history)
    of_epochs = f" of {epochs}" if epochs else ""
    of_steps = f" of {max_steps}" if max_steps else ""
    return (
        f"{run.status}, {done}{of_epochs} epochs, {len(run.steps)}{of_steps} steps, "
        f"{run.seconds:.2f} s"
    )


def _indent(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
