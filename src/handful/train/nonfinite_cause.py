"""Where numbers that are not finite came from: the batch, its samples, a layer.

The step is done once more, eagerly and with hooks, on the model as it was before it;
buffers and generators are put back. What is drawn at random may be drawn otherwise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from handful.train.checks import name_tensors
from handful.train.step import Step
from handful.train.summary import find_tensors, left_as_found

MOST_NAMED = 32
"""Samples that a sentence lists; of more it says how many there are."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A step, and what is known of its batches.

    Attributes:
        step: Its number, from 1 on.
        epoch: Its epoch, from 1 on.
        first_batch: Number of its first batch in the epoch, from 1 on.
        last_batch: That of its last.
        samples: Indices of its samples in the data set, None where nobody knows.
    """

    step: int
    epoch: int
    first_batch: int
    last_batch: int
    samples: list[int] | None

    def __str__(self) -> str:
        batches = f"batch {self.first_batch}"
        if self.last_batch > self.first_batch:
            batches = f"batches {self.first_batch} to {self.last_batch}"
        said = f"step {self.step} (epoch {self.epoch}, {batches}"
        if self.samples is None:
            return f"{said})"
        return f"{said}; samples {list_samples(self.samples)})"


def list_samples(samples: Sequence[int]) -> str:
    """Return indices for reading: the first `MOST_NAMED`, and how many more."""
    text = ", ".join(map(str, samples[:MOST_NAMED]))
    more = len(samples) - MOST_NAMED
    return f"{text} and {more} more" if more > 0 else text


def explain_nonfinite(
    place: Place, loss: Tensor, model: nn.Module, step: Step, batches: Sequence[Any]
) -> str:
    """Say what is not finite in a step, and where it came from.

    Args:
        place: The step.
        loss: Its mean loss.
        model: The model, as it was before the step.
        step: Computes a batch's loss; it is called once more for each micro-batch.
        batches: The step's micro-batches.

    Returns:
        One or two sentences.
    """
    value = float(loss)
    what = "the gradient" if math.isfinite(value) else "the loss"
    got = "NaN or Inf" if math.isfinite(value) else f"{value:g}"
    said = f"{what} of {place} must be finite; got {got}."
    found = list(_describe_batches(batches, place.samples))
    weights = [n for n, p in model.named_parameters() if not _is_finite(p)]
    if weights:
        found.append(f"The weights were not finite before it: {weights[0]}.")
    found.append(_find_layer(model, step, batches))
    return " ".join([said, *(text for text in found if text)])


def _describe_batches(
    batches: Sequence[Any], samples: list[int] | None
) -> Iterator[str]:
    """Yield a sentence for each field of a batch that is not finite."""
    before, known = 0, samples
    for batch in batches:
        count = 0
        for name, value in name_tensors(batch, "batch"):
            count = max(count, value.shape[0] if value.ndim else 0)
            if value.layout is torch.strided and not _is_finite(value):
                yield _describe(name, value, before, known)
        before += count


def _describe(name: str, value: Tensor, before: int, samples: list[int] | None) -> str:
    wrong = ~value.isfinite()
    kind = "NaN" if bool(value.isnan().any()) else "Inf"
    if value.ndim == 0:
        return f"{name} is {kind}."
    rows = (wrong.flatten(1).any(1) if value.ndim > 1 else wrong).nonzero().flatten()
    places = [before + int(row) for row in rows]
    if samples is not None and places[-1] < len(samples):
        where = f"sample {list_samples([samples[place] for place in places])}"
    else:
        where = f"sample {list_samples(places)} of the step"
    if value.ndim == 2:  # a table
        columns = wrong.any(0).nonzero().flatten().tolist()
        where += f", column {list_samples(columns)}"
    return f"{name} holds {kind} in {where}, counted from 0."


@dataclass
class _Seen:
    """What the layers of a model gave, in the order in which they were done."""

    order: list[tuple[str, nn.Module]] = field(default_factory=list)
    first: tuple[str, nn.Module] | None = None


def _find_layer(model: nn.Module, step: Step, batches: Sequence[Any]) -> str:
    """Say in which layer numbers first were not finite, forward or backward."""
    try:
        with left_as_found(model), torch.enable_grad():
            for batch in batches:
                said = _try_batch(model, step, batch, is_alone=len(batches) == 1)
                if said is not None:
                    return said
    except Exception as error:  # what is to be explained comes first
        return f"The step could not be looked at once more: {error}"
    return "Done once more, all of it was finite: it is random, or not the same twice."


def _try_batch(
    model: nn.Module, step: Step, batch: Any, *, is_alone: bool
) -> str | None:
    seen = _Seen()
    with ExitStack() as stack:
        for name, module in model.named_modules():
            hook = functools.partial(_look, seen, name)
            stack.callback(module.register_forward_hook(hook).remove)
        made = step.mean(model, batch) if is_alone else step.total(model, batch)
    if seen.first is not None:
        return f"The first layer whose output is not finite is {_name(*seen.first)}."
    if not _is_finite(made.loss):
        return "The outputs of all layers are finite: the loss makes it of them."
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    grads = torch.autograd.grad(made.loss, [p for _, p in named], allow_unused=True)
    wrong = {
        id(param): name
        for (name, param), grad in zip(named, grads, strict=True)
        if grad is not None and not _is_finite(grad)
    }
    for name, module in reversed(seen.order):
        for param in module.parameters(recurse=False):
            if id(param) in wrong:
                return (
                    "All layers' outputs are finite. Going backward, the first whose "
                    f"gradient is not is {_name(name, module)}, in {wrong[id(param)]}."
                )
    return f"The gradient of {next(iter(wrong.values()))} is not." if wrong else None


def _look(seen: _Seen, name: str, module: nn.Module, _: Any, output: Any) -> None:
    seen.order.append((name, module))
    if seen.first is None and not all(map(_is_finite, find_tensors(output))):
        seen.first = name, module


def _name(name: str, module: nn.Module) -> str:
    kind = type(module).__name__
    return f"{name!r} ({kind})" if name else f"the model itself ({kind})"


def _is_finite(value: Tensor) -> bool:
    if value.layout is not torch.strided:
        value = value.coalesce().values() if value.is_sparse else value.values()
    return bool(value.isfinite().all())
