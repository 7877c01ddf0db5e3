"""PyTorch's path does what PyTorch does, and says more when a worker dies."""

import os
import random
import re
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    WeightedRandomSampler,
    get_worker_info,
)
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data.dataloader import (
    _MultiProcessingDataLoaderIter,
    _SingleProcessDataLoaderIter,
)

from handful import DataLoader
from handful.data import worker_health
from handful.data.pinning import pin_batch
from handful.errors import HandfulError, WorkerError

SAMPLES = 10


def keep(samples):
    return samples


class Noisy(Dataset):
    """Draws from the three generators that a worker is seeded with."""

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        drawn = (int(torch.randint(10**6, ())), random.random(), np.random.rand())
        return index, *drawn


class EagerSampler(Sampler):
    """Draws when it is asked for its iterator."""

    def __init__(self, generator=None):
        self.generator = generator

    def __iter__(self):
        return iter(torch.randperm(SAMPLES, generator=self.generator).tolist())

    def __len__(self):
        return SAMPLES


class EagerBatches(EagerSampler):
    def __iter__(self):
        return iter(torch.randperm(SAMPLES).reshape(5, 2).tolist())


class NoisyStream(IterableDataset):
    def __iter__(self):
        for _ in range(5):
            yield get_worker_info() and get_worker_info().id, float(torch.rand(()))


OPTIONS = {
    "sequential": lambda: {"batch_size": 4},
    "shuffle": lambda: {"batch_size": 4, "shuffle": True},
    "whole batches": lambda: {"batch_size": 5, "shuffle": True},
    "drop last": lambda: {"batch_size": 4, "shuffle": True, "drop_last": True},
    "unbatched": lambda: {"batch_size": None, "shuffle": True},
    "generator": lambda: {
        "batch_size": 4,
        "shuffle": True,
        "generator": torch.Generator().manual_seed(4),
    },
    "generator, unbatched": lambda: {
        "batch_size": None,
        "shuffle": True,
        "generator": torch.Generator().manual_seed(4),
    },
    "sampler": lambda: {"batch_size": 4, "sampler": EagerSampler()},
    "unbatched sampler": lambda: {"batch_size": None, "sampler": EagerSampler()},
    "weighted": lambda: {
        "batch_size": 4,
        "sampler": WeightedRandomSampler([1.0] * SAMPLES, 7),
    },
    "with replacement": lambda: {
        "batch_size": 4,
        "sampler": RandomSampler(range(SAMPLES), replacement=True, num_samples=9),
    },
    "sampler's generator": lambda: {
        "batch_size": 4,
        "sampler": RandomSampler(Noisy(), generator=torch.Generator().manual_seed(1)),
    },
    "batch sampler": lambda: {
        "batch_sampler": BatchSampler(RandomSampler(range(SAMPLES)), 3, False)
    },
    "own batch sampler": lambda: {"batch_sampler": EagerBatches()},
    "stream": lambda: {"dataset": NoisyStream(), "batch_size": 2},
    "stream, drop last": lambda: {
        "dataset": NoisyStream(),
        "batch_size": 2,
        "drop_last": True,
    },
    "unbatched stream": lambda: {"dataset": NoisyStream(), "batch_size": None},
}


def trace(make, option, **changes):
    """Return batches, and the global generator's state after each moment."""
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    options = {"dataset": Noisy(), "collate_fn": keep, **OPTIONS[option](), **changes}
    loader = make(**options)
    seen = []
    for epoch in range(2):
        iterator = iter(loader)
        seen.append(torch.get_rng_state())
        for batch in iterator:
            seen += [repr(batch), torch.get_rng_state()]
            if epoch == 0 and changes.get("gives_up"):
                break
        seen.append(torch.get_rng_state())
    return seen


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a == b if isinstance(a, str) else torch.equal(a, b)


@pytest.mark.parametrize("option", OPTIONS)
def test_batches_and_draws_are_those_of_pytorch(option):
    assert_same(trace(DataLoader, option), trace(TorchDataLoader, option))


@pytest.mark.parametrize("option", [o for o in OPTIONS if o != "unbatched stream"])
@pytest.mark.parametrize("persistent_workers", [False, True])
def test_batches_and_draws_of_workers_are_those_of_pytorch(option, persistent_workers):
    if persistent_workers and option in {"sequential", "drop last", "weighted"}:
        pytest.skip("like others, and processes take time")
    workers = {"num_workers": 2, "persistent_workers": persistent_workers}
    ours = trace(DataLoader, option, **workers)
    assert_same(ours, trace(TorchDataLoader, option, **workers))


def test_iterators_are_of_pytorchs_classes():
    assert isinstance(iter(DataLoader(Noisy())), _SingleProcessDataLoaderIter)
    iterator = iter(DataLoader(Noisy(), num_workers=2, persistent_workers=True))
    assert isinstance(iterator, _MultiProcessingDataLoaderIter)
    assert [worker.pid for worker in iterator._workers]
    assert len(iterator) == SAMPLES


def test_persistent_workers_stay():
    loader = DataLoader(Noisy(), num_workers=2, persistent_workers=True)
    first = iter(loader)
    pids = [worker.pid for worker in first._workers]
    list(first)
    assert iter(loader) is first
    assert [worker.pid for worker in first._workers] == pids


def test_an_iterator_given_up_ends_its_workers():
    iterator = iter(loader := DataLoader(Noisy(), num_workers=2))
    next(iterator)
    workers = iterator._workers
    del iterator
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()
    assert loader.state_dict()["delivered"] == 1


class Sized(NoisyStream):
    def __len__(self):
        return 3


