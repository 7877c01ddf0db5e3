"""``handful doctor``: does a training wait for its data, and what would help?"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handful.cli.options import DeviceOption, complete_recipe
from handful.cli.settings import (
    Settings,
    check_device,
    check_recipe_and_variant,
    normalize_recipe,
)
from handful.cli.tables import format_table
from handful.cli.train_flags import spell_flag
from handful.errors import ArgumentError
from handful.recipes.own_data import is_own_data, parse_own_data
from handful.train.choices import check_batch_size, check_positive, check_seed

if TYPE_CHECKING:
    from handful.data.loader_profile import LoaderProfile
    from handful.train.recipe import Recipe

DOCTOR = Path("doctor")
"""Where figures and numbers lie unless ``--out`` says otherwise."""

LEAST_SECONDS = 1.0
"""Less time says nothing."""


def doctor(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A name that `handful recipes` lists, or file.py:name.",
            autocompletion=complete_recipe,
        ),
    ],
    seconds: Annotated[
        str, typer.Option(metavar="S", help="About how long to measure.")
    ] = "30",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the figure goes. [doctor/NAME]"),
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(metavar="N|full", help="Samples in a batch.")
    ] = None,
    seed: Annotated[
        str, typer.Option(metavar="N", help="Decides splits, order and weights.")
    ] = "0",
    device: DeviceOption = None,
) -> None:
    """Measure whether training waits for data, and what would help.

    Trains a model that is thrown away. Prints one sentence and what was measured, and
    keeps a figure (PNG and SVG) and the numbers in a folder.
    """
    limit = check_positive(seconds, name="--seconds")
    if limit < LEAST_SECONDS:
        raise ArgumentError(f"--seconds must be 1 or more; got {seconds!r}.")
    if out is not None and out.exists() and not out.is_dir():
        raise ArgumentError(f"--out must be a folder; got the file {str(out)!r}.")
    chosen = Settings(
        recipe=normalize_recipe(recipe),
        seed=check_seed(seed, name="--seed"),
        batch_size=None
        if batch_size is None
        else check_batch_size(batch_size, name="--batch-size"),
        device=None if device is None else check_device(device, name="--device"),
    )
    name = check_recipe_and_variant(chosen)
    # Only from here on is torch needed.
    from handful.recipes.registry import load_recipe

    loaded = chosen.apply_to(load_recipe(name))
    profile = _profile(loaded, chosen, limit)
    for block in _describe(profile, name):
        typer.echo(block)
    folder = DOCTOR / loaded.name if out is None else out
    for file in _save(profile, loaded, folder):
        typer.echo(f"wrote   {file}")


def _profile(recipe: Recipe, chosen: Settings, seconds: float) -> LoaderProfile:
    from handful.cli.training_step import training_step
    from handful.data.loader_profile import profile_loader
    from handful.train.run_recipe import make_split_loader

    seed, device = chosen.seed or 0, chosen.device or "auto"
    loader = make_split_loader(recipe, "train", seed)
    with training_step(recipe, loader, seed=seed, device=device) as step:
        return profile_loader(loader, step, seconds=seconds)


def _describe(profile: LoaderProfile, recipe: str) -> Iterator[str]:
    """Yield the blocks that are printed."""
    yield f"{profile.advice}\n"
    assert profile.step is not None
    assert profile.waiting is not None
    rows = [
        ("cause", profile.cause),
        ("loader", f"{profile.alone:,.0f} samples/s ({profile.path})"),
        ("step", f"{profile.step:,.0f} samples/s"),
        ("both", f"{profile.both:,.0f} samples/s, {profile.waiting:.0%} waiting"),
        ("first", f"a batch after {profile.first_batch_seconds:.2g} s"),
    ]
    rows += [(name, text) for name, text in _describe_parts(profile)]
    yield format_table(("", ""), rows, left=2)
    if len(profile.trials) > 1:
        yield "\n" + _format_trials(profile)
    notes = [f"not measured: {name}: {why}" for name, why in profile.left_out]
    if profile.load is not None and profile.load > 0.5 + profile.cores / 2:
        notes.append(
            f"other programs were at work (load {profile.load:.1f} on {profile.cores} "
            "processors): measure again when they are done"
        )
    if profile.settings and not profile.needs:
        notes.append(f"with these settings: {as_command(recipe, profile.settings)}")
    yield "".join(f"\n{note}" for note in notes)


def as_command(recipe: str, settings: Mapping[str, Any]) -> str:
    """Return how ``handful train`` is told what the doctor advises."""
    command = ["handful", "train"]
    if is_own_data(recipe):
        data = parse_own_data(recipe)
        command += ["--data", data.path]
        command += [] if data.target is None else ["--target", data.target]
    else:
        command.append(recipe)
    for name in ("num_workers", "worker_type"):
        if settings.get(name) is not None:
            command += [spell_flag(name), str(settings[name])]
    return shlex.join(command)


def _describe_parts(profile: LoaderProfile) -> Iterator[tuple[str, str]]:
    parts = profile.parts
    if parts is None:
        return
    text = f"{_format_time(parts.reading)} to read"
    inside = [f"{_format_time(parts.waiting)} of it waiting"]
    if parts.transforming is not None:
        inside.append(f"{_format_time(parts.transforming)} transforming")
    text += f" ({', '.join(inside)})"
    if parts.collating is not None:
        text += f", {_format_time(parts.collating)} to collate"
    if parts.sending is not None:
        text += f", {_format_time(parts.sending)} to send"
    yield "sample", text


def _format_time(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} µs"


def _format_trials(profile: LoaderProfile) -> str:
    rows = [
        (
            trial.name,
            f"{trial.samples_per_second:,.0f}",
            f"{trial.low:,.0f}-{trial.high:,.0f}",
            "-" if trial.with_step is None else f"{trial.with_step:,.0f}",
        )
        for trial in profile.trials
    ]
    heads = ("setting", "samples/s", "spread", "with the step")
    return format_table(heads, rows, left=1)


def _save(profile: LoaderProfile, recipe: Recipe, folder: Path) -> list[Path]:
    """Write the numbers and, where there are several settings, the figure."""
    from handful.report.loader_profile import SettingRate, draw_loader_profile
    from handful.report.saving import save_figure
    from handful.runs.files import write_atomic

    folder.mkdir(parents=True, exist_ok=True)
    numbers = folder / "loader.json"
    content = json.dumps(profile.to_dict(), indent=2, ensure_ascii=False, default=repr)
    write_atomic(numbers, content.encode() + b"\n")
    rates = [
        SettingRate(trial.name, trial.samples_per_second, trial.low, trial.high)
        for trial in profile.trials
    ]
    figure = draw_loader_profile(
        rates, need=profile.step, title=f"Loading {recipe.name}: {profile.cause}"
    )
    return [*save_figure(figure, folder / "loader"), numbers]
