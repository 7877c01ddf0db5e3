"""Gradient noise: how much gradients of batches differ, measured on a few of them.

With G the gradient of the mean loss over all training samples and Σ the covariance of
the gradients of single samples, the simple noise scale is tr(Σ)/|G|² (McCandlish et al.
2018, arXiv 1812.06162, equation 2.9): about the batch size at which noise and signal
are equal. Both are estimated without bias from squared norms at two batch sizes b < B
(appendix A.1)::

    |G|²   ~ (B |G_B|² - b |G_b|²) / (B - b)
    tr(Σ)  ~ (|G_b|² - |G_B|²) / (1/b - 1/B)

Here |G_b|² is the mean over k batches of b samples, and G_B the mean of their
gradients, so that B = k b. Samples are drawn with replacement, which makes the batches
independent, as the formulas have them, however few samples there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from handful.train.batches import move_batch
from handful.train.generators import all_generators_preserved
from handful.train.step import Step

SMALL_BATCH = 16
"""Samples of a small batch, b."""

NUM_BATCHES = 32
"""Small batches, k; together they are the large one."""


@dataclass(frozen=True)
class GradientNoise:
    """What a few batches say of a model's gradients.

    Attributes:
        gradient_squared: Estimate of |G|²; it may be below 0 where noise dominates.
        variance: Estimate of tr(Σ), for single samples; 0 or more up to rounding.
        noise_scale: tr(Σ)/|G|², in samples; None where |G|² is not above 0, so that
            only "large" is known of it.
        relative_std: Standard deviation of a batch's gradient at the trial's own
            batch size, divided by |G|; None likewise.
    """

    gradient_squared: float
    variance: float
    noise_scale: float | None
    relative_std: float | None

    def at_batch_size(self, batch_size: int, num_samples: int) -> GradientNoise:
        """Return the same noise with the relative deviation of another batch size.

        It is that of a batch drawn without replacement from n samples, as an epoch
        draws them: its variance is tr(Σ)/B · (n - B)/(n - 1), which is 0 for the full
        batch.

        Args:
            batch_size: Samples of a step, above 0.
            num_samples: n.
        """
        if self.gradient_squared <= 0:
            return self
        size = min(batch_size, num_samples)
        rest = (num_samples - size) / max(num_samples - 1, 1)
        spread = max(self.variance, 0.0) / size * rest
        return replace(self, relative_std=math.sqrt(spread / self.gradient_squared))

    def describe(self) -> dict[str, float | None]:
        """Return the values by name."""
        return asdict(self)


def measure_gradient_noise(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    step: Step,
    device: torch.device,
    small: int,
    num_samples: int,
    batch_size: int,
) -> GradientNoise | None:
    """Measure the noise of a model's gradients, in `eval` mode.

    Dropout and statistics of batches are left out, so that the noise is that of the
    samples alone. The model, its gradients and the generators stay as they are.

    Args:
        model: The model.
        batches: Two or more batches of ``small`` samples drawn with replacement.
        step: Computes a batch's mean loss.
        device: Where the model is.
        small: Samples of each of them.
        num_samples: Training samples in all, n.
        batch_size: Samples of a step of the trial.

    Returns:
        The estimates; None where they are not finite, or nothing is trained.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    modes = [(module, module.training) for module in model.modules()]
    norms: list[Tensor] = []
    total: Tensor | None = None
    if not parameters:
        return None
    try:
        with all_generators_preserved():
            model.eval()
            for batch in batches:
                loss = step.mean(model, move_batch(batch, device)).loss
                gradient = _flat_gradient(loss, parameters)
                norms.append(gradient.dot(gradient))
                total = gradient if total is None else total.add_(gradient)
    finally:
        for module, training in modes:
            module.training = training
    if total is None or len(norms) < 2:
        return None
    small_squared = float(torch.stack(norms).mean())
    mean = total.div_(len(norms))
    return estimate_noise(
        small_squared,
        float(mean.dot(mean)),
        small=small,
        large=small * len(norms),
        num_samples=num_samples,
        batch_size=batch_size,
    )


def estimate_noise(
    small_squared: float,
    large_squared: float,
    *,
    small: int,
    large: int,
    num_samples: int,
    batch_size: int,
) -> GradientNoise | None:
    """Return the estimates from the squared norms of gradients at two batch sizes.

    Args:
        small_squared: Mean of |G_b|².
        large_squared: |G_B|².
        small: b, 1 or more.
        large: B, above b.
        num_samples: n.
        batch_size: Samples of a step of the trial, above 0.

    Returns:
        The estimates; None where they are not finite.
    """
    squared = (large * large_squared - small * small_squared) / (large - small)
    variance = (small_squared - large_squared) / (1 / small - 1 / large)
    if not (math.isfinite(squared) and math.isfinite(variance)):
        return None
    scale = variance / squared if squared > 0 else None
    noise = GradientNoise(squared, variance, scale, relative_std=None)
    return noise.at_batch_size(batch_size, num_samples)


def _flat_gradient(loss: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """Return the gradient of all parameters in one row; 0 for those not used."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).float().flatten() for g, p in pairs]
    )
