"""Reading: by threads or by PyTorch's code, and which arguments go with which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import (
    IterableDataset,
    IterDataPipe,
    MapDataPipe,
    default_collate,
)

from handful.data.collation import bare_collation
from handful.data.image_source import image_files_of
from handful.data.indices import has_state
from handful.errors import ArgumentError, unknown_choice

if TYPE_CHECKING:
    from handful.data.loader import DataLoader

WORKER_TYPES = ("process", "thread")
ERROR_POLICIES = ("raise", "skip")


def uses_threads(loader: DataLoader[Any]) -> bool:
    """Say whether what can't be gathered is read by threads, not by PyTorch's code."""
    if loader.worker_type == "thread":
        return True
    if image_files_of(loader.dataset) is None:
        return False
    needs_processes = (
        loader.worker_type == "process"
        or loader.worker_init_fn is not None
        or loader.multiprocessing_context is not None
    )
    return loader.num_workers == 0 or not needs_processes


def describe_threads(loader: DataLoader[Any]) -> str:
    """Return what `DataLoader.path` says of the threads' path."""
    name = type(loader.dataset).__name__
    count = loader.num_workers
    whose = f"by {count} thread{'s' * (count > 1)}" if count else "without workers"
    where = "straight into the batch" if fills_batches(loader) else "sample by sample"
    return f"threads: {name} is read {whose}, {where}"


def fills_batches(loader: DataLoader[Any]) -> bool:
    """Say whether a batch of images is decoded straight into its memory."""
    files = image_files_of(loader.dataset)
    is_plain = bare_collation(loader.collate_fn) is default_collate
    has_size = files is not None and files.size is not None
    return has_size and is_plain and loader.batch_sampler is not None


def check_reading(
    loader: DataLoader[Any],
    worker_type: str | None,
    on_error: str,
    max_errors: int | None,
) -> None:
    """Check a loader's arguments that say how samples are read.

    Raises:
        ArgumentError: One is not among its choices, or does not go with the others.
    """
    if worker_type not in (None, *WORKER_TYPES):
        raise unknown_choice("worker_type", worker_type, WORKER_TYPES)
    if on_error not in ERROR_POLICIES:
        raise unknown_choice("on_error", on_error, ERROR_POLICIES)
    if max_errors is not None and max_errors < 0:
        raise ArgumentError(f"max_errors must be 0 or more, or None; got {max_errors}.")
    if worker_type != "thread":
        return
    dataset = loader.dataset
    kinds = (IterableDataset, IterDataPipe, MapDataPipe)
    if isinstance(dataset, kinds) or has_state(dataset):
        why = "has a state of its own" if has_state(dataset) else "is a stream"
        raise ArgumentError(
            "worker_type must be 'process' for a data set that is no plain map of "
            f"indices; got 'thread', and {type(dataset).__name__} {why}."
        )
    for name in ("worker_init_fn", "multiprocessing_context"):
        if getattr(loader, name) is not None:
            raise ArgumentError(
                f"{name} must be None if worker_type is 'thread'; got "
                f"{getattr(loader, name)!r}. Threads share this process's state."
            )


def check_unbatched(loader: DataLoader[Any], why: str) -> None:
    """Check the arguments of a loader whose data cannot be gathered.

    Args:
        loader: The loader.
        why: Why they can't be, as a clause.

    Raises:
        ArgumentError: An argument needs another path.
    """
    is_threaded = uses_threads(loader)
    path = "the threads' path" if is_threaded else "PyTorch's path"
    if loader.device is not None:
        raise ArgumentError(
            f"device must be None on {path}; got {str(loader.device)!r}, and {why}. "
            "Move the batches instead."
        )
    if is_threaded:
        return
    if loader.on_error == "skip":
        raise ArgumentError(
            f"on_error must be 'raise' on {path}; got 'skip', and {why}. "
            "Pass worker_type='thread'."
        )
    if getattr(loader.batch_transform, "is_random", False):
        raise ArgumentError(
            f"batch_transform must not draw random numbers on {path}; got "
            f"{loader.batch_transform!r}, and {why}. Draw them in the data set."
        )
