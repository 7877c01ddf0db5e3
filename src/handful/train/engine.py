"""Engines: how one optimisation step is done on one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from handful.train.batches import split_batch
from handful.train.kernels import Update, make_update
from handful.train.losses import Loss


class Engine(Protocol):
    """Does optimisation steps on a model."""

    name: str

    def step(self, batch: Any) -> Tensor:
        """Do one step: forward, loss, backward, update.

        Args:
            batch: A batch on the model's device.

        Returns:
            The batch's mean loss before the update, without dimensions, detached. It
            is not read here: reading it waits for the device.
        """
        ...


class EagerEngine:
    """PyTorch as it is: autograd and the optimiser's own kernels.

    Args:
        model: The model.
        loss: A callable of (output, target) that returns the mean loss.
        optimizer: The optimiser of the model's parameters.
        check: Called once, with the first output and target.
    """

    name = "eager"

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: Optimizer,
        check: Callable[[Tensor, Tensor], None],
    ) -> None:
        self._model = model
        self._loss = loss
        self._optimizer = optimizer
        self._check: Callable[[Tensor, Tensor], None] | None = check
        self._update: Update | None = None

    def step(self, batch: Any) -> Tensor:
        """Do one step; see `Engine.step`."""
        inputs, target = split_batch(batch)
        output = self._model(*inputs)
        if self._check is not None:
            self._check(output, target)
            self._check = None
        loss = self._loss(output, target)
        for group in self._optimizer.param_groups:
            for param in group["params"]:
                param.grad = None
        torch.autograd.backward(loss)
        if self._update is None:  # The first step makes the optimiser's state.
            self._optimizer.step()
            self._update = make_update(self._optimizer)
        else:
            self._update()
        return loss.detach()
