"""Sample batches: one batch of any map-style data set, read by one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from handful.data.image_batches import Outcome, Skipped, transform_batch
from handful.data.image_source import ImageSource
from handful.data.sample_keys import SampleKeys
from handful.data.thread_workers import ThreadWorkers
from handful.errors import DataError


@dataclass(frozen=True)
class SampleReader:
    """Reads batches sample by sample, as PyTorch's workers do, in threads.

    Attributes:
        dataset: The data set.
        source: The image files that it is of; None for others.
        collate: Puts samples together, or converts one where ``batched`` is False.
        transform: The loader's ``batch_transform``.
        is_batched: Whether an index is a list of them, for a batch.
        skips: Whether samples that cannot be read are left out.
    """

    dataset: Any
    source: ImageSource | None
    collate: Callable[[Any], Any]
    transform: Callable[[Any], Any] | None
    is_batched: bool
    skips: bool

    def start(
        self, index: Any, seed: int, epoch: int, workers: ThreadWorkers
    ) -> SampleWork:
        """Begin to read a batch.

        Args:
            index: What the sampler gave: indices of a batch, or one index.
            seed: What random changes depend on, with the epoch and the index.
            epoch: The epoch.
            workers: The threads that do it.
        """
        work = SampleWork(self, index, seed, epoch)
        workers.submit(work.run)
        return work


class SampleWork:
    """One batch that is being read.

    Args:
        reader: How.
        index: As for `SampleReader.start`.
        seed: The same.
        epoch: The same.

    Attributes:
        future: Its `Outcome`, or the error that it ended with.
    """

    def __init__(self, reader: SampleReader, index: Any, seed: int, epoch: int) -> None:
        self.future: Future[Outcome] = Future()
        self._reader = reader
        self._index = index
        self._seed = seed
        self._epoch = epoch
        self._is_dropped = False

    def run(self) -> None:
        """Read the batch, unless it was dropped."""
        if self._is_dropped:
            return
        try:
            outcome = self._read()
        except BaseException as error:  # Handed to whoever takes the batch.
            self.future.set_exception(error)
        else:
            self.future.set_result(outcome)

    def drop(self) -> None:
        """Let no thread begin with it any more."""
        self._is_dropped = True

    def _read(self) -> Outcome:
        reader = self._reader
        indices = list(self._index) if reader.is_batched else [self._index]
        samples, kept, skipped = self._read_samples(indices)
        if not samples and skipped:
            return Outcome(None, skipped)
        if reader.is_batched and reader.source is not None:
            _check_alike(reader.source, kept, samples)
        batch = reader.collate(samples if reader.is_batched else samples[0])
        keys = self._keys(kept if reader.is_batched else [])
        return Outcome(transform_batch(reader.transform, batch, keys), skipped)

    def _read_samples(
        self, indices: list[Any]
    ) -> tuple[list[Any], list[Any], list[Skipped]]:
        """Return samples, their indices, and what was left out."""
        reader = self._reader
        if not reader.skips:
            at_once = getattr(reader.dataset, "__getitems__", None)
            if callable(at_once) and reader.is_batched and reader.source is None:
                return at_once(indices), indices, []
            return [self._read_sample(index) for index in indices], indices, []
        samples, kept, skipped = [], [], []
        for index in indices:
            try:
                samples.append(self._read_sample(index))
                kept.append(index)
            except Exception as error:  # Whatever a user's data set raises.
                skipped.append(self._describe(index, error))
        return samples, kept, skipped

    def _read_sample(self, index: Any) -> Any:
        source = self._reader.source
        if source is None:
            return self._reader.dataset[index]
        return source.files.sample(source.locate([index])[0], self._keys([index]))

    def _describe(self, index: Any, error: Exception) -> Skipped:
        source = self._reader.source
        if source is None:
            return Skipped(None, index, f"{type(error).__name__}: {error}")
        path = source.files.paths[source.locate([index])[0]]
        return Skipped(path, index, str(error.__context__ or error))

    def _keys(self, indices: Sequence[Any]) -> SampleKeys:
        whole = indices if all(isinstance(i, int) for i in indices) else []
        return SampleKeys(
            self._seed, self._epoch, torch.tensor(list(whole), dtype=torch.int64)
        )


def _check_alike(source: ImageSource, indices: list[Any], samples: list[Any]) -> None:
    """Check that images that no size was set for can be put together."""
    if source.files.size is not None:
        return
    is_alone = source.files.labels is None
    shapes = [tuple((s if is_alone else s[0]).shape) for s in samples]
    for index, shape in zip(indices, shapes, strict=False):
        if shape != shapes[0]:
            first, other = (
                source.files.paths[place]
                for place in source.locate([indices[0], index])
            )
            raise DataError(
                "images of a batch must be alike if size is None; got "
                f"{_describe_shape(shapes[0])} in {first} and "
                f"{_describe_shape(shape)} in {other}. Give ImageFiles a size."
            )


def _describe_shape(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[2]} (height x width)"
