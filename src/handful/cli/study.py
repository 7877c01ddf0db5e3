"""``handful study``: the programs of the tutorials, with their numbers beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from handful.cli.tables import format_table
from handful.errors import ArgumentError
from handful.lessons.registry import LESSONS, check_lesson_name
from handful.train.choices import check_seed

STUDIES = Path("studies")
"""Where figures and numbers lie unless ``--out`` says otherwise."""


def study(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="A study of the list; none for the list itself."
        ),
    ] = None,
    as_printed: Annotated[
        bool,
        typer.Option(
            "--as-printed",
            help="As the tutorial has it, its mistakes included; else corrected.",
        ),
    ] = False,
    seed: Annotated[
        str, typer.Option(metavar="N", help="Decides what the tutorial leaves open.")
    ] = "0",
    data: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Data of your own, where a study takes any."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small part of the work.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where figures go. [studies/NAME]"),
    ] = None,
) -> None:
    """Run a program or an experiment of the tutorials.

    Prints what it prints, then the tutorial's numbers beside ours, and keeps figures
    (PNG and SVG) and numbers in a folder.
    """
    if name is None:
        _list_studies()
        return
    check_lesson_name(name)
    if data is not None and not data.exists():
        raise ArgumentError(f"--data must be a path that exists; got {str(data)!r}.")
    if out is not None and out.exists() and not out.is_dir():
        raise ArgumentError(f"--out must be a folder; got the file {str(out)!r}.")
    number = check_seed(seed, name="--seed")
    # Only from here on is torch needed.
    from handful.lessons.lesson import LessonOptions
    from handful.lessons.registry import load_lesson

    options = LessonOptions(as_printed=as_printed, seed=number, quick=quick, data=data)
    result = load_lesson(name)(options)
    for line in result.lines:
        typer.echo(line)
    if result.printed:
        rows = [
            (
                row.what,
                "" if row.theirs is None else row.theirs,
                row.ours,
                "one of many: no seed there" if row.is_sample else "",
            )
            for row in result.printed
        ]
        heads = ("number", "tutorial", "here", "")
        typer.echo("\n" + format_table(heads, rows, left=1))
    if result.correction is not None:
        how = "kept as printed" if as_printed else "corrected here"
        typer.echo(f"\n{how}: {result.correction}")
    folder = STUDIES / name if out is None else out
    for file in result.save(folder):
        typer.echo(f"wrote   {file}")


def _list_studies() -> None:
    rows = [(name, entry.summary, entry.tutorial) for name, entry in LESSONS.items()]
    typer.echo(format_table(("study", "what it shows", "tutorial"), rows, left=3))
    typer.echo("\nRun one with `handful study NAME`.")
