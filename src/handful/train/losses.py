"""Losses by name or by object, with what each needs to be added up exactly.

A loss gives the mean over a batch. To add means of several batches up (over an epoch,
over the micro-batches of a step) each must be weighed by what it was divided by: the
number of samples, or for class labels the weights of the classes of all labels that are
not ignored. A `Criterion` knows that number.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone writes it
from torch import Tensor, nn

from handful.errors import ArgumentError, TrainingError
from handful.train.batches import count_samples
from handful.train.choices import LOSSES, Choice, ChoiceLike, parse_loss

Loss: TypeAlias = "Callable[[Any, Any], Tensor]"

Weight: TypeAlias = "int | float | Tensor"
"""What a mean was divided by: samples, or a sum of weights on the device."""

_IGNORED = -100  # the label that torch's losses of classes leave out by default


@dataclass(frozen=True)
class Criterion:
    """A loss, and how to weigh its means.

    Attributes:
        mean: Function of (output, target) that returns the batch's mean loss, a tensor
            without dimensions.
        weigh: Function of target that returns what ``mean`` divides by.
        each: Function of (output, target) that returns for each sample its loss and
            what that is divided by, both of shape ``(N,)``, or None in place of the
            latter where that is 1; None where only the mean is known.
        setting: The loss as a setting that `make_criterion` reads back; None for a
            callable of the user's.
        ignore_index: The label that is left out of a mean over classes.
    """

    mean: Loss
    weigh: Callable[[Any], Weight]
    each: Callable[[Any, Any], tuple[Tensor, Tensor | None]] | None
    setting: str | dict[str, Any] | None = None
    ignore_index: int = _IGNORED

    @property
    def name(self) -> str | None:
        """Its name, None for a callable of the user's."""
        if isinstance(self.setting, dict):
            return str(self.setting["name"])
        return self.setting

    @property
    def kind(self) -> str | None:
        """The name of what it computes, also where it was given as torch's own object.

        None for a callable that isn't one of those that have names.
        """
        loss = _find_module(self.mean)
        for name, (kind, _) in LOSSES.items():
            if _is_one_of(loss, (getattr(nn, kind),)):
                return name
        return None

    def total(
        self, output: Any, target: Any, weights: Tensor | None = None
    ) -> tuple[Tensor, Weight]:
        """Return the sum of a batch's losses, and what to divide it by.

        Args:
            output: What the model returned.
            target: The batch's target, a tensor where the mean is all that is known.
            weights: Weights of the samples, shape ``(N,)``, 0 or more; None where every
                sample counts the same. A loss with weights of classes of its own has
                both multiplied.

        Returns:
            ``sum(w * loss)`` and ``sum(w)``, tensors without dimensions; without
            weights the latter may be a number.

        Raises:
            ArgumentError: Weights are given and the loss gives a mean only.
            TrainingError: There isn't a weight for each sample.
        """
        if weights is not None:
            return self._weighted_total(output, target, weights)
        weight = self.weigh(target)
        if self.each is None:
            return self.mean(output, target) * weight, weight
        losses, _ = self.each(output, target)
        if isinstance(weight, Tensor):  # float32 has every count up to 2**24
            weight = weight.to(torch.promote_types(losses.dtype, torch.float32))
        return losses.sum(), weight

    def weighted(
        self, output: Any, target: Any, weights: Tensor
    ) -> tuple[Tensor, Weight]:
        """Return the mean loss under weights of the samples, and their sum.

        Args:
            output: What the model returned.
            target: The batch's target.
            weights: Weights of the samples; see `total`, also for the errors.

        Returns:
            ``sum(w * loss) / sum(w)`` and ``sum(w)``; see `divide` for a sum of 0.
        """
        total, weight = self._weighted_total(output, target, weights)
        return divide(total, weight), weight

    def with_all_labels(self) -> Criterion:
        """Return the same for targets of which none is known to be ignored.

        Then counting is enough where otherwise each batch's labels are looked at.
        """
        weigh = self.weigh
        if isinstance(weigh, _ClassWeights) and weigh.loss.weight is None:
            return replace(self, weigh=_count_labels)
        return self

    def fitted(self, output: Any) -> Criterion:
        """Return the same with its weights of classes in an output's dtype and device.

        Args:
            output: What the model returned for a first batch.

        Raises:
            TrainingError: There isn't a weight for each class.
        """
        args = self.setting if isinstance(self.setting, dict) else {}
        names = [name for name in _TENSORS if args.get(name) is not None]
        if not names or not isinstance(output, Tensor):
            return self
        for name in names:
            _check_length(f"{name} of loss {self.name!r}", args[name], name, output)
        dtype = output.dtype if output.is_floating_point() else torch.float32
        return _make_named(parse_loss(args), dtype, output.device)

    def _weighted_total(
        self, output: Any, target: Any, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.each is None:
            raise ArgumentError(
                "sample_weight needs a loss of single samples: one by name, or one of "
                "torch's own. Write a step for another."
            )
        losses, divisors = self.each(output, target)
        if not isinstance(weights, Tensor) or weights.numel() != len(losses):
            what = type(weights).__name__
            got = tuple(weights.shape) if isinstance(weights, Tensor) else what
            raise TrainingError(
                f"sample_weight must be a tensor of shape ({len(losses)},), a weight "
                f"for each sample of the batch; got {got}."
            )
        weights = weights.reshape(-1).to(losses.dtype)
        total = weights.sum() if divisors is None else (weights * divisors).sum()
        return (losses * weights).sum(), total


def make_criterion(value: ChoiceLike | Loss) -> Criterion:
    """Return the loss of that name, or a callable with what is known of it.

    Args:
        value: A name of `LOSSES`, with arguments where wanted
            (``"cross_entropy:label_smoothing=0.1"``), or a callable of (output, target)
            that returns the batch's mean loss, a tensor without dimensions. Of torch's
            own modules and functions (``nn.CrossEntropyLoss()``, ``F.mse_loss``, also
            as a `functools.partial`) all is known that is of the named; means of other
            callables are weighed by their samples.

    Returns:
        The criterion.

    Raises:
        ArgumentError: The name or an argument is unknown or out of range, or a callable
            sums instead of averaging.
    """
    if isinstance(value, (str, Mapping, Choice)):
        return _make_checked(parse_loss(value))
    if not callable(value) or isinstance(value, type):
        raise ArgumentError(
            f"loss must be a name or a callable of (output, target); got {value!r}."
        )
    loss = _find_module(value)
    reduction = getattr(loss, "reduction", "mean")
    if reduction not in ("mean", "batchmean"):
        raise ArgumentError(
            f"loss must have reduction='mean'; got {reduction!r}. "
            "Epochs weigh the mean loss of each batch by its samples."
        )
    ignored = loss.ignore_index if _is_one_of(loss, _CLASS_LOSSES) else _IGNORED
    return Criterion(value, _weigher(loss), _single(loss), ignore_index=ignored)


def divide(total: Tensor, weight: Weight) -> Tensor:
    """Return a mean; of a sum without any weight NaN, whose gradients are 0.

    Args:
        total: Sum of losses, without dimensions.
        weight: What to divide it by, 0 or more.
    """
    if isinstance(weight, Tensor):
        has_any = weight > 0
        mean = total / torch.where(has_any, weight, 1)
        return torch.where(has_any, mean, math.nan)
    return total / weight if weight > 0 else total * 0 + math.nan


def _make_checked(choice: Choice) -> Criterion:
    """Make a loss, and compute it once: that finds arguments out of range."""
    try:
        made = _make_named(choice, torch.float32, torch.device("cpu"))
        loss: Any = made.mean
        weights = [getattr(loss, name, None) for name in _TENSORS]
        width = max([2, *(w.numel() for w in weights if w is not None)])
        output = torch.zeros(1, width, dtype=torch.float32)
        label = torch.zeros(1, dtype=torch.int64)
        loss(output, label if isinstance(loss, _CLASS_LOSSES) else output)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ArgumentError(f"loss {choice} cannot be made: {error}") from None
    return made


def _make_named(choice: Choice, dtype: torch.dtype, device: torch.device) -> Criterion:
    args = dict(choice.args)
    for name in _TENSORS:
        if args.get(name) is not None:
            args[name] = torch.tensor(_listed(args[name]), dtype=dtype, device=device)
    loss = getattr(nn, LOSSES[choice.name][0])(**args)
    setting = {"name": choice.name, **choice.args} if choice.args else choice.name
    ignored = getattr(loss, "ignore_index", _IGNORED)
    return Criterion(loss, _weigher(loss), _single(loss), setting, ignored)


_CLASS_LOSSES = (nn.CrossEntropyLoss, nn.NLLLoss)

_MEANS = (
    *(nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss, nn.PoissonNLLLoss),
    *(nn.BCELoss, nn.BCEWithLogitsLoss, nn.KLDivLoss, nn.SoftMarginLoss),
    *(nn.HingeEmbeddingLoss, nn.MultiMarginLoss, nn.MultiLabelMarginLoss),
    nn.MultiLabelSoftMarginLoss,
)
"""Losses of (output, target) whose mean is the plain one of what "none" gives."""

_FUNCTIONS: dict[Any, type[nn.Module]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.huber_loss: nn.HuberLoss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.kl_div: nn.KLDivLoss,
}

_TENSORS = ("weight", "pos_weight")
"""Arguments that torch wants as tensors."""


def _find_module(value: Loss) -> Any:
    """Return torch's module that computes what one of its functions does."""
    bound: dict[str, Any] = {}
    function: Any = value
    if isinstance(value, functools.partial) and not value.args:
        function, bound = value.func, value.keywords
    try:
        kind = _FUNCTIONS.get(function)
        return value if kind is None else kind(**bound)
    except TypeError:  # It can't be a key, or has arguments of the function alone.
        return value


def _is_one_of(loss: Any, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Say whether a loss is one of torch's own, or computes as one of them does."""
    forward = getattr(type(loss), "forward", None)
    return any(isinstance(loss, k) and forward is k.forward for k in kinds)


def _weigher(loss: Any) -> Callable[[Any], Weight]:
    """Return the function that says what a loss's mean divides by."""
    return _ClassWeights(loss) if _is_one_of(loss, _CLASS_LOSSES) else _count


def _count(target: Tensor) -> int:
    """Count samples."""
    return target.shape[0] if target.ndim else count_samples(target)


def _count_labels(target: Tensor) -> int:
    """Count labels; of probabilities, shape ``(N, C, d1, …)``, all but the classes."""
    if target.is_floating_point():
        return target.numel() // max(target.shape[1], 1)
    return target.numel()


class _ClassWeights:
    """What cross entropy divides by: the class weights of labels not ignored.

    From the documentation of `torch.nn.CrossEntropyLoss`: with labels the mean is over
    ``sum(weight[y] * (y != ignore_index))``, with probabilities over the samples.

    Attributes:
        loss: The loss, whose class weights may be moved.
    """

    def __init__(self, loss: Any) -> None:
        self.loss = loss

    def __call__(self, target: Tensor) -> Weight:
        if target.is_floating_point():
            return _count_labels(target)
        return self.of_labels(target).sum()

    def of_labels(self, target: Tensor) -> Tensor:
        """Return the weight of each label, in the target's shape."""
        labels = target.long()  # bytes would wrap around, and choose as a mask does
        counts: Tensor = labels != self.loss.ignore_index
        if self.loss.weight is None:
            return counts
        weights: Tensor = self.loss.weight[torch.where(counts, labels, 0)] * counts
        return weights

    def of_samples(self, target: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the sum of the weights of each sample's labels, shape ``(N,)``."""
        if target.is_floating_point():
            count = _count_labels(target) / max(target.shape[0], 1)
            shape = target.shape[:1]
            return torch.full(shape, count, dtype=dtype, device=target.device)
        weights = self.of_labels(target).to(dtype)
        return weights.flatten(1).sum(1) if weights.ndim > 1 else weights


def _single(
    loss: Any,
) -> Callable[[Any, Any], tuple[Tensor, Tensor | None]] | None:
    """Return a loss's function that gives a loss for each sample."""
    is_of_classes = _is_one_of(loss, _CLASS_LOSSES)
    if not is_of_classes and not _is_one_of(loss, _MEANS):
        return None
    single: Any = copy.copy(loss)  # shares weights with the loss
    single.reduction = "none"
    weigh = _ClassWeights(loss)
    adds = is_of_classes or loss.reduction == "batchmean"

    def each(output: Any, target: Any) -> tuple[Tensor, Tensor | None]:
        values: Tensor = single(output, target)
        if values.ndim > 1:
            values = values.flatten(1)
            values = values.sum(1) if adds else values.mean(1)
        if is_of_classes:
            return values, weigh.of_samples(target, values.dtype)
        return values, None

    return each


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _check_length(what: str, value: Any, name: str, output: Tensor) -> None:
    """Check that there is a weight for each class or label of an output."""
    count = len(_listed(value))
    if name == "pos_weight":
        width = output.shape[-1] if output.ndim > 1 else 1
        fits = count in (1, width)
    else:
        width = output.shape[1] if output.ndim > 1 else count
        fits = count == width
    if not fits:
        raise TrainingError(
            f"{what} must have a value for each of the model's {width} outputs; "
            f"got {count}."
        )
