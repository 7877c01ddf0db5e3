"""Loader parts: what the time of one sample goes into, measured part by part."""

from __future__ import annotations

import copy
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, IterableDataset, default_collate, default_convert

from handful.data.collation import TransformedCollation, bare_collation
from handful.data.loader_copies import batches_ahead, copy_loader
from handful.data.loader_timing import count_samples, repeat_passes, time_loader
from handful.data.lock_probe import ThreadUse, watched_thread

LEAST_SAMPLES = 3
"""Samples that are read in any case; a part of the time is that of several."""

LEAST_WATCHED_SECONDS = 0.15
"""Reading is watched for so long in any case, for enough looks at the lock."""

MOST_KEPT_BYTES = 128 * 2**20
"""Samples are kept, to be collated and sent again, up to so much memory."""

MOST_GROUP, GROUP_SECONDS = 256, 1e-2
"""Samples are read so many at a time, or as many as that takes, between two looks at
the clock."""

Reader: TypeAlias = "Callable[[int], list[Any]]"
"""Reads so many samples, fewer where the data end."""

_TRANSFORMS = ("transform", "transforms")
"""Attributes under which data sets keep what is applied to a sample they have read."""


@dataclass(frozen=True)
class SampleParts:
    """What one sample costs, in seconds, without any workers; None where unknown.

    Attributes:
        reading: Getting it from the data set, transforms of the data set's included.
        waiting: Of that, neither computing nor queueing for a processor: on a disk, a
            network, a lock.
        transforming: Of that, in an attribute ``transform`` or ``transforms`` of the
            data set.
        locked: Share of the looks at a reading thread that found the interpreter's
            lock held, 0 to 1; of its computing, more or less.
        collating: Its part of putting a batch together and transforming it.
        is_collated_by_user: Whether code of the user's does that.
        sending: What a worker process adds to hand it over.
        num_bytes: Size of its arrays and texts.
        is_fixed: Whether reading it again gave the same; None where not tried.
        is_read_at_once: Whether the data set gives the samples of a batch in one call,
            by ``__getitems__``.
    """

    reading: float
    waiting: float
    locked: float
    num_bytes: int
    transforming: float | None = None
    collating: float | None = None
    is_collated_by_user: bool = False
    sending: float | None = None
    is_fixed: bool | None = None
    is_read_at_once: bool = False

    @property
    def making(self) -> float:
        """Seconds to read a sample and put it into a batch."""
        return self.reading + (self.collating or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return them as plain values."""
        return {**vars(self), "making": self.making}


def measure_parts(
    loader: TorchDataLoader[Any], *, seconds: float
) -> SampleParts | None:
    """Measure what the time of a loader's samples goes into.

    Samples are read in this thread, from random places of a map-style data set and from
    the beginning of an iterable one.

    Args:
        loader: The loader; only its data set and functions are used.
        seconds: About how long to take.

    Returns:
        The parts; None where nothing came, from a stream that can be read only once.

    Raises:
        Exception: What the data set raises where a sample can't be read, unless the
            loader leaves such samples out.
    """
    dataset: Any = loader.dataset
    read, wanted = _reader(loader), loader.batch_size or LEAST_SAMPLES
    samples, about = _keep(read, wanted, seconds * 0.2)
    use, number = _watch(read, about, max(seconds * 0.4, LEAST_WATCHED_SECONDS))
    if not samples or not number:
        return None
    each = 1 / number
    parts = SampleParts(
        reading=use.seconds * each,
        waiting=use.waiting * each,
        locked=use.locked,
        num_bytes=sum(map(count_bytes, samples)) // len(samples),
        is_read_at_once=_reads_at_once(loader),
    )
    if not isinstance(dataset, IterableDataset):
        share = _share_of_transforms(loader, seconds * 0.2)
        if share is not None:
            parts = replace(parts, transforming=share * parts.reading)
        parts = replace(parts, is_fixed=_is_fixed(dataset))
    collating = _time_collation(loader, samples, seconds * 0.2)
    parts = replace(
        parts, collating=collating, is_collated_by_user=_is_users(loader.collate_fn)
    )
    if collating is None or not _uses_processes(loader):
        return parts
    sending = _time_sending(loader, samples, seconds * 0.2)
    return replace(parts, sending=max(sending - collating, 0.0))


def measure_iteration(loader: Iterable[Any], *, seconds: float) -> SampleParts | None:
    """Measure what the time of any iterable's samples goes into, in this thread.

    Args:
        loader: Gives batches.
        seconds: About how long to take.

    Returns:
        The parts; None where nothing came, from what can be gone through only once.
    """
    batches = repeat_passes(loader)

    def read(number: int) -> list[Any]:
        return list(itertools.islice(batches, number))

    kept, about = _keep(read, LEAST_SAMPLES, seconds / 2)
    use, number = _watch(read, about, max(seconds / 2, LEAST_WATCHED_SECONDS))
    samples = sum(map(count_samples, kept))
    if not samples or not number:
        return None
    each = len(kept) / (number * samples)
    size = sum(map(count_bytes, kept)) // samples
    return SampleParts(use.seconds * each, use.waiting * each, use.locked, size)


def count_bytes(sample: Any) -> int:
    """Return the size of the arrays and texts of a sample; 8 for a number."""
    if isinstance(sample, Tensor):
        return sample.numel() * sample.element_size()
    if hasattr(sample, "nbytes"):
        return int(sample.nbytes)
    if isinstance(sample, (str, bytes, bytearray)):
        return len(sample)
    if isinstance(sample, Mapping):
        return sum(map(count_bytes, sample.values()))
    if isinstance(sample, (list, tuple)):
        return sum(map(count_bytes, sample))
    width, height = getattr(sample, "size", (0, 0)) if _is_picture(sample) else (0, 0)
    return width * height * len(sample.getbands()) if width else 8


def _is_picture(sample: Any) -> bool:
    return hasattr(sample, "getbands")  # Pillow's


class KeptSamples(Dataset[Any]):
    """Samples that were read before: what is left of a loader's time is not reading.

    Args:
        samples: The samples.
    """

    def __init__(self, samples: Sequence[Any]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return 256 * len(self._samples)  # Many batches a pass.

    def __getitem__(self, index: int) -> Any:
        return self._samples[index % len(self._samples)]


def _reader(loader: TorchDataLoader[Any]) -> Reader:
    """Return what reads so many samples, as the loader asks its data set for them."""
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        samples = repeat_passes(dataset)
        return lambda number: list(itertools.islice(samples, number))
    draw, length = random.Random(0), len(dataset)
    if length == 0:
        return lambda number: []  # noqa: ARG005
    if _reads_at_once(loader):
        size = min(loader.batch_size or 1, length)
        return lambda number: [
            sample
            for _ in range(-(-number // size))
            for sample in dataset.__getitems__(draw.choices(range(length), k=size))
        ]
    if getattr(loader, "on_error", "raise") == "skip":
        places = (draw.randrange(length) for _ in range(length * 10))
        return lambda number: list(itertools.islice(_readable(dataset, places), number))
    return lambda number: [
        dataset[place] for place in draw.choices(range(length), k=number)
    ]


def _readable(dataset: Any, places: Iterator[int]) -> Iterator[Any]:
    """Yield the samples that can be read."""
    for place in places:
        try:
            sample = dataset[place]
        except Exception:  # The loader leaves it out as well.
            continue
        yield sample


def _reads_at_once(loader: TorchDataLoader[Any]) -> bool:
    at_once = getattr(loader.dataset, "__getitems__", None)
    return callable(at_once) and loader.batch_size is not None


def _keep(read: Reader, number: int, seconds: float) -> tuple[list[Any], float]:
    """Read samples to keep; return them and the seconds that each of them took."""
    read(1)  # The first opens files and fills caches.
    kept: list[Any] = []
    left, clock = MOST_KEPT_BYTES, time.perf_counter
    began = clock()
    while len(kept) < number and left > 0:
        group = read(1)
        kept += group
        left -= sum(map(count_bytes, group))
        if not group or (clock() - began > seconds and len(kept) >= LEAST_SAMPLES):
            break
    return kept, (clock() - began) / max(len(kept), 1)


def _watch(read: Reader, each: float, seconds: float) -> tuple[ThreadUse, int]:
    """Read for a while and drop it; return how that went, and the number of samples."""
    group = max(1, min(MOST_GROUP, int(GROUP_SECONDS / max(each, 1e-9))))
    number, clock = 0, time.perf_counter
    with watched_thread() as use:
        began = clock()
        while True:
            got = len(read(group))
            number += got
            spent = clock() - began
            is_enough = spent > seconds and number >= LEAST_SAMPLES
            if is_enough or got == 0 or spent > 3 * seconds:
                break
    return use, number


def _share_of_transforms(loader: TorchDataLoader[Any], seconds: float) -> float | None:
    """Return the share of reading that a data set's own transform takes."""
    spent = _Stopwatch()
    try:
        dataset = _with_transforms(loader.dataset, spent)
    except Exception:  # A data set that can't be copied keeps its secret.
        return None
    if dataset is None:
        return None
    read = _reader(copy_loader(loader, {"dataset": dataset}))
    read(1)
    spent.seconds = 0.0
    use, _ = _watch(read, seconds, seconds)
    return min(spent.seconds / use.seconds, 1.0)


class _Stopwatch:
    """Adds up the time of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def _with_transforms(dataset: Any, spent: _Stopwatch) -> Any:
    """Return a shallow copy whose transforms are timed; None if there are none."""
    attributes = getattr(dataset, "__dict__", {})
    names = [name for name in _TRANSFORMS if callable(attributes.get(name))]
    if names:
        twin = copy.copy(dataset)
        for name in names:
            twin.__dict__[name] = spent.wrap(attributes[name])
        return twin
    if "dataset" not in attributes:
        return None
    inner = _with_transforms(attributes["dataset"], spent)
    if inner is None:
        return None
    twin = copy.copy(dataset)
    twin.__dict__["dataset"] = inner
    return twin


def _is_fixed(dataset: Any) -> bool:
    """Say whether a sample that is read twice is the same, bit for bit."""
    try:
        return _same(dataset[0], dataset[0])
    except Exception:  # It can't be read, or not be compared.
        return False


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())
    if hasattr(a, "shape"):
        return bool(a.shape == b.shape and (a == b).all())
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _time_collation(
    loader: TorchDataLoader[Any], samples: list[Any], seconds: float
) -> float | None:
    """Return the seconds for which collation keeps a sample; None where it fails."""
    collate: Any = loader.collate_fn
    group = samples[: loader.batch_size or len(samples)]
    is_batched = loader.batch_sampler is not None
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    try:
        while not times or time.perf_counter() < deadline:
            started = time.perf_counter()
            if is_batched:
                collate(group)
            else:
                for sample in group:
                    collate(sample)
            times.append((time.perf_counter() - started) / max(len(group), 1))
    except Exception:  # It needs more than samples, such as the keys of random changes.
        return None
    return sorted(times)[len(times) // 2]


def _is_users(collate: Any) -> bool:
    plain = bare_collation(collate) in (default_collate, default_convert)
    return not plain or isinstance(collate, TransformedCollation)


def _uses_processes(loader: TorchDataLoader[Any]) -> bool:
    threaded = getattr(loader, "path", "").startswith(("threads", "batched"))
    return loader.num_workers > 0 and not threaded


def _time_sending(
    loader: TorchDataLoader[Any], samples: list[Any], seconds: float
) -> float:
    """Return seconds a sample of a worker process that has no reading to do."""
    group = samples[: loader.batch_size or len(samples)]
    twin: TorchDataLoader[Any] = TorchDataLoader(
        KeptSamples(group),
        batch_size=None if loader.batch_sampler is None else len(group),
        num_workers=1,
        collate_fn=loader.collate_fn,
        multiprocessing_context=loader.multiprocessing_context,
        persistent_workers=True,
    )
    timing = time_loader(twin, seconds=seconds, ahead=batches_ahead(twin))
    return 1 / max(timing.samples_per_second, 1e-9)
