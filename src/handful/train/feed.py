"""Feed: a run's training batches, step by step, from wherever a checkpoint left off."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset, TensorDataset

from handful.data.batch_indices import batch_indices
from handful.data.columns import Columns
from handful.data.loader import DataLoader
from handful.data.transforms import ColumnTransform
from handful.errors import ArgumentError, CheckpointError, TrainingError
from handful.train.batches import move_batch, split_samples
from handful.train.generators import (
    GeneratorStates,
    all_generators_preserved,
    capture_generators,
    put_back_generators,
    restore_generators,
    restore_own_generators,
)
from handful.train.plain_state import decode_state, encode_state

_IN_ARRAYS = (Columns, TensorDataset)
"""Data sets of which a batch is a gather, and nothing else."""

_BY_THE_CHUNK = (ColumnTransform, type(None))
"""Transforms that run on many batches at once in any case."""

_KINDS = {
    "seeded": "a DataLoader of handful's with a seed",
    "own": "one with a state_dict of its own",
    "replayed": "one without a state_dict",
}
"""By what a place in an epoch is found again: a number, a state, or drawing anew."""


class Feed:
    """Hands out the micro-batches of each step, and knows its place in the epoch.

    Args:
        loader: Gives batches, once an epoch.
        device: Where batches go.
        accumulate: Batches of the loader a step, the last step of an epoch taking
            what is left.
        micro_batch_size: Most samples that go through the model at once; larger
            batches are split. None for any.

    Attributes:
        delivered: Batches of the current epoch that were handed out; 0 between epochs.
        ahead: Steps that were handed out beyond the last one, which are still to do.
        steps_per_epoch: Steps of an epoch; None where the loader has no length.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        device: torch.device,
        accumulate: int = 1,
        micro_batch_size: int | None = None,
    ) -> None:
        self.delivered = 0
        self.ahead = 0
        self._sizes: list[int] = []  # batches of each step that was handed out last
        self._group: list[Any] = []
        self._length = loader_length(loader)
        self.steps_per_epoch = self._length and -(-self._length // accumulate)
        self._loader = loader
        self._device = device
        self._accumulate = accumulate
        self._micro_batch_size = micro_batch_size
        self._at_start: GeneratorStates | None = None
        self._state: dict[str, Any] | None = None
        self._identity: dict[str, Any] | None = None
        self._kind = _kind_of(loader)
        self._generators = _find_generators(loader)

    @property
    def is_at_end(self) -> bool:
        """Whether this is known to be the epoch's last step."""
        return self._length is not None and self.delivered == self._length

    @property
    def skipped(self) -> Sequence[Any]:
        """The samples that the loader has left out, as they could not be read."""
        return getattr(self._loader, "skipped", ())

    def steps(self, epoch: int) -> Iterator[list[Any]]:
        """Yield the micro-batches of each step of an epoch, or of the rest of one.

        Args:
            epoch: The epoch, from 0 on.

        Raises:
            TrainingError: The loader gives no batch.
        """
        group: list[Any] = []
        for batch in self._begin(epoch):
            self.delivered += 1
            group.append(move_batch(batch, self._device))
            if len(group) == self._accumulate:
                self._begin_step(group)
                yield self._split(group)
                group = []
        if group:
            self._begin_step(group)
            yield self._split(group)
        if self.delivered == 0:
            raise TrainingError(
                "train must give at least one batch an epoch; it gave none. "
                "With drop_last, batch_size must not exceed the number of samples."
            )
        self.delivered = 0

    def stretches(
        self, epoch: int, most: Callable[[], int]
    ) -> Iterator[list[list[Any]]]:
        """Yield the steps of an epoch, or of the rest of one, several at a time.

        More than one are handed out only where nobody can tell: where the loader has
        them in arrays, draws nothing and calls nothing of the user's for them.

        Args:
            epoch: The epoch, from 0 on.
            most: Says how many steps may be handed out next.

        Raises:
            TrainingError: The loader gives no batch.
        """
        stretch: list[list[Any]] = []
        can_look_ahead, limit = self._can_look_ahead(), 1
        for batches in self.steps(epoch):
            if can_look_ahead and not stretch:
                limit = most()
            stretch.append(batches)
            if len(stretch) >= limit or self.is_at_end:
                yield stretch
                stretch = []
                self._sizes.clear()

    def _can_look_ahead(self) -> bool:
        loader: Any = self._loader
        return (
            self._kind == "seeded"
            and self._length is not None
            and isinstance(loader.batch_transform, _BY_THE_CHUNK)
            and type(loader.dataset) in _IN_ARRAYS
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch: plain values, and states of generators.

        A loader with a ``state_dict`` keeps its own place. Of others the place is
        found again by drawing the epoch's batches anew from the generators as they
        were when it began.

        Raises:
            CheckpointError: The loader's own state holds something else.
        """
        if self._state is not None:  # the epoch that it is of has not gone on yet
            return self._state
        state: dict[str, Any] = {"delivered": self.delivered, "kind": self._kind}
        if self._kind == "seeded" and self.delivered:
            if self._identity is None:
                self._identity = _plain_state(self._loader)
            state["loader"] = self._identity
        elif self._kind == "own":
            state["loader"] = _plain_state(self._loader)
        elif self._kind == "replayed":
            if self._generators:
                state["now"] = capture_generators(self._generators)
            if self.delivered:
                state["generators"] = self._at_start
                state |= self._measures()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next epoch be the rest of the one that a state was taken in.

        Args:
            state: What `state_dict` returned, its generators packed; empty for the
                beginning of an epoch.

        Raises:
            CheckpointError: It is of the middle of an epoch of another kind of loader,
                or of one that is replayed and has batches of another size or number.
        """
        delivered = int(state.get("delivered", 0))
        kind = state.get("kind", self._kind)
        if delivered and kind != self._kind:
            raise CheckpointError(
                "train must be a loader like the one that the run was stopped with in "
                f"mid-epoch, {_KINDS[kind]}; got {_KINDS[self._kind]}. "
                "The rest of the epoch would be of other samples."
            )
        if delivered and kind == "replayed":
            self._check_measures(state)
        self._state = dict(state)
        self.delivered = delivered

    @property
    def step_batches(self) -> tuple[int, int]:
        """Numbers of the first and last batch of the last step, from 1 on."""
        done = len(self._sizes) - self.ahead
        last = self.delivered - sum(self._sizes[done:])
        return last - sum(self._sizes[:done][-1:]) + 1, last

    def step_samples(self) -> list[int] | None:
        """Return the data set's indices of the last step's samples, where known."""
        found: list[int] = []
        first, last = self.step_batches
        for batch in range(first - 1, last):
            indices = batch_indices(self._loader, batch)
            if indices is None:
                return None
            found += indices
        return found

    def limit_micro_batches(self, size: int) -> None:
        """Let no more samples than so many go through the model at once."""
        self._micro_batch_size = min(size, self._micro_batch_size or size)

    def split_again(self) -> list[Any]:
        """Return the micro-batches of the last step, cut as they now are."""
        return self._split(self._group)

    def go_back(self) -> None:
        """Stand before the last step again, so that its batches will come once more.

        A loader with a state of its own has gone on, and stays where it is.
        """
        if self._kind == "own":
            return
        done = len(self._sizes) - self.ahead
        self.delivered -= sum(self._sizes[max(done - 1, 0) :])
        self._sizes.clear()
        self.ahead = 0
        if self._kind == "replayed" and not self.delivered:
            state = {"delivered": 0, "kind": self._kind, **self._measures()}
            self._state = {**state, "generators": self._at_start}

    def _measures(self) -> dict[str, int | None]:
        """Return what says how an epoch is cut into batches, as far as known."""
        size = getattr(self._loader, "batch_size", None)
        sampler = getattr(self._loader, "batch_sampler", None)
        if size is None:
            size = getattr(sampler, "batch_size", None)
        return {
            "batch_size": size if isinstance(size, int) else None,
            "length": self._length,
        }

    def _check_measures(self, state: dict[str, Any]) -> None:
        """Refuse to count batches of another size as those that were delivered."""
        for name, here in self._measures().items():
            saved = state.get(name, here)
            if saved != here:
                raise CheckpointError(
                    f"{name} of train must be the one that the run was stopped with in "
                    f"mid-epoch, {saved}; got {here}. The rest of the epoch would "
                    "repeat samples or leave some out. Resume with the same loader."
                )

    def _begin(self, epoch: int) -> Any:
        state, self._state = self._state, None
        if isinstance(self._loader, DataLoader):
            self._loader.epoch = epoch
        if state is not None:
            return self._go_on(state, epoch)
        if self._kind == "replayed":
            self._at_start = capture_generators(self._generators)
        return iter(self._loader)

    def _go_on(self, state: dict[str, Any], epoch: int) -> Any:
        """Begin the epoch that a checkpoint was taken in, or taken before."""
        if self._kind == "replayed":
            return self._replay(state, epoch)
        loader: Any = self._loader
        if self._kind == "seeded" and self.delivered:
            place = {"epoch": epoch, "delivered": self.delivered}
            known = decode_state(state.get("loader")) or loader.state_dict()
            loader.load_state_dict({**known, **place})
        elif self._kind == "own" and state.get("loader"):
            loader.load_state_dict(decode_state(state["loader"]))
        if not self.delivered:
            return iter(loader)
        now = capture_generators()
        batches = iter(loader)  # it may draw, and has done so in this epoch
        put_back_generators(now)
        return batches

    def _replay(self, state: dict[str, Any], epoch: int) -> Iterator[Any]:
        """Draw an epoch's batches anew, up to the place."""
        if epoch and getattr(self._loader, "persistent_workers", False):
            with all_generators_preserved():
                iter(self._loader)  # starts the workers, for which it draws a seed
        now = capture_generators()
        if state.get("generators"):
            restore_generators(state["generators"], self._generators)
        elif state.get("now"):
            restore_own_generators(state["now"], self._generators)
        self._at_start = capture_generators(self._generators)
        batches = iter(self._loader)
        if self.delivered:
            for _ in itertools.islice(batches, self.delivered):
                pass
            put_back_generators(now)
            restore_own_generators(state.get("now", {}), self._generators)
        return batches

    def _begin_step(self, group: list[Any]) -> None:
        self._group = group
        self._sizes.append(len(group))

    def _split(self, group: list[Any]) -> list[Any]:
        size = self._micro_batch_size
        if size is None:
            return group
        return [part for batch in group for part in split_samples(batch, size)]


def loader_length(loader: Iterable[Any]) -> int | None:
    """Return the batches of an epoch, None where the loader doesn't say."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def validation_loader(
    valid: Iterable[Any] | None, train: Iterable[Any]
) -> Iterable[Any] | None:
    """Return a loader to validate with, which leaves the training's place alone.

    One of ours that is shuffled by a seed has the same order each time: in another
    order the sums would differ in their last bits, and so would a resumed run's.
    """
    if valid is train and isinstance(train, TorchDataLoader):
        valid = copy.copy(train)
        valid._iterator = None
    if isinstance(valid, DataLoader) and valid.seed is not None:
        return _SameOrder(valid)
    return valid


class _SameOrder:
    """A seeded loader of ours whose every pass is that of the same epoch."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        self._epoch = loader.epoch

    def __iter__(self) -> Iterator[Any]:
        self._loader.epoch = self._epoch
        return iter(self._loader)


@contextmanager
def ordered_by(loader: Iterable[Any], seed: int | None) -> Iterator[None]:
    """Give a loader of ours without a seed the Trainer's for a while."""
    if not isinstance(loader, DataLoader):
        yield
        return
    before = loader.seed, loader.epoch
    is_drawn_here = loader.path.startswith("batched")  # elsewhere PyTorch draws
    if loader.seed is None and loader.generator is None and is_drawn_here:
        loader.seed = seed
    try:
        yield
    finally:
        loader.seed, loader.epoch = before


def _kind_of(loader: Iterable[Any]) -> str:
    """Say by what a place in an epoch is found again; see `_KINDS`."""
    if not isinstance(loader, DataLoader):
        return "own" if _is_stateful(loader) else "replayed"
    if loader.seed is not None and loader.path.startswith("batched"):
        return "seeded"
    if isinstance(loader.dataset, IterableDataset) and loader.num_workers == 0:
        # Of a stream in this process our loader knows how far it got, and not what the
        # stream drew to get there.
        return "own" if _is_stateful(loader.dataset) else "replayed"
    return "own"


def _is_stateful(value: Any) -> bool:
    methods = ("state_dict", "load_state_dict")
    return all(callable(getattr(value, name, None)) for name in methods)


def _find_generators(loader: Any) -> list[torch.Generator]:
    """List the generators that a loader of PyTorch's draws from, beside the global."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    places = [
        loader,
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
        getattr(loader, "dataset", None),
    ]
    found = (getattr(place, "generator", None) for place in places)
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _plain_state(loader: Any) -> Any:
    """Return a loader's own state, as JSON can hold it."""
    try:
        return encode_state(loader.state_dict(), type(loader).__name__)
    except ArgumentError:
        raise CheckpointError(
            f"the state_dict of train, a {type(loader).__name__}, must be of plain "
            "numbers, texts, lists, mappings and tensors to be saved; it holds "
            "something else. Return plain values from it."
        ) from None
