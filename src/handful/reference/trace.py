"""What a descent leaves behind: its losses, its weights and, if asked, its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handful.reference.weights import FloatArray

__all__ = ["Trace", "make_trace"]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Trace:
    """One descent, step by step."""

    losses: npt.NDArray[np.float64]
    """Mean loss per sample of each step's batch, *before* that step's update; float64
    ``(S,)``, in the square of the target's unit, or in nats for cross-entropy."""

    weights: dict[str, FloatArray]
    """The weights after the last step, by name, of the dtype of the descent."""

    path: npt.NDArray[np.float64] | None
    """All weights laid end to end, before the first step and after each; float64
    ``(S + 1, P)``. None unless it was asked for."""

    epoch_losses: npt.NDArray[np.float64]
    """Mean of ``losses`` over each epoch, float64 ``(epochs,)``. A batch counts by its
    number of samples, so that a short last batch does not count too much."""

    seconds: float
    """Wall time of the steps, reading losses and keeping the path included."""


def make_trace(
    losses: Sequence[float],
    weights: Mapping[str, FloatArray],
    path: Sequence[FloatArray] | None,
    *,
    order: npt.NDArray[np.integer],
    batch_size: int,
    seconds: float,
) -> Trace:
    """Gather what a descent noted.

    Args:
        losses: Mean loss of each batch, S numbers.
        weights: The last weights.
        path: S + 1 arrays ``(P,)``, or None.
        order: Indices of samples, ``(epochs, N)``.
        batch_size: Samples in a batch; the last of an epoch may have fewer.
        seconds: Wall time of the steps.

    Returns:
        The trace.
    """
    epochs, num_samples = order.shape
    steps = np.asarray(losses, dtype=np.float64)  # (S,)
    starts = np.arange(0, num_samples, batch_size)  # (S / epochs,)
    samples = np.minimum(batch_size, num_samples - starts)  # (S / epochs,)
    return Trace(
        losses=steps,
        weights=dict(weights),
        path=None if path is None else np.asarray(path, dtype=np.float64),
        epoch_losses=steps.reshape(epochs, -1) @ samples / num_samples,
        seconds=seconds,
    )
