"""``handful compare``: a grid of settings over seeds, checked before torch is there."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handful.cli.messages import print_error, program_name
from handful.cli.options import complete_recipe
from handful.cli.settings import (
    check_loss,
    check_optimizer,
    check_schedule,
    normalize_recipe,
)
from handful.cli.train import ended_by_signals
from handful.errors import ArgumentError
from handful.recipes.registry import check_recipe_name
from handful.studies.axes import (
    check_axis,
    check_population,
    check_vary,
    split_vary,
)
from handful.studies.budget import parse_budget, parse_target
from handful.train.choices import check_count, check_epochs, check_seed

if TYPE_CHECKING:
    from handful.runs.study import Study

STUDIES = Path("studies")
"""Where studies lie unless ``--out`` says otherwise."""

MOST_DRAWN = 6
"""Settings in one figure; more could not be told apart."""

_LABELS = {"valid_loss": "validation loss", "train_loss": "training loss"}

_CHOICES = {
    "optimizer": check_optimizer,
    "schedule": check_schedule,
    "loss": check_loss,
}


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What is asked for, checked as far as that goes without torch."""

    recipe: str
    vary: dict[str, list[Any]]
    arguments: dict[str, Any]
    typed: list[str]


def compare(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A name that `handful recipes` lists, or file.py:name.",
            autocompletion=complete_recipe,
        ),
    ],
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=A,B,...",
            help="Values of a setting: batch-size=1,10,full, lr=0.01,0.1, "
            "optimizer=adam,sgd:momentum=0.9, backend=trainer,numpy,torch,keras, and "
            "any other that a recipe has. Repeatable: all combinations are trained.",
        ),
    ],
    seeds: Annotated[
        str,
        typer.Option(metavar="N|A,B,...", help="How many seeds, or which."),
    ] = "3",
    epochs: Annotated[
        str | None, typer.Option(metavar="N", help="Epochs of each trial.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="AMOUNT",
            help="What each trial may use: 20epochs, 5000steps, 1e6samples, 60s.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help='What is to be reached, such as "valid_loss<=0.3".'
        ),
    ] = None,
    stop_at_target: Annotated[
        bool, typer.Option("--stop-at-target", help="End a trial at the target.")
    ] = False,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N", help="Processes that train at the same time."),
    ] = None,
    population: Annotated[
        str | None,
        typer.Option(
            metavar="auto|never|always",
            help="Whether trials that differ only in seed, rate and numbers of the "
            "optimizer train as one model: where it is faster, never, or wherever "
            "they can. [auto]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The study's folder; one with the same arguments goes on. "
            "[studies/RECIPE-DATE-TIME-ID]",
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Print nothing but the study's folder."),
    ] = False,
) -> None:
    """Train a recipe with every combination of settings, over several seeds."""
    name = normalize_recipe(recipe)
    check_recipe_name(name)
    typed = {
        "--seeds": seeds,
        "--epochs": epochs,
        "--budget": budget,
        "--target": target,
        "--workers": workers,
        "--population": population,
    }
    words = [word for text in vary for word in ("--vary", text)]
    words += [w for flag, text in typed.items() if text for w in (flag, text)]
    request = _Request(
        recipe=name,
        vary=_check_vary(vary),
        arguments={
            "seeds": _check_seeds(seeds),
            "epochs": _given(epochs, check_epochs, "--epochs"),
            "budget": _given(budget, parse_budget, "--budget") and budget,
            "target": _given(target, parse_target, "--target") and target,
            "stop_at_target": stop_at_target,
            "workers": _given(workers, check_count, "--workers"),
            "population": _given(population, check_population, "--population")
            or "auto",
        },
        typed=[*words, *(["--stop-at-target"] if stop_at_target else [])],
    )
    _carry_out(request, out, quiet=quiet)


def _given(value: str | None, check: Callable[..., Any], name: str) -> Any:
    return None if value is None else check(value, name=name)


def _check_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
    vary: dict[str, list[Any]] = {}
    for text in texts:
        given, values = split_vary(text)
        name = check_axis(given)
        if name in vary:
            raise ArgumentError(
                f"--vary must name {name} once; got it twice. "
                "Put all of its values into one."
            )
        for value in values if name in _CHOICES else ():
            _CHOICES[name](value)
        vary[name] = list(values)
    return check_vary(vary)


