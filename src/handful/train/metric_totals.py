"""What the named metrics add up over a batch, and what becomes of the totals.

`handful.train.metrics` says what each measures.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from handful.errors import TrainingError

IGNORED_TARGET = -100
"""A class that counts nowhere: the default ``ignore_index`` of torch's losses."""


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype that sums are kept in on a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def _sum_each(rows: Iterable[Tensor]) -> Tensor:
    """Stack tensors of one shape and sum each, in float64."""
    stacked = torch.stack([*rows]).flatten(1)
    return stacked.sum(1, dtype=sum_dtype(stacked.device))


def _has_classes(output: Tensor, target: Tensor) -> bool:
    """Tell classes from logits by the shapes."""
    check_tensor("output", output)
    check_tensor("target", target)
    if output.shape == target.shape:
        return False
    classes = output.shape[1:2]
    if output.shape[:1] + output.shape[2:] == target.shape and classes > (1,):
        return True
    raise TrainingError(
        "metrics need an output of shape (N, C) or (N, C, d…) with C > 1 classes for a "
        "target of shape (N,) or (N, d…), or one shape for both; got output "
        f"{tuple(output.shape)} and target {tuple(target.shape)}. "
        "Reshape one of them."
    )


def check_tensor(name: str, value: object) -> None:
    """Check that a model's output, or its target, is one tensor.

    Raises:
        TrainingError: It is a tuple, a dictionary or the like.
    """
    if not isinstance(value, Tensor):
        raise TrainingError(
            f"metrics need one tensor as {name}; got {type(value).__name__}. "
            "Use a step that returns output and target."
        )


def _check_same_shape(output: Tensor, target: Tensor) -> None:
    check_tensor("output", output)
    check_tensor("target", target)
    if output.shape != target.shape:
        raise TrainingError(
            "metrics of errors need an output and a target of one shape; got output "
            f"{tuple(output.shape)} and target {tuple(target.shape)}. "
            "Reshape one of them: a silent broadcast would compare every sample with "
            "every other."
        )


