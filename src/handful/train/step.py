"""Steps: what a batch's loss is, by a criterion or by a function of the user's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from handful.errors import TrainingError, unknown_choice
from handful.train.batches import BatchLayout, count_samples, map_tensors
from handful.train.checks import explain_dtype, explain_shape
from handful.train.labels import IGNORED_LABEL
from handful.train.losses import Criterion, Weight, divide
from handful.train.memory_format import lay_out_input
from handful.train.precision import Precision, in_float32

StepFunction: TypeAlias = "Callable[[nn.Module, Any], Tensor | Mapping[str, Any]]"
"""A step of the user's: of model and batch, returns the batch's mean loss, or a mapping
with ``loss_sum`` and ``weight``."""


@dataclass(slots=True)
class StepOutput:
    """What a step says of one batch.

    Attributes:
        loss: Mean loss of the batch, or its sum; without dimensions, with its graph.
        weight: What the mean was divided by, or the sum is to be divided by.
        output: What the model returned; None where a user's step doesn't tell.
        target: What it was compared with; None likewise.
        sums: Further totals over the batch, by name; divided by ``weight`` in the end.
        ignore_index: The label of ``target`` that the loss leaves out.
    """

    loss: Tensor
    weight: Weight
    output: Any = None
    target: Any = None
    sums: dict[str, Tensor] = field(default_factory=dict)
    ignore_index: int = IGNORED_LABEL


class Step(Protocol):
    """Computes a batch's loss."""

    def mean(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the batch's mean loss, as a loop by hand has it."""
        ...

    def total(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the sum of the batch's losses, to be added to others'."""
        ...

    def for_evaluation(self) -> Step:
        """Return the same for other data than those that are trained on."""
        ...


class CriterionStep:
    """Forward and loss: the model's inputs and target are fields of the batch.

    Args:
        criterion: The loss.
        layout: Which fields are which.
        precision: What the model computes in; the loss is computed in float32.

    Attributes:
        criterion: The loss.
        memory_format: How images are laid out before they go into the model.
        inspect: Called once with the next output and target, before their loss is
            computed; None for nothing.
    """

    def __init__(
        self, criterion: Criterion, layout: BatchLayout, precision: Precision
    ) -> None:
        self.criterion = self._given = criterion
        self.memory_format = "contiguous"
        self.inspect: Callable[[Any, Any], None] | None = None
        self._is_new = True
        self._layout = layout
        self._precision = precision

    def mean(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the batch's mean loss; see `Step.mean`."""
        output, target, weights = self._forward(model, batch)
        criterion = self.criterion
        if weights is not None:
            loss, weight = criterion.weighted(output, target, weights)
            self._check_loss(loss)
            return self._tell(loss, weight, output, target)
        loss = criterion.mean(output, target)
        if self._is_new:
            self._check_loss(loss)
        if isinstance(target, Tensor):
            return self._tell(loss, criterion.weigh(target), output, target)
        return self._tell(loss, count_samples(batch), output, target)

    def total(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the sum of the batch's losses; see `Step.total`."""
        output, target, weights = self._forward(model, batch)
        if weights is None and not isinstance(target, Tensor):
            loss, count = self.criterion.mean(output, target), count_samples(batch)
            self._check_loss(loss)
            return self._tell(loss * count, count, output, target)
        loss, weight = self.criterion.total(output, target, weights)
        self._check_loss(loss)
        return self._tell(loss, weight, output, target)

    def for_evaluation(self) -> CriterionStep:
        """Return the same without what is known of the training's labels alone."""
        twin = copy.copy(self)
        twin.criterion, twin.inspect, twin._is_new = self._given, None, True
        return twin

    def _forward(self, model: nn.Module, batch: Any) -> tuple[Any, Any, Tensor | None]:
        args, kwargs, target, weights = self._layout.split(batch)
        if self.memory_format == "channels_last":
            args = [lay_out_input(value) for value in args]
            kwargs = {key: lay_out_input(value) for key, value in kwargs.items()}
        try:
            if self._precision.is_plain:
                output = model(*args, **kwargs)
            else:
                output = self._precision.forward(model, args, kwargs)
        except (RuntimeError, ValueError) as error:
            inputs: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
            said = explain_dtype(error, inputs, model) or explain_shape(error, inputs)
            if said is None:
                raise
            raise said from error
        if self.inspect is not None:
            inspect, self.inspect = self.inspect, None
            inspect(output, target)
        if self._is_new:
            self.criterion = self.criterion.fitted(output)
        return output, target, weights

    def _tell(
        self, loss: Tensor, weight: Weight, output: Any, target: Any
    ) -> StepOutput:
        ignored = self.criterion.ignore_index
        return StepOutput(loss, weight, output, target, ignore_index=ignored)

    def _check_loss(self, loss: Any) -> None:
        """Check the first loss, which a callable of the user's may have made."""
        self._is_new = False
        if not isinstance(loss, Tensor) or loss.ndim:
            raise TrainingError(
                "loss must return the batch's mean loss, a tensor without dimensions; "
                f"got {_describe(loss)}. Take the mean over the samples."
            )


class CustomStep:
    """A step of the user's, checked: every mistake is a sentence.

    Args:
        function: Of model and batch; returns the mean loss, a tensor without
            dimensions, which the batch's samples weigh, or a mapping: ``loss_sum`` and
            ``weight``; ``output`` and ``target`` where metrics are to be measured;
            further totals named ``<name>_sum``.
        precision: What it computes in.
    """

    def __init__(self, function: StepFunction, precision: Precision) -> None:
        self._function = function
        self._precision = precision

    def mean(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the batch's mean loss; see `Step.mean`."""
        made = self._call(model, batch)
        if isinstance(made, Tensor):
            return StepOutput(made, count_samples(batch))
        read = _read(made)
        read.loss = divide(read.loss, read.weight)
        return read

    def total(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the sum of the batch's losses; see `Step.total`."""
        made = self._call(model, batch)
        if isinstance(made, Tensor):
            count = count_samples(batch)
            return StepOutput(made * count, count)
        read = _read(made)
        if isinstance(read.weight, Tensor):  # float32 has every count up to 2**24
            dtype = torch.promote_types(read.loss.dtype, torch.float32)
            read.weight = read.weight.to(dtype)
        return read

    def for_evaluation(self) -> CustomStep:
        """Return itself: a user's step knows nothing of the data."""
        return self

    def _call(self, model: nn.Module, batch: Any) -> Tensor | Mapping[str, Any]:
        if self._precision.is_plain:
            made = self._function(model, batch)
        else:
            with self._precision.autocast():
                made = self._function(model, batch)
            made = map_tensors(in_float32, made)
        loss = made.get("loss_sum") if isinstance(made, Mapping) else made
        if not isinstance(loss, Tensor) or loss.ndim:
            raise TrainingError(
                "step must return a mean loss, a tensor without dimensions, or a "
                f"mapping with loss_sum and weight; got {_describe(loss, made)}."
            )
        return made


_OWN_KEYS = ("loss_sum", "weight", "output", "target")


def _read(made: Mapping[str, Any]) -> StepOutput:
    """Read what a user's step says; its loss is the sum."""
    sums = {}
    for name, value in made.items():
        if name in _OWN_KEYS:
            continue
        if not name.endswith("_sum"):
            raise unknown_choice("a key of what step returns", name, _OWN_KEYS)
        sums[name[: -len("_sum")]] = torch.as_tensor(_number(name, value))
    weight = _number("weight", made.get("weight"))
    return StepOutput(
        made["loss_sum"], weight, made.get("output"), made.get("target"), sums
    )


def _number(name: str, value: Any) -> Any:
    """Return a number or a tensor without dimensions, cut from its graph."""
    if isinstance(value, Tensor) and value.ndim == 0:
        return value.detach()
    if isinstance(value, (int, float)):
        return value
    raise TrainingError(
        f"{name} of what step returns must be a number or a tensor without dimensions; "
        f"got {_describe(value)}. It is a sum over the batch."
    )


def _describe(value: Any, whole: Any = None) -> str:
    if isinstance(value, Tensor):
        return f"the shape {tuple(value.shape)}"
    if isinstance(whole, Mapping):
        return f"the keys {', '.join(map(str, whole))}"
    return "None" if value is None else type(value).__name__
