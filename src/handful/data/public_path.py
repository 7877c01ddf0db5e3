"""Worker processes by a loader of PyTorch's, wrapped: what it documents, and no more.

Stands behind the iterator of `torch_path`, whose base is private to PyTorch: see
`torch_private`. Batches and numbers drawn are the same, in mid-epoch as well. What is
not there: the state of a data set that has one of its own, workers that stay from pass
to pass, and words on workers that died or hang.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.data
from torch.utils.data import IterableDataset, IterDataPipe, MapDataPipe

from handful.data.batched import Pass
from handful.data.draws import Draws
from handful.data.fetch import keep_memory
from handful.data.image_source import KeyedImages, find_images
from handful.data.indices import Indices, has_state
from handful.data.order import mix_seed
from handful.data.worker_state import seed_worker
from handful.errors import ArgumentError

if TYPE_CHECKING:
    from handful.data.loader import DataLoader


class PublicIterator:
    """Hands out the batches of one pass, which worker processes read.

    Args:
        loader: The loader; its state is used up.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        keep_memory()
        state = loader._resume or {}
        self._loader = loader
        self._is_datapipe = isinstance(loader.dataset, (IterDataPipe, MapDataPipe))
        self._drawn = state.get("draws")
        self._pass = loader._begin_pass(draw=False)
        self._indices = Indices(loader)
        self._indices.begin(self._pass, state.get("user") or {})
        self._pass.user_state = _UserState(loader, self._indices)
        done = self._pass.delivered
        is_stream = isinstance(loader.dataset, IterableDataset)
        self._num_skips = done if is_stream else 0
        self._num_pulled = 0 if is_stream else done
        self._is_open = False
        self._seed: int | None = None
        inner = loader._inner or _Inner(loader)
        # With a seed, workers are seeded in each pass: they are others.
        is_kept = loader.persistent_workers and loader.seed is None
        loader._inner = inner if is_kept else None
        if is_stream:
            inner.seed(self._settle_seed(inner))
        inner.order.open = functools.partial(self._open, inner)
        self._batches = iter(inner.loader)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __len__(self) -> int:
        return len(self._indices)

    def __next__(self) -> Any:
        while self._num_skips:  # read again, and dropped
            self._num_skips -= 1
            self._pull()
        batch = self._pull()
        self._pass.delivered = self._num_pulled
        if self._indices.own is not None:
            self._indices.own.release(self._num_pulled)
        return batch

    def _pull(self) -> Any:
        try:
            batch = next(self._batches)
        except StopIteration:
            self._pass.has_ended = True
            raise
        except Exception:
            self._num_pulled += 1
            raise
        self._num_pulled += 1
        return batch

    def _open(self, inner: _Inner) -> Iterator[Any]:
        """Return the pass's indices, at the moment when PyTorch opens a sampler."""
        indices = iter(self._indices)
        if not self._is_open:  # PyTorch opens it twice before workers start
            self._is_open = True
            self._seed = self._settle_seed(inner)
            inner.seed(self._seed)
        if not inner.is_keyed:
            return indices
        key = self._seed if self._loader.seed is None else self._loader.seed
        return (_add_key(index, key, self._pass.epoch) for index in indices)

    def _settle_seed(self, inner: _Inner) -> int | None:
        """Return the workers' seed; it is drawn when PyTorch would draw it."""
        loader = self._loader
        if self._is_datapipe:
            return None  # PyTorch draws it itself
        if loader.seed is not None:
            return mix_seed(loader.seed, "workers", self._pass.epoch)
        inner.copy_generator()
        kept = loader._kept_seed if loader.persistent_workers else None
        draws = Draws(loader.generator, self._drawn, base_seed=kept)
        self._pass.draws = self._indices.draws = draws
        loader._kept_seed = draws.base_seed
        return draws.base_seed


class _Inner:
    """A loader of PyTorch's that reads what a loader of ours would.

    Args:
        loader: Ours.

    Attributes:
        loader: PyTorch's.
        order: What it takes its indices from.
        is_keyed: Whether these need what the random changes of images depend on.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._own = loader.generator
        self._begin = _Begin(loader.worker_init_fn)
        images = find_images(loader.dataset)
        self.is_keyed = images is not None and images.files.changes.is_random
        dataset: Any = loader.dataset
        if images is not None and self.is_keyed:
            dataset = KeyedImages(images)
        is_datapipe = isinstance(dataset, (IterDataPipe, MapDataPipe))
        self._generator = None if is_datapipe else torch.Generator()
        self.order = _Order()
        options: dict[str, Any] = {
            "num_workers": loader.num_workers,
            "collate_fn": loader.collate_fn,
            "pin_memory": loader.pin_memory,
            "timeout": loader.timeout,
            "worker_init_fn": self._begin,
            "multiprocessing_context": loader.multiprocessing_context,
            "generator": self._own if is_datapipe else self._generator,
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers and loader.seed is None,
        }
        if isinstance(dataset, IterableDataset):
            options |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        elif loader.batch_sampler is None:
            options |= {"batch_size": None, "sampler": self.order}
        else:
            options["batch_sampler"] = self.order
        self.loader = torch.utils.data.DataLoader(dataset, **options)

    def seed(self, seed: int | None) -> None:
        """Let workers that are started be seeded with a number."""
        self._begin.seed = seed

    def copy_generator(self) -> None:
        """Let PyTorch's loader draw what is drawn next from the own generator."""
        if self._generator is not None:
            own = self._own
            state = torch.get_rng_state() if own is None else own.get_state()
            self._generator.set_state(state)


class _Order:
    """The indices of whichever pass is on."""

    open: Callable[[], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        return self.open()


def _add_key(index: Any, seed: int | None, epoch: int) -> Any:
    if isinstance(index, list):
        return [_add_key(one, seed, epoch) for one in index]
    return seed, epoch, index


class _Begin:
    """Seeds a worker as PyTorch would, and calls the user's function."""

    def __init__(self, init_fn: Callable[[int], None] | None) -> None:
        self.seed: int | None = None
        self._init_fn = init_fn

    def __call__(self, worker: int) -> None:
        seed_worker(self.seed, worker)
        if self._init_fn is not None:
            self._init_fn(worker)


@dataclass(frozen=True)
class _UserState:
    """Returns the state of the user's objects as of the last batch delivered."""

    loader: Any
    indices: Indices

    def __call__(self, now: Pass) -> dict[str, Any]:
        """Return it; a data set's own state is out of reach."""
        if has_state(self.loader.dataset):
            raise ArgumentError(
                "num_workers must be 0 to keep the state of a data set that has "
                f"state_dict; got {self.loader.num_workers}. With this PyTorch, what "
                "is in worker processes can't be reached."
            )
        user: dict[str, Any] = {"num_workers": self.loader.num_workers}
        if self.indices.own is not None:
            own = self.indices.own
            user["sampler"] = own.state(now.delivered, has_ended=now.has_ended)
        return user
