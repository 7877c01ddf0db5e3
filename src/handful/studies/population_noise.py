"""The gradient noise of all trials of a population, measured at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from handful.studies.gradient_noise import SMALL_BATCH, estimate_noise
from handful.studies.noise_meter import draw_batches, step_samples
from handful.studies.population import Population
from handful.studies.trial import Noise

MOST_NUMBERS = 2**24
"""Numbers that the gradients of all small batches of all trials may have."""

_FAILURES = (RuntimeError, TypeError, ValueError)


def measure_noise_together(population: Population) -> list[Noise] | None:
    """Return the noise at the weights that each trial has ended with.

    The estimates are those of `handful.studies.noise_meter`, of the same batches.

    Returns:
        The noise of each trial; None where it must be measured trial by trial.
    """
    try:
        return _measure(population)
    except _FAILURES:
        return None


def _measure(population: Population) -> list[Noise] | None:
    benches = [member.bench for member in population.members]
    drawn = {
        bench.seed: list(draw_batches(bench.recipe, bench.data, bench.seed))
        for bench in {b.seed: b for b in benches}.values()
    }
    layout, criterion = benches[0].trainer.layout, benches[0].trainer.criterion
    assert criterion is not None
    num_batches = len(next(iter(drawn.values())))
    if population.stack.weights.numel() * num_batches > MOST_NUMBERS:
        return None
    seeds = [bench.seed for bench in benches]
    is_shared = len(drawn) == 1
    joined = {seed: _stack(batches) for seed, batches in drawn.items()}
    batch = joined[seeds[0]] if is_shared else _stack([joined[s] for s in seeds])
    args, kwargs, target, _ = layout.split(batch)

    def loss(params: Any, buffers: Any, args: Any, kwargs: Any, target: Any) -> Tensor:
        output = population.stack.call_one(params, buffers, args, kwargs)
        return criterion.mean(output, target)

    dim = None if is_shared else 0
    of_batches = vmap(grad(loss), in_dims=(None, None, 0, 0, 0))
    of_trials = vmap(of_batches, in_dims=(0, 0, dim, dim, dim))
    stack = population.stack
    params = {name: value.detach() for name, value in stack.params.items()}
    grads = of_trials(params, stack.buffers, tuple(args), dict(kwargs), target)
    flat = torch.cat([value.float().flatten(2) for value in grads.values()], dim=2)
    small = flat.square().sum(2).mean(1).tolist()
    large = flat.mean(1).square().sum(1).tolist()
    found: list[Noise] = []
    for bench, one, other in zip(benches, small, large, strict=True):
        count = len(bench.data)  # type: ignore[arg-type]
        noise = estimate_noise(
            one,
            other,
            small=SMALL_BATCH,
            large=SMALL_BATCH * num_batches,
            num_samples=count,
            batch_size=step_samples(bench.recipe, count),
        )
        found.append(None if noise is None else noise.describe())
    return found


def _stack(batches: list[Any]) -> Any:
    """Put batches of tensors side by side."""
    first = batches[0]
    if isinstance(first, dict):
        return {name: torch.stack([b[name] for b in batches]) for name in first}
    return tuple(torch.stack(column) for column in zip(*batches, strict=True))
