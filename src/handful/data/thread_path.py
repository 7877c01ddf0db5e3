"""The threads' path: batches read by the threads of this process, in order.

::

    caller                                threads
    index ─▶ work ─▶ pending ───────────▶ read, decode, write into the batch
                     the oldest ◀──────── future of the batch
    batch ◀─ waits for it, begins another

Which batches there are, the random numbers that are drawn for them and the state are
those of PyTorch's path, whose class this one is of. The state counts batches that were
handed out; those read ahead are read again.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from handful.data.batched import Pass
from handful.data.collation import bare_collation
from handful.data.fetch import keep_memory
from handful.data.image_batches import (
    BatchWork,
    ImageReader,
    Outcome,
    Skipped,
    make_reader,
)
from handful.data.image_source import find_images
from handful.data.indices import Indices
from handful.data.order import SeededSampler
from handful.data.pinning import pin_batch
from handful.data.reading import fills_batches
from handful.data.sample_batches import SampleReader, SampleWork
from handful.data.thread_workers import THREAD_NAME
from handful.data.torch_path import SingleProcessIterator
from handful.data.worker_health import STALL_SECONDS, Patience
from handful.data.worker_stacks import thread_stacks
from handful.errors import DataError, WorkerError

if TYPE_CHECKING:
    from handful.data.loader import DataLoader

Work: TypeAlias = "BatchWork | SampleWork"
Pending: TypeAlias = "tuple[int, Any, Work]"
"""Number of a batch in its pass, from 1 on, its index, and the reading of it."""


class ThreadIterator(SingleProcessIterator):
    """Hands out the batches of one pass, which threads read ahead.

    Args:
        loader: The loader; its state is used up.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        keep_memory()
        self._threads = loader._threads
        self._loader = loader
        self._pending: deque[Pending] = deque()
        self._is_drained = False
        goes_on = loader.persistent_workers and loader.num_workers > 0
        self._kept_seed = loader._kept_seed if goes_on else None
        restored = (loader._resume or {}).get("user") or {}
        if "skipped" in restored:
            loader.skipped[:] = [Skipped(*entry) for entry in restored["skipped"]]
        self._reader = find_reader(loader)
        super().__init__(loader)
        if loader.seed is None and loader.num_workers > 0:
            loader._kept_seed = self._base_seed
        rest = self._pass.user_state
        assert rest is not None
        self._pass.user_state = functools.partial(_thread_state, rest, loader.skipped)
        self._depth = _find_depth(loader, self._reader)
        self._source: Iterator[Any] = self._sampler_iter
        self._adopt()
        # PyTorch's workers, too, begin when the iterator is made.
        if loader.num_workers > 0:
            self._fill()

    def _view(self, loader: DataLoader[Any], **replaced: Any) -> Any:
        return super()._view(loader, num_workers=0, timeout=0, **replaced)

    def _next_data(self) -> Any:
        while True:
            self._fill()
            if not self._pending:
                raise StopIteration
            number, index, work = self._pending.popleft()
            outcome = self._wait(index, work)
            self._note(number, outcome)
            if outcome.batch is None:
                continue
            if self._threads.count > 0:
                self._fill()
            if self._pin_memory:
                return pin_batch(outcome.batch)
            return outcome.batch

    def _fill(self) -> None:
        """Begin batches until as many are read ahead as there should be."""
        while not self._is_drained and len(self._pending) < self._depth:
            try:
                index = next(self._source)
            except StopIteration:
                self._is_drained = True
                break
            self._num_pulled += 1
            work = self._start(index, self._pass.epoch)
            self._pending.append((self._num_pulled, index, work))
        if self._is_drained and self._is_sequel:
            self._read_ahead()

    def _start(self, index: Any, epoch: int) -> Work:
        seed = self._base_seed if self._seed is None else self._seed
        return self._reader.start(index, seed, epoch, self._threads)

    def _adopt(self) -> None:
        """Take over the batches of this pass that the pass before began to read."""
        loader, current = self._loader, self._pass
        self._is_sequel = loader._last_epoch == current.epoch - 1
        loader._last_epoch = current.epoch
        ahead, loader._ahead = loader._ahead, None
        if ahead is None or ahead.loader() is not loader:
            return
        if ahead.key == self._key(current.epoch) and current.delivered == 0:
            self._source, self._pending = ahead.source, ahead.pending
            self._num_pulled = len(ahead.pending)
        else:
            ahead.drop()

    def _read_ahead(self) -> None:
        """Begin the next pass's first batches, where nothing is drawn for them."""
        loader, epoch = self._loader, self._pass.epoch + 1
        is_drawn = self._seed is None or not self._indices._is_default
        if is_drawn or loader.num_workers == 0:
            return
        ahead = loader._ahead
        if ahead is None:
            following = _indices_of(loader, epoch)
            ahead = Ahead(weakref.ref(loader), self._key(epoch), following)
            loader._ahead = ahead
        while len(self._pending) + len(ahead.pending) < self._depth:
            try:
                index = next(ahead.source)
            except StopIteration:
                break
            work = self._start(index, epoch)
            ahead.pending.append((len(ahead.pending) + 1, index, work))

    def _key(self, epoch: int) -> tuple[Any, ...]:
        """Return what must be the same for batches that were begun to be of use."""
        loader = self._loader
        things = (loader.batch_transform, loader.collate_fn, loader.dataset)
        return epoch, loader.seed, loader.on_error, *map(id, things)

    def _wait(self, index: Any, work: Work) -> Outcome:
        limit, has_warned = self._loader.timeout or STALL_SECONDS, False
        patience = Patience(limit)
        while True:
            try:
                with patience.spent():
                    return work.future.result(patience.slice_seconds)
            except FutureTimeoutError:
                if work.future.done():  # Just now, or it is the data set's own error.
                    return work.future.result()
            if patience.left > 0:
                continue
            patience = Patience(limit)
            if self._loader.timeout:
                raise WorkerError(
                    f"a batch must be there within timeout={self._loader.timeout} "
                    f"seconds; samples {index} are not read yet. Its threads go on.\n"
                    + thread_stacks(THREAD_NAME)
                )
            if not has_warned:
                has_warned = True
                warnings.warn(
                    "the threads of a DataLoader have not read a batch for "
                    f"{limit:.0f} seconds, of samples {index}. "
                    "Give the loader a timeout to stop instead.",
                    RuntimeWarning,
                    stacklevel=4,
                )

    def _note(self, number: int, outcome: Outcome) -> None:
        if outcome.skipped:
            note_skipped(self._loader, outcome.skipped)
        self._pass.delivered = number
        if self._indices.own is not None:
            self._indices.own.release(number)

    def __del__(self) -> None:
        for _, _, work in self._pending:
            work.drop()


