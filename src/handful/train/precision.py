"""Mixed precision: what a model computes in, and the scaling that fp16 needs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from handful.errors import ArgumentError, TrainingError, unknown_choice
from handful.train.batches import map_tensors
from handful.train.choices import PRECISIONS

MOST_SKIPPED = 50
"""Steps in a row whose gradients may overflow before a training is given up."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """What a model computes in.

    Weights, gradients and the optimiser's state stay as they are (float32 as a rule);
    with ``"bf16"`` or ``"fp16"`` the forward pass runs under `torch.autocast`, and what
    it gives in half precision becomes float32. Small gradients vanish in fp16, so the
    loss is multiplied by a scale, which grows while all is well and is halved when a
    gradient overflows; the step is then left out.

    Args:
        name: ``"float32"`` (as the model is), ``"bf16"`` or ``"fp16"``.
        device: Where the model is.

    Attributes:
        is_plain: Whether the forward pass runs as it is.
        skipped: Steps left out in the whole run.

    Raises:
        ArgumentError: The name is unknown, or the device can't compute in it.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name not in PRECISIONS:
            raise unknown_choice("precision", name, PRECISIONS)
        self.name = name
        self.is_plain = name == "float32"
        self.skipped = 0
        self._skipped_in_a_row = 0
        self._device = device
        self._scaled: _ScaledOptimizer | None = None
        self._scaler = (
            torch.amp.GradScaler(device.type)
            if name == "fp16" and device.type in ("cpu", "cuda")
            else None
        )
        if name == "fp16" and self._scaler is None:
            raise ArgumentError(
                f"precision 'fp16' needs the device cpu or cuda; got {device.type!r}. "
                "Use 'bf16'."
            )
        if not self.is_plain:
            self._check_device()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the model computes."""
        return torch.autocast(self._device.type, dtype=_DTYPES[self.name])

    def forward(
        self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Return what a model gives; under autocast its half precision as float32."""
        if self.is_plain:
            return model(*args, **kwargs)
        with self.autocast():
            output = model(*args, **kwargs)
        return map_tensors(in_float32, output)

    @property
    def scales(self) -> bool:
        """Whether losses are scaled."""
        return self._scaler is not None

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss to go backward from."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale again.

        Raises:
            TrainingError: The model's weights are in fp16.
        """
        if self._scaler is None:
            return
        scaled = self._scaled_optimizer(optimizer)
        scaled.is_unscaled = True
        try:
            self._scaler.unscale_(scaled)  # type: ignore[arg-type]
        except ValueError as error:
            raise TrainingError(
                f"precision 'fp16' needs weights in float32; got torch.float16 "
                f"({error}). Leave out model.half()."
            ) from None

    def update(self, optimizer: Optimizer, update: Callable[[], Any]) -> bool:
        """Do the optimiser's update unless a gradient overflowed; say whether.

        Args:
            optimizer: The optimiser, whose gradients may have been unscaled.
            update: Its update.

        Raises:
            TrainingError: More than `MOST_SKIPPED` steps in a row overflowed, or the
                model's weights are in fp16.
        """
        if self._scaler is None:
            update()
            return True
        scaled = self._scaled_optimizer(optimizer)
        if not scaled.is_unscaled:
            self.unscale(optimizer)
        scaled.update, scaled.was_updated = update, False
        self._scaler.step(scaled)  # type: ignore[arg-type]
        self._scaler.update()
        scaled.is_unscaled = False
        if scaled.was_updated:
            self._skipped_in_a_row = 0
            return True
        self._count_skipped(self._scaler.get_scale())
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and what it has seen, as plain values."""
        return {
            "scaler": {} if self._scaler is None else self._scaler.state_dict(),
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the scale back to what `state_dict` returned."""
        self.skipped = int(state.get("skipped", 0))
        self._skipped_in_a_row = int(state.get("skipped_in_a_row", 0))
        if self._scaler is not None and state.get("scaler"):
            self._scaler.load_state_dict(state["scaler"])

    def _check_device(self) -> None:
        """Ask torch for the context now; on a device without it torch only warns."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self.autocast()
        except (RuntimeError, UserWarning) as error:
            reason = str(error).splitlines()[0]
            raise ArgumentError(
                f"precision must be 'float32' on the device {self._device.type!r}; "
                f"got {self.name!r} ({reason})."
            ) from None

    def _scaled_optimizer(self, optimizer: Optimizer) -> _ScaledOptimizer:
        if self._scaled is None or self._scaled.optimizer is not optimizer:
            self._scaled = _ScaledOptimizer(optimizer)
        return self._scaled

    def _count_skipped(self, scale: float) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row > MOST_SKIPPED:
            raise TrainingError(
                f"gradients in fp16 must be finite; got Inf or NaN in "
                f"{self._skipped_in_a_row} steps in a row, down to a scale of "
                f"{scale:g}. Lower lr, clip gradients, use precision='bf16', or look "
                "for NaN in the data."
            )


class _ScaledOptimizer:
    """An optimiser as a scaler sees it: gradients, and an update to do or to leave out.

    The scaler tells nobody whether it has left a step out, and hands that decision to
    optimisers with fused kernels; here every update is one that it calls or doesn't.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.update: Callable[[], Any] | None = None
        self.was_updated = False
        self.is_unscaled = False

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups."""
        return self.optimizer.param_groups

    def step(self) -> None:
        """Do the update."""
        assert self.update is not None
        self.update()
        self.was_updated = True


def in_float32(value: Tensor) -> Tensor:
    """Return a tensor of half precision as float32, any other as it is."""
    is_half = value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if is_half else value
