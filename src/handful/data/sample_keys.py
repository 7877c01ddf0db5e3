"""Sample keys: random numbers that belong to a sample, not to a moment.

A number is a hash of (seed, epoch, index, purpose). So batch size, chunk, worker and
position don't matter to it, no state has to be saved, and nothing is drawn from a
global generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.data.order import mix_seed

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, slots=True)
class SampleKeys:
    """Says which samples a batch holds, for the random choices made for each.

    A sample that comes twice in an epoch has the same numbers both times.

    Example:
        >>> keys = SampleKeys(seed=0, epoch=3, indices=torch.tensor([7, 5, 9]))
        >>> alone = SampleKeys(seed=0, epoch=3, indices=torch.tensor([9]))
        >>> bool(keys.uniform("flip")[2] == alone.uniform("flip")[0])
        True
    """

    seed: int
    """The loader's seed, or a number drawn once an epoch where it has none."""

    epoch: int
    """The epoch, from 0 on."""

    indices: Tensor
    """The samples' indices in the data set, shape ``(B,)``, int64."""

    def __getitem__(self, part: slice) -> SampleKeys:
        return SampleKeys(self.seed, self.epoch, self.indices[part])

    def uniform(self, purpose: str) -> Tensor:
        """Return a number in ``[0, 1)`` for each sample.

        Args:
            purpose: What it is for; numbers for different purposes are independent.

        Returns:
            Multiples of 2**-53, shape ``(B,)``, float64, on the CPU.
        """
        return torch.from_numpy((self._bits(purpose) >> np.uint64(11)) * 2.0**-53)

    def integers(self, high: int, purpose: str) -> Tensor:
        """Return a whole number in ``[0, high)`` for each sample.

        Args:
            high: 1 to 2**32; no number is likelier than another by more than a part
                of ``high / 2**32``.
            purpose: What it is for; numbers for different purposes are independent.

        Returns:
            The numbers, shape ``(B,)``, int64, on the CPU.
        """
        top = self._bits(purpose) >> np.uint64(32)
        return torch.from_numpy((top * np.uint64(high) >> np.uint64(32)).view(np.int64))

    def _bits(self, purpose: str) -> NDArray[np.uint64]:
        """Return 64 random bits a sample: SplitMix64, at a start per purpose.

        Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators",
        with the constants of Stafford's variant 13.
        """
        start = np.uint64(mix_seed(self.seed, "sample", self.epoch, purpose))
        indices: NDArray[np.int64] = self.indices.numpy(force=True)
        bits: NDArray[np.uint64] = indices.view(np.uint64) * _STEP + start
        bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
        bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
        mixed: NDArray[np.uint64] = bits ^ (bits >> np.uint64(31))
        return mixed