def _check_seeds(text: str) -> int | list[int]:
    if "," not in text:
        return check_count(text, name="--seeds")
    seeds = [check_seed(part.strip(), name="--seeds") for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise ArgumentError(f"--seeds must be seeds that differ; got {text!r}.")
    return seeds


def _carry_out(request: _Request, out: Path | None, *, quiet: bool) -> None:
    """Import torch, compare, and say what came of it."""
    try:
        from handful.recipes.registry import load_recipe
        from handful.runs.folder import new_run_dir
        from handful.studies.compare import compare as run_study

        recipe = load_recipe(request.recipe)
        if out is None:
            out = new_run_dir(STUDIES, recipe.name)
        with ended_by_signals():
            study = run_study(
                recipe,
                request.vary,
                **request.arguments,
                out=out,
                progress="off" if quiet else "auto",
            )
    except KeyboardInterrupt:
        _explain_interrupt(request, out)
        raise typer.Exit(128 + signal.SIGINT) from None
    except SystemExit as stop:
        if stop.code != 128 + signal.SIGTERM:
            raise
        _explain_interrupt(request, out)
        raise typer.Exit(128 + signal.SIGTERM) from None
    _report(study, quiet=quiet)
    if all(row.status == "failed" for row in study.rows):
        raise typer.Exit(1)


def _report(study: Study, *, quiet: bool) -> None:
    """Draw the study; print the table and where all lies."""
    from handful.cli.compare_table import describe_study

    figures = _draw(study)
    if quiet:
        typer.echo(study.path)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    typer.echo(f"\n{describe_study(study, width=width)}\n")
    for line in _describe_failures(study):
        typer.echo(line)
    typer.echo(f"study   {study.path}")
    for file in figures:
        typer.echo(f"figure  {file}")


def _draw(study: Study) -> list[Path]:
    """Draw the study into its folder; nothing where no trial has a record."""
    if study.path is None:
        return []
    return [*_draw_curves(study, study.path), *_draw_scaling(study, study.path)]


def _draw_curves(study: Study, folder: Path) -> list[Path]:
    """Draw the loss over epochs, steps, samples and seconds; the best settings only."""
    from handful.cli.compare_table import choose_name
    from handful.report.bands import draw_four_axes
    from handful.report.saving import save_figure
    from handful.report.study_curves import read_four_axes

    name = choose_name(study)
    cells = [cell for cell in study.table() if name in cell.values]
    if not cells:
        return []
    shown = sorted(cells, key=lambda cell: cell.values[name].mean)[:MOST_DRAWN]
    title = "" if len(shown) == len(cells) else f"The best {len(shown)} of {len(cells)}"
    figure = draw_four_axes(
        read_four_axes(study, name, cells=[cell.settings for cell in shown]),
        y_label=_LABELS[name],
        title=title,
    )
    return save_figure(figure, folder / "curves")


def _draw_scaling(study: Study, folder: Path) -> list[Path]:
    """Draw noise, time and memory against the batch size, where it has several."""
    from handful.report.saving import save_figure
    from handful.report.scaling import draw_scaling
    from handful.report.study_scaling import read_scaling

    scaling = read_scaling(study)
    if not scaling:
        return []
    shown = dict(list(scaling.items())[:MOST_DRAWN])
    title = f"{study.recipe}: what a larger batch changes"
    if len(shown) < len(scaling):
        title += f" (the first {len(shown)} of {len(scaling)} settings)"
    return save_figure(draw_scaling(shown, title=title), folder / "scaling")


def _describe_failures(study: Study) -> list[str]:
    """Return a line for each reason why trials failed."""
    reasons = [row.reason or "" for row in study.rows if row.status == "failed"]
    return [
        f"failed  {reasons.count(reason)} of {study.num_trials} trials: "
        f"{' '.join(reason.split())}"
        for reason in dict.fromkeys(reasons)
    ]


def _explain_interrupt(request: _Request, out: Path | None) -> None:
    if out is None or not (out / "study.json").is_file():
        print_error("interrupted before the first trial; nothing was kept.")
        return
    words = [program_name(), "compare", request.recipe, *request.typed]
    command = shlex.join([*words, "--out", str(out)])
    print_error(f"interrupted; the trials that ended are kept. Go on with: {command}")
