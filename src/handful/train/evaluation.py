"""Evaluating and predicting: a model over a loader, without gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from handful.errors import TrainingError
from handful.train.batches import move_batch, split_batch
from handful.train.losses import Loss
from handful.train.metrics import Metric


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set a model to `eval` and autograd off; put every module back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def evaluate_model(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    loss: Loss,
    metrics: Sequence[Metric],
    device: torch.device,
    average: str = "samples",
) -> dict[str, float]:
    """Measure a model on all batches of a loader.

    Args:
        model: The model, on ``device``.
        loader: Gives batches of inputs and a target.
        loss: A callable of (output, target) that returns the mean loss.
        metrics: What to measure beside it.
        device: Where to compute.
        average: ``"samples"`` to weigh each batch's loss by its samples, ``"batches"``
            for the plain mean of batch losses.

    Returns:
        ``loss`` and each metric by its name.

    Raises:
        TrainingError: The loader gives no batch.
    """
    losses: list[Tensor] = []
    totals: list[list[Tensor]] = [[] for _ in metrics]
    counts: list[int] = []
    with evaluation_mode(model):
        for batch in loader:
            inputs, target = split_batch(move_batch(batch, device))
            output = model(*inputs)
            losses.append(loss(output, target))
            for metric, sums in zip(metrics, totals, strict=True):
                sums.append(metric.total(output, target))
            counts.append(len(target))
    if not counts:
        raise TrainingError("the loader must give at least one batch; it gave none.")
    values = {"loss": average_losses(losses, counts, average)}
    for metric, sums in zip(metrics, totals, strict=True):
        values[metric.name] = float(torch.stack(sums).cpu().double().sum()) / sum(
            counts
        )
    return values


def average_losses(losses: Sequence[Tensor], counts: Sequence[int], how: str) -> float:
    """Return the mean of batch losses, in double precision.

    Args:
        losses: Mean loss of each batch, without dimensions.
        counts: Samples of each batch.
        how: ``"samples"`` or ``"batches"``; see `evaluate_model`.
    """
    values = torch.stack(list(losses)).cpu().double()
    if how == "batches":
        return float(values.mean())
    weights = torch.tensor(counts, dtype=torch.float64)
    return float((values * weights).sum() / weights.sum())


def predict_model(
    model: nn.Module, loader: Iterable[Any], *, device: torch.device
) -> Tensor:
    """Return a model's outputs for all batches of a loader.

    Args:
        model: The model, on ``device``.
        loader: Gives batches of inputs and a target, or of one input alone (a tensor).
        device: Where to compute.

    Returns:
        The outputs, shape ``(N, …)``, on the CPU.

    Raises:
        TrainingError: The loader gives no batch.
    """
    outputs = []
    with evaluation_mode(model):
        for batch in loader:
            moved = move_batch(batch, device)
            inputs = [moved] if isinstance(moved, Tensor) else split_batch(moved)[0]
            outputs.append(model(*inputs).cpu())
    if not outputs:
        raise TrainingError("the loader must give at least one batch; it gave none.")
    return torch.cat(outputs)
