"""What the steps of an epoch gave, kept on the device until a record is made.

The sums of an epoch are exact and rounded once, so that how often they are brought up
to date, for a checkpoint perhaps, changes no bit of the means.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.runs.run import STEP_DTYPE
from handful.train.engine import Played, StepResult
from handful.train.losses import Weight

BLOCK = 1024
"""Steps whose losses are put together, so that long epochs need little memory."""


class StepLog:
    """Losses, weights and rates of steps, and their means over an epoch.

    Args:
        average: ``"samples"`` to weigh each step's loss by its weight, ``"batches"``
            for the plain mean of steps. A step without any weight has no mean: its loss
            is NaN and counts nothing. Neither does a step that was left out and whose
            loss isn't finite.
    """

    def __init__(self, average: str) -> None:
        self._average = average
        self._losses = _Numbers()
        self._weights = _Numbers()
        self._norms = _Numbers()
        self._lrs = array("d")
        self._extras: dict[str, _Numbers] = {}
        self._sums = _EpochSums()

    def add(self, result: StepResult, lr: float) -> None:
        """Add a step; reads nothing back, unless the step was left out."""
        self._losses.add(result.loss)
        self._lrs.append(lr)
        if not result.was_taken and not bool(torch.isfinite(result.loss)):
            self._weights.add(0)
            return
        self._weights.add(result.weight)
        if result.grad_norm is not None and result.was_taken:
            self._norms.add(result.grad_norm)
        for name, value in result.sums.items():
            self._extras.setdefault(name, _Numbers()).add(value)

    def add_played(self, played: Played, lrs: Sequence[float]) -> None:
        """Add several steps, all of them taken.

        Args:
            played: What they did.
            lrs: The rate of each.
        """
        self._losses.extend(played.losses)
        self._lrs.extend(lrs)
        weights = played.weights
        if isinstance(weights, Tensor):
            self._weights.extend(weights)
        else:
            self._weights.extend(np.full(len(lrs), weights, np.float64))
        if played.grad_norms is not None:
            self._norms.extend(played.grad_norms)

    def flush(self) -> NDArray[np.void]:
        """Read back the steps since the last flush.

        Returns:
            Loss and rate of each, shape ``(S,)``, dtype `STEP_DTYPE`.
        """
        losses, weights = self._losses.take(), self._weights.take()
        steps = np.empty(len(losses), STEP_DTYPE)
        steps["loss"], steps["lr"] = losses, self._lrs
        self._lrs = array("d")
        counted = weights > 0
        if not counted.all():
            losses, weights = losses[counted], weights[counted]
        sums, norms = self._sums, self._norms.take()
        sums.steps += len(losses)
        sums.weight = add_exactly(sums.weight, weights.tolist())
        sums.loss = add_exactly(sums.loss, (losses * weights).tolist())
        sums.plain = add_exactly(sums.plain, losses.tolist())
        if len(norms):
            sums.norm = add_exactly(sums.norm, norms.tolist())
            sums.norms += len(norms)
        for name, numbers in self._extras.items():
            before, more = sums.extras.get(name, []), numbers.take().tolist()
            sums.extras[name] = add_exactly(before, more)
        return steps

    def means(self) -> dict[str, float]:
        """Return the epoch's means of what was flushed: ``train_loss`` and others."""
        sums = self._sums
        nan, weight = float("nan"), sum(sums.weight)
        if self._average == "batches":
            loss = sum(sums.plain) / sums.steps if sums.steps else nan
        else:
            loss = sum(sums.loss) / weight if weight else nan
        values = {"train_loss": loss}
        for name, total in sums.extras.items():
            values[f"train_{name}"] = sum(total) / weight if weight else nan
        if sums.norms:
            values["grad_norm"] = sum(sums.norm) / sums.norms
        return values

    def start_epoch(self) -> None:
        """Begin the means anew."""
        self._sums = _EpochSums()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of what was flushed, as plain values."""
        return {**vars(self._sums), "extras": dict(self._sums.extras)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the sums that `state_dict` returned."""
        self._sums = sums = _EpochSums()
        for name, value in state.items():
            is_sum = isinstance(getattr(sums, name, None), list)
            setattr(sums, name, _as_parts(value) if is_sum else value)
        sums.extras = {name: _as_parts(v) for name, v in sums.extras.items()}


class _EpochSums:
    """Sums over an epoch's steps, each in the parts that `add_exactly` makes."""

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.weight: list[float] = []
        self.plain: list[float] = []
        self.steps = 0
        self.norm: list[float] = []
        self.norms = 0
        self.extras: dict[str, list[float]] = {}


def add_exactly(parts: list[float], values: Iterable[float]) -> list[float]:
    """Return a sum with more numbers in it, exactly.

    Args:
        parts: The sum so far, as this function returned it; empty for 0.
        values: What is added.

    Returns:
        Numbers whose exact sum it is, the largest first: the sum rounded to double
        precision, then what the rounding left, and so on. Where a value isn't finite,
        or the sum too large, one number that isn't finite.
    """
    rest = [*parts, *values]
    if len(rest) == 1 and math.isfinite(rest[0]):  # as a rule of short epochs
        return rest if rest[0] else []
    found: list[float] = []
    try:
        while (part := math.fsum(rest)) and math.isfinite(part):
            found.append(part)
            rest.append(-part)
    except (OverflowError, ValueError):  # infinities of both signs, or an overflow
        return [sum(rest)]
    return found if math.isfinite(part) else [part]


def _as_parts(value: Any) -> list[float]:
    """Return the parts of a sum; checkpoints of before have one number for it."""
    return list(value) if isinstance(value, list) else [float(value)]


class _Numbers:
    """A growing list of numbers, some on the device, read back at once."""

    def __init__(self) -> None:
        self._recent: list[Weight | float] = []
        self._blocks: list[Tensor | NDArray[np.float64]] = []

    def add(self, value: Weight | float) -> None:
        self._recent.append(value)
        if len(self._recent) == BLOCK:
            self._blocks.append(self._pack())

    def extend(self, values: Tensor | NDArray[np.float64]) -> None:
        """Add several, in a tensor of one dimension."""
        if self._recent:
            self._blocks.append(self._pack())
        self._blocks.append(values)

    def take(self) -> NDArray[np.float64]:
        """Return all as float64, and forget them."""
        if self._recent:
            self._blocks.append(self._pack())
        blocks, self._blocks = self._blocks, []
        if not blocks:
            return np.empty(0)
        arrays = [
            block.cpu().double().numpy() if isinstance(block, Tensor) else block
            for block in blocks
        ]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def _pack(self) -> Tensor | NDArray[np.float64]:
        values, self._recent = self._recent, []
        tensors = [value for value in values if isinstance(value, Tensor)]
        if not tensors or (len(values) == 1 and tensors[0].device.type == "cpu"):
            return np.array([float(value) for value in values], np.float64)
        if len(tensors) < len(values):  # rare; goes to the device without waiting
            like = tensors[0]
            values = [torch.as_tensor(v, device=like.device) for v in values]
        return torch.stack(values)  # type: ignore[arg-type]
