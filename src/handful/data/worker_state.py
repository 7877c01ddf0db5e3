"""Worker state: data sets that save and load a state, in this process or in workers.

::

    main process                         worker process
    index queue   ── batch number, indices ──▶  reads, collates
    result queue  ◀── Parcel(batch, state) ──   state_dict(), pickled at once

A state is sent only by data sets, or iterators over them, that have ``state_dict`` and
``load_state_dict``. Without one, an iterable data set is read again and what had been
delivered is dropped.
"""

from __future__ import annotations

import inspect
import itertools
import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from handful.data.indices import Once, drop, has_state
from handful.data.pinning import pin_batch
from handful.torch_private import WorkerParts, find_worker_parts


@dataclass(frozen=True)
class Restore:
    """Where a data set goes on.

    Attributes:
        state: What `dataset_state` returned; None where it has no state.
        drop_samples: Samples that an iterable one without state reads and drops.
        num_left: None to go on in the middle of a pass. Otherwise the state is of the
            pass before, which is brought to its end, most samples that are left of it,
            and a new one begins.
        has_ended: Whether the data set was at its end, so that nothing is left of it.
    """

    state: dict[str, Any] | None = None
    drop_samples: int = 0
    num_left: int | None = None
    has_ended: bool = False

    def load_dataset(self, dataset: Any) -> None:
        """Load the data set's own state."""
        if self.state is not None and "dataset" in self.state:
            dataset.load_state_dict(self.state["dataset"])

    def iterate(self, dataset: Any) -> Iterator[Any]:
        """Return an iterator over an iterable data set, at its place."""
        iterator: Iterator[Any] = iter(dataset)
        self.load_iterator(iterator)
        if self.num_left is None:
            return iterator
        drop(iterator, 0 if self.has_ended else self.num_left)
        return iter(dataset)

    def load_iterator(self, iterator: Any) -> None:
        """Load the iterator's state, or drop what was delivered."""
        if self.state is not None and "iterator" in self.state:
            iterator.load_state_dict(self.state["iterator"])
        elif not self.state:
            drop(iterator, self.drop_samples)


def dataset_state(dataset: Any, iterator: Any = None) -> dict[str, Any] | None:
    """Return the state of a data set and its iterator, which may be one object.

    Args:
        dataset: The data set.
        iterator: The iterator of the pass, over an iterable data set.

    Returns:
        What each one's ``state_dict`` returned; None where none has one.
    """
    state = {}
    if iterator is not None and has_state(iterator):
        state["iterator"] = iterator.state_dict()
    if iterator is not dataset and has_state(dataset):
        state["dataset"] = dataset.state_dict()
    return state or None


@dataclass
class Parcel:
    """A batch from a worker, and the state of the worker's data set after it."""

    worker: int
    batch: Any
    state: bytes
    has_ended: bool

    def pin_memory(self) -> Parcel:
        """Pin the batch's memory; PyTorch's thread calls it."""
        self.batch = pin_batch(self.batch)
        return self


@dataclass(frozen=True)
class WorkerContext:
    """A multiprocessing context whose processes are workers with a state.

    Attributes:
        context: The context that makes the queues and processes.
        restores: Where each worker's data set goes on.
    """

    context: Any
    restores: Iterator[Restore | None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.context, name)

    def Process(self, target: Callable[..., None], args: tuple[Any, ...]) -> Any:  # noqa: N802
        """Make a worker process; its name is multiprocessing's."""
        return self.context.Process(
            target=run_worker, args=(target, args, next(self.restores))
        )


def run_worker(
    loop: Callable[..., None], args: tuple[Any, ...], restore: Restore | None
) -> None:
    """Run PyTorch's worker loop over a data set whose state is watched.

    Args:
        loop: PyTorch's function.
        args: Its arguments.
        restore: Where the data set goes on; None for its beginning.
    """
    call = inspect.signature(loop).bind(*args)
    watch = _Watch(call.arguments["dataset"], call.arguments["worker_id"], restore)
    watch.init_fn = call.arguments["init_fn"]
    if isinstance(watch.dataset, IterableDataset):
        call.arguments["dataset"] = watch
    call.arguments["init_fn"] = watch.begin
    call.arguments["data_queue"] = _ResultQueue(call.arguments["data_queue"], watch)
    loop(*call.args, **call.kwargs)


