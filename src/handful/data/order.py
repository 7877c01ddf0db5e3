"""Order: which sample comes when.

With a seed the order is a pure function of (seed, epoch, position). Nothing is drawn
from a global generator, and neither workers nor earlier epochs matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler


def mix_seed(*parts: int | str) -> int:
    """Make one 63-bit seed of several numbers and words, so that streams don't meet.

    Args:
        *parts: What the seed depends on, in order.

    Returns:
        The first 63 bits of a SHA-256 hash of the parts.

    Example:
        >>> mix_seed(0, "order", 1) == mix_seed(0, "order", 2)
        False
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def epoch_permutation(num_samples: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order of a shuffled epoch.

    Args:
        num_samples: Number of samples, N, 0 or more.
        seed: Seed of the whole run.
        epoch: The epoch, from 0 on.

    Returns:
        A permutation of 0 … N - 1, shape ``(N,)``, int64.
    """
    generator = torch.Generator()
    generator.manual_seed(mix_seed(seed, "order", epoch))
    return torch.randperm(num_samples, generator=generator)


class SeededSampler(Sampler[int]):
    """Yields the order of one epoch; `DataLoader` sets the epoch.

    Args:
        num_samples: Number of samples, N.
        seed: Seed of the whole run.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        order = epoch_permutation(self.num_samples, seed=self.seed, epoch=self.epoch)
        return iter(order.tolist())