@dataclass
class Ahead:
    """Batches of a pass that has not begun, which are being read.

    Attributes:
        loader: Whose pass it is; a copy of this loader has passes of its own.
        key: What the batches depend on, besides the files.
        source: Gives the indices of those that follow.
        pending: The batches, by number.
    """

    loader: weakref.ReferenceType[Any]
    key: tuple[Any, ...]
    source: Iterator[Any]
    pending: deque[Pending] = field(default_factory=deque)

    def drop(self) -> None:
        """Let threads do no more for them."""
        for _, _, work in self.pending:
            work.drop()

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()


def _nothing() -> None:
    """Return what a loader that was pickled has read ahead."""


def find_reader(loader: DataLoader[Any]) -> ImageReader | SampleReader:
    """Return what reads a loader's batches."""
    source = find_images(loader.dataset)
    skips = loader.on_error == "skip"
    if source is not None and fills_batches(loader):
        return make_reader(source, loader.batch_transform, skips=skips)
    return SampleReader(
        loader.dataset,
        source,
        bare_collation(loader.collate_fn),
        loader.batch_transform,
        is_batched=loader.batch_sampler is not None,
        skips=skips,
    )


def note_skipped(loader: DataLoader[Any], skipped: list[Skipped]) -> None:
    """Add samples that were left out to a loader's list, each once.

    Raises:
        DataError: There are more than the loader's ``max_errors``.
    """
    known = [skip.index for skip in loader.skipped]
    loader.skipped += [skip for skip in skipped if skip.index not in known]
    most = loader.max_errors
    if most is not None and len(loader.skipped) > most:
        last = loader.skipped[-1]
        raise DataError(
            f"at most max_errors={most} samples may be left out; "
            f"{len(loader.skipped)} cannot be read, the last of them "
            f"{last.path or f'sample {last.index}'}: {last.reason}. "
            "Repair the data, or allow more."
        )


def _find_depth(loader: DataLoader[Any], reader: ImageReader | SampleReader) -> int:
    """Return how many batches are read at a time."""
    ahead, count = loader.prefetch_factor or 1, max(loader.num_workers, 1)
    if isinstance(reader, SampleReader):
        return ahead * count
    # All threads work on the same batch, unless it has fewer samples than they are.
    return max(ahead, -(-ahead * count // max(loader.batch_size or 1, 1)))


def _indices_of(loader: DataLoader[Any], epoch: int) -> Iterator[Any]:
    """Return the batches of indices of a seeded pass that has not begun."""
    sampler: Any = loader.sampler
    before: Any = getattr(sampler, "epoch", None)
    indices = Indices(loader)
    indices.begin(Pass(epoch=epoch), {})
    if type(sampler) is SeededSampler:
        sampler.epoch = before
    return iter(indices)


def _thread_state(
    rest: Callable[[Pass], dict[str, Any]], skipped: list[Skipped], now: Pass
) -> dict[str, Any]:
    """Return the state of the user's sampler, and which samples were left out."""
    user = rest(now)
    if skipped:
        user["skipped"] = [list(skip) for skip in skipped]
    return user
