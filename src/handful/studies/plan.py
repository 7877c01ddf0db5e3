"""Plan: the trials of a study, checked before any of them trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handful.errors import ArgumentError, unknown_choice
from handful.runs.study import Study
from handful.runs.study_row import format_settings
from handful.studies.axes import check_vary, to_plain
from handful.studies.backends import check_backend_fits
from handful.studies.budget import Budget, Target, parse_budget, parse_target
from handful.studies.trial import (
    Trial,
    TrialRunner,
    improves_upward,
    limit_recipe,
    make_trial_trainer,
)
from handful.train.assembly import make_monitor
from handful.train.choices import check_count, check_epochs, check_seed
from handful.train.environment import describe_environment
from handful.train.recipe import Recipe
from handful.train.run_recipe import make_initial_model
from handful.train.schedules import check_total, make_schedule
from handful.train.trainer import Trainer

_LENGTHS = ("epochs", "max_steps")

_RECIPE_SETTINGS = (
    *("loss", "optimizer", "lr", "batch_size", "last_batch", "epochs", "schedule"),
    *("metrics", "options", "shuffle"),
)


def plan_study(
    recipe: Recipe,
    vary: Mapping[str, Iterable[Any]],
    *,
    seeds: int | Sequence[int],
    epochs: int | None,
    budget: str | None,
    target: str | None,
    stop_at_target: bool,
) -> Study:
    """Return a study without rows; see `compare` for the arguments.

    Raises:
        ArgumentError: One of them can't be used.
    """
    if not isinstance(recipe, Recipe):
        raise ArgumentError(
            f"recipe must be a Recipe; got {recipe!r}. "
            "handful.load_recipe finds one by its name."
        )
    axes = check_vary(vary)
    limit = None if budget is None else parse_budget(budget)
    _check_length(axes, epochs, limit)
    aim = None if target is None else parse_target(target)
    if stop_at_target and aim is None:
        raise ArgumentError(
            "stop_at_target must come with a target; got none. "
            'Give target="valid_loss<=0.3".'
        )
    return Study(
        recipe=recipe.name,
        axes=axes,
        seeds=check_seeds(seeds),
        settings={name: to_plain(getattr(recipe, name)) for name in _RECIPE_SETTINGS},
        epochs=None if epochs is None else check_epochs(epochs),
        budget=None if limit is None else str(limit),
        target=None if aim is None else str(aim),
        stop_at_target=bool(stop_at_target),
        environment=describe_environment(),
    )


def check_seeds(seeds: int | Iterable[int], *, name: str = "seeds") -> list[int]:
    """Return the seeds: those given, or so many from 0 on.

    Raises:
        ArgumentError: They are neither, one comes twice, or there are none.
    """
    if isinstance(seeds, bool | str) or not isinstance(seeds, Iterable):
        return list(range(check_count(seeds, name=name)))
    found = [check_seed(seed, name=f"an entry of {name}") for seed in seeds]
    if not found or len(set(found)) < len(found):
        raise ArgumentError(
            f"{name} must be a number from 1 on, or seeds that differ; got {found}."
        )
    return found


def make_trials(study: Study) -> list[Trial]:
    """Return all trials of a study, seed by seed, so that data are made once a seed."""
    return [
        Trial(
            settings=cell,
            seed=seed,
            epochs=study.epochs,
            budget=None if study.budget is None else parse_budget(study.budget),
            target=None if study.target is None else parse_target(study.target),
            stop_at_target=study.stop_at_target,
            upward=tuple(study.upward),
        )
        for seed in study.seeds
        for cell in study.cells
    ]


def check_cells(study: Study, runner: TrialRunner) -> tuple[str, ...]:
    """Make each cell's trainer once, without training.

    Args:
        study: The study.
        runner: Has the recipe; makes the data of the first seed.

    Returns:
        Losses and metrics of which more is better.

    Raises:
        ArgumentError: Settings of a cell don't fit each other, the recipe or the
            machine, or it doesn't measure the target.
    """
    seed = study.seeds[0]
    train, valid, _ = runner.splits(seed)
    model = make_initial_model(runner.recipe, seed)
    upward: dict[str, None] = {}
    for trial in make_trials(study)[: len(study.cells)]:
        try:
            own, _ = limit_recipe(runner.recipe, trial, len(train))  # type: ignore[arg-type]
            trainer = make_trial_trainer(own, model)
            make_monitor(trainer, is_validated=valid is not None)
            _check_schedule(own, trial)
            check_backend_fits(trial.backend, own, model, train, trial.budget)
        except ArgumentError as error:
            where = format_settings(trial.settings)
            raise ArgumentError(f"{error} This is with {where}.") from None
        if trial.target is not None:
            _check_target(trial.target, trainer, is_validated=valid is not None)
        upward |= dict.fromkeys(improves_upward(trainer))
    return tuple(upward)


def _check_length(
    axes: Mapping[str, Any], epochs: int | None, budget: Budget | None
) -> None:
    if epochs is not None and budget is not None:
        raise ArgumentError(
            f"epochs and budget must not come together; got {epochs} and {budget}. "
            "Both say how long each trial lasts."
        )
    given = "epochs" if epochs is not None else "budget" if budget else ""
    varied = [name for name in _LENGTHS if name in axes]
    if given and varied:
        raise ArgumentError(
            f"vary must not name {varied[0]} beside {given}, which is the same for "
            f"each trial; got both. Leave {given} out."
        )


def _check_schedule(recipe: Recipe, trial: Trial) -> None:
    """Check that a schedule can do with a budget of seconds, without a length."""
    if trial.budget is None or trial.budget.unit != "s":
        return
    try:
        check_total(make_schedule(recipe.schedule), None)
    except ArgumentError:
        raise ArgumentError(
            "budget must be in epochs, steps or samples with a schedule that depends "
            f"on the run's length; got {trial.budget} and the schedule "
            f"{recipe.schedule}."
        ) from None


def _check_target(target: Target, trainer: Trainer, *, is_validated: bool) -> None:
    if trainer.step_function is not None:
        return  # its totals have names that are not known yet
    known = ["train_loss", *(f"train_{m.name}" for m in trainer.train_metrics)]
    if is_validated:
        known += ["valid_loss", *(f"valid_{m.name}" for m in trainer.metrics)]
    if target.name not in known:
        raise unknown_choice("the value of target", target.name, known)
