"""Which samples a batch of a loader holds, found out afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.utils.data import BatchSampler, SequentialSampler
from torch.utils.data import DataLoader as TorchDataLoader

from handful.data.batched import BatchedPlan
from handful.data.loader import DataLoader
from handful.data.order import SeededSampler, make_order

__all__ = ["batch_indices"]


def batch_indices(loader: Iterable[Any], batch: int) -> list[int] | None:
    """Return the indices of a batch's samples in the data set.

    Args:
        loader: The loader, in the pass in which the batch came or just after it.
        batch: The batch's position in the pass, from 0 on.

    Returns:
        The indices; None where only the loader, or a sampler of the user's, knew them.

    Example:
        >>> loader = DataLoader(list(range(10)), 4, shuffle=True, seed=0)
        >>> second = list(loader)[1]
        >>> batch_indices(loader, 1) == second.tolist()
        True
    """
    if not isinstance(loader, TorchDataLoader):
        return None
    if isinstance(loader, DataLoader) and loader._pass is not None:
        plan = loader._plan()
        if isinstance(plan, BatchedPlan):
            indices, count = plan.order(loader._pass)
            start = batch * plan.batch_size
            return list(map(int, indices(start, min(start + plan.batch_size, count))))
    size = loader.batch_size
    if size is None or type(loader.batch_sampler) is not BatchSampler:
        return None
    if getattr(loader, "on_error", "raise") != "raise":
        return None  # samples that were left out have moved the others up
    span, sampler = slice(batch * size, (batch + 1) * size), loader.sampler
    if type(sampler) is SequentialSampler:
        return list(range(len(sampler)))[span]
    if type(sampler) is SeededSampler and isinstance(loader, DataLoader):
        epoch = sampler.epoch if loader._pass is None else loader._pass.epoch
        order = make_order(
            sampler.num_samples,
            seed=sampler.seed,
            epoch=epoch,
            shuffle=sampler.shuffle,
            shard=sampler.shard,
        )
        stop = min(span.stop, len(order))
        return list(map(int, order.indices(min(span.start, stop), stop)))
    return None
