"""Whether an output and a target fit a loss that is known by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handful.errors import TrainingError
from handful.train.labels import IGNORED_LABEL

_CLASS_LOSSES = ("cross_entropy", "nll")
_ELEMENTWISE = ("bce_with_logits", "mse", "mae", "huber", "smooth_l1", "poisson_nll")
_NEED_FLOATS = ("bce_with_logits", "mse", "huber", "smooth_l1")


def check_output_width(
    output: Any,
    target: Any,
    loss_name: object,
    *,
    ignore_index: int = IGNORED_LABEL,
) -> str | None:
    """Check that a loss known by name gets an output and a target that fit.

    Args:
        output: What the model returned for the first batch.
        target: The batch's target.
        loss_name: One of `handful.train.choices.LOSSES`; anything else, a callable of
            the user's, passes unchecked.
        ignore_index: The label that is left out of the loss.

    Returns:
        A warning: the model seems to end in a softmax that the loss applies itself.
        None if there is nothing to say.

    Raises:
        TrainingError: Shapes, dtypes or labels don't fit; broadcasting would give a
            wrong loss, or one output stands for several classes.
    """
    if loss_name not in _CLASS_LOSSES + _ELEMENTWISE:
        return None
    for name, value in (("an output", output), ("a target", target)):
        if not isinstance(value, Tensor):
            raise TrainingError(
                f"loss {loss_name!r} needs {name} that is a tensor; got "
                f"{type(value).__name__}. Use one tensor, or a loss of your own."
            )
    if loss_name in _ELEMENTWISE:
        _check_same_shape(output, target, loss_name)
        _check_number_dtype(target, loss_name)
        return None
    _check_classes(output, loss_name)
    if loss_name == "cross_entropy" and target.is_floating_point():
        _check_probabilities(output, target)
    else:
        _check_label_dtype(output, target, loss_name)
        _check_label_shape(output, target, loss_name)
        _check_label_range(output, target, ignore_index)
    return _warn_of_softmax(output.detach(), loss_name)


def _check_same_shape(output: Tensor, target: Tensor, loss_name: object) -> None:
    if output.shape == target.shape:
        return
    remedy = "Reshape one of them"
    if output.shape == (*target.shape, 1):
        dim = target.ndim
        remedy = f"Use output.squeeze({dim}) or target.unsqueeze({dim})"
    elif target.shape == (*output.shape, 1):
        dim = output.ndim
        remedy = f"Use target.squeeze({dim}) or output.unsqueeze({dim})"
    elif loss_name == "bce_with_logits" and output.ndim == target.ndim + 1:
        remedy = "Use cross_entropy for several outputs and one label, or one output"
    raise TrainingError(
        f"loss {loss_name!r} needs an output and a target of the same shape; got "
        f"output {tuple(output.shape)} and target {tuple(target.shape)}. "
        f"{remedy}: a silent broadcast would compare every sample with every other."
    )


def _check_number_dtype(target: Tensor, loss_name: object) -> None:
    is_wrong = loss_name in _NEED_FLOATS and not target.is_floating_point()
    if is_wrong or (loss_name == "mae" and target.dtype is torch.bool):
        raise TrainingError(
            f"loss {loss_name!r} needs a target of floating dtype; got {target.dtype}. "
            "Convert the targets with .float()."
        )


def _check_classes(output: Tensor, loss_name: object) -> None:
    if output.ndim < 2:
        raise TrainingError(
            f"loss {loss_name!r} needs an output of shape (batch, classes); got "
            f"{tuple(output.shape)}. Let the last layer give one value a class."
        )
    if output.shape[1] < 2:
        raise TrainingError(
            f"loss {loss_name!r} needs two classes or more; got one output for classes,"
            f" shape {tuple(output.shape)}. Use bce_with_logits or two outputs."
        )


def _check_probabilities(output: Tensor, target: Tensor) -> None:
    if output.shape != target.shape:
        raise TrainingError(
            "loss 'cross_entropy' needs integer labels, or a probability for each "
            f"class in the output's shape {tuple(output.shape)}; got target "
            f"{target.dtype} of shape {tuple(target.shape)}. "
            "Convert labels with .long()."
        )


def _check_label_dtype(output: Tensor, target: Tensor, loss_name: object) -> None:
    is_byte = target.dtype is torch.uint8 and output.ndim == 2
    if target.dtype is not torch.int64 and not is_byte:
        raise TrainingError(
            f"loss {loss_name!r} needs labels of dtype torch.int64; got {target.dtype}."
            " Convert the targets with .long()."
        )


def _check_label_shape(output: Tensor, target: Tensor, loss_name: object) -> None:
    expected = (output.shape[0], *output.shape[2:])
    if target.shape == expected:
        return
    remedy = "Give one label for each sample."
    if target.shape == (*expected, 1):
        remedy = f"Use target.squeeze({target.ndim - 1})."
    elif target.shape == output.shape:
        remedy = "Use target.argmax(1) if it is one-hot."
    raise TrainingError(
        f"loss {loss_name!r} needs labels of shape {expected} for an output of shape "
        f"{tuple(output.shape)}; got {tuple(target.shape)}. {remedy}"
    )


def _check_label_range(output: Tensor, target: Tensor, ignore_index: int) -> None:
    counted = target[target != ignore_index]
    if not counted.numel():
        return
    low, high = (int(value) for value in torch.aminmax(counted))
    if low < 0 or high >= output.shape[1]:
        raise TrainingError(
            f"labels must lie in 0 … {output.shape[1] - 1}, the classes of the "
            f"model's output; got {low} … {high}. "
            "Number the classes from 0, or widen the last layer."
        )


def _warn_of_softmax(output: Tensor, loss_name: object) -> str | None:
    sums = output.float().sum(1)
    is_shares = output.min() >= 0 and output.max() <= 1
    if not is_shares or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        return None
    remedy = "takes raw scores: leave the softmax out"
    if loss_name == "nll":
        remedy = "takes logarithms: use log_softmax"
    return (
        "The model seems to end in a softmax: its outputs lie in 0 … 1 and sum to 1. "
        f"Loss {loss_name!r} {remedy}."
    )
