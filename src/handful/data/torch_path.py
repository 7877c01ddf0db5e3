"""PyTorch's path: its own iterators, made resumable.

What can't be gathered in batches is read by PyTorch's code. The classes here are its
iterators: they count what was delivered, take indices from `Indices`, and give the
random numbers that `Draws` remembers. They draw from the same generators, at the same
moments and as often as PyTorch.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterableDataset, IterDataPipe, MapDataPipe

from handful.data.batched import Pass
from handful.data.draws import Draws
from handful.data.fetch import keep_memory
from handful.data.image_source import KeyedImages, find_images
from handful.data.indices import Indices, has_state
from handful.data.one_process import OneProcessIterator
from handful.data.order import mix_seed
from handful.data.pinning import pin_batch
from handful.data.public_path import PublicIterator
from handful.data.worker_health import (
    Patience,
    StallWatch,
    describe_dead,
    explain_death,
    explain_hang,
    tells_of_death,
)
from handful.data.worker_stacks import WorkerStacks
from handful.data.worker_state import (
    Parcel,
    Restore,
    WorkerContext,
    WorkerStates,
    dataset_state,
)
from handful.errors import ArgumentError
from handful.torch_private import find_single_iterator, find_worker_parts, is_profiled

if TYPE_CHECKING:
    from handful.data.loader import DataLoader


def make_iterator(
    loader: DataLoader[Any],
) -> SingleProcessIterator | WorkerIterator | PublicIterator:
    """Return the iterator of a loader's next pass, or of the rest of one.

    Args:
        loader: The loader; its state is used up.

    Returns:
        An iterator of PyTorch's class, or one that stands behind it.

    Raises:
        ArgumentError: The state needs another number of workers, or is of a DataPipe in
            the middle of a pass.
    """
    _check_user_state(loader)
    keep_memory()
    if loader.num_workers == 0:
        return SingleProcessIterator(loader)
    if _PARTS is None:
        return PublicIterator(loader)
    loader.check_worker_number_rationality()
    return WorkerIterator(loader)


_SingleBase: Any = find_single_iterator() or OneProcessIterator
_PARTS = find_worker_parts()
_WorkerBase: Any = object if _PARTS is None else _PARTS.iterator


def stays_with_pytorch() -> bool:
    """Say whether PyTorch's loader keeps the iterator of workers from pass to pass."""
    return _PARTS is not None


class _View:
    """A loader as PyTorch's iterators see it, with some attributes replaced."""

    def __init__(self, loader: DataLoader[Any], **replaced: Any) -> None:
        self._loader = loader
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _Resumable:
    """What both iterators have in common: the pass, its draws and its indices."""

    _num_yielded: int
    _kept_seed: int | None = None

    def _begin_first(self, loader: DataLoader[Any]) -> dict[str, Any]:
        """Begin a pass, and return the user's part of the state it goes on from."""
        state = loader._resume or {}
        self._seed = loader.seed
        self._generator = loader.generator
        self._is_datapipe = isinstance(loader.dataset, (IterDataPipe, MapDataPipe))
        self._drawn = state.get("draws")
        user: dict[str, Any] = state.get("user") or {}
        self._pass = loader._begin_pass(draw=False)
        self._indices = Indices(loader)
        self._indices.begin(self._pass, user)
        self._num_pulled = self._pass.delivered
        return user

    def _view(self, loader: DataLoader[Any], **replaced: Any) -> Any:
        if not self._is_datapipe:
            # PyTorch would draw the workers' seed; `_base_seed` does it in its stead.
            replaced["generator"] = torch.Generator()
        return _View(loader, _index_sampler=self._indices, **replaced)

    def _key_index(self, index: Any) -> Any:
        """Return an index with what the random changes of an image depend on."""
        if isinstance(index, list):
            return [self._key_index(one) for one in index]
        seed = self._base_seed if self._seed is None else self._seed
        return seed, self._pass.epoch, index

    @property
    def _base_seed(self) -> int:
        return self._base_seed_value

    @_base_seed.setter
    def _base_seed(self, value: int) -> None:
        """Take the workers' seed, at the moment when PyTorch draws it."""
        if self._seed is not None:
            value = mix_seed(self._seed, "workers", self._pass.epoch)
        elif not self._is_datapipe:
            draws = Draws(self._generator, self._drawn, base_seed=self._kept_seed)
            self._pass.draws = self._indices.draws = draws
            value = draws.base_seed
        self._base_seed_value = value

    def __next__(self) -> Any:
        # PyTorch's own costs several microseconds for a profiler that is seldom on, and
        # warns of an iterable data set that is longer than it said.
        is_plain = self._IterableDataset_len_called is None  # type: ignore[attr-defined]
        try:
            if is_plain and not is_profiled():
                batch = self._next_data()  # type: ignore[attr-defined]
                self._num_yielded += 1
                return batch
            return super().__next__()  # type: ignore[misc]
        except StopIteration:
            self._pass.has_ended = True
            raise


