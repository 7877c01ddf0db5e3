"""``handful train``: check everything without torch, then train."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from handful.cli import train_flags as flags
from handful.cli.messages import print_error, program_name
from handful.cli.overfit import check_alone, show_overfit
from handful.cli.own_data import (
    check_cache,
    describe_own_data,
    print_facts,
    print_test,
)
from handful.cli.plan import (
    RUNS,
    Plan,
    check_allow_changed,
    has_checkpoint,
    plan_training,
    removed_unless_begun,
    replaced_run,
)
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
from handful.cli.show import describe_notes, describe_value
from handful.cli.tables import describe_place, format_record
from handful.errors import ArgumentError
from handful.train.choices import (
    check_batch_size,
    check_epochs,
    check_lr,
    check_num_workers,
    check_seed,
)
from handful.train.options import check_metrics
from handful.train.recipe import check_last_batch, check_worker_type

if TYPE_CHECKING:
    from handful.runs.run import Run
    from handful.train.recipe import Recipe
    from handful.train.summary import ModelSummary

T = TypeVar("T")


def train(
    recipe: flags.RecipeArgument = None,
    data: flags.Data = None,
    target: flags.Target = None,
    cache: flags.Cache = False,
    epochs: flags.Epochs = None,
    max_steps: flags.MaxSteps = None,
    early_stopping: flags.EarlyStopping = None,
    batch_size: flags.BatchSize = None,
    last_batch: flags.LastBatch = None,
    accumulate: flags.Accumulate = None,
    micro_batch_size: flags.MicroBatchSize = None,
    loss: flags.Loss = None,
    optimizer: flags.Optimizer = None,
    lr: flags.Lr = None,
    schedule: flags.Schedule = None,
    no_decay: flags.NoDecay = False,
    clip_norm: flags.ClipNorm = None,
    clip_value: flags.ClipValue = None,
    on_nonfinite: flags.OnNonfinite = None,
    on_out_of_memory: flags.OnOutOfMemory = None,
    ema: flags.Ema = None,
    metrics: flags.Metrics = None,
    train_metrics: flags.TrainMetrics = None,
    monitor: flags.Monitor = None,
    valid_every: flags.ValidEvery = None,
    loss_average: flags.LossAverage = None,
    log_norms: flags.LogNorms = False,
    seed: flags.Seed = None,
    device: flags.Device = None,
    precision: flags.Precision = None,
    threads: flags.Threads = None,
    num_workers: flags.NumWorkers = None,
    worker_type: flags.WorkerType = None,
    config: flags.Config = None,
    out: flags.Out = None,
    resume: flags.Resume = False,
    fresh: flags.Fresh = False,
    allow_changed: flags.AllowChanged = False,
    checkpoint_every: flags.CheckpointEvery = None,
    save_every: flags.SaveEvery = None,
    on_save_error: flags.OnSaveError = None,
    as_seed: flags.AsSeed = False,
    overfit_one_batch: flags.OverfitOneBatch = False,
    print_every: flags.PrintEvery = None,
    summary: flags.Summary = False,
    quiet: flags.Quiet = False,
) -> None:
    """Train a recipe, or on data of your own; keep the run in a folder.

    A setting comes from its flag, else from --config, else from the recipe.
    """
    every = _check_print(print_every)
    options = flags.read_options(
        {
            "max_steps": max_steps,
            "valid_every": valid_every,
            "checkpoint_every": checkpoint_every,
            "save_every": save_every,
            "on_save_error": on_save_error,
            "decay_biases_and_norms": False if no_decay else None,
            "train_metrics": train_metrics,
            "monitor": monitor,
            "early_stopping": early_stopping,
            "accumulate": accumulate,
            "micro_batch_size": micro_batch_size,
            "clip_norm": clip_norm,
            "clip_value": clip_value,
            "log_norms": log_norms or None,
            "precision": precision,
            "on_nonfinite": on_nonfinite,
            "on_out_of_memory": on_out_of_memory,
            "ema": ema,
            "num_threads": threads,
        }
    )
    given = Settings(
        recipe=_given(flags.choose_recipe(recipe, data, target), normalize_recipe),
        variant=AS_SEED_VARIANT if as_seed else None,
        epochs=_given(epochs, check_epochs, "--epochs"),
        batch_size=_given(batch_size, check_batch_size, "--batch-size"),
        last_batch=_given(last_batch, check_last_batch, "--last-batch"),
        num_workers=_given(num_workers, check_num_workers, "--num-workers"),
        worker_type=_given(worker_type, check_worker_type, "--worker-type"),
        lr=_given(lr, check_lr, "--lr"),
        optimizer=_given(optimizer, check_optimizer),
        schedule=_given(schedule, check_schedule),
        seed=_given(seed, check_seed, "--seed"),
        device=_given(device, check_device, "--device"),
        loss=_given(loss, check_loss),
        metrics=_given(metrics, _check_metrics),
        loss_average=_given(loss_average, check_loss_average, "--loss-average"),
        options=options,
    )
    if overfit_one_batch:
        check_alone(epochs=epochs, out=out, resume=resume, fresh=fresh)
    plan = plan_training(given, config=config, out=out, resume=resume, fresh=fresh)
    plan = replace(plan, allow_changed=check_allow_changed(allow_changed, resume))
    if cache:
        check_cache(plan.recipe)
    if overfit_one_batch:
        show_overfit(
            plan, summary=summary, quiet=quiet, max_steps=max_steps, cache=cache
        )
        return
    if every is None:
        every = "batch" if plan.settings.variant == AS_SEED_VARIANT else "epoch"
    if plan.resume and not quiet:
        typer.echo(f"resuming {plan.run_dir}")
    for name, (before, now) in plan.changes.items():
        shown = f"{describe_value(before)} -> {describe_value(now)}"
        typer.echo(f"changed: {name} {shown}", err=quiet)
    showing = _Showing(every=every, summary=summary, quiet=quiet)
    _carry_out(plan, showing, cache=cache)


@dataclass(frozen=True, kw_only=True)
class _Showing:
    """What is printed."""

    every: str
    summary: bool
    quiet: bool


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


def _check_metrics(text: str) -> tuple[str, ...]:
    names: tuple[str, ...] = check_metrics(flags.split_names(text), name="--metrics")
    return names


def _carry_out(plan: Plan, showing: _Showing, *, cache: bool) -> None:
    """Import torch, train, and say how it went."""
    run_dir = plan.run_dir
    try:
        from handful.recipes.registry import load_recipe
        from handful.runs.folder import new_run_dir

        recipe = plan.settings.apply_to(load_recipe(plan.recipe, cache=cache))
        if run_dir is None:
            run_dir = new_run_dir(RUNS, recipe.name)
        replacing = replaced_run(run_dir) if plan.replaces else nullcontext()
        is_new = not plan.resume
        with ended_by_signals(), replacing, removed_unless_begun(run_dir, is_new):
            run = _run(plan, recipe, run_dir, showing)
        if run.status == "stopped":
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        _explain_interrupt(plan, run_dir)
        raise typer.Exit(128 + signal.SIGINT) from None
    except SystemExit as stop:
        if not isinstance(stop.code, int) or stop.code not in _ENDED:
            raise
        _explain_interrupt(plan, run_dir)
        raise typer.Exit(stop.code) from None
    if showing.quiet:
        typer.echo(run_dir)
    else:
        _report(run, run_dir)
        print_test(recipe, run_dir, plan.settings.device)


_ENDING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_ENDED = tuple(128 + number for number in _ENDING)


class _Terminate:
    """Ends the program on a signal; a training may take the signal over meanwhile."""

    gives_way = True

    def __call__(self, signum: int, _: object) -> None:
        raise SystemExit(128 + signum)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP if it isn't ignored, end the training as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number in _ENDING:
        if number == signal.SIGTERM or signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, _Terminate())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(plan: Plan, recipe: Recipe, run_dir: Path, showing: _Showing) -> Run:
    from handful.report.curves import draw_curves
    from handful.train.progress import make_progress
    from handful.train.run_recipe import run_recipe

    settings = plan.settings
    if not showing.quiet:
        print_facts(recipe)
    progress = make_progress(
        "off" if showing.quiet else "auto",
        every="epoch" if showing.quiet else showing.every,
        batch_line=recipe.batch_line,
        epoch_line=recipe.epoch_line,
    )
    run = run_recipe(
        recipe,
        seed=0 if settings.seed is None else settings.seed,
        device=settings.device or "auto",
        run_dir=run_dir,
        resume=plan.resume,
        allow_changed=plan.allow_changed,
        loss_average=settings.loss_average or "samples",
        callbacks=(progress,),
        settings={
            "recipe": plan.recipe,
            "variant": settings.variant,
            **describe_own_data(plan.recipe, recipe),
        },
        on_summary=_choose_summary(plan, recipe, showing),
    )
    if run.status != "stopped":
        draw_curves(run, run_dir / "curves.png")
    return run


def _choose_summary(
    plan: Plan, recipe: Recipe, showing: _Showing
) -> Callable[[ModelSummary], None] | None:
    """Return what prints the model's summary, None where none is wanted."""
    from handful.train.recipe_summary import describe_summary

    if showing.summary:
        return lambda summary: typer.echo(f"{summary}\n")
    # A recipe with lines of its own prints those alone.
    is_own = recipe.batch_line is not None or recipe.epoch_line is not None
    if plan.resume or showing.quiet or is_own:
        return None
    return lambda summary: typer.echo(f"model   {describe_summary(summary)}")


def _report(run: Run, run_dir: Path) -> None:
    folder = shlex.quote(str(run_dir))
    lines = [*describe_notes(run), f"run     {run_dir}"]
    if run.best is not None:
        epochs = max(int(record["epoch"]) for record in run.history)
        lines.append(f"best    {describe_place(run.best)} of {epochs}")
        lines.append(f"        {format_record(run.best)}")
    lines.append(f"curves  {run_dir / 'curves.png'}")
    split = "" if run.monitor.startswith("valid_") else " --split train"
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
