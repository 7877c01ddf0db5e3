"""Running a recipe, and using a run's model afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from handful.data.loader import DataLoader
from handful.errors import ArgumentError, RunError, TrainingError, unknown_choice
from handful.runs.run import Run
from handful.train.batches import BatchLayout
from handful.train.callbacks import Callback
from handful.train.choices import check_seed
from handful.train.generators import seeded_generators
from handful.train.options import split_options
from handful.train.predictions import write_predictions
from handful.train.recipe import Recipe
from handful.train.recipe_summary import summarize_training
from handful.train.summary import ModelSummary
from handful.train.trainer import Trainer
from handful.train.weight_files import best_checkpoint

VALID_BATCH_SIZE = 512
"""Least batch size for validation, where memory is the only thing that it changes."""

_SPLITS = ("train", "valid", "test")


def run_recipe(
    recipe: Recipe,
    *,
    seed: int = 0,
    device: str = "auto",
    run_dir: str | Path | None = None,
    resume: bool | str | Path = False,
    allow_changed: bool = False,
    loss_average: str = "samples",
    callbacks: Sequence[Callback] = (),
    progress: str = "off",
    settings: Mapping[str, Any] | None = None,
    on_summary: Callable[[ModelSummary], None] | None = None,
) -> Run:
    """Train what a recipe says.

    Args:
        recipe: What to train.
        seed: Seed of the split, the initial weights, the order and random layers.
        device: ``"auto"`` or a device of torch.
        run_dir: The run's folder; None keeps the run in memory.
        resume: Go on from the newest checkpoint in ``run_dir``; or a run's or a
            checkpoint's folder to go on from.
        allow_changed: Whether it may go on with another numeric identity.
        loss_average: ``"samples"`` or ``"batches"``; see `Trainer`.
        callbacks: Called at the named moments of `Callback`.
        progress: ``"auto"``, ``"bar"``, ``"lines"`` or ``"off"``.
        settings: Plain values to keep in the run's configuration.
        on_summary: Called before the first step with the model's summary, which costs
            a forward pass; the training is the same without. It is not called where
            the model can't run: the first step then says why.

    Returns:
        The run.

    Raises:
        HandfulError: As `Trainer` and `Trainer.fit`, and what the recipe's data raise.

    Example:
        >>> from handful import load_recipe
        >>> run = run_recipe(load_recipe("regression").override(epochs=2))
        >>> [record["epoch"] for record in run.history]
        [1, 2]
    """
    check_seed(seed)
    train, valid, _ = recipe.make_data(seed)
    trainer = make_trainer(
        recipe,
        make_initial_model(recipe, seed),
        device=device,
        seed=seed,
        loss_average=loss_average,
        callbacks=callbacks,
        progress=progress,
    )
    loader = _train_loader(recipe, train, seed)
    if on_summary is not None:
        _tell_summary(recipe, trainer, loader, on_summary)
    return trainer.fit(
        loader,
        None if valid is None else _plain_loader(recipe, valid),
        epochs=recipe.epochs,
        **split_options(recipe.options)[1],
        run_dir=run_dir,
        resume=resume,
        allow_changed=allow_changed,
        settings={**_describe(recipe), **(settings or {})},
    )


def make_trainer(recipe: Recipe, model: nn.Module, **arguments: Any) -> Trainer:
    """Make the trainer of a recipe.

    Args:
        recipe: The recipe.
        model: The model to train.
        **arguments: Those of `Trainer` that no recipe has, such as ``device``.

    Raises:
        ArgumentError: As `Trainer`.
    """
    return Trainer(
        model,
        loss=recipe.loss,
        optimizer=recipe.optimizer,
        lr=recipe.lr,
        schedule=recipe.schedule,
        metrics=recipe.metrics,
        **split_options(recipe.options)[0],
        **arguments,
    )


def summarize_recipe(recipe: Recipe, seed: int = 0) -> ModelSummary:
    """Say what a recipe's model has, and what training it holds in memory.

    Args:
        recipe: The recipe.
        seed: Seed of the split, the initial weights and the order.

    Returns:
        The summary, of the first batch's first micro-batch, on the CPU.

    Raises:
        Exception: The data or the model can't be made, or the model can't run.

    Example:
        >>> from handful import load_recipe
        >>> summarize_recipe(load_recipe("digits")).parameters
        4810
    """
    loader = make_split_loader(recipe, "train", check_seed(seed))
    return summarize_training(recipe, make_initial_model(recipe, seed), loader)


def _tell_summary(
    recipe: Recipe,
    trainer: Trainer,
    loader: DataLoader[Any],
    on_summary: Callable[[ModelSummary], None],
) -> None:
    try:
        summary = summarize_training(recipe, trainer.model, loader)
    except Exception:  # The first real step says what is wrong, and better.
        return
    on_summary(summary)


def _describe(recipe: Recipe) -> dict[str, Any]:
    """Return what a run's configuration has of a recipe beside a Trainer's settings.

    Metrics that are objects are left to the recipe, which alone can make them.
    """
    options = recipe.options
    own: dict[str, Any] = {
        "recipe": recipe.name,
        "batch_size": recipe.batch_size,
        "last_batch": recipe.last_batch,
        "num_workers": recipe.num_workers,
        "worker_type": recipe.worker_type,
        "target": options.get("target"),
        "sample_weight": options.get("sample_weight"),
    }
    lists = {"metrics": recipe.metrics, "train_metrics": options.get("train_metrics")}
    for name, metrics in lists.items():
        named = not isinstance(metrics, Mapping)
        if metrics and not (named and all(isinstance(m, str) for m in metrics)):
            own[name] = None
    return own


def evaluate_run(
    run_dir: str | Path,
    recipe: Recipe,
    *,
    split: str = "valid",
    device: str = "auto",
) -> dict[str, float]:
    """Measure a run's best model on a part of its recipe's data.

    Args:
        run_dir: The run's folder.
        recipe: The recipe that it trained.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        device: ``"auto"`` or a device of torch.

    Returns:
        ``<split>_loss`` and ``<split>_<metric>`` for each metric.

    Raises:
        ArgumentError: The recipe has no such part.
        RunError: The folder holds no run, or no valid checkpoint.
    """
    run = Run.load(run_dir)
    trainer = _load_trainer(run, recipe, device)
    data = _choose_split(recipe, split, _seed_of(run))
    values = trainer.evaluate(_plain_loader(recipe, data))
    return {f"{split}_{name}": value for name, value in values.items()}


def predict_run(
    run_dir: str | Path,
    recipe: Recipe,
    *,
    to: Path,
    split: str = "test",
    device: str = "auto",
) -> int:
    """Write a run's predictions for a part of its recipe's data.

    Args:
        run_dir: The run's folder.
        recipe: The recipe that it trained.
        to: The file: ``.csv``, ``.parquet`` (extra ``arrow``) with a row per sample, or
            ``.npy`` with the model's outputs.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        device: ``"auto"`` or a device of torch.

    Returns:
        The number of samples.

    Raises:
        ArgumentError: The recipe has no such part, or the file's ending is unknown.
        MissingExtraError: Parquet is asked for and pyarrow isn't installed.
        RunError: The folder holds no run, or no valid checkpoint.
        TrainingError: The model returns several outputs.
    """
    run = Run.load(run_dir)
    trainer = _load_trainer(run, recipe, device)
    data = _choose_split(recipe, split, _seed_of(run))
    outputs = trainer.predict(_plain_loader(recipe, data))
    if not isinstance(outputs, Tensor):
        raise TrainingError(
            f"predictions must be one tensor to be written to a file; the model of "
            f"recipe {recipe.name!r} returns a {type(outputs).__name__}. "
            "Use Trainer.predict in Python."
        )
    layout = trainer.layout
    targets = [_target_of(layout, batch) for batch in _plain_loader(recipe, data)]
    write_predictions(to, outputs, torch.cat(targets), recipe.class_names)
    return len(outputs)


def make_initial_model(recipe: Recipe, seed: int) -> nn.Module:
    """Make a recipe's model, its initial weights a function of the seed alone."""
    with seeded_generators(seed, "model"):
        return recipe.make_model()


