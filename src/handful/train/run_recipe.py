"""Running a recipe, and using a run's model afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from handful.data.loader import DataLoader
from handful.errors import ArgumentError, RunError, unknown_choice
from handful.runs.run import Run
from handful.train.callbacks import Callback
from handful.train.checkpoint import load_checkpoint, newest_checkpoint
from handful.train.choices import check_seed
from handful.train.generators import seeded_generators
from handful.train.predictions import prediction_table, write_table
from handful.train.recipe import Recipe
from handful.train.trainer import Trainer

VALID_BATCH_SIZE = 512
"""Least batch size for validation, where memory is the only thing that it changes."""

_SPLITS = ("train", "valid", "test")


def run_recipe(
    recipe: Recipe,
    *,
    seed: int = 0,
    device: str = "auto",
    run_dir: str | Path | None = None,
    resume: bool = False,
    loss_average: str = "samples",
    num_threads: int | str | None = "auto",
    callbacks: Sequence[Callback] = (),
    progress: str = "off",
    settings: Mapping[str, Any] | None = None,
) -> Run:
    """Train what a recipe says.

    Args:
        recipe: What to train.
        seed: Seed of the split, the initial weights, the order and random layers.
        device: ``"auto"`` or a device of torch.
        run_dir: The run's folder; None keeps the run in memory.
        resume: Go on from the newest checkpoint in ``run_dir``.
        loss_average: ``"samples"`` or ``"batches"``; see `Trainer`.
        num_threads: A number, ``"auto"`` or None; see `Trainer`.
        callbacks: Called at the named moments of `Callback`.
        progress: ``"auto"``, ``"bar"``, ``"lines"`` or ``"off"``.
        settings: Plain values to keep in the run's configuration.

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
    trainer = Trainer(
        make_initial_model(recipe, seed),
        loss=recipe.loss,
        optimizer=recipe.optimizer,
        lr=recipe.lr,
        schedule=recipe.schedule,
        metrics=recipe.metrics,
        device=device,
        seed=seed,
        loss_average=loss_average,
        num_threads=num_threads,
        callbacks=callbacks,
        progress=progress,
    )
    own = {"recipe": recipe.name, "batch_size": recipe.batch_size}
    return trainer.fit(
        _train_loader(recipe, train, seed),
        None if valid is None else _plain_loader(recipe, valid),
        epochs=recipe.epochs,
        run_dir=run_dir,
        resume=resume,
        settings={**own, **(settings or {})},
    )


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
    """
    run = Run.load(run_dir)
    trainer = _load_trainer(run, recipe, device)
    data = _choose_split(recipe, split, _seed_of(run))
    outputs = trainer.predict(_plain_loader(recipe, data))
    targets = torch.cat([batch[-1] for batch in _plain_loader(recipe, data)])
    write_table(to, outputs, prediction_table(outputs, targets))
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
        batch_transform=recipe.batch_transform,
    )


def _plain_loader(recipe: Recipe, data: Dataset[Any]) -> DataLoader[Any]:
    size = recipe.batch_size
    least = VALID_BATCH_SIZE if size == "full" else max(int(size), VALID_BATCH_SIZE)
    transform = recipe.eval_transform or recipe.batch_transform
    return DataLoader(data, least, seed=0, batch_transform=transform)


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
    assert run.path is not None
    model = make_initial_model(recipe, _seed_of(run))
    folder = run.path / "checkpoints"
    # What a killed run recorded after its last checkpoint has no weights any more.
    _, newest, _ = newest_checkpoint(folder)
    best = Run(history=list(newest.progress.get("history", []))).best
    path = folder / f"step-{best['step']:08d}" if best else None
    is_there = path is not None and path.is_dir()
    state = load_checkpoint(path).model if path and is_there else newest.model
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).replace("\n", " ")
        raise RunError(
            f"the model of recipe {recipe.name!r} does not fit {run.path}: {reason}"
        ) from None
    return Trainer(
        model,
        loss=recipe.loss,
        metrics=recipe.metrics,
        device=device,
        loss_average=str(run.config.get("loss_average", "samples")),
        progress="off",
    )


def _seed_of(run: Run) -> int:
    return int(run.config.get("seed") or 0)
