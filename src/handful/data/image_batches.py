"""Image batches: one batch's files, decoded by several threads straight into it.

::

    caller            threads                              caller
    indices ──▶ parts of some 8 files ──▶ rows of a block ──▶ batch
                read, decode, change      the last part
                                          transforms it

The block is of the delivered dtype: where the transform gives each level of a channel a
number of its own, as `ScaleBytes` and `Normalize` do, a table of its 256 results is
looked up as each image is written, which touches the memory once. The table is made by
the transform itself, so the bits are the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.data.batch_memory import BatchMemory
from handful.data.image_changes import ImageDraws
from handful.data.image_decoding import Pixels, UnreadableImageError, opencv
from handful.data.image_files import unreadable
from handful.data.image_source import ImageSource
from handful.data.sample_keys import SampleKeys
from handful.data.thread_workers import ThreadWorkers
from handful.data.transforms import ColumnTransform

PART_FILES = 8
"""Most files that a thread takes at a time: few, so that all help with the batch that
is next, and enough that handing out parts costs little."""


class Skipped(NamedTuple):
    """A sample that was left out because it could not be read."""

    path: str | None
    """Its file; None where the data set is not one of files."""

    index: int  # type: ignore[assignment]  # A tuple's method; a list has tuples.
    """Its index in the loader's data set."""

    reason: str
    """Why it could not be read."""


class Outcome(NamedTuple):
    """What came of the samples of one batch."""

    batch: Any
    """The batch; None if all its samples were left out."""

    skipped: list[Skipped]
    """The samples that were left out, in their order."""


@dataclass(frozen=True)
class ImageReader:
    """Reads batches of image files that are resized to one size.

    Attributes:
        source: The files.
        transform: The loader's ``batch_transform``.
        skips: Whether unreadable files are left out.
        table: What the transform makes of each level, shape ``(C, 256)``; None if it
            is no function of the level alone.
    """

    source: ImageSource
    transform: Callable[[Any], Any] | None
    skips: bool
    table: NDArray[Any] | None = field(default=None, repr=False)

    def start(
        self, indices: Sequence[int], seed: int, epoch: int, workers: ThreadWorkers
    ) -> BatchWork:
        """Begin to read a batch.

        Args:
            indices: Its samples.
            seed: What their random changes depend on, with the epoch and the index.
            epoch: The epoch.
            workers: The threads that do it.
        """
        keys = SampleKeys(seed, epoch, torch.tensor(list(indices), dtype=torch.int64))
        work = BatchWork(self, list(indices), keys, workers.memory)
        work.start(workers)
        return work


def make_reader(
    source: ImageSource, transform: Callable[[Any], Any] | None, *, skips: bool
) -> ImageReader:
    """Return what reads a loader's batches.

    Args:
        source: The files; their ``size`` is not None.
        transform: The loader's ``batch_transform``.
        skips: Whether unreadable files are left out.
    """
    is_first = isinstance(transform, ColumnTransform) and transform.column == 0
    if not is_first or opencv() is None:
        return ImageReader(source, transform, skips)
    assert isinstance(transform, ColumnTransform)
    if not transform.is_pixelwise or not source.files.changes.is_fast:
        return ImageReader(source, transform, skips)
    return ImageReader(source, None, skips, _tabulate(transform, source.files.channels))