class SingleProcessIterator(_Resumable, _SingleBase):  # type: ignore[misc]
    """Reads in this process; see `make_iterator`.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        user = self._begin_first(loader)
        done = self._pass.delivered
        restore = Restore(user.get("state"), done * (loader.batch_size or 1))
        restore.load_dataset(loader.dataset)
        iterator: Any = None
        self._is_iterable = isinstance(loader.dataset, IterableDataset)
        if user.get("has_ended") and "iterator" in (restore.state or {}):
            restore.load_iterator(iter(loader.dataset))
        super().__init__(self._view(loader))
        if self._is_iterable and not self._is_datapipe:
            iterator = self._dataset_fetcher.dataset_iter
            if not user.get("has_ended"):
                restore.load_iterator(iterator)
                # A last, smaller batch leaves the data set at the end of its pass.
                ended = bool(user.get("is_exhausted"))
                self._dataset_fetcher.ended = self._indices.is_exhausted = ended
        self._num_yielded = done
        self._pass.user_state = functools.partial(
            _single_state,
            self._indices,
            loader.dataset,
            iterator if has_state(iterator) else None,
        )

    def _next_data(self) -> Any:
        index = next(self._sampler_iter)
        self._num_pulled += 1
        batch = self._dataset_fetcher.fetch(index)
        if self._pin_memory:
            batch = pin_batch(batch)
        self._pass.delivered = self._num_pulled
        if self._is_iterable:
            self._indices.is_exhausted = self._dataset_fetcher.ended
        if self._indices.own is not None:
            self._indices.own.release(self._num_pulled)
        return batch


class WorkerIterator(_Resumable, _WorkerBase):  # type: ignore[misc]
    """Reads in worker processes; see `make_iterator`.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        user = self._begin_first(loader)
        count, done = loader.num_workers, self._pass.delivered
        self._is_iterable = isinstance(loader.dataset, IterableDataset)
        self._states = WorkerStates(
            count,
            loader.batch_size or 1,
            user.get("workers"),
            user.get("next_worker", done % count),
        )
        self._begin_tasks({done + extra for extra in user.get("ahead", ())})
        self._stall = StallWatch()
        replaced: dict[str, Any] = {}
        images = find_images(loader.dataset)
        self._has_keys = images is not None and images.files.changes.is_random
        if images is not None and self._has_keys:
            replaced["dataset"] = KeyedImages(images)
        self._stacks = None
        if loader.timeout > 0 and WorkerStacks.are_possible():
            self._stacks = WorkerStacks()
            replaced["worker_init_fn"] = self._stacks.start(loader.worker_init_fn)
        if self._is_watched(loader):
            context = loader.multiprocessing_context or torch.multiprocessing
            restores = self._states.restores(loader.batch_size)
            replaced["multiprocessing_context"] = WorkerContext(context, iter(restores))
        super().__init__(self._view(loader, **replaced))
        self._num_yielded = done

    def _reset(self, loader: DataLoader[Any], first_iter: bool = False) -> None:
        if not first_iter:
            self._begin_next(loader)
        self._keep_state(loader)
        with self._deaths_explained():
            super()._reset(loader, first_iter)

    def _is_watched(self, loader: DataLoader[Any]) -> bool:
        """Say whether the workers have a state, or may be seeded again."""
        if self._is_datapipe:
            return False
        is_reseeded = self._seed is not None and loader.persistent_workers
        return self._is_iterable or has_state(loader.dataset) or is_reseeded

    def _begin_next(self, loader: DataLoader[Any]) -> None:
        """Begin another pass of the same workers, for which no seed is drawn."""
        self._former_ended = self._pass.has_ended
        self._states.begin_pass(has_ended=self._former_ended)
        self._pass = loader._begin_pass(draw=False)
        self._num_pulled = 0
        self._indices.begin(self._pass, {})
        self._begin_tasks(set())
        self._stall.restart()
        if self._seed is not None:
            self._base_seed = 0
            if self._is_watched(loader):
                self._shared_seed = self._base_seed
        elif not self._is_datapipe:
            draws = Draws(self._generator, base_seed=self._base_seed)
            self._pass.draws = self._indices.draws = draws

    def _begin_tasks(self, ahead: set[int]) -> None:
        self._ahead = ahead
        self._tasks: dict[int, tuple[int, Any]] = {}
        self._num_turns = self._states.next_worker
        self._last_task: Any = None

    def _keep_state(self, loader: DataLoader[Any]) -> None:
        self._pass.user_state = functools.partial(
            _worker_state,
            self._indices,
            self._states,
            self._ahead,
            is_iterable=self._is_iterable and not self._is_datapipe,
            persistent=loader.persistent_workers,
        )

    def _next_index(self) -> Any:
        index = super()._next_index()
        self._num_pulled += 1
        while self._num_pulled - 1 in self._ahead:
            index = super()._next_index()
            self._num_pulled += 1
        self._tasks[self._send_idx] = (self._num_pulled, index)
        return self._key_index(index) if self._has_keys else index

    def _try_put_index(self) -> None:
        # A pass that goes on begins with the worker whose turn it is.
        for _ in range(self._num_turns):
            next(self._worker_queue_idx_cycle)
        self._num_turns = 0
        super()._try_put_index()

    def _get_data(self) -> Any:
        task, result = super()._get_data()
        self._last_task = task
        if _PARTS and isinstance(task, _PARTS.resume):
            if isinstance(result, Parcel) and not self._former_ended:
                self._states.note_start(result.worker, result.state)
            result = None
        return task, result

    def _process_data(self, data: Any, worker_idx: int) -> Any:
        task = self._rcvd_idx - 1 if self._in_order else self._last_task
        number, _ = self._tasks.pop(task)
        parcel = data if isinstance(data, Parcel) else None
        if parcel is not None:
            data = parcel.batch
        batch = super()._process_data(data, worker_idx)
        self._states.note(worker_idx, parcel)
        self._note_delivered(number)
        return batch

    def _note_delivered(self, number: int) -> None:
        current = self._pass
        if self._is_iterable:
            current.delivered += 1
        elif self._in_order:
            current.delivered = number
        else:
            self._ahead.add(number - 1)
            while current.delivered in self._ahead:
                self._ahead.remove(current.delivered)
                current.delivered += 1
        if self._indices.own is not None:
            self._indices.own.release(current.delivered)

    def _try_get_data(self, timeout: float = _PARTS.seconds if _PARTS else 5.0) -> Any:
        patience = Patience(timeout)
        while True:
            with patience.spent():
                found = self._look(patience.slice_seconds)
            if found[0]:
                return found
            if patience.left <= 0:
                if self._timeout > 0:
                    raise explain_hang(
                        self._timeout, self._workers, self._held(), self._stacks
                    )
                return found

    def _look(self, seconds: float) -> Any:
        """Wait for a result for a while; return whether one came, and it."""
        try:
            with self._deaths_explained():
                found = super()._try_get_data(seconds)
        except (ConnectionError, EOFError) as error:  # it died while it was sending
            text = describe_dead(self._workers)
            if text is None:
                raise
            raise explain_death(text, self._workers, self._held()) from error
        if not found[0]:
            self._stall.note(got=False, workers=self._workers, held=self._held())
        return found

    def _next_data(self) -> Any:
        self._stall.restart()
        return super()._next_data()

    def __next__(self) -> Any:
        with self._deaths_explained():
            return super().__next__()

    @contextmanager
    def _deaths_explained(self) -> Iterator[None]:
        """Explain a worker's death, which PyTorch's signal handler raises anywhere."""
        try:
            yield
        except RuntimeError as error:
            if not tells_of_death(error):
                raise
            text = str(error)
            raise explain_death(text, self._workers, self._held()) from error

    def _held(self) -> dict[int, list[Any]]:
        """Return the batches of indices that each worker has yet to send."""
        held: dict[int, list[Any]] = {}
        for task, info in sorted(self._task_info.items()):
            if len(info) == 1 and task in self._tasks:
                held.setdefault(info[0], []).append(self._tasks[task][1])
        return held


