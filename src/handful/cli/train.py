"""``handful train``: check everything without torch, then train."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from handful.cli.messages import print_error, program_name
from handful.cli.options import complete_recipe
from handful.cli.plan import RUNS, Plan, has_checkpoint, plan_training, replaced_run
from handful.cli.settings import (
    AS_SEED_VARIANT,
    Settings,
    check_device,
    check_loss,
    check_loss_average,
    check_optimizer,
    check_schedule,
    normalize_recipe,
)
from handful.cli.show import describe_value
from handful.cli.tables import format_record
from handful.errors import ArgumentError
from handful.train.choices import check_batch_size, check_epochs, check_lr, check_seed

if TYPE_CHECKING:
    from handful.runs.run import Run
    from handful.train.recipe import Recipe

T = TypeVar("T")


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A name that `handful recipes` lists, or file.py:name.",
            autocompletion=complete_recipe,
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        str | None, typer.Option(metavar="N", help="Passes over the training data.")
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(metavar="N|full", help="Samples a step.")
    ] = None,
    lr: Annotated[
        str | None, typer.Option(metavar="X", help="Learning rate at the start.")
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:k=v[,...]]", help="Such as adam or sgd:momentum=0.9."
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:k=v[,...]]",
            help="Learning rate over the epochs: constant, step:step_size=10, "
            "exponential, cosine or plateau.",
        ),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(metavar="N", help="Decides weights, order and splits. [0]"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps [auto]"),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="cross_entropy, mse, mae, huber or bce_with_logits."
        ),
    ] = None,
    loss_average: Annotated[
        str | None,
        typer.Option(
            metavar="samples|batches",
            help="What counts the same in an epoch's loss. [samples]",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings in YAML, such as a run's config.yaml; flags come first.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The run's folder. [runs/RECIPE-DATE-TIME-ID]"
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in --out, or with the newest unfinished one.",
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start anew in --out; the run there is deleted."),
    ] = False,
    print_every: Annotated[
        str | None,
        typer.Option(
            "--print",
            metavar="epoch|batch|N",
            help="Print each epoch, each batch, or every N-th batch too. [epoch]",
        ),
    ] = None,
    as_seed: Annotated[
        bool,
        typer.Option(
            "--as-seed",
            help="The recipe as the lesson's plain program, with its lines.",
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Print nothing but the run's folder."),
    ] = False,
) -> None:
    """Train a recipe; keep the run in a folder.

    A setting comes from its flag, else from --config, else from the recipe.
    """
    every = _check_print(print_every)
    flags = Settings(
        recipe=_given(recipe, normalize_recipe),
        variant=AS_SEED_VARIANT if as_seed else None,
        epochs=_given(epochs, check_epochs, "--epochs"),
        batch_size=_given(batch_size, check_batch_size, "--batch-size"),
        lr=_given(lr, check_lr, "--lr"),
        optimizer=_given(optimizer, check_optimizer),
        schedule=_given(schedule, check_schedule),
        seed=_given(seed, check_seed, "--seed"),
        device=_given(device, check_device, "--device"),
        loss=_given(loss, check_loss, "--loss"),
        loss_average=_given(loss_average, check_loss_average, "--loss-average"),
    )
    plan = plan_training(flags, config=config, out=out, resume=resume, fresh=fresh)
    if every is None:
        every = "batch" if plan.settings.variant == AS_SEED_VARIANT else "epoch"
    if plan.resume and not quiet:
        typer.echo(f"resuming {plan.run_dir}")
    for name, (before, now) in plan.changes.items():
        shown = f"{describe_value(before)} -> {describe_value(now)}"
        typer.echo(f"changed: {name} {shown}", err=quiet)
    _carry_out(plan, every=every, quiet=quiet)


def _given(value: str | None, check: Callable[..., T], name: str = "") -> T | None:
    if value is None:
        return None
    return check(value, name=name) if name else check(value)


def _check_print(value: str | None) -> str | None:
    if value is None or value in ("epoch", "batch"):
        return value
    if not (value.isascii() and value.isdecimal()) or int(value) < 1:
        raise ArgumentError(
            "--print must be epoch, batch or a whole number of batches from 1 on; "
            f"got {value!r}."
        )
    return value


def _carry_out(plan: Plan, *, every: str, quiet: bool) -> None:
    """Import torch, train, and say how it went."""
    run_dir = plan.run_dir
    try:
        from handful.recipes.registry import load_recipe
        from handful.runs.folder import new_run_dir

        recipe = plan.settings.apply_to(load_recipe(plan.recipe))
        if run_dir is None:
            run_dir = new_run_dir(RUNS, recipe.name)
        replacing = replaced_run(run_dir) if plan.replaces else nullcontext()
        with _ended_by_sigterm(), replacing:
            run = _run(plan, recipe, run_dir, every="off" if quiet else every)
    except (KeyboardInterrupt, _Terminated) as stop:
        _explain_interrupt(plan, run_dir)
        signum = signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT
        raise typer.Exit(128 + signum) from None
    if quiet:
        typer.echo(run_dir)
    else:
        _report(run, run_dir)


class _Terminated(SystemExit):
    """SIGTERM came."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the training as Ctrl-C does, so that its run is put in order."""

    def stop(signum: int, _: object) -> None:
        raise _Terminated(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(plan: Plan, recipe: Recipe, run_dir: Path, *, every: str) -> Run:
    from handful.report.curves import draw_curves
    from handful.train.progress import make_progress
    from handful.train.run_recipe import run_recipe

    settings = plan.settings
    progress = make_progress(
        "off" if every == "off" else "auto",
        every="epoch" if every == "off" else every,
        batch_line=recipe.batch_line,
        epoch_line=recipe.epoch_line,
    )
    run = run_recipe(
        recipe,
        seed=0 if settings.seed is None else settings.seed,
        device=settings.device or "auto",
        run_dir=run_dir,
        resume=plan.resume,
        loss_average=settings.loss_average or "samples",
        callbacks=(progress,),
        settings={"recipe": plan.recipe, "variant": settings.variant},
    )
    draw_curves(run, run_dir / "curves.png")
    return run


def _report(run: Run, run_dir: Path) -> None:
    folder = shlex.quote(str(run_dir))
    lines = [f"run     {run_dir}"]
    if run.best is not None:
        epochs = f"epoch {run.best['epoch']} of {len(run.history)}"
        lines.append(f"best    {epochs}")
        lines.append(f"        {format_record(run.best)}")
    lines.append(f"curves  {run_dir / 'curves.png'}")
    split = "" if run.monitor == "valid_loss" else " --split train"
    program = program_name()
    lines.append(f"next    {program} show {folder}")
    lines.append(f"        {program} evaluate {folder}{split}")
    typer.echo("\n".join(["", *lines]))


def _explain_interrupt(plan: Plan, run_dir: Path | None) -> None:
    if run_dir is None or not has_checkpoint(run_dir):
        print_error("interrupted before the first checkpoint; there is none to resume.")
        return
    command = [program_name(), "train", plan.recipe, "--resume", "--out", str(run_dir)]
    print_error(f"interrupted. Go on with: {shlex.join(command)}")
