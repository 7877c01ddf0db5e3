"""A model's buffers, kept from step to step so that a step can be undone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

COMPARED_STEPS = 3
"""Steps after which a model's buffers are compared with what they were."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class KeptBuffers:
    """A model's buffers, kept as they were; copied are those that change.

    A buffer that no step has written into keeps its first copy. Batch normalisation
    writes without saying so, and so does a step that is replayed: the layers are known
    by their class, and in the first steps the numbers themselves are compared.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        found = {
            id(value): (module._buffers, name, value)
            for module in model.modules()
            for name, value in module._buffers.items()
            if value is not None
        }
        self._slots = [(owner, name) for owner, name, _ in found.values()]
        self._values: list[Any] = [value for _, _, value in found.values()]
        self._copies = [value.detach().clone() for value in self._values]
        self._versions = list(map(_version, self._values))
        norms = [m for m in model.modules() if isinstance(m, _NORMS)]
        known = {id(b) for m in norms for b in m._buffers.values()}
        self._moving = [i for i, v in enumerate(self._values) if id(v) in known]
        self._to_compare = COMPARED_STEPS

    def keep(self) -> None:
        """Copy what has changed, and whatever may have changed unseen."""
        if not self._slots:
            return
        for index, (owner, name) in enumerate(self._slots):
            value = owner.get(name)
            if value is not self._values[index]:
                self._take(index, value)
            elif value is not None and self._has_moved(index, value):
                self._moving.append(index)
        self._to_compare -= 1
        if self._moving:
            with torch.no_grad():
                torch._foreach_copy_(
                    [self._copies[i] for i in self._moving],
                    [self._values[i] for i in self._moving],
                )

    def put_back(self) -> None:
        """Make all buffers what they were when they were kept."""
        for index, (owner, name) in enumerate(self._slots):
            owner[name] = self._values[index]
            if self._values[index] is not None:
                with torch.no_grad():
                    self._values[index].copy_(self._copies[index])
                self._versions[index] = _version(self._values[index])

    def _has_moved(self, index: int, value: Tensor) -> bool:
        """Say whether a buffer that was not known to change has changed."""
        if index in self._moving:
            return False
        is_written = _version(value) != self._versions[index]
        if is_written or self._to_compare <= 0:
            return is_written
        return not torch.equal(value, self._copies[index])

    def _take(self, index: int, value: Any) -> None:
        """Take in that another tensor has come in a buffer's place."""
        self._values[index] = value
        if index in self._moving:
            self._moving.remove(index)
        if value is not None:
            self._copies[index] = value.detach().clone()
            self._versions[index] = _version(value)


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version
