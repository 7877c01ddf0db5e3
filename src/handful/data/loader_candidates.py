"""Loader candidates: settings that are worth trying, and loaders that have them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset, SequentialSampler, default_collate

from handful.data.collation import bare_collation
from handful.data.columns import Columns
from handful.data.indices import has_state
from handful.data.loader import DataLoader
from handful.data.loader_copies import DEFAULT_PREFETCH, copy_loader, to_handful
from handful.data.loader_parts import SampleParts
from handful.data.sources import find_source

HANDFUL, COLUMNS = "handful.DataLoader", "handful.Columns"

MOST_WORKERS = 32
"""More workers than this are not tried, for samples that are waited for."""

MOST_LOCKED = 0.8
"""Threads are not tried where the interpreter's lock was found held more often."""

COLLECT_SECONDS, COLLECT_SAMPLES, MOST_ARRAY_BYTES = 1.0, 50_000, 2**30
"""Samples are put into arrays for a trial for so long, up to so many, and only if all
would fit into so much memory."""


@dataclass(frozen=True)
class Candidate:
    """Settings to try.

    Attributes:
        name: What they are, in few words.
        settings: Arguments of the loader that differ from its own.
        needs: What else has to change: `HANDFUL` in place of PyTorch's loader,
            `COLUMNS` in place of the data set, or nothing.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    needs: str = ""


def list_candidates(
    loader: TorchDataLoader[Any], cause: str, parts: SampleParts
) -> list[list[Candidate]]:
    """Return what to try, the most promising first.

    Args:
        loader: The loader.
        cause: What holds it up.
        parts: What its samples cost.

    Returns:
        Groups; in each the number of workers grows.
    """
    cores = count_cores()
    counts = _double(min(cores, 4), cores)
    waits = _double(max(4, cores), MOST_WORKERS)
    fewer = [1] if cores > 1 else []
    groups: dict[str, list[list[Candidate]]] = {
        "slow disk": [_threads(loader, waits), _processes(loader, counts)],
        "slow decode": [_threads(loader, counts), _processes(loader, counts)],
        "slow transform": [_processes(loader, counts), _threads(loader, counts)],
        "tiny rows": [_arrays(loader, parts), _import(loader), _alone(loader)],
        "pickling cost": [
            *(_alone(loader), _threads(loader, counts)),
            *(_arrays(loader, parts), _threads(loader, fewer)),
        ],
    }
    chosen = groups.get(cause, groups["slow decode"])
    if cause != "pickling cost":
        chosen += [_processes(loader, fewer if cause != "tiny rows" else counts)]
        chosen += [_threads(loader, fewer), _alone(loader)]
    if parts.locked > MOST_LOCKED and parts.waiting < parts.reading / 2:
        chosen = [[c for c in group if not _is_threaded(c)] for group in chosen]
    chosen += [_import(loader)]
    return [group for group in chosen if group]


def make_candidate(
    loader: TorchDataLoader[Any], candidate: Candidate
) -> TorchDataLoader[Any]:
    """Return a copy of a loader with a candidate's settings.

    Args:
        loader: The user's, left as it is.
        candidate: The settings. With `COLUMNS`, samples are read into arrays for
            `COLLECT_SECONDS`.

    Raises:
        Exception: The settings don't go with the loader or its data.
    """
    if candidate.needs == COLUMNS:
        return DataLoader(
            _collect(loader.dataset),
            loader.batch_size,
            shuffle=not isinstance(loader.sampler, SequentialSampler),
            seed=0,
            drop_last=loader.drop_last,
            pin_memory=candidate.settings.get("pin_memory", loader.pin_memory),
            batch_transform=getattr(loader, "batch_transform", None),
        )
    if candidate.needs == HANDFUL:
        return to_handful(loader, **candidate.settings)
    return copy_loader(loader, candidate.settings)


def count_cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _double(first: int, last: int) -> list[int]:
    """Return first, twice that and so on, up to last, which is among them."""
    counts = [first]
    while counts[-1] * 2 <= last:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] >= last else [*counts, last]


def _is_threaded(candidate: Candidate) -> bool:
    return candidate.settings.get("worker_type") == "thread"


def _is_plain(loader: TorchDataLoader[Any]) -> bool:
    """Say whether a loader is PyTorch's own, so that handful's can take its place."""
    return type(loader) is TorchDataLoader


def _is_map(loader: TorchDataLoader[Any]) -> bool:
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        return False
    is_stateful: bool = has_state(dataset)
    return not is_stateful


def _processes(loader: TorchDataLoader[Any], counts: Sequence[int]) -> list[Candidate]:
    """List numbers of processes; of a stream they would repeat what it gives."""
    if loader.num_workers == 0 and isinstance(loader.dataset, IterableDataset):
        return []
    found = []
    for count in counts:
        settings: dict[str, Any] = {"num_workers": count, "persistent_workers": True}
        if isinstance(loader, DataLoader) and loader.path.startswith("threads"):
            settings["worker_type"] = "process"
        name = "1 process" if count == 1 else f"{count} processes"
        if not _has_already(loader, settings):
            found.append(Candidate(name, settings))
    return found


def _threads(loader: TorchDataLoader[Any], counts: Sequence[int]) -> list[Candidate]:
    is_ours = isinstance(loader, DataLoader)
    is_free = loader.worker_init_fn is None and loader.multiprocessing_context is None
    if not (is_ours or _is_plain(loader)) or not is_free or not _is_map(loader):
        return []
    found = []
    for count in counts:
        settings = {"num_workers": count, "worker_type": "thread"}
        name = "1 thread" if count == 1 else f"{count} threads"
        if not is_ours or not _has_already(loader, settings):
            found.append(Candidate(name, settings, "" if is_ours else HANDFUL))
    return found


def _has_already(loader: TorchDataLoader[Any], settings: dict[str, Any]) -> bool:
    """Say whether a loader reads so as it is."""
    if getattr(loader, "path", "").startswith("threads"):
        kind = settings.get("worker_type", "thread")
        same = loader.num_workers == settings["num_workers"]
        return same and bool(kind == "thread")
    return all(getattr(loader, name, None) == v for name, v in settings.items())


def _alone(loader: TorchDataLoader[Any]) -> list[Candidate]:
    if loader.num_workers == 0:
        return []
    return [Candidate("no workers", _without_workers(loader))]


def _without_workers(loader: TorchDataLoader[Any]) -> dict[str, Any]:
    """Return the arguments that have to change for a loader to have no workers."""
    own: dict[str, Any] = {"num_workers": 0, "persistent_workers": False, "timeout": 0}
    own |= {"prefetch_factor": None, "multiprocessing_context": None}
    found = {name: v for name, v in own.items() if getattr(loader, name) != v}
    if loader.prefetch_factor == DEFAULT_PREFETCH:  # Most likely nobody set it.
        found.pop("prefetch_factor", None)
    return found


def _import(loader: TorchDataLoader[Any]) -> list[Candidate]:
    return [Candidate(HANDFUL, {}, HANDFUL)] if _is_plain(loader) else []


def _arrays(loader: TorchDataLoader[Any], parts: SampleParts) -> list[Candidate]:
    """List arrays in place of a data set, where batches would stay the same."""
    is_ours = isinstance(loader, DataLoader)
    collates = bare_collation(loader.collate_fn) is default_collate
    if not (is_ours or _is_plain(loader)) or not _is_map(loader) or not collates:
        return []
    dataset: Any = loader.dataset
    fits = len(dataset) * parts.num_bytes <= MOST_ARRAY_BYTES
    if not fits or not parts.is_fixed or loader.batch_size is None:
        return []
    if not isinstance(find_source(dataset), str):
        return []  # It is in arrays already; handful's loader knows.
    return [Candidate("in arrays", _without_workers(loader), COLUMNS)]


def _collect(dataset: Any) -> Any:
    """Return a data set's first samples in arrays, as many as can be read in time."""
    samples = list(_read_for(dataset, COLLECT_SECONDS))
    batch = default_collate(samples)
    if isinstance(batch, dict):
        return Columns(**batch)
    return Columns(*batch) if isinstance(batch, (list, tuple)) else batch


def _read_for(dataset: Any, seconds: float) -> Iterator[Any]:
    deadline = time.perf_counter() + seconds
    for index in range(min(len(dataset), COLLECT_SAMPLES)):
        yield dataset[index]
        if time.perf_counter() > deadline:
            return
