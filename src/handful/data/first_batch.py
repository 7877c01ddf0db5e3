"""The first batch of a loader, looked at without beginning a pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader as TorchDataLoader

from handful.data.order import SeededSampler
from handful.errors import ArgumentError


def first(loader: Iterable[Any]) -> Any:
    """Return the first batch of the next pass without beginning it.

    Torch's global generator, a generator of the loader's and its state are put back, so
    that the next pass is the one that it would have been. A loader with workers starts
    and ends them for it.

    Args:
        loader: A loader of handful's or PyTorch's, or another iterable.

    Returns:
        The batch.

    Raises:
        ArgumentError: The loader gives none.

    Example:
        >>> from handful import DataLoader
        >>> loader = DataLoader(torch.arange(6), batch_size=4)
        >>> first(loader)
        tensor([0, 1, 2, 3])
    """
    before = torch.get_rng_state()
    own = getattr(loader, "generator", None)
    sampler = getattr(loader, "sampler", None)
    requested = getattr(sampler, "requested_epoch", None)
    own_before = own.get_state() if isinstance(own, torch.Generator) else None
    probe = copy.copy(loader) if isinstance(loader, TorchDataLoader) else loader
    if isinstance(probe, TorchDataLoader):
        probe._iterator = None
        if hasattr(probe, "skipped"):
            probe.skipped = [*probe.skipped]
    try:
        for batch in probe:
            return batch
    finally:
        torch.set_rng_state(before)
        if isinstance(sampler, SeededSampler):
            sampler.requested_epoch = requested
        if isinstance(own, torch.Generator) and own_before is not None:
            own.set_state(own_before)
    raise ArgumentError("loader must give at least one batch; it gave none.")
