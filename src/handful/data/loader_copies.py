"""Loader copies: loaders like one of the user's, with other settings, for measuring.

A copy has samplers and generators of its own, in the state that the user's are in, so
that the user's loader goes on as if nobody had measured.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, IterableDataset, RandomSampler
from torch.utils.data import DataLoader as TorchDataLoader

from handful.data.indices import has_state
from handful.data.loader import DataLoader
from handful.data.thread_workers import ThreadWorkers

DEFAULT_PREFETCH = 2
"""Batches that PyTorch's workers prepare ahead, each, unless told otherwise."""

_ORDERED_BY = ("generator", "sampler", "batch_sampler")
_CONTEXT = "_DataLoader__multiprocessing_context"


def copy_loader(
    loader: TorchDataLoader[Any], settings: Mapping[str, Any] | None = None
) -> TorchDataLoader[Any]:
    """Return a loader of the same class with some settings changed.

    Args:
        loader: The user's; left as it is.
        settings: Some of ``num_workers``, ``worker_type``, ``persistent_workers``,
            ``prefetch_factor``, ``pin_memory``, ``dataset``. What can't stay without
            worker processes goes with them.
    """
    twin = copy.copy(loader)
    own = twin.__dict__  # PyTorch's loader refuses changes of its attributes.
    own.update(_copy_order(loader))
    own.update(_iterator=None, _IterableDataset_len_called=None)
    own.update(settings or {})
    if twin.num_workers == 0 or own.get("worker_type") == "thread":
        own.update({"timeout": 0, _CONTEXT: None})
    if twin.num_workers == 0:
        own.update(prefetch_factor=None, persistent_workers=False)
    elif twin.prefetch_factor is None and own.get("worker_type") != "thread":
        own["prefetch_factor"] = DEFAULT_PREFETCH
    if isinstance(twin, DataLoader):
        own.update(
            _threads=ThreadWorkers(twin.num_workers),
            _ahead=None,
            _pass=None,
            _resume=None,
            _kept_seed=None,
            _last_epoch=None,
            skipped=[],
        )
    return twin


def to_handful(loader: TorchDataLoader[Any], **changes: Any) -> DataLoader[Any]:
    """Return handful's loader with the arguments of one of PyTorch's.

    Args:
        loader: The loader; left as it is.
        **changes: Arguments that are to be others.
    """
    ordered = _copy_order(loader)
    arguments: dict[str, Any] = {
        "collate_fn": loader.collate_fn,
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "generator": ordered["generator"],
        "prefetch_factor": loader.prefetch_factor,
        "persistent_workers": loader.persistent_workers,
        **_batching(loader, ordered),
        **changes,
    }
    if arguments["num_workers"] == 0 or arguments.get("worker_type") == "thread":
        arguments.update(timeout=0, multiprocessing_context=None)
    if arguments["num_workers"] == 0:
        arguments.update(prefetch_factor=None, persistent_workers=False)
    dataset = arguments.pop("dataset", loader.dataset)
    return DataLoader(dataset, **arguments)


def end_pass(loader: Any, iterator: Any) -> None:
    """End the worker processes of a pass, unless the loader keeps them for the next."""
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if shut_down is not None and not getattr(loader, "persistent_workers", False):
        shut_down()


def close_loader(loader: Any) -> None:
    """End the workers that a loader has kept, processes or threads, and wait."""
    iterator = getattr(loader, "_iterator", None)
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()
        loader._iterator = None
    threads = getattr(loader, "_threads", None)
    if isinstance(threads, ThreadWorkers) and threads._executor is not None:
        if loader._ahead is not None:
            loader._ahead.drop()
        threads._executor.shutdown(wait=True, cancel_futures=True)
        threads._executor = None


def batches_ahead(loader: TorchDataLoader[Any]) -> int:
    """Return how many batches workers may have ready when the first is taken."""
    each = loader.prefetch_factor or DEFAULT_PREFETCH
    return loader.num_workers * each


@contextmanager
def kept_state(loader: Iterable[Any]) -> Iterator[None]:
    """Put back on leaving what reading samples may draw from, and the data's state.

    These are torch's, NumPy's and Python's global generators, those on accelerators,
    generators that are attributes of the loader, its samplers or its data set, and the
    state of a data set that has a ``state_dict``. Other things that the user's code
    changes while it reads stay changed.
    """
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            states = torch.cuda.get_rng_state_all()
            stack.callback(torch.cuda.set_rng_state_all, states)
        for place in _places(loader):
            for value in vars(place).values() if hasattr(place, "__dict__") else ():
                _keep_generator(stack, value)
        dataset = getattr(loader, "dataset", None)
        if dataset is not None and has_state(dataset):
            state = copy.deepcopy(dataset.state_dict())
            stack.callback(dataset.load_state_dict, state)
        yield


def _keep_generator(stack: ExitStack, value: Any) -> None:
    """Let a generator of any of the usual kinds be put back."""
    if isinstance(value, torch.Generator):
        stack.callback(value.set_state, value.get_state())
    elif isinstance(value, np.random.Generator):
        bits: Any = value.bit_generator
        stack.callback(setattr, bits, "state", copy.deepcopy(bits.state))
    elif isinstance(value, np.random.RandomState):
        stack.callback(value.set_state, value.get_state())
    elif isinstance(value, random.Random):
        stack.callback(value.setstate, value.getstate())


def _places(loader: Any) -> list[Any]:
    """Return what may have generators: the loader, its samplers, its data sets."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    dataset = getattr(loader, "dataset", None)
    found = [loader, getattr(loader, "sampler", None), batch_sampler]
    found.append(getattr(batch_sampler, "sampler", None))
    while dataset is not None and len(found) < 20:  # behind Subset and its like
        found.append(dataset)
        dataset = getattr(dataset, "dataset", None)
    return [place for place in found if place is not None]


def _copy_order(loader: TorchDataLoader[Any]) -> dict[str, Any]:
    """Return copies of what orders a loader's samples, which share what they did."""
    dataset: Any = loader.dataset
    memo = {id(dataset): dataset}
    own = loader.__dict__
    try:
        return {name: copy.deepcopy(own[name], memo) for name in _ORDERED_BY}
    except Exception:  # A sampler that can't be copied: any order costs about the same.
        return _stand_in(loader)


def _stand_in(loader: TorchDataLoader[Any]) -> dict[str, Any]:
    sampler = RandomSampler(loader.dataset)  # type: ignore[arg-type]
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1
    batches = BatchSampler(sampler, size, drop_last=loader.drop_last)
    is_batched = loader.batch_sampler is not None
    return {
        "generator": None,
        "sampler": sampler,
        "batch_sampler": batches if is_batched else None,
    }


def _batching(
    loader: TorchDataLoader[Any], ordered: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that say which samples make a batch."""
    if isinstance(loader.dataset, IterableDataset):
        return {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    batches = ordered["batch_sampler"]
    if batches is not None and type(batches) is not BatchSampler:
        return {"batch_sampler": batches}
    if batches is None:
        return {"batch_size": None, "sampler": ordered["sampler"]}
    return {
        "batch_size": batches.batch_size,
        "sampler": batches.sampler,
        "drop_last": batches.drop_last,
    }
