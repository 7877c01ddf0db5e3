"""Backends: a recipe's training written out in NumPy, PyTorch or Keras.

The descents are those of `handful.reference`. They start from the recipe's initial
weights of a seed and take the samples in the order of its loader, as the trainer does;
so all of them should arrive at the same weights, up to rounding::

    recipe, seed ──> initial weights, order ──┬──> Trainer.fit ─────┐
                                              ├──> numpy_descent ───┼──> weights, losses
                                              ├──> torch_descent ───┤
                                              └──> keras_descent ───┘

Validation is the trainer's own for all of them. A descent is called for one epoch after
another; Keras sets its pipeline of data up anew for each, as its ``fit`` does, which
counts in its time as the steps do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from handful.data.loader import DataLoader
from handful.data.order import make_order
from handful.reference import keras_descent, numpy_descent, torch_descent
from handful.reference.trace import Trace
from handful.runs.run import Run
from handful.studies.axes import TRAINER
from handful.studies.budget import Budget
from handful.studies.stopwatch import Stopwatch
from handful.studies.written_out import WrittenOut, check_settings, write_out
from handful.train.callbacks import FitState
from handful.train.recipe import Recipe
from handful.train.trainer import Trainer

_DESCENTS: dict[str, ModuleType] = {
    "numpy": numpy_descent,
    "torch": torch_descent,
    "keras": keras_descent,
}


def check_backend_fits(
    backend: str,
    recipe: Recipe,
    model: nn.Module,
    data: Dataset[Any],
    budget: Budget | None,
) -> None:
    """Check that a descent can take the steps that the trainer would take.

    Args:
        backend: One of `handful.studies.axes.BACKENDS`.
        recipe: The recipe, with a trial's settings.
        model: Its model.
        data: Its training data.
        budget: What a trial may use.

    Raises:
        ArgumentError: A part of the recipe has no counterpart in the descents.
        DataError: The data aren't such as the descents take.
        MissingExtraError: Keras or TensorFlow is asked for and not installed.
    """
    if backend == TRAINER:
        return
    check_settings(backend, recipe, budget)
    write_out(backend, recipe, model, data)
    if backend == "keras":
        keras_descent.import_tensorflow_and_keras()


def fit_written_out(
    backend: str,
    recipe: Recipe,
    trainer: Trainer,
    data: Dataset[Any],
    valid_loader: DataLoader[Any] | None,
    *,
    seed: int,
    watch: Stopwatch,
) -> Run:
    """Train a trainer's model by a descent, epoch by epoch, as `Trainer.fit` would.

    Args:
        backend: ``"numpy"``, ``"torch"`` or ``"keras"``.
        recipe: The recipe, with a trial's settings.
        trainer: Holds the initial weights, and afterwards the last; validates.
        data: The training data.
        valid_loader: The validation data, or None.
        seed: Seed of the order.
        watch: Is told of the seconds and the records.

    Returns:
        The run, which ends at the first loss that is not finite.
    """
    written = write_out(backend, recipe, trainer.model, data)
    assert recipe.epochs is not None
    state = FitState(
        Run(identity={"backend": backend}),
        epochs=recipe.epochs,
        steps_per_epoch=-(-len(written.inputs) // written.batch_size),
        lr=recipe.lr,
    )
    watch.on_run_start(state)
    for epoch in range(recipe.epochs):
        trace = _descend_epoch(backend, written, recipe, seed=seed, epoch=epoch)
        written.write_weights(trace.weights)
        state.epoch, state.step = epoch + 1, state.step + len(trace.losses)
        state.samples += len(written.inputs)
        watch.add(trace.seconds)
        found = {} if valid_loader is None else trainer.evaluate(valid_loader)
        record = _make_record(state, trace, found)
        state.run.history.append(record)
        watch.on_epoch_end(state, record)
        if state.stop is not None or not math.isfinite(record["train_loss"]):
            break
    return state.run


def _descend_epoch(
    backend: str, written: WrittenOut, recipe: Recipe, *, seed: int, epoch: int
) -> Trace:
    """Go on for an epoch from the weights that the model has now."""
    count = len(written.inputs)
    order = make_order(count, seed=seed, epoch=epoch, shuffle=recipe.shuffle)
    trace: Trace = _DESCENTS[backend].descend(
        written.model,
        written.inputs,
        written.targets,
        batch_size=written.batch_size,
        epochs=1,
        lr=recipe.lr,
        order=order.indices(0, count).numpy()[None],
        weights=written.read_weights(),
        dtype=written.inputs.dtype.name,
    )
    return trace


def _make_record(
    state: FitState, trace: Trace, found: Mapping[str, float]
) -> dict[str, Any]:
    """Return a record as the trainer makes it."""
    places = {"epoch": state.epoch, "step": state.step, "samples": state.samples}
    losses = {"train_loss": float(trace.epoch_losses[0])}
    losses |= {f"valid_{name}": value for name, value in found.items()}
    return {**places, **losses, "lr": state.lr, "seconds": trace.seconds}