class _Watch:
    """Stands for an iterable data set in its worker, and knows its iterator."""

    def __init__(self, dataset: Any, worker: int, restore: Restore | None) -> None:
        self.dataset = dataset
        self.worker = worker
        self.init_fn: Callable[[int], None] | None = None
        self._restore = restore
        self._iterator: Any = None
        self.has_ended = False

    def begin(self, worker: int) -> None:
        """Do what the user's ``worker_init_fn`` does, then load the state."""
        info = get_worker_info()
        assert info is not None
        # A frozen record; it names the stand-in that PyTorch was given.
        object.__setattr__(info, "dataset", self.dataset)
        if self.init_fn is not None:
            self.init_fn(worker)
        if self._restore is not None:
            self._restore.load_dataset(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        restore, self._restore = self._restore, None
        start = iter if restore is None else restore.iterate
        self._iterator = start(self.dataset)
        self.has_ended = False
        if restore is not None and restore.has_ended and restore.num_left is None:
            return self._note_end()
        return itertools.chain(Once(self._iterator), self._note_end())

    def _note_end(self) -> Iterator[Any]:
        self.has_ended = True
        yield from ()

    def state(self) -> bytes | None:
        """Return the state now, in bytes, as the data set goes on changing."""
        state = dataset_state(self.dataset, self._iterator)
        return None if state is None else pickle.dumps(state)


class _ResultQueue:
    """The queue of a worker's results, which puts states into them."""

    def __init__(self, queue: Any, watch: _Watch) -> None:
        self._queue = queue
        self._watch = watch
        parts = find_worker_parts()
        assert parts is not None, "the loop is that of PyTorch's loader"
        self._parts: WorkerParts = parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def put(self, result: tuple[Any, Any]) -> None:
        """Send a result; batches, and answers to a new pass, with the state."""
        number, batch = result
        if isinstance(number, self._parts.resume):
            seed_worker(number.seed, self._watch.worker)
        if not isinstance(batch, self._parts.no_batches):
            try:
                state = self._watch.state()
                if state is not None:
                    ended = self._watch.has_ended
                    batch = Parcel(self._watch.worker, batch, state, ended)
            except Exception:
                batch = self._parts.wrap_error(
                    where=f"in state_dict() of DataLoader worker {self._watch.worker}"
                )
        self._queue.put((number, batch))


def seed_worker(base_seed: int | None, worker: int) -> None:
    """Seed a worker's generators as PyTorch does when it starts one.

    Args:
        base_seed: The seed that the workers of a pass share; None to leave them.
        worker: The worker's number.
    """
    if base_seed is None:
        return
    random.seed(base_seed + worker)
    torch.manual_seed(base_seed + worker)
    low, high = base_seed & 0xFFFFFFFF, base_seed >> 32
    mixed = np.random.SeedSequence([worker, low, high, 0]).generate_state(4)
    np.random.seed(mixed)


class WorkerStates:
    """What each worker delivered in a pass, and its state; kept in the main process.

    Args:
        num_workers: Number of workers.
        num_left: Most samples that are left of a pass when it has ended.
        entries: What `entries` returned, to go on.
        next_worker: The worker whose batch is next.
    """

    def __init__(
        self,
        num_workers: int,
        num_left: int,
        entries: list[dict[str, Any]] | None = None,
        next_worker: int = 0,
    ) -> None:
        self.next_worker = next_worker
        self.has_states = any(e["state"] is not None for e in entries or ())
        self.delivered = [0] * num_workers
        self._num_left = num_left
        self._states: list[Any] = [None] * num_workers
        # Only what came from a worker of this loader is ever unpickled.
        self._is_packed = [False] * num_workers
        self._left: list[int | None] = [None] * num_workers
        self._ended = [False] * num_workers
        for worker, entry in enumerate(entries or ()):
            self.delivered[worker] = int(entry["delivered"])
            self._states[worker] = entry["state"]
            self._left[worker] = entry["left"]
            self._ended[worker] = entry["ended"]

    def note(self, worker: int, parcel: Parcel | None) -> None:
        """Note a batch that was delivered, and the parcel in which it came."""
        self.delivered[worker] += 1
        self.next_worker = (worker + 1) % len(self.delivered)
        self._left[worker] = None
        if parcel is not None:
            self.has_states = True
            self._states[worker] = parcel.state
            self._is_packed[worker] = True
            self._ended[worker] = parcel.has_ended

    def note_start(self, worker: int, state: bytes) -> None:
        """Note the state with which a worker begins a pass after one given up."""
        if self._left[worker] is None:
            self.has_states = True
            self._states[worker] = state
            self._is_packed[worker] = True
            self._left[worker] = 0

    def begin_pass(self, *, has_ended: bool) -> None:
        """Begin another pass of the same workers.

        Args:
            has_ended: Whether all batches of the one before were delivered.
        """
        self.next_worker = 0
        self.delivered = [0] * len(self.delivered)
        self._left = [self._num_left if has_ended else None] * len(self.delivered)

    def restores(self, batch_size: int | None) -> list[Restore | None]:
        """Return where each worker's data set goes on; None for its beginning."""
        return [
            Restore(
                self._plain(worker),
                delivered * (batch_size or 1),
                left,
                self._ended[worker],
            )
            if delivered or self._states[worker] is not None
            else None
            for worker, (delivered, left) in enumerate(
                zip(self.delivered, self._left, strict=True)
            )
        ]

    def entries(self, *, has_ended: bool) -> list[dict[str, Any]]:
        """Return what each worker delivered, its state, and what is left before it.

        Args:
            has_ended: Whether all batches were delivered, so that the next pass begins.
        """
        return [
            {
                "delivered": 0 if has_ended else delivered,
                "state": self._plain(worker),
                "left": self._num_left if has_ended else self._left[worker],
                "ended": self._ended[worker],
            }
            for worker, delivered in enumerate(self.delivered)
        ]

    def _plain(self, worker: int) -> dict[str, Any] | None:
        state = self._states[worker]
        if isinstance(state, bytes) and self._is_packed[worker]:
            plain: dict[str, Any] = pickle.loads(state)
            return plain
        return state  # type: ignore[no-any-return]
