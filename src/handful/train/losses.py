"""Losses by name or by object, and the check that they get what they expect."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn

from handful.errors import ArgumentError, TrainingError, unknown_choice
from handful.train.choices import LOSSES

Loss: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"

_ELEMENTWISE = ("mse", "mae", "huber", "bce_with_logits")


def make_loss(value: str | Loss) -> Loss:
    """Return the loss of that name, or the callable itself.

    Args:
        value: A name of `LOSSES`, or a callable of (output, target) that returns the
            batch's mean loss, a tensor without dimensions.

    Returns:
        The callable.

    Raises:
        ArgumentError: The name is unknown, or a callable sums instead of averaging.
    """
    if isinstance(value, str):
        if value not in LOSSES:
            raise unknown_choice("loss", value, LOSSES)
        loss: Loss = getattr(nn, LOSSES[value])()
        return loss
    if not callable(value):
        raise ArgumentError(f"loss must be a name or a callable; got {value!r}.")
    reduction = getattr(value, "reduction", "mean")
    if reduction != "mean":
        raise ArgumentError(
            f"loss must have reduction='mean'; got {reduction!r}. "
            "Epochs weigh the mean loss of each batch by its samples."
        )
    return value


def describe_loss(value: str | Loss) -> str | None:
    """Return a loss's name as a setting, None for the user's own callable."""
    return value if isinstance(value, str) else None


def check_output(name: str | Loss, output: Tensor, target: Tensor) -> None:
    """Check that a loss known by name gets an output and a target that fit.

    Args:
        name: The loss, as it was given to `make_loss`; callables pass unchecked.
        output: What the model returned.
        target: The batch's target.

    Raises:
        TrainingError: Shapes or dtypes don't fit; broadcasting would give a wrong loss.
    """
    if name in _ELEMENTWISE and output.shape != target.shape:
        raise TrainingError(
            f"loss {name!r} needs an output and a target of the same shape; got "
            f"output {tuple(output.shape)} and target {tuple(target.shape)}. "
            "Reshape one of them: a silent broadcast would compare every sample "
            "with every other."
        )
    if name == "cross_entropy" and not target.is_floating_point():
        if output.ndim < 2:
            raise TrainingError(
                "loss 'cross_entropy' needs an output of shape (batch, classes); got "
                f"{tuple(output.shape)}."
            )
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= output.shape[1]:
            raise TrainingError(
                f"labels must lie in 0 … {output.shape[1] - 1}, the classes of the "
                f"model's output; got {low} … {high}. "
                "Number the classes from 0, or widen the last layer."
            )
