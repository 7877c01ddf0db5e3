"""Compare: train one recipe with every setting of a grid, over several seeds."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from torch.nn.parameter import is_lazy

from handful.runs.study import Study
from handful.runs.study_row import Row
from handful.studies.axes import check_population
from handful.studies.budget import parse_target
from handful.studies.folder import StudyFolder, open_folder
from handful.studies.plan import check_cells, make_trials, plan_study
from handful.studies.population_choice import (
    Choice,
    group_trials,
    run_together,
)
from handful.studies.progress import (
    StudyProgress,
    check_progress,
    make_study_progress,
)
from handful.studies.transport import pack_recipe
from handful.studies.trial import Trial, TrialRunner
from handful.studies.workers import check_executor, run_by_executor, run_in_workers
from handful.train.choices import check_count
from handful.train.recipe import Recipe
from handful.train.run_recipe import make_initial_model


def compare(
    recipe: Recipe,
    vary: Mapping[str, Iterable[Any]],
    *,
    seeds: int | Sequence[int] = 3,
    epochs: int | None = None,
    budget: str | None = None,
    target: str | None = None,
    stop_at_target: bool = False,
    workers: int | None = None,
    executor: Any = None,
    population: str = "auto",
    out: str | Path | None = None,
    resume: bool = True,
    progress: str = "auto",
) -> Study:
    """Train a recipe with every combination of some settings, with each of some seeds.

    Every trial trains a fresh model with one thread, unless ``num_threads`` is varied,
    so that its numbers don't depend on where it ran. One that diverges or fails is a
    row that says so, and the others go on.

    Args:
        recipe: What to train.
        vary: Values by settings: ``batch_size`` (a number or ``"full"``), ``lr``,
            ``optimizer``, ``schedule``, ``epochs``, ``loss``, ``last_batch``,
            ``metrics``, and the arguments of `Trainer` that a recipe may have as
            options, such as ``clip_norm``. ``-`` and ``_`` mean the same; values may
            be texts as on the command line. ``backend`` says what trains: the
            ``"trainer"``, as everywhere else, or the descents of `handful.reference` in
            ``"numpy"``, ``"torch"`` and ``"keras"``, on the CPU and from the same
            weights in the same order; NumPy and TensorFlow decide themselves how many
            threads they use.
        seeds: How many seeds, from 0 on, or the seeds themselves. A seed decides split,
            initial weights, order and random layers.
        epochs: Epochs of each trial; None for the recipe's.
        budget: What each trial may use, in place of epochs: ``"20epochs"``,
            ``"5000steps"``, ``"1e6samples"``, or ``"60s"`` of training alone.
        target: What is to be reached: ``"valid_loss<=0.3"``. Each row says where it
            first was.
        stop_at_target: Whether a trial ends there.
        workers: Processes that train at the same time; None for none but this one. A
            program must then call this under ``if __name__ == "__main__"``.
        executor: In place of ``workers``, an object whose ``submit`` runs a function in
            a process, such as Dask's client.
        population: ``"auto"`` trains trials that differ only in seed, rate and numbers
            of the optimiser as one model with stacked weights, where a measurement
            says that this is faster; ``"always"`` wherever it can be done; ``"never"``
            one by one. Stacked, numbers differ by roundings.
        out: The study's folder; None keeps the study in memory.
        resume: Whether a study with the same arguments in ``out`` goes on: then only
            trials that are missing or failed are run.
        progress: ``"bar"``, ``"lines"``, ``"off"``, or ``"auto"``: the bar on a
            terminal, else a line per trial.

    Returns:
        The study. After Ctrl-C, the rows in ``out`` stay.

    Raises:
        ArgumentError: An argument can't be used, or a backend can't train the recipe;
            found before anything is trained.
        DataError: A backend can't take the recipe's data; likewise.
        MissingExtraError: Keras is asked for and not installed; likewise.
        RunError: The folder can't be used.
        TrainingError: A worker process died.

    Example:
        >>> from handful import load_recipe
        >>> study = compare(
        ...     load_recipe("regression"),
        ...     {"batch_size": [1, "full"]},
        ...     seeds=2,
        ...     budget="100steps",
        ...     progress="off",
        ... )
        >>> len(study.rows), study.best("train_loss").settings
        (4, {'batch_size': 'full'})
    """
    check_progress(progress)
    check_executor(executor, workers)
    check_population(population)
    count = None if workers is None else check_count(workers, name="workers")
    study = plan_study(
        recipe,
        vary,
        seeds=seeds,
        epochs=epochs,
        budget=budget,
        target=target,
        stop_at_target=stop_at_target,
    )
    is_sent = count is not None or executor is not None
    packed = pack_recipe(recipe) if is_sent else None
    runner = TrialRunner(recipe)
    study.upward = list(check_cells(study, runner))
    _, valid, _ = runner.splits(study.seeds[0])
    with ExitStack() as stack:
        folder = None
        if out is not None:
            folder = open_folder(Path(out), study, resume=resume)
            stack.callback(folder.close)
        done = {row.key for row in study.rows}
        missing = [t for t in make_trials(study) if key_of(t) not in done]
        groups = _group(recipe, missing, population, parts=count or 1)
        if packed is None:
            rows = _run_here(runner, groups, population)
        elif count is None:
            rows = run_by_executor(groups, packed, executor, population)
        else:
            rows = run_in_workers(groups, packed, workers=count, population=population)
        stack.enter_context(closing(rows))
        name = _monitored(study, is_validated=valid is not None)
        shown = make_study_progress(progress, name, is_upward=name in study.upward)
        _gather(study, rows, folder, shown)
    study.sort_rows()
    return study


def key_of(trial: Trial) -> tuple[str, int]:
    """Return what tells a trial from the others, as `Row.key`."""
    return Row(settings=dict(trial.settings), seed=trial.seed, status="").key


def _monitored(study: Study, *, is_validated: bool) -> str:
    """Return the value that tells which trial is best: the target's, or a loss."""
    if study.target is not None:
        return parse_target(study.target).name
    return "valid_loss" if is_validated else "train_loss"


def _group(
    recipe: Recipe, trials: Sequence[Trial], population: str, *, parts: int
) -> list[list[Trial]]:
    """Return the trials in groups that may train as one."""
    if population == "never" or len(trials) < 2:
        return [[trial] for trial in trials]
    model = make_initial_model(recipe, trials[0].seed)
    sizes = [p.numel() for p in model.parameters() if not is_lazy(p)]
    return group_trials(
        trials, optimizer=recipe.optimizer, num_weights=sum(sizes), parts=parts
    )


def _gather(
    study: Study,
    found: Iterable[Row | Choice],
    folder: StudyFolder | None,
    shown: StudyProgress,
) -> None:
    """Keep each row as it comes, and show it."""
    with shown:
        shown.start(study.rows, study.num_trials)
        for value in found:
            if isinstance(value, Choice):
                study.populations.append(value.describe())
                if folder is not None:
                    folder.describe(study)
                continue
            if folder is not None:
                folder.append(value)
            study.rows.append(value)
            shown.add(value)


def _run_here(
    runner: TrialRunner, groups: Sequence[Sequence[Trial]], population: str
) -> Generator[Row | Choice, None, None]:
    for group in groups:
        rows = None
        if len(group) > 1:
            outcome = run_together(runner, group, population)
            yield outcome.choice
            rows = outcome.rows
        yield from map(runner.run, group) if rows is None else rows
