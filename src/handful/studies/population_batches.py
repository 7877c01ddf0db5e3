"""Batches of many trials at once, each in its own order, in memory that stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handful.data.columns import Columns
from handful.data.order import make_order
from handful.studies.population_model import ApartError

MOST_BYTES = 256 * 2**20
"""Bytes that the data of a population may have; of more, trials train one by one."""


@dataclass(frozen=True)
class Slot:
    """Where the batches of one size lie, one after another.

    Attributes:
        batch: The batch as a model's step takes it, a tuple or a dictionary.
        fields: Its tensors: ``(b, ...)`` where all trials see the same, else
            ``(K, b, ...)``.
        rows: The same tensors, their samples in one dimension.
        samples: Samples of a trial's batch, b.
    """

    batch: Any
    fields: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    samples: int


class TrialData:
    """The samples of all trials, and the order in which each sees them.

    Args:
        columns: Each trial's data; trials of one seed have the same object.
        seeds: Each trial's seed, which decides its order.
        shuffle: Whether there is an order beside that of the data.

    Attributes:
        is_shared: Whether all trials see the same batches.
        num_samples: Samples of each trial.

    Raises:
        ApartError: They have different numbers of samples, or too much data.
    """

    def __init__(
        self, columns: Sequence[Columns], seeds: Sequence[int], *, shuffle: bool
    ) -> None:
        own = list({id(data): data for data in columns}.values())
        self.num_samples = len(own[0])
        if len({_describe(data) for data in own}) > 1:
            raise ApartError("their data have different shapes")
        size = sum(t.numel() * t.element_size() for d in own for t in d.tensors)
        if size > MOST_BYTES:
            raise ApartError("their data are too large to be held together")
        self._names = own[0].names
        self._seeds, self._shuffle = seeds, shuffle
        self.is_shared = len(own) == 1 and len(set(seeds)) == 1
        self._size = len(columns)
        fields = list(zip(*(data.tensors for data in own), strict=True))
        self._sources = [
            parts[0].contiguous() if len(parts) == 1 else torch.cat(parts)
            for parts in fields
        ]
        at = {id(data): place for place, data in enumerate(own)}
        self._starts = [at[id(data)] * self.num_samples for data in columns]

    def make_slot(self, samples: int) -> Slot:
        """Return memory for batches of a size."""
        lead = (samples,) if self.is_shared else (self._size, samples)
        made = [s.new_zeros((*lead, *s.shape[1:])) for s in self._sources]
        return self._wrap(made, samples)

    def read_slots(self, samples: int) -> list[Slot]:
        """Return all samples in the order of the data, so many at a time."""
        slots = []
        for start in range(0, self.num_samples, samples):
            stop = min(start + samples, self.num_samples)
            slot = self.make_slot(stop - start)
            places = torch.arange(start, stop)
            self.fill(slot, self._spread(places))
            slots.append(slot)
        return slots

    def orders(self, epoch: int, sizes: Sequence[int]) -> Iterator[Tensor]:
        """Yield for each step of an epoch where its samples lie, for `fill`.

        Args:
            epoch: The epoch, from 0 on.
            sizes: Samples of a trial in each step.
        """
        count = self.num_samples
        orders = {
            seed: make_order(
                count, seed=seed, epoch=epoch, shuffle=self._shuffle
            ).indices(0, count)
            for seed in dict.fromkeys(self._seeds)
        }
        if self.is_shared:
            whole = next(iter(orders.values()))
            yield from torch.split(whole[: sum(sizes)], list(sizes))
            return
        rows = [
            orders[seed] + start
            for seed, start in zip(self._seeds, self._starts, strict=True)
        ]
        together = torch.stack(rows)[:, : sum(sizes)]
        for part in torch.split(together, list(sizes), dim=1):
            yield part.flatten()

    def fill(self, slot: Slot, places: Tensor) -> None:
        """Put the samples of a step into a slot."""
        for source, row in zip(self._sources, slot.rows, strict=True):
            torch.index_select(source, 0, places, out=row)

    def holds(self, value: int) -> bool:
        """Say whether a column of whole numbers holds a value."""
        return any(
            bool((source == value).any())
            for source in self._sources
            if not source.is_floating_point()
        )

    def _spread(self, places: Tensor) -> Tensor:
        """Return places in the data of all trials for those of each."""
        if self.is_shared:
            return places
        return torch.cat([places + start for start in self._starts])

    def _wrap(self, fields: Sequence[Tensor], samples: int) -> Slot:
        lead = 1 if self.is_shared else 2
        rows = [field.view(-1, *field.shape[lead:]) for field in fields]
        batch: Any = tuple(fields)
        if self._names is not None:
            batch = dict(zip(self._names, fields, strict=True))
        return Slot(batch, tuple(fields), tuple(rows), samples)


def _describe(data: Columns) -> Any:
    kinds = tuple((t.shape, t.dtype) for t in data.tensors)
    return data.names, kinds
