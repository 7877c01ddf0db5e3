"""Snapshots: copies of a training's state, in memory that is used again.

The next step changes weights and optimiser state in place, so a state that waits to be
saved is a copy. Copies of the same shape go into the memory of an earlier one, by one
call for all tensors of a kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from handful.train.checkpoint import Checkpoint

ACCELERATOR_BYTES = 64 * 2**20
"""Larger states are copied to the host, so that they take no memory of accelerators."""

_CPU = torch.device("cpu")
_PLAIN = frozenset({int, float, bool, str, type(None)})


def copy_checkpoint(checkpoint: Checkpoint, into: Checkpoint | None) -> Checkpoint:
    """Return a copy whose tensors share no memory with the training.

    Args:
        checkpoint: The state, with the training's own tensors; ``averages`` and
            ``progress`` are its own already, and taken as they are.
        into: An earlier copy that nobody needs any more; None for new memory.
    """
    state = [checkpoint.model, checkpoint.optimizer]
    old = None if into is None else [into.model, into.optimizer]
    is_on_host = all(getattr(v, "is_cpu", True) for v in checkpoint.model.values())
    copier = _Copier(keeps_device=is_on_host or _is_small(state))
    with torch.no_grad():
        model, optimizer = copier.copy(state, old)
        copier.finish()
    return Checkpoint(model, optimizer, checkpoint.progress, checkpoint.averages)


class _Copier:
    """Copies nested values; those tensors that fit into old ones at the end, at once.

    Args:
        keeps_device: Whether copies stay on the device; else they go to the host.
    """

    def __init__(self, *, keeps_device: bool) -> None:
        self._keeps_device = keeps_device
        self._sources: list[Tensor] = []
        self._targets: list[Tensor] = []

    def copy(self, value: Any, old: Any) -> Any:
        """Return a copy, which is complete after `finish`.

        Args:
            value: A tensor, or a mapping, list or tuple of such; anything else is
                taken as it is.
            old: An earlier copy of something similar, or None.
        """
        if isinstance(value, Tensor):
            return self._copy_tensor(value, old)
        if isinstance(value, (dict, Mapping)):  # the first is found much faster
            known = old if isinstance(old, dict) else {}
            return {
                key: item if type(item) in _PLAIN else self.copy(item, known.get(key))
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            alike = isinstance(old, (list, tuple)) and len(old) == len(value)
            before = old if alike else [None] * len(value)
            items = [
                item if type(item) in _PLAIN else self.copy(item, o)
                for item, o in zip(value, before, strict=True)
            ]
            return tuple(items) if isinstance(value, tuple) else items
        return value

    def finish(self) -> None:
        """Fill the old tensors."""
        if self._targets:
            torch._foreach_copy_(self._targets, self._sources)

    def _copy_tensor(self, value: Tensor, old: Any) -> Tensor:
        if not self._fits(value, old):
            device = value.device if self._keeps_device else _CPU
            return value.detach().to(device, copy=True)
        self._sources.append(value)
        self._targets.append(old)
        return old  # type: ignore[no-any-return]

    def _fits(self, value: Tensor, old: Any) -> bool:
        return (
            isinstance(old, Tensor)
            and old.shape == value.shape
            and old.dtype is value.dtype
            and (old.device == value.device if self._keeps_device else old.is_cpu)
            and old.layout is value.layout is torch.strided
        )


def _is_small(state: Any) -> bool:
    """Say whether a state takes little of an accelerator's memory, or none."""
    sizes = (0 if tensor.is_cpu else tensor.nbytes for tensor in _tensors(state))
    return sum(sizes) <= ACCELERATOR_BYTES


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, Mapping)):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