def make_split_loader(recipe: Recipe, split: str, seed: int) -> DataLoader[Any]:
    """Return the loader of a part of a recipe's data.

    Args:
        recipe: The recipe.
        split: ``"train"``, shuffled in batches of the recipe's size; ``"valid"`` or
            ``"test"`` in order.
        seed: Seed of the split and the order.

    Raises:
        ArgumentError: The recipe has no such part.
    """
    data = _choose_split(recipe, split, seed)
    if split == "train":
        return _train_loader(recipe, data, seed)
    return _plain_loader(recipe, data)


def _train_loader(recipe: Recipe, data: Dataset[Any], seed: int) -> DataLoader[Any]:
    return DataLoader(
        data,
        recipe.batch_size,
        shuffle=recipe.shuffle,
        seed=seed,
        drop_last=recipe.last_batch == "drop",
        batch_transform=recipe.batch_transform,
        **_workers_of(recipe),
    )


def _plain_loader(recipe: Recipe, data: Dataset[Any]) -> DataLoader[Any]:
    size = recipe.batch_size
    least = VALID_BATCH_SIZE if size == "full" else max(int(size), VALID_BATCH_SIZE)
    transform = recipe.eval_transform or recipe.batch_transform
    workers = _workers_of(recipe)
    return DataLoader(data, least, seed=0, batch_transform=transform, **workers)


def _workers_of(recipe: Recipe) -> dict[str, Any]:
    """Return a loader's arguments that say who reads; workers stay between epochs."""
    return {
        "num_workers": recipe.num_workers,
        "worker_type": recipe.worker_type,
        "persistent_workers": recipe.num_workers > 0,
    }


def _choose_split(recipe: Recipe, split: str, seed: int) -> Dataset[Any]:
    if split not in _SPLITS:
        raise unknown_choice("split", split, _SPLITS)
    parts = dict(zip(_SPLITS, recipe.make_data(seed), strict=True))
    data = parts[split]
    if data is None:
        has = ", ".join(name for name, part in parts.items() if part is not None)
        raise ArgumentError(
            f"split must be one that recipe {recipe.name!r} has: {has}; got {split!r}."
        )
    return data


def _load_trainer(run: Run, recipe: Recipe, device: str) -> Trainer:
    """Make a trainer whose model has a run's best weights, averaged where kept."""
    assert run.path is not None
    model = make_initial_model(recipe, _seed_of(run))
    try:
        model.load_state_dict(best_checkpoint(run.path)[1].best_model)
    except RuntimeError as error:
        reason = str(error).replace("\n", " ")
        raise RunError(
            f"the model of recipe {recipe.name!r} does not fit {run.path}: {reason}"
        ) from None
    average = str(run.config.get("loss_average", "samples"))
    return make_trainer(
        recipe, model, device=device, loss_average=average, progress="off"
    )


def _target_of(layout: BatchLayout, batch: Any) -> Tensor:
    target = layout.split(batch)[2]
    if not isinstance(target, Tensor):
        raise TrainingError(
            "a target must be one tensor to be written to a file; got a "
            f"{type(target).__name__}. Use Trainer.predict in Python."
        )
    return target


def _seed_of(run: Run) -> int:
    return int(run.config.get("seed") or 0)