def test_a_stream_longer_than_it_said_warns_as_pytorch_does():
    messages = []
    for make in (DataLoader, TorchDataLoader):
        loader = make(Sized(), batch_size=None)
        len(loader)
        with pytest.warns(UserWarning, match="Length of IterableDataset") as caught:
            list(loader)
        messages.append([str(w.message).split(" at 0x")[0] for w in caught])
    assert messages[0] == messages[1]


def test_the_profiler_sees_the_loader():
    with torch.profiler.profile() as profile:
        list(DataLoader(Noisy(), collate_fn=keep))
    names = {event.key for event in profile.key_averages()}
    assert any(name.startswith("enumerate(DataLoader)#") for name in names)


@pytest.mark.parametrize("persistent_workers", [False, True])
def test_a_seed_makes_the_workers_numbers_a_function_of_seed_and_epoch(
    persistent_workers,
):
    options = {
        "collate_fn": keep,
        "shuffle": True,
        "seed": 5,
        "num_workers": 2,
        "persistent_workers": persistent_workers,
    }
    torch.manual_seed(1)
    before = torch.get_rng_state()
    loader = DataLoader(Noisy(), **options)
    passes = [list(loader), list(loader)]
    assert torch.equal(torch.get_rng_state(), before)
    assert passes[0] != passes[1]
    torch.manual_seed(2)
    again = DataLoader(Noisy(), **options)
    again.epoch = 1
    assert list(again) == passes[1]


class Mortal(Noisy):
    def __init__(self, how):
        self.how = how

    def __getitem__(self, index):
        if index == 6:
            self.how()
        return index


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def quit_self():
    os._exit(3)


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        (kill_self, "was killed by SIGKILL, perhaps for want of memory,"),
        (quit_self, "exited with status 3"),
    ],
)
def test_a_worker_that_dies_is_named_with_its_samples(how, cause):
    loader = DataLoader(Mortal(how), 2, num_workers=2)
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"DataLoader worker .* exited unexpect") as e:
        list(loader)
    assert time.monotonic() - began < 10
    assert cause in str(e.value)
    # The batch before may be lost on its way.
    assert re.search(r"and held samples (2, 3, )?6, 7", str(e.value))
    assert isinstance(e.value, (HandfulError, RuntimeError))


class Late:
    """Draws indices that take their time, so that a worker may die meanwhile."""

    def __iter__(self):
        gate = threading.Event()
        for index in range(8):
            yield index
            gate.wait(0.3)

    def __len__(self):
        return 8


class Ends(Dataset):
    """Ends the process that reads its first sample."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 0:
            os._exit(3)
        return index


def test_a_worker_that_dies_before_the_first_batch_is_asked_for_is_named_too():
    with pytest.raises(WorkerError, match=r"status 3 and held samples 0"):
        iter(DataLoader(Ends(), 1, sampler=Late(), num_workers=1, prefetch_factor=8))


class Sleepy(Noisy):
    def __getitem__(self, index):
        if index == 0:
            time.sleep(0.6)
        return index


def test_workers_that_send_nothing_are_warned_of_once(monkeypatch):
    monkeypatch.setattr(worker_health, "STALL_SECONDS", 0.1)
    iterator = iter(DataLoader(Sleepy(), num_workers=1))

    def wait():
        # PyTorch looks every five seconds; this, more often.
        while not iterator._try_get_data(0.05)[0]:
            pass

    with pytest.warns(RuntimeWarning, match=r"sent a batch for .* pid \d+, holds") as w:
        wait()
    assert len(w) == 1


def test_a_timeout_is_pytorchs():
    iterator = iter(DataLoader(Sleepy(), num_workers=1, timeout=0.2))
    with pytest.raises(RuntimeError, match=r"timed out after 0\.2 seconds"):
        list(iterator)


class BadState(Noisy):
    def state_dict(self):
        raise ValueError("no state today")

    def load_state_dict(self, state):
        pass


def test_an_error_in_a_workers_state_is_raised_with_its_place():
    loader = DataLoader(BadState(), num_workers=1, collate_fn=keep)
    with pytest.raises(ValueError, match=r"in state_dict\(\) of DataLoader worker 0"):
        list(loader)


class KnowsItself(IterableDataset):
    def __iter__(self):
        yield type(get_worker_info().dataset).__name__


def check_dataset(worker):
    assert isinstance(get_worker_info().dataset, KnowsItself)


def test_a_worker_knows_its_data_set():
    loader = DataLoader(
        KnowsItself(), None, num_workers=1, worker_init_fn=check_dataset
    )
    assert list(loader) == ["KnowsItself"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_streams_go_through_workers_that_are_not_forked(method):
    loader = DataLoader(
        NoisyStream(),
        2,
        num_workers=1,
        collate_fn=keep,
        multiprocessing_context=method,
    )
    assert sum(map(len, loader)) == 5


def test_tensors_that_cannot_be_pinned_are_left_as_they_are():
    batch = {"a": torch.empty(3, device="meta"), "b": [torch.eye(2).to_sparse(), "x"]}
    pinned = pin_batch(batch)
    assert pinned["a"] is batch["a"]
    assert pinned["b"][0] is batch["b"][0]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="has an accelerator")
def test_without_an_accelerator_pin_memory_warns_as_pytorch_does():
    messages = []
    for make in (DataLoader, TorchDataLoader):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(make(Noisy(), pin_memory=True, collate_fn=keep))
        messages.append([str(w.message) for w in caught])
    assert messages[0] == messages[1]
    assert len(messages[0]) == 1
