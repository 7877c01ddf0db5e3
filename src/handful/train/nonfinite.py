"""Numbers that go wrong: whether a step may update the weights, and what if not.

::

    keep the buffers that forward changes
    forward, backward
    loss and gradients finite?   yes: clip, update
                                 no:  put the buffers back; nothing else has changed

Small gradients are looked at by one call, the one that PyTorch's gradient scaler has
for it; of a large one the sum tells. The call is private to PyTorch: where
`torch_private` does not find it, each gradient is looked at. What it finds is a number
in the memory of the CPU, which nothing waits for; on an accelerator, reading it waits
for the device, as the steps of fp16 do.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from handful.torch_private import find_finite_check
from handful.train.kept_buffers import KeptBuffers
from handful.train.losses import Weight

SMALL = 4096
"""Gradients of more numbers are added up one by one, which writes nothing back."""


class StepGuard:
    """Looks at a step's loss and gradients before the update.

    Args:
        model: The model.
        optimizer: The optimiser of its parameters.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        self._buffers: KeptBuffers | None = None
        self._weights: list[tuple[Tensor, Tensor]] = []
        self._state: dict[Any, Any] | None = None
        self._found: Tensor | None = None
        self._one: Tensor | None = None
        self._check = find_finite_check()

    def begin(self) -> None:
        """Keep what a step changes before its update."""
        if self._buffers is None:
            self._buffers = KeptBuffers(self._model)
        self._buffers.keep()
        if isinstance(self._optimizer, LBFGS):  # its update asks for gradients
            self._keep_weights()

    def allows(self, loss: Tensor, weight: Weight) -> bool:
        """Say whether the loss and all gradients are finite.

        Args:
            loss: The step's mean loss, without dimensions.
            weight: What it was divided by; the mean of nothing is NaN, and no fault.
        """
        if not math.isfinite(loss.item()) and float(weight) != 0:
            return False
        return self._are_finite(
            [p.grad for g in self._optimizer.param_groups for p in g["params"]]
        )

    def has_finite_weights(self) -> bool:
        """Say whether all that the optimiser updates is finite; looks at each."""
        params = [p for g in self._optimizer.param_groups for p in g["params"]]
        return all(map(_is_finite, params))

    def put_back(self) -> None:
        """Make everything what it was at `begin`, and drop the gradients."""
        assert self._buffers is not None
        self._buffers.put_back()
        for group in self._optimizer.param_groups:
            for param in group["params"]:
                param.grad = None
        if self._state is not None:
            with torch.no_grad():
                for param, kept in self._weights:
                    param.copy_(kept)
            self._optimizer.state.clear()
            self._optimizer.state.update(self._state)

    def _keep_weights(self) -> None:
        params = [p for g in self._optimizer.param_groups for p in g["params"]]
        self._weights = [(p, p.detach().clone()) for p in params]
        self._state = {p: _copy(s) for p, s in self._optimizer.state.items()}

    def _are_finite(self, grads: list[Tensor | None]) -> bool:
        small = []
        for grad in grads:
            if grad is None:
                continue
            if grad.numel() <= SMALL or not grad.is_cpu:
                small.append(grad)
            elif not (math.isfinite(grad.sum().item()) or _is_finite(grad)):
                return False  # a sum may also overflow
        return not small or self._are_all_finite(small)

    def _are_all_finite(self, grads: list[Tensor]) -> bool:
        """Look at gradients by one call for all of them."""
        check = self._check
        if check is None:
            return all(map(_is_finite, grads))
        found, one = self._found, self._one
        if found is None or one is None or found.device != grads[0].device:
            self._found = found = torch.zeros(1, device=grads[0].device)
            self._one = one = torch.ones_like(found)
        try:
            check(grads, found, one)
        except (RuntimeError, NotImplementedError):  # sparse or complex ones
            return all(map(_is_finite, grads))
        if not found.item():
            return True
        found.zero_()
        return False


def _copy(state: Any) -> Any:
    """Return an optimiser's state of a parameter with tensors of its own."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: _copy(value) for key, value in state.items()}
    # Lists hold tensors that are put in and taken out, never written into.
    return list(state) if isinstance(state, list) else state


def _is_finite(value: Tensor) -> bool:
    if value.is_sparse:
        value = value.coalesce().values()
    return bool(value.isfinite().all())
