"""What a recipe's training holds in memory: its model, run once on a first batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from handful.data.first_batch import first
from handful.train.batches import (
    BatchLayout,
    count_samples,
    move_batch,
    split_samples,
)
from handful.train.generators import all_generators_preserved
from handful.train.optimizers import optimizer_states
from handful.train.recipe import Recipe
from handful.train.summary import ModelSummary, format_bytes, summarize_model


def summarize_training(
    recipe: Recipe, model: nn.Module, loader: Iterable[Any]
) -> ModelSummary:
    """Run a recipe's model on the first batch and say what training it holds.

    Generators, the model and the loader's place are left as they were.

    Args:
        recipe: The recipe: its optimiser, its batches' layout, its step if any.
        model: The model.
        loader: Gives its training batches.

    Returns:
        The summary, of a micro-batch where the recipe asks for smaller ones.

    Raises:
        Exception: Whatever the model raises of such a batch.
    """
    options = recipe.options
    with all_generators_preserved():
        batch = first(loader)
    size = options.get("micro_batch_size")
    if size is not None:
        batch = next(split_samples(batch, size))
    batch = move_batch(batch, _device_of(model))
    layout = BatchLayout(options.get("target"), options.get("sample_weight"))
    step = options.get("step")

    def forward() -> Any:
        if step is not None:
            return step(model, batch)
        args, kwargs = layout.inputs(batch)
        return model(*args, **kwargs)

    return summarize_model(
        model,
        forward,
        batch_size=count_samples(batch),
        optimizer_states=optimizer_states(recipe.optimizer),
    )


def describe_summary(summary: ModelSummary) -> str:
    """Return a summary in one line: parameters, and the memory that training holds."""
    if summary.is_lazy:
        return "parameters not known before the first batch: the model has lazy layers"
    count, trainable = summary.parameters, summary.trainable_parameters
    some = f", {trainable:,} trainable" if trainable != count else ""
    plural = "" if count == 1 else "s"
    return (
        f"{count:,} parameter{plural}{some}; training holds about "
        f"{format_bytes(summary.total_bytes)} at batch size {summary.batch_size}"
    )


def _device_of(model: nn.Module) -> torch.device:
    tensor = next(iter([*model.parameters(), *model.buffers()]), None)
    return torch.device("cpu") if tensor is None else tensor.device