def _answers(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return answers and targets of logits, as booleans."""
    return output > 0, target > 0.5


def count_right(output: Tensor, target: Tensor) -> Tensor:
    """Count right answers and all: shape ``(2,)``."""
    if _has_classes(output, target):
        return _sum_each([output.argmax(1) == target, target != IGNORED_TARGET])
    answer, truth = _answers(output, target)
    return _sum_each([answer == truth, torch.ones_like(truth)])


def count_right_of_five(output: Tensor, target: Tensor) -> Tensor:
    """Count targets among the five largest outputs, and all: shape ``(2,)``."""
    if not _has_classes(output, target) or output.shape[1] <= 5:
        raise TrainingError(
            "metric 'top5_accuracy' needs more than five classes; got output "
            f"{tuple(output.shape)} and target {tuple(target.shape)}. "
            "Use 'accuracy'."
        )
    likeliest = output.topk(5, dim=1, sorted=False).indices
    right = (likeliest == target.unsqueeze(1)).any(1)
    return _sum_each([right, target != IGNORED_TARGET])


def count_outcomes(output: Tensor, target: Tensor) -> Tensor:
    """Count right answers, answers and targets of each class.

    Returns:
        Shape ``(3, C)`` for classes; for logits ``(4,)``, those of the class 1 and the
        number of logits.
    """
    if not _has_classes(output, target):
        answer, truth = _answers(output, target)
        return _sum_each([answer & truth, answer, truth, torch.ones_like(truth)])
    counted = target != IGNORED_TARGET
    truth = torch.where(counted, target, 0).long().flatten()
    answer = output.argmax(1).flatten()
    counted = counted.flatten()
    counts = torch.zeros(
        (3, output.shape[1]), dtype=sum_dtype(output.device), device=output.device
    )
    classes = torch.stack([truth, answer, truth])
    weights = torch.stack([counted & (answer == truth), counted, counted])
    return counts.scatter_add_(1, classes, weights.to(counts.dtype))


def _widen(values: Tensor) -> Tensor:
    """Return values in a dtype whose differences and squares don't overflow."""
    if not values.is_floating_point():
        return values.to(sum_dtype(values.device))
    return values.float() if values.dtype.itemsize < 4 else values


def total_absolute(output: Tensor, target: Tensor) -> Tensor:
    """Return the sum over samples of mean absolute errors."""
    _check_same_shape(output, target)
    return _sum_of_means((_widen(output) - _widen(target)).abs())


def total_squared(output: Tensor, target: Tensor) -> Tensor:
    """Return the sum over samples of mean squared errors."""
    _check_same_shape(output, target)
    return _sum_of_means((_widen(output) - _widen(target)).square())


def _sum_of_means(errors: Tensor) -> Tensor:
    """Average within each sample, sum over samples."""
    total = errors.sum(dtype=sum_dtype(errors.device))
    if errors.numel() == len(errors):
        return total
    return total * (len(errors) / errors.numel())


def total_spread(output: Tensor, target: Tensor) -> Tensor:
    """Return samples, an origin, the mean from there, and two sums of squares.

    These are of the deviations from the mean, and of the errors. The origin is the
    first target: targets far from 0 lose no digits. Shape ``(5, L)`` for L outputs.
    """
    _check_same_shape(output, target)
    wide = sum_dtype(target.device)
    truth = target.to(wide).reshape(len(target), -1)
    errors = truth - output.to(wide).reshape(len(target), -1)
    shifted = truth - truth[0]
    mean = shifted.mean(0)
    deviations = (shifted - mean).square().sum(0)
    samples = torch.full_like(mean, len(truth))
    return torch.stack([samples, truth[0], mean, deviations, errors.square().sum(0)])


def combine_spreads(totals: Tensor) -> Tensor:
    """Make one of several `total_spread`: ``(K, 5, L)`` to ``(5, L)``.

    Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance",
    equation 2.1, for K parts at once.
    """
    samples, origins, means, deviations, errors = totals.unbind(1)
    shifted = origins - origins[0] + means
    mean = (samples * shifted).sum(0) / samples.sum(0)
    between = (samples * (shifted - mean).square()).sum(0)
    deviation = deviations.sum(0) + between
    return torch.stack([samples.sum(0), origins[0], mean, deviation, errors.sum(0)])


def finish_share(totals: Tensor, _samples: int) -> float:
    """Return right answers per counted target."""
    right, counted = totals
    return float(right / counted)


def finish_balanced(totals: Tensor, _samples: int) -> float:
    """Return the mean recall of the classes that occur."""
    if totals.ndim == 1:
        totals = _as_two_classes(totals)
    right, _, truths = totals
    present = truths > 0
    return float((right[present] / truths[present]).mean())


def _as_two_classes(totals: Tensor) -> Tensor:
    """Turn the counts of logits into those of the classes 0 and 1: shape (3, 2)."""
    ones, logits = totals[:3], totals[3]
    right, answers, truths = ones
    zeros = torch.stack(
        [logits - answers - truths + right, logits - answers, logits - truths]
    )
    return torch.stack([zeros, ones], dim=1)


def finish_precision(totals: Tensor, _samples: int) -> float:
    """Return the precision, macro over classes or of the class 1."""
    right, answers, _ = totals[:3]
    return _mean_of_present(right, answers, totals)


def finish_recall(totals: Tensor, _samples: int) -> float:
    """Return the recall, likewise."""
    right, _, truths = totals[:3]
    return _mean_of_present(right, truths, totals)


def finish_f1(totals: Tensor, _samples: int) -> float:
    """Return the F1 score, likewise."""
    right, answers, truths = totals[:3]
    return _mean_of_present(2 * right, answers + truths, totals)


def _mean_of_present(right: Tensor, divisor: Tensor, totals: Tensor) -> float:
    """Divide, 0 where the divisor is 0, and average the classes that occur."""
    quotient = right / divisor.clamp(min=1)
    if totals.ndim == 1:
        return float(quotient)
    _, answers, truths = totals
    return float(quotient[(answers + truths) > 0].mean())


def finish_root(totals: Tensor, samples: int) -> float:
    """Return the root of the mean of the totals."""
    return float((totals / samples).sqrt())


def finish_r2(totals: Tensor, samples: int) -> float:
    """Return the coefficient of determination, the mean over outputs."""
    if samples < 2:
        return float("nan")
    deviations, errors = totals[3:]
    constant = torch.where(errors == 0, 1.0, 0.0 * errors)
    values = torch.where(deviations == 0, constant, 1 - errors / deviations)
    return float(values.mean())
