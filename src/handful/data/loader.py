"""DataLoader: PyTorch's own interface, batches of in-memory data by the chunk."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    default_collate,
)
from torch.utils.data import DataLoader as TorchDataLoader

from handful.data.arrow import ArrowTable, is_arrow_table
from handful.data.batched import BatchedPlan, Pass
from handful.data.collation import TransformedCollation, bare_collation
from handful.data.columns import Columns, is_array
from handful.data.draws import Draws
from handful.data.image_batches import Skipped
from handful.data.image_source import fingerprint_images, image_files_of
from handful.data.order import SeededSampler, order_fingerprint
from handful.data.ordering import (
    check_ordering,
    is_default,
    is_sequential,
    is_shuffled,
)
from handful.data.parquet_files import ParquetFiles
from handful.data.reading import (
    check_reading,
    check_unbatched,
    describe_threads,
    uses_threads,
)
from handful.data.row_group_plan import RowGroupPlan, plan_row_groups
from handful.data.sources import Source, find_source, move_source
from handful.data.state import (
    STATE_FORMAT,
    STATE_VERSION,
    check_state,
    fingerprint_source,
)
from handful.data.thread_path import Ahead, ThreadIterator
from handful.data.thread_workers import ThreadWorkers
from handful.data.torch_path import make_iterator, stays_with_pytorch
from handful.errors import ArgumentError

T = TypeVar("T", covariant=True)


class DataLoader(TorchDataLoader[T]):
    """PyTorch's DataLoader, faster on data that are already in arrays, and resumable.

    The arguments, their order and their meaning are those of
    `torch.utils.data.DataLoader`; without a seed the batches are the same, bit for
    bit, and drawn from the same generators. Data in arrays (`Columns`,
    `torch.utils.data.TensorDataset`, a tensor, a NumPy array or memory map, a tuple of
    these, which becomes `Columns`, an Arrow table, a Hugging Face data set of numbers,
    and PyTorch's ``Subset``, ``ConcatDataset`` and ``StackDataset`` of such) are
    gathered many samples at a time. `ImageFiles`, and with ``worker_type="thread"`` any
    map-style data set, are read by threads of this process. Everything else goes
    through PyTorch's code. `path` says which of the three runs, and why.

    Args:
        dataset: A data set, an array, or a tuple of arrays of the same length.
        batch_size: Samples a batch, ``"full"`` for all in one batch, or None for
            samples without batching.
        shuffle: Whether each epoch has a new order.
        sampler: As PyTorch's.
        batch_sampler: As PyTorch's.
        num_workers: As PyTorch's, processes or threads; arrays need none.
        collate_fn: As PyTorch's.
        pin_memory: As PyTorch's.
        drop_last: Leave out a last batch that is smaller.
        timeout: As PyTorch's.
        worker_init_fn: As PyTorch's.
        multiprocessing_context: As PyTorch's.
        generator: As PyTorch's.
        prefetch_factor: As PyTorch's; for `ImageFiles` the number of batches that all
            threads read ahead together.
        persistent_workers: As PyTorch's.
        pin_memory_device: As PyTorch's.
        in_order: As PyTorch's; threads keep the order always.
        seed: None to draw each epoch's order as PyTorch does; a whole number to make
            it a pure function of (seed, epoch, position).
        shard: ``(rank, world_size)``: hand out every world-size-th position, from rank
            on. Needs a seed.
        device: Where the data live, copied there once; None for where they are. Needs
            data in arrays.
        batch_transform: Applied to every batch; one of `handful.data.transforms` runs
            on many batches at once where it can.
        worker_type: ``"process"`` for worker processes, as PyTorch's; ``"thread"`` for
            threads, which share this process's memory and its random generators, and
            leave collation and transform to run in them; None for threads where the
            data set is `ImageFiles`. They are kept from pass to pass.
        on_error: ``"raise"``, or ``"skip"`` to leave out of their batch the samples
            that cannot be read; it is smaller then, and a batch of which nothing is
            left is passed over. ``"skip"`` needs `ImageFiles` or threads.
        max_errors: How many samples may be left out before an error is raised; None
            for any number.

    Attributes:
        epoch: The epoch that the next pass will be, from 0 on; each pass adds one.
        skipped: The samples that were left out, each once, as tuples ``(path, index,
            reason)``; the path is None where the data set is none of files.

    Raises:
        ArgumentError: ``seed`` comes together with a sampler, ``shard`` without a seed,
            ``batch_size`` is a text other than ``"full"``, or ``worker_type`` or
            ``on_error`` is unknown or does not go with the data set.
        DataError: The arrays of a tuple differ in length.

    Example:
        >>> X, y = torch.arange(10.0).reshape(5, 2), torch.tensor([0, 1, 0, 1, 0])
        >>> loader = DataLoader((X, y), batch_size=2, shuffle=True, seed=0)
        >>> [len(target) for _, target in loader]
        [2, 2, 1]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | str | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        seed: int | None = None,
        shard: tuple[int, int] | None = None,
        device: str | torch.device | None = None,
        batch_transform: Callable[[Any], Any] | None = None,
        worker_type: str | None = None,
        on_error: str = "raise",
        max_errors: int | None = 100,
    ) -> None:
        if type(dataset) is tuple and dataset and all(map(is_array, dataset)):
            dataset = Columns(*dataset)
        elif is_arrow_table(dataset):
            dataset = ArrowTable(dataset)
        if batch_size == "full":
            batch_size = max(len(dataset), 1)
        if isinstance(batch_size, str):
            raise ArgumentError(
                f"batch_size must be a number or 'full'; got {batch_size!r}."
            )
        if seed is not None and is_sequential(sampler, dataset):
            sampler = None  # It says what no sampler says.
        check_ordering(seed, shard, batch_sampler if sampler is None else sampler)
        is_free = sampler is None and batch_sampler is None
        is_ordered = shuffle or (shard is not None and is_free)
        if seed is not None and is_ordered and hasattr(dataset, "__len__"):
            sampler = SeededSampler(
                len(dataset), seed, shuffle=bool(shuffle), shard=shard
            )
            shuffle = None
        self.seed = None if seed is None else operator.index(seed)
        self.shard = shard
        self.device = device
        self.batch_transform = batch_transform
        self.epoch = 0
        self._resident: tuple[Any, Source] | None = None
        self._kept_seed: int | None = None
        self._inner: Any = None
        self._pass: Pass | None = None
        self._resume: dict[str, Any] | None = None
        self.worker_type = worker_type
        self.on_error = on_error
        self.max_errors = max_errors
        self.skipped: list[Skipped] = []
        self._threads = ThreadWorkers(num_workers)
        self._ahead: Ahead | None = None
        self._last_epoch: int | None = None
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            num_workers,
            bare_collation(collate_fn),
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            in_order=in_order,
        )
        if batch_transform is not None:
            self.collate_fn = TransformedCollation(self.collate_fn, batch_transform)
        check_reading(self, worker_type, on_error, max_errors)

    @property
    def path(self) -> str:
        """Which code makes the batches: ``batched: …``, ``threads: …``, ``pytorch: …``.

        What follows the colon says why.
        """
        plan = self._plan()
        if isinstance(plan, str):
            is_threaded = uses_threads(self)
            return describe_threads(self) if is_threaded else f"pytorch: {plan}"
        if isinstance(plan, RowGroupPlan):
            return "batched: ParquetFiles is read by the row group"
        return f"batched: {type(self.dataset).__name__} is in arrays"

    def state_dict(self) -> dict[str, Any]:
        """Return where this loader is: in the middle of a pass, or between two.

        The state counts batches that were handed out; what workers have prepared beyond
        them is prepared again. It consists of plain values, for JSON, unless the data
        set or the sampler has a ``state_dict`` of its own that returns something else.

        Returns:
            The state; see `load_state_dict`.
        """
        if self._resume is not None:
            return copy.deepcopy(self._resume)
        current = self._pass
        state: dict[str, Any] = {
            "format": STATE_FORMAT,
            "version": STATE_VERSION,
            **self._identify(),
            "epoch": self.epoch,
            "delivered": 0,
            "draws": None,
            "user": {},
        }
        if current is not None and current.user_state is not None:
            state["user"] = current.user_state(current)
        if current is not None and not current.has_ended:
            state["epoch"] = current.epoch
            state["delivered"] = current.delivered
            draws, at_start = current.draws, current.delivered == 0
            state["draws"] = draws and draws.begun(at_start=at_start)
        elif self.seed is None:
            # Workers that go on to the next pass draw no seed for it.
            kept = self._kept_seed if self.persistent_workers else None
            base_seed = getattr(self._iterator, "_base_seed", kept)
            state["draws"] = Draws.ahead(self.generator, base_seed)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where a state was taken.

        The loader must be like the one that the state is of: the same data, batch size,
        order and shard. The number of workers may be another for map-style data. A
        state taken between two passes also holds the generator's state, from which the
        next pass draws, so that its order is the one that would have come.

        Args:
            state: What `state_dict` returned, also by way of JSON.

        Raises:
            ArgumentError: The state is of another kind, version or setting.
            DataError: The state is of other data.
        """
        check_state(state, self._identify())
        self._resume = copy.deepcopy(dict(state))
        self.epoch = int(state["epoch"])
        self._pass = None
        self._iterator = self._inner = None
        self._kept_seed = None

    def __iter__(self) -> Any:
        plan = self._plan()
        if not isinstance(plan, str):
            return self._iterate_batched(plan)
        check_unbatched(self, plan)
        if uses_threads(self):
            return ThreadIterator(self)
        if self.num_workers > 0 and stays_with_pytorch():
            return super().__iter__()
        return make_iterator(self)

    def _iterate_batched(self, plan: BatchedPlan | RowGroupPlan) -> Any:
        # PyTorch's workers would go on with their seed, and take indices at once.
        goes_on = self.persistent_workers and self.num_workers > 0
        current = self._begin_pass(base_seed=self._kept_seed if goes_on else None)
        if current.draws is not None and self.num_workers > 0:
            self._kept_seed = current.draws.base_seed
            if plan.shuffle:
                current.draws.settle_order()
        return plan.iterate(current, self._settle_epoch)

    def check_worker_number_rationality(self) -> None:
        """Warn of more worker processes than processors; threads may be more."""
        if not uses_threads(self):
            super().check_worker_number_rationality()

    def _get_iterator(self) -> Any:
        return make_iterator(self)

    def _begin_pass(self, *, draw: bool = True, base_seed: int | None = None) -> Pass:
        """Begin the next pass, or the rest of one whose state was loaded."""
        state, self._resume = self._resume, None
        current = Pass(epoch=self.epoch)
        if self.seed is None and draw:
            drawn = state and state["draws"]
            current.draws = Draws(self.generator, drawn, base_seed=base_seed)
        if state is not None:
            current.delivered = int(state["delivered"])
        self.epoch += 1
        self._pass = current
        self._settle_epoch(current)
        return current

    def _settle_epoch(self, current: Pass) -> None:
        """Let a pass that has not begun be of the epoch that its sampler was set to."""
        if type(self.sampler) is SeededSampler:
            requested = self.sampler.requested_epoch
            self.sampler.requested_epoch = None
            if requested is not None and current.delivered == 0:
                current.epoch, self.epoch = requested, requested + 1

    def _plan(self) -> BatchedPlan | RowGroupPlan | str:
        """Return what the batched path does, or why it can't be taken."""
        if isinstance(self.dataset, ParquetFiles):
            is_plain = is_default(self.sampler, self.dataset, self.generator)
            shuffle = is_shuffled(self.sampler)
            return plan_row_groups(self, is_plain=is_plain, shuffle=shuffle)
        source = find_source(self.dataset)
        if isinstance(source, str):
            return source
        if type(self.batch_sampler) is not BatchSampler or self.batch_size is None:
            return "batches are not put together from a batch_size"
        sampler = self.sampler
        if self.batch_sampler.sampler is not sampler or not is_default(
            sampler, self.dataset, self.generator
        ):
            return f"{type(sampler).__name__} orders the samples"
        if bare_collation(self.collate_fn) is not default_collate:
            return "collate_fn puts the batches together"
        if self.worker_init_fn is not None and self.num_workers > 0:
            return "worker_init_fn is set"
        if self.pin_memory and not torch.accelerator.is_available():
            return "pin_memory is set and there is no accelerator"
        if self.num_workers > 0 and self.generator is not None:
            return "workers draw from a generator ahead of time"
        return BatchedPlan(
            source=source if self.device is None else self._move(source, self.device),
            batch_size=self.batch_sampler.batch_size,
            drop_last=self.batch_sampler.drop_last,
            shuffle=is_shuffled(sampler),
            seed=self.seed,
            shard=self.shard,
            transform=self.batch_transform,
            pin=self.pin_memory,
        )

    def _move(self, source: Source, device: str | torch.device) -> Source:
        """Return the source on the loader's device, copied there the first time."""
        if self._resident is None or self._resident[0] is not self.dataset:
            self._resident = self.dataset, move_source(source, torch.device(device))
        return self._resident[1]

    def _identify(self) -> dict[str, Any]:
        """Return what a state must share with the loader that it is loaded into."""
        if self.seed is not None:
            order = "seed"
        elif type(self.sampler) is SequentialSampler:
            order = "sequential"
        else:
            order = "drawn" if type(self.sampler) is RandomSampler else "own"
        seeded = self.seed is not None and is_shuffled(self.sampler)
        return {
            "order": order,
            "seed": self.seed,
            "fingerprint": order_fingerprint() if seeded else None,
            "dataset": identify_dataset(self.dataset),
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "shard": None if self.shard is None else list(self.shard),
        }


def identify_dataset(dataset: Any) -> dict[str, Any]:
    """Return what tells a data set from others, at a small cost; plain values.

    Args:
        dataset: Any data set.

    Returns:
        ``samples``, their number or None, and ``hash`` and others where the data can
        be looked at without the user's code.
    """
    source = find_source(dataset)
    length = len(dataset) if hasattr(dataset, "__len__") else None
    known = {} if isinstance(source, str) else {"hash": fingerprint_source(source)}
    if isinstance(dataset, ParquetFiles):
        known = dataset.identify()
    if image_files_of(dataset) is not None:
        known = {"hash": fingerprint_images(dataset)}
    return {"samples": length, **known}
