"""Ordering: what orders a loader's samples, and whether that goes with a seed."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import RandomSampler, SequentialSampler

from handful.data.order import SeededSampler
from handful.errors import ArgumentError


def check_ordering(
    seed: int | None, shard: tuple[int, int] | None, ordered_by: object
) -> None:
    """Check that a seed and a shard have an order to apply to.

    Args:
        seed: The loader's.
        shard: The loader's.
        ordered_by: The sampler, or sampler of batches, that it was given; None for
            none.

    Raises:
        ArgumentError: A sampler of the user's orders the samples, or a shard comes
            without a seed.
    """
    # Frameworks wrap the batch sampler of a loader that they rebuild.
    inner = getattr(ordered_by, "sampler", ordered_by)
    is_ours = isinstance(inner, SeededSampler) and inner.shard == shard
    is_plain = type(inner) is SequentialSampler and shard is None
    if inner is None or is_ours or is_plain:
        if shard is not None and seed is None:
            raise ArgumentError(
                f"shard must come with a seed; got shard={shard} and seed=None. "
                "Without one the ranks would draw different orders."
            )
        return
    for name, value in (("seed", seed), ("shard", shard)):
        if value is not None:
            raise ArgumentError(
                f"{name} must be None when a sampler orders the samples; "
                f"got {name}={value} and {type(ordered_by).__name__}."
            )


def is_sequential(sampler: Any, dataset: Any) -> bool:
    """Say whether a sampler takes a data set's samples as they come."""
    return type(sampler) is SequentialSampler and sampler.data_source is dataset


def is_default(sampler: Any, dataset: Any, generator: torch.Generator | None) -> bool:
    """Say whether a sampler is one that a loader makes itself."""
    if type(sampler) is SeededSampler or is_sequential(sampler, dataset):
        return True
    return (
        type(sampler) is RandomSampler
        and sampler.data_source is dataset
        and sampler.generator is generator
        and not sampler.replacement
        and sampler._num_samples is None
    )


def is_shuffled(sampler: Any) -> bool:
    """Say whether a sampler that a loader makes itself shuffles."""
    if type(sampler) is SeededSampler:
        return sampler.shuffle
    return type(sampler) is RandomSampler
