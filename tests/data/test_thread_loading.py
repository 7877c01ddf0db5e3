"""Data sets of the user's, read by threads: as PyTorch's workers would, in one process.

::

    caller   takes batch 0 ─ waits ─▶ batch 0
    threads  read 0, 1, 2, …, as many as prefetch_factor * num_workers
"""

import gc
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
import weakref

import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, IterableDataset, WeightedRandomSampler

from handful import DataLoader
from handful.data.image_files import ImageFiles
from handful.data.thread_workers import ThreadWorkers
from handful.data.transforms import ScaleBytes
from handful.errors import ArgumentError, DataError, WorkerError

pytestmark = pytest.mark.timeout(60)

SAMPLES = 23
THREADS = {"worker_type": "thread", "num_workers": 2}


class Squares(Dataset):
    """Numbers and their squares; notes who reads what."""

    def __init__(self):
        self.readers = []

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        self.readers.append((index, threading.current_thread()))
        return index, {"square": torch.tensor(index**2)}


class AtOnce(Squares):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Faulty(Squares):
    def __getitem__(self, index):
        if index in (3, 8, 9, 10, 11):
            raise OSError(f"nothing at {index}")
        return super().__getitem__(index)


class Slow(Squares):
    """Waits, for the samples from 4 on, until it is let go."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def __getitem__(self, index):
        if index >= 4:
            self.gate.wait(30)
        return super().__getitem__(index)


def plain(batches):
    return [(n.tolist(), rest["square"].tolist()) for n, rest in batches]


def ours(dataset=None, **options):
    return DataLoader(dataset or Squares(), 4, **{**THREADS, **options})


@pytest.mark.parametrize("kind", [Squares, AtOnce])
@pytest.mark.parametrize("persistent", [False, True])
def test_batches_and_draws_are_those_of_pytorchs_workers(kind, persistent):
    def draws(loader):
        torch.manual_seed(2)
        epochs, between = [], []
        for _ in range(3):
            iterator = iter(loader)
            between.append(torch.rand(()).item())
            epochs.append(plain(iterator))
        return epochs, between, torch.rand(()).item()

    options = {"num_workers": 2, "persistent_workers": persistent, "shuffle": True}
    theirs = TorchDataLoader(kind(), 4, **options)
    assert draws(ours(kind(), **options)) == draws(theirs)


def test_threads_read_and_the_caller_does_not():
    dataset = Squares()
    loader = ours(dataset)
    assert loader.path == "threads: Squares is read by 2 threads, sample by sample"
    plain(loader)
    readers = {thread for _, thread in dataset.readers}
    assert threading.current_thread() not in readers
    assert 1 <= len(readers) <= 2
    plain(loader)
    assert {thread for _, thread in dataset.readers} <= readers | {
        *threading.enumerate()
    }
    assert len({thread for _, thread in dataset.readers}) <= 2


def test_without_workers_the_caller_reads():
    dataset = Squares()
    assert plain(ours(dataset, num_workers=0)) == plain(ours())
    assert {thread for _, thread in dataset.readers} == {threading.current_thread()}


@pytest.mark.parametrize(("workers", "factor", "ahead"), [(1, 1, 1), (2, 2, 4)])
def test_as_many_batches_are_read_ahead_as_asked_for(workers, factor, ahead):
    dataset = Slow()
    iterator = iter(ours(dataset, num_workers=workers, prefetch_factor=factor))
    next(iterator)
    assert len(iterator._pending) == ahead
    dataset.gate.set()


@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": True, "seed": 3}])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_can_be_resumed_from(options, workers):
    torch.manual_seed(5)
    loader = ours(num_workers=workers, **options)
    whole, states = [], [json.dumps(loader.state_dict())]
    for batch in loader:
        whole += plain([batch])
        states.append(json.dumps(loader.state_dict()))
    for delivered, state in enumerate(states):
        other = ours(num_workers=2 - workers, **options)
        other.load_state_dict(json.loads(state))
        assert plain(other) == whole[delivered:]


def test_samplers_of_the_users_go_on_where_they_were():
    sampler = WeightedRandomSampler(range(1, SAMPLES + 1), 17)
    torch.manual_seed(5)
    loader = ours(sampler=sampler)
    whole, states = [], []
    for batch in loader:
        whole += plain([batch])
        states.append(json.dumps(loader.state_dict()))
    assert len(whole) == 5
    for delivered, state in enumerate(states, 1):
        torch.manual_seed(delivered)
        other = ours(sampler=WeightedRandomSampler(range(1, SAMPLES + 1), 17))
        other.load_state_dict(json.loads(state))
        assert plain(other) == whole[delivered:]


def test_error_of_the_data_set_comes_with_its_batch_and_traceback():
    iterator = iter(ours(Faulty()))
    with pytest.raises(OSError, match="nothing at 3") as caught:
        next(iterator)
    assert caught.traceback[-1].name == "__getitem__"
    assert next(iterator)[0].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_fail_are_left_out_and_listed(workers):
    loader = ours(Faulty(), num_workers=workers, on_error="skip")
    for _ in range(2):
        numbers = [batch.tolist() for batch, _ in loader]
        assert numbers[:3] == [[0, 1, 2], [4, 5, 6, 7], [12, 13, 14, 15]]
    assert loader.skipped[0] == (None, 3, "OSError: nothing at 3")
    assert [skip.index for skip in loader.skipped] == [3, 8, 9, 10, 11]
    with pytest.raises(
        DataError, match=r"max_errors=0 .* the last of them sample 3: OS"
    ):
        list(ours(Faulty(), num_workers=workers, on_error="skip", max_errors=0))


def test_single_samples_that_fail_are_left_out():
    loader = DataLoader(Faulty(), batch_size=None, on_error="skip", **THREADS)
    assert [index for index, _ in loader] == [
        i for i in range(SAMPLES) if i not in (3, 8, 9, 10, 11)
    ]


def test_timeout_names_the_samples():
    dataset = Slow()
    iterator = iter(ours(dataset, timeout=0.2))
    next(iterator)
    with pytest.raises(WorkerError, match=r"timeout=0.2 seconds; samples \[4, 5, 6, 7"):
        next(iterator)
    dataset.gate.set()


def test_timeout_error_of_the_data_set_is_its_own():
    class Late(Squares):
        def __getitem__(self, index):
            raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        next(iter(ours(Late(), timeout=30)))


def test_stall_is_warned_of_once(monkeypatch):
    monkeypatch.setattr("handful.data.thread_path.STALL_SECONDS", 0.1)
    dataset = Slow()
    iterator = iter(ours(dataset))
    next(iterator)
    timer = threading.Timer(0.5, dataset.gate.set)
    timer.start()
    with pytest.warns(RuntimeWarning, match=r"not read a batch .* \[4, 5, 6, 7\]") as w:
        next(iterator)
    assert len(w) == 1
    timer.join()


def count_threads():
    gc.collect()
    return sum(t.name.startswith("handful-loader") for t in threading.enumerate())


def wait_for_threads(expected):
    for _ in range(100):
        if count_threads() == expected:
            break
        time.sleep(0.02)
    return count_threads()


def test_threads_are_kept_between_passes_and_end_with_the_loader():
    before = wait_for_threads(0)
    loader = ours()
    plain(loader)
    iterator = iter(loader)
    next(iterator)
    assert count_threads() - before == 2
    del loader
    assert len(plain(iterator)) == 5  # The iterator keeps them.
    assert count_threads() - before == 2
    del iterator
    assert wait_for_threads(before) == before


def test_dropped_pass_is_not_read_to_its_end():
    dataset = Slow()
    loader = ours(dataset)
    iterator = iter(loader)
    next(iterator)
    del iterator
    dataset.gate.set()
    plain(loader)
    begun = [index for index, _ in dataset.readers]
    # Batch 0, what both threads had begun, and the whole second pass.
    assert len(begun) <= 4 + 2 * 4 + SAMPLES


def test_loader_and_data_set_go_with_their_last_reference():
    dataset = Squares()
    gone = weakref.ref(dataset)
    loader = ours(dataset, seed=0)
    for _ in range(3):
        plain(loader)
    del dataset, loader
    for _ in range(100):
        gc.collect()
        if gone() is None:
            break
        time.sleep(0.02)
    assert gone() is None


def test_many_loaders_side_by_side_do_not_mix_their_batches():
    loaders = [ours(seed=n, shuffle=True) for n in range(4)]
    expected = [plain(ours(seed=n, shuffle=True, num_workers=0)) for n in range(4)]
    found = [[] for _ in loaders]
    for batches in itertools.zip_longest(*loaders):
        for place, batch in enumerate(batches):
            found[place] += plain([batch])
    assert found == expected


def test_loaders_in_threads_of_the_callers_do_not_mix_their_batches():
    expected = plain(ours(seed=1, shuffle=True, num_workers=0))
    found = {}

    def read(number):
        found[number] = plain(ours(seed=1, shuffle=True))

    threads = [threading.Thread(target=read, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[n] == expected for n in range(6))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_process_starts_threads_of_its_own(write_images):
    files = ImageFiles(*write_images(12), 8)
    loader = DataLoader(
        files, 4, seed=0, shuffle=True, num_workers=2, batch_transform=ScaleBytes()
    )
    for _ in range(3):
        list(loader)
    expected = [labels.tolist() for _, labels in loader]
    loader.epoch -= 1
    iterator = iter(loader)
    next(iterator)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)
            loader.epoch = 3
            sender.send([labels.tolist() for _, labels in loader])
        finally:
            os._exit(0)
    assert receiver.poll(30)
    assert receiver.recv() == expected
    os.waitpid(child, 0)
    assert len(list(iterator)) == 2


def test_threads_begin_when_the_first_work_comes():
    before = wait_for_threads(0)
    workers = ThreadWorkers(3)
    assert count_threads() == before
    done = threading.Event()
    workers.submit(done.set)
    assert done.wait(10)
    assert count_threads() == before + 1


class Stream(IterableDataset):
    def __iter__(self):
        yield from range(4)


class Stateful(Squares):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (Stream(), {}, "worker_type must be 'process' .* Stream is a stream"),
        (Stateful(), {}, "must be 'process' .* Stateful has a state of its own"),
        (Squares(), {"worker_init_fn": print}, "worker_init_fn must be None if work"),
        (
            Squares(),
            {"multiprocessing_context": "spawn"},
            "multiprocessing_context must be None",
        ),
    ],
)
def test_what_threads_cannot_do_is_refused(dataset, options, message):
    with pytest.raises(ArgumentError, match=message):
        DataLoader(dataset, 4, **THREADS, **options)


def test_more_threads_than_processors_are_no_reason_to_warn():
    assert len(plain(ours(num_workers=64))) == 6


def test_process_is_the_default_for_data_sets_of_the_users():
    assert DataLoader(Squares(), 4).path.startswith("pytorch: ")
    assert DataLoader(Squares(), 4, worker_type="process").path.startswith("pytorch")