def _single_state(
    indices: Indices, dataset: Any, iterator: Any, now: Pass
) -> dict[str, Any]:
    """Return the state of the user's objects where nothing is read ahead."""
    user = {
        "num_workers": 0,
        "state": copy.deepcopy(dataset_state(dataset, iterator)),
        "has_ended": now.has_ended,
        "is_exhausted": indices.is_exhausted,
    }
    return _with_sampler(user, now, indices)


def _worker_state(
    indices: Indices,
    states: WorkerStates,
    ahead: set[int],
    now: Pass,
    *,
    is_iterable: bool,
    persistent: bool,
) -> dict[str, Any]:
    """Return the state of the user's objects as of the last batch delivered."""
    user: dict[str, Any] = {"num_workers": len(states.delivered)}
    # Workers that end with the pass leave nothing to the next one.
    if now.has_ended:
        is_kept = persistent and states.has_states
    else:
        is_kept = is_iterable or states.has_states
    if is_kept:
        user["workers"] = states.entries(has_ended=now.has_ended)
        user["next_worker"] = 0 if now.has_ended else states.next_worker
    if ahead:
        user["ahead"] = sorted(place - now.delivered for place in ahead)
    return _with_sampler(user, now, indices)


def _with_sampler(user: dict[str, Any], now: Pass, indices: Indices) -> dict[str, Any]:
    if indices.own is not None:
        user["sampler"] = indices.own.state(now.delivered, has_ended=now.has_ended)
    return user


def _check_user_state(loader: DataLoader[Any]) -> None:
    """Check that the state that a loader goes on from can be that of its workers."""
    state = loader._resume or {}
    user = state.get("user") or {}
    is_begun = state.get("delivered", 0) > 0
    if isinstance(loader.dataset, (IterDataPipe, MapDataPipe)) and is_begun:
        raise ArgumentError(
            "dataset must not be a DataPipe to go on in the middle of a pass; got "
            f"{type(loader.dataset).__name__}. Use a Dataset or an IterableDataset."
        )
    count = user.get("num_workers", loader.num_workers)
    has_states = user.get("state") is not None or "workers" in user
    is_iterable = isinstance(loader.dataset, IterableDataset)
    if count != loader.num_workers and (has_states or (is_iterable and is_begun)):
        raise ArgumentError(
            f"num_workers must be {count}, as when the state was taken; got "
            f"{loader.num_workers}. Each worker has a place of its own in the data."
        )
