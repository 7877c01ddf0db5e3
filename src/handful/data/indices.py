"""Indices: the batches of indices that PyTorch's iterators ask a loader for.

A pass that goes on leaves out the batches that were delivered, without reading them.
Orders that the loader makes itself are cut at a position. A sampler of the user's goes
back to the state that belongs to the last batch delivered, where it has ``state_dict``
and ``load_state_dict``; otherwise it is iterated anew, from the numbers that torch's
generators stood at when it began, and its first batches are dropped.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import (
    BatchSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from handful.data.draws import Draws, pack_bytes, unpack_bytes
from handful.data.order import SeededSampler, make_order

if TYPE_CHECKING:
    from handful.data.batched import Pass
    from handful.data.loader import DataLoader

BLOCK_SAMPLES = 16_384
"""About how many indices of a seeded order are made at a time."""


def has_state(thing: object) -> bool:
    """Say whether an object of the user's can save and load a state."""
    return callable(getattr(thing, "state_dict", None)) and callable(
        getattr(thing, "load_state_dict", None)
    )


class Once:
    """Gives an iterator as it is, for callers that would ask it for another.

    A data set that is its own iterator may begin anew whenever it is asked for one.

    Args:
        iterator: The iterator.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self._iterator


def drop(iterator: Iterator[Any], count: int) -> None:
    """Take up to a number of elements from an iterator."""
    for _ in itertools.islice(Once(iterator), count):
        pass


class Indices:
    """What a loader's iterators take indices from, one iteration a pass.

    Args:
        loader: The loader.

    Attributes:
        draws: What PyTorch's generators give for the pass; None where a seed orders it.
        own: The iteration over the user's own sampler; None without one.
        is_exhausted: Whether an iterable data set is, though not the pass.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        batches: Any = loader.batch_sampler
        self._index_sampler: Any = loader.sampler if batches is None else batches
        self._sampler = loader.sampler
        self._dataset = loader.dataset
        self._batch_size = getattr(batches, "batch_size", loader.batch_size)
        self._drop_last = getattr(batches, "drop_last", loader.drop_last)
        self._is_default = _has_default_order(loader)
        self._is_iterable = isinstance(loader.dataset, IterableDataset)
        self._epoch = self._delivered = 0
        self._restored: dict[str, Any] = {}
        self.draws: Draws | None = None
        self.own: SamplerBatches | None = None
        self.is_exhausted = False

    def begin(self, current: Pass, user: dict[str, Any]) -> None:
        """Let the next iterations be those of a pass.

        Args:
            current: The pass.
            user: The user's part of the state that it goes on from; empty for none.
        """
        self._epoch, self._delivered = current.epoch, current.delivered
        self._restored = user.get("sampler") or {}
        self.own = None
        if self._is_default and type(self._sampler) is SeededSampler:
            self._sampler.epoch = current.epoch

    def __len__(self) -> int:
        return len(self._index_sampler)

    def __iter__(self) -> Iterator[Any]:
        if self._is_iterable:
            return iter(self._index_sampler)
        if self._is_default:
            return self._cut_order(self._delivered)
        kind = type(self._index_sampler)
        batching = (None, False)
        source: Any = self._index_sampler
        if kind is BatchSampler:
            source = self._index_sampler.sampler
            batching = (
                self._index_sampler.batch_size,
                self._index_sampler.drop_last,
            )
        self.own = SamplerBatches(
            source,
            batching,
            restored=self._restored,
            skip=self._delivered,
        )
        return self.own

    def _cut_order(self, delivered: int) -> Iterator[Any]:
        """Yield lists of indices, or indices where batches are not put together."""
        slices, count = self._slices()
        if self._batch_size is None:
            for first in range(delivered, count, BLOCK_SAMPLES):
                yield from slices(first, min(first + BLOCK_SAMPLES, count))
            self._end_order()
            return
        size = self._batch_size
        block = max(BLOCK_SAMPLES // size, 1) * size
        whole = count // size * size
        for first in range(delivered * size, whole, block):
            part = slices(first, min(first + block, whole))
            for start in range(0, len(part), size):
                yield part[start : start + size]
        self._end_order()
        if max(whole, delivered * size) < count and not self._drop_last:
            yield slices(whole, count)

    def _slices(self) -> tuple[Callable[[int, int], list[int]], int]:
        """Return what gives the indices between two positions, and their number."""
        sampler = self._sampler
        if type(sampler) is SequentialSampler:
            return lambda start, stop: list(range(start, stop)), len(self._dataset)  # type: ignore[arg-type]
        if type(sampler) is SeededSampler:
            order = make_order(
                sampler.num_samples,
                seed=sampler.seed,
                epoch=self._epoch,
                shuffle=sampler.shuffle,
                shard=sampler.shard,
            )
            return lambda start, stop: order.indices(start, stop).tolist(), len(order)
        assert self.draws is not None
        drawn = self.draws.order(len(self._dataset)).tolist()  # type: ignore[arg-type]
        return lambda start, stop: drawn[start:stop], len(drawn)

    def _end_order(self) -> None:
        if type(self._sampler) is RandomSampler and self.draws is not None:
            self.draws.end_order(len(self._dataset))  # type: ignore[arg-type]


class SamplerBatches:
    """Iterates a sampler of the user's, and remembers its state batch by batch.

    Args:
        sampler: The sampler, or a sampler of batches.
        batching: Batch size and ``drop_last``; None as the size to take what comes.
        restored: What `state` returned; empty for none.
        skip: How many batches were delivered.
    """

    def __init__(
        self,
        sampler: Iterable[Any],
        batching: tuple[int | None, bool],
        *,
        restored: dict[str, Any],
        skip: int,
    ) -> None:
        self._sampler: Any = sampler
        self._batching = batching
        self._restored = restored
        self._start = self._pulled = skip
        self._iterator: Any = None
        self._batches: Iterator[Any] | None = None
        self._states: dict[int, dict[str, Any]] = {}
        self._moments: dict[str, _Moment] = {}
        self._is_exhausted = False
        # PyTorch's BatchSampler asks for the inner iterator at the first batch only.
        if batching[0] is None:
            with self._moment("open"):
                self._open()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._batches is None:
            with self._moment("first"):
                self._batches = self._begin()
        batch = next(self._batches)
        self._pulled += 1
        if self._stateful():
            self._states[self._pulled] = self._take_state()
        return batch

    def state(self, number: int, *, has_ended: bool) -> dict[str, Any]:
        """Return what brings the sampler to where a number of batches were pulled."""
        if number == self._start and self._restored and not has_ended:
            return copy.deepcopy(self._restored)
        state = copy.deepcopy(self._states.get(number)) or self._take_state()
        if has_ended:
            state["finished"] = True
        if not self._stateful():
            state["began"] = self._began(has_ended=has_ended)
        return state

    def release(self, number: int) -> None:
        """Forget states before a number of batches."""
        for earlier in [known for known in self._states if known < number]:
            del self._states[earlier]

    def _stateful(self) -> dict[str, Any]:
        found = {}
        if has_state(self._iterator):
            found["iterator"] = self._iterator
        if self._sampler is not self._iterator and has_state(self._sampler):
            found["sampler"] = self._sampler
        return found

    def _take_state(self) -> dict[str, Any]:
        stateful = self._stateful().items()
        state = {name: copy.deepcopy(thing.state_dict()) for name, thing in stateful}
        # A last, smaller batch leaves the sampler at the end of its pass.
        return {**state, "exhausted": True} if state and self._is_exhausted else state

    def _open(self) -> None:
        """Ask for the sampler's iterator, at the state that it goes on from."""
        if self._restored.get("finished"):
            self._load(self._restored)
            if self._iterator is not None and not self._restored.get("exhausted"):
                drop(self._iterator, self._batching[0] or 1)
            self._iterator = iter(self._sampler)
        else:
            self._load(self._restored)
            if self._iterator is None:
                self._iterator = iter(self._sampler)

    def _load(self, state: dict[str, Any]) -> None:
        if "sampler" in state:
            self._sampler.load_state_dict(state["sampler"])
        if "sampler" in state or "iterator" in state:
            self._iterator = iter(self._sampler)
        if "iterator" in state:
            self._iterator.load_state_dict(state["iterator"])

    def _begin(self) -> Iterator[Any]:
        """Return the batches from the first that was not delivered."""
        size, drop_last = self._batching
        if size is None:
            batches: Iterator[Any] = self._iterator
        else:
            self._open()
            indices = itertools.chain(Once(self._iterator), self._note_end())
            batches = iter(BatchSampler(indices, size, drop_last))
        if self._restored.get("exhausted") and not self._restored.get("finished"):
            self._is_exhausted = True
            return iter(())
        is_anew = "sampler" not in self._restored and "iterator" not in self._restored
        if self._stateful() and not self._restored:
            self._states[self._start] = self._take_state()
        # Most samplers draw when they are asked for their first index.
        first: list[Any] = []
        for _ in range(1 + (self._start if is_anew else 0)):
            try:
                first = [next(batches)]
            except StopIteration:
                return iter(())
        return _chain_rest(first, batches)

    def _note_end(self) -> Iterator[Any]:
        self._is_exhausted = True
        yield from ()

    @contextlib.contextmanager
    def _moment(self, name: str) -> Iterator[None]:
        """Let the sampler draw what it draws at a moment, or what it drew then."""
        own = getattr(self._sampler, "generator", None)
        known = self._restored.get("began", {}).get(name)
        moment = _Moment(own if isinstance(own, torch.Generator) else None, known)
        self._moments[name] = moment
        with moment:
            yield

    def _began(self, *, has_ended: bool) -> dict[str, Any]:
        if not has_ended and "first" in self._moments:
            return {name: moment.packed() for name, moment in self._moments.items()}
        own = getattr(self._sampler, "generator", None)
        now = _Moment(own if isinstance(own, torch.Generator) else None, None)
        now.__enter__()
        now.drew = not has_ended
        return {"first": now.packed()}


class _Moment:
    """Torch's generators before something drew from them, now or again.

    Args:
        own: A generator of the sampler's.
        known: What `packed` returned, to let the same be drawn again.
    """

    def __init__(
        self, own: torch.Generator | None, known: dict[str, Any] | None
    ) -> None:
        self._own = own
        self._known = known or {}
        self.drew = True

    def __enter__(self) -> None:
        self._outer = torch.get_rng_state()
        if self._known.get("global"):
            torch.set_rng_state(unpack_bytes(self._known["global"]))
        if self._own is not None and self._known.get("own"):
            self._own.set_state(unpack_bytes(self._known["own"]))
        self._before = torch.get_rng_state()
        self._own_before = None if self._own is None else self._own.get_state()

    def __exit__(self, *_: object) -> None:
        self.drew = self.drew and not torch.equal(torch.get_rng_state(), self._before)
        if self._known.get("global"):
            torch.set_rng_state(self._outer)

    def packed(self) -> dict[str, Any]:
        """Return the generators as texts, the global one where it was drawn from."""
        own = self._own_before
        return {
            "global": pack_bytes(self._before) if self.drew else None,
            "own": None if own is None else pack_bytes(own),
        }


def _has_default_order(loader: DataLoader[Any]) -> bool:
    """Say whether the order is one that is made here, bit for bit as PyTorch's."""
    sampler: Any = loader.sampler
    dataset: Any = loader.dataset
    batch_sampler = loader.batch_sampler
    if batch_sampler is not None and (
        type(batch_sampler) is not BatchSampler or batch_sampler.sampler is not sampler
    ):
        return False
    if loader.batch_size is None and batch_sampler is not None:
        return False
    if type(sampler) is SeededSampler:
        return True
    if type(sampler) is SequentialSampler:
        return sampler.data_source is dataset
    return (
        type(sampler) is RandomSampler
        and sampler.data_source is dataset
        and sampler.generator is loader.generator
        and not sampler.replacement
        and sampler.num_samples == len(dataset)
    )


def _chain_rest(first: list[Any], batches: Iterator[Any]) -> Iterator[Any]:
    """Yield a first batch and the rest; `iter` would begin some iterators anew."""
    yield from first
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield batch