class BatchWork:
    """One batch that is being read.

    Args:
        reader: How.
        indices: Its samples, B of them.
        keys: Of these samples.
        memory: Where the batch is made.

    Attributes:
        future: Its `Outcome`, or the error that it ended with.
    """

    def __init__(
        self,
        reader: ImageReader,
        indices: list[int],
        keys: SampleKeys,
        memory: BatchMemory,
    ) -> None:
        files = reader.source.files
        shape = files.sample_shape
        assert shape is not None
        dtype = np.dtype(np.uint8) if reader.table is None else reader.table.dtype
        self.future: Future[Outcome] = Future()
        self._reader = reader
        self._indices = indices
        self._keys = keys
        self._places: list[int] = reader.source.locate(indices).tolist()
        self._drawn = files.draw(keys, len(indices))
        self._block = memory.take((len(indices), *shape), dtype)
        self._failures: dict[int, BaseException] = {}
        self._is_dropped = False
        self._lock = threading.Lock()
        self._parts_left = 0

    def start(self, workers: ThreadWorkers) -> None:
        """Hand the parts out."""
        count = len(self._indices)
        size = min(max(-(-count // max(workers.count, 1)), 1), PART_FILES)
        starts = range(0, count, size)
        self._parts_left = len(starts)
        for start in starts:
            workers.submit(self._read_part, range(start, min(start + size, count)))

    def drop(self) -> None:
        """Let threads do no more for it than they have begun."""
        self._is_dropped = True

    def _read_part(self, rows: range) -> None:
        reader = self._reader
        scratch = None if reader.table is None else _scratch(self._block)
        for row in rows:
            if self._is_dropped:
                break
            try:
                self._read_row(row, scratch)
            except BaseException as error:  # Handed to whoever takes the batch.
                self._failures[row] = error
        with self._lock:
            self._parts_left -= 1
            is_last = self._parts_left == 0
        if is_last and not self._is_dropped:
            self._finish()

    def _read_row(self, row: int, scratch: Pixels | None) -> None:
        drawn: ImageDraws = self._drawn[row]
        files = self._reader.source.files
        pixels = files.read(self._places[row], drawn)
        planes = self._block[row]
        cv2 = opencv() if files.changes.is_fast else None
        _split(cv2, pixels, planes if scratch is None else scratch)
        if scratch is not None:
            assert cv2 is not None
            assert self._reader.table is not None
            for level, values, plane in zip(
                scratch, self._reader.table, planes, strict=True
            ):
                cv2.LUT(level, values, dst=plane)

    def _finish(self) -> None:
        try:
            outcome = self._make()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(outcome)

    def _make(self) -> Outcome:
        skipped = [self._skip(row) for row in sorted(self._failures)]
        images, places = torch.from_numpy(self._block), torch.tensor(self._places)
        keys = self._keys
        if skipped:
            kept = [row for row in range(len(places)) if row not in self._failures]
            if not kept:
                return Outcome(None, skipped)
            rows = torch.tensor(kept)
            images, places = images[rows], places[rows]
            keys = SampleKeys(keys.seed, keys.epoch, keys.indices[rows])
        labels = self._reader.source.files.labels
        batch: Any = images
        if labels is not None:
            batch = [images, labels.index_select(0, places)]
        return Outcome(transform_batch(self._reader.transform, batch, keys), skipped)

    def _skip(self, row: int) -> Skipped:
        """Note a sample that is left out, or raise what is wrong with it."""
        error = self._failures[row]
        if not isinstance(error, UnreadableImageError):
            raise error
        path = self._reader.source.files.paths[self._places[row]]
        if not self._reader.skips:
            raise unreadable(path, str(error))
        return Skipped(path, self._indices[row], str(error))


def transform_batch(
    transform: Callable[[Any], Any] | None, batch: Any, keys: SampleKeys
) -> Any:
    """Apply a loader's ``batch_transform``, with the samples' keys if it takes them.

    Args:
        transform: The transform; None for none.
        batch: The batch.
        keys: Of its samples.
    """
    if transform is None:
        return batch
    if isinstance(transform, ColumnTransform):
        return transform(batch, keys)
    return transform(batch)


def _tabulate(transform: ColumnTransform, num_channels: int) -> NDArray[Any] | None:
    """Return what a transform makes of each level of each channel; None if not that."""
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    made: Tensor = transform.apply(levels.repeat(1, num_channels, 1, 1))
    if made.shape != (256, num_channels, 1, 1) or made.dtype is not torch.float32:
        return None
    return np.ascontiguousarray(made[:, :, 0, 0].numpy().T)


def _scratch(block: NDArray[Any]) -> Pixels:
    return np.empty(block.shape[1:], np.uint8)


def _split(cv2: Any, pixels: Pixels, planes: Pixels) -> None:
    """Write pixels of shape ``(H, W, C)`` into ``planes``, shape ``(C, H, W)``."""
    if cv2 is not None and len(planes) == 3:
        cv2.split(pixels, list(planes))
    else:
        planes[...] = pixels.transpose(2, 0, 1)
