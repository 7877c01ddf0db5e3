"""Kinds of batches: what those share that one recorded step may stand for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from handful.train.program import Program
from handful.train.recording import ALIGNMENT
from handful.train.replay import Replay


@dataclass
class Kind:
    """What is known of the batches of one kind.

    Attributes:
        seen: Steps so far.
        program: What was recorded of the step before.
        is_confirmed: Whether two steps in a row were that program.
        replay: Does the step, once it is known to do it right.
        grads: Parameter, position of its gradient among the replay's results, and the
            tensor that it has to be copied into, if any.
        reason: Why its steps are done as ever.
        seconds: Least time of forward, loss and backward as ever.
        samples: Samples of a batch.
        saved_seconds: What a replay takes less.
    """

    seen: int = 0
    program: Program | None = None
    is_confirmed: bool = False
    replay: Replay | None = None
    grads: list[tuple[nn.Parameter, int, Tensor | None]] = field(default_factory=list)
    reason: str | None = None
    seconds: float = float("inf")
    samples: int = 0
    saved_seconds: float = 0.0


def flatten_step(batches: Sequence[Any]) -> tuple[list[Tensor], Hashable]:
    """Return the tensors of a step's micro-batches, and what steps of a kind share.

    Args:
        batches: The micro-batches.

    Returns:
        What `flatten_batch` does, of all of them.
    """
    return flatten_batch(batches[0] if len(batches) == 1 else tuple(batches))


def with_own_memory(
    batches: Sequence[Any], inputs: Sequence[Tensor]
) -> tuple[Sequence[Any], Sequence[Tensor]]:
    """Return micro-batches, and their tensors, of which no two share memory.

    Those that were cut from one batch do; what is recorded tells tensors apart by their
    memory. Tensors begin where they did, as far as that may decide the last bits.

    Args:
        batches: The micro-batches.
        inputs: Their tensors, as `flatten_step` lists them.
    """
    where = [tensor.untyped_storage().data_ptr() for tensor in inputs]
    if len(set(where)) == len(where):
        return batches, inputs
    copies = {id(tensor): _copy_aligned(tensor) for tensor in inputs}
    own = [copies[id(tensor)] for tensor in inputs]
    return [_replace(batch, copies) for batch in batches], own


def _copy_aligned(tensor: Tensor) -> Tensor:
    size = tensor.element_size()
    span = sum(
        (count - 1) * stride
        for count, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    memory = torch.empty((span + 1) * size + 2 * ALIGNMENT, dtype=torch.uint8)
    offset = (tensor.data_ptr() - memory.data_ptr()) % ALIGNMENT
    if offset % size:  # PyTorch's tensors begin at a multiple of their numbers' size
        raise ValueError("a tensor begins within a number")
    whole = memory[offset : offset + (span + 1) * size].view(tensor.dtype)
    return whole.as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def _replace(value: Any, copies: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return copies[id(value)]
    if isinstance(value, (list, tuple)):
        return type(value)([_replace(item, copies) for item in value])
    if isinstance(value, dict):
        return {key: _replace(item, copies) for key, item in value.items()}
    return value


def flatten_batch(batch: Any) -> tuple[list[Tensor], Hashable]:
    """Return a batch's tensors, and what all batches of its kind share.

    Args:
        batch: Tensors, numbers and texts, in lists, tuples and dictionaries.

    Returns:
        The tensors in their order, each once, and their shapes, strides, dtypes and
        alignment with all that is no tensor; None in place of the latter if the batch
        can't be taken apart.
    """
    tensors: list[Tensor] = []
    key: list[Hashable] = []
    if not _flatten(batch, tensors, key):
        return tensors, None
    return tensors, tuple(key)


def _flatten(value: Any, tensors: list[Tensor], key: list[Hashable]) -> bool:
    kind = type(value)
    if kind is Tensor:
        for index, known in enumerate(tensors):
            if known is value:
                key.append(index)
                return True
        tensors.append(value)
        if value.layout is not torch.strided or value.requires_grad:
            return False
        where = value.data_ptr() % ALIGNMENT
        key += (value.shape, value.stride(), value.dtype, where)
        return True
    if kind is list or kind is tuple:
        key.append((kind, len(value)))
        return all(_flatten(item, tensors, key) for item in value)
    if kind is dict:
        key += (dict, *value)
        return all(_flatten(item, tensors, key) for item in value.values())
    key.append((kind, repr(value)))
    return value is None or kind in (bool, int, float, str)
