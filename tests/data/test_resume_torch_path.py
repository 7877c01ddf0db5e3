"""Passes through PyTorch's path go on from a state taken after any batch."""

import itertools
import json

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    WeightedRandomSampler,
)

from handful import DataLoader
from handful.errors import ArgumentError

SAMPLES = 11


def keep(samples):
    return samples


class Plain(Dataset):
    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return index


class Drawing(Plain):
    """Draws from torch's global generator, and saves it."""

    def __getitem__(self, index):
        return index, int(torch.randint(1_000_000, ()))

    def state_dict(self):
        return {"generator": torch.get_rng_state().tolist()}

    def load_state_dict(self, state):
        torch.set_rng_state(torch.tensor(state["generator"], dtype=torch.uint8))


def _bounds():
    info = torch.utils.data.get_worker_info()
    number, count = (0, 1) if info is None else (info.id, info.num_workers)
    # The last worker has most, so that the others are exhausted before it.
    cuts = [0, *(3 * worker for worker in range(1, count)), SAMPLES]
    return cuts[number], cuts[number + 1]


class Stream(IterableDataset):
    def __iter__(self):
        yield from range(*_bounds())


class CountingStream(IterableDataset):
    """Saves its place and how many passes it made."""

    def __init__(self):
        self.done = self.passes = 0

    def __iter__(self):
        start, stop = _bounds()
        for index in range(start + self.done, stop):
            self.done += 1
            yield index, self.passes
        self.done = 0
        self.passes += 1

    def state_dict(self):
        return {"done": self.done, "passes": self.passes}

    def load_state_dict(self, state):
        self.done, self.passes = state["done"], state["passes"]


class Walk:
    """An iterator that draws, and saves its place and the generator."""

    def __init__(self):
        self.place, self.stop = _bounds()

    def __iter__(self):
        return self

    def __next__(self):
        if self.place >= self.stop:
            raise StopIteration
        self.place += 1
        return self.place - 1, int(torch.randint(1_000_000, ()))

    def state_dict(self):
        return {"place": self.place, "generator": torch.get_rng_state().tolist()}

    def load_state_dict(self, state):
        self.place = state["place"]
        torch.set_rng_state(torch.tensor(state["generator"], dtype=torch.uint8))


class WalkStream(IterableDataset):
    def __iter__(self):
        return Walk()


class OwnIterator(IterableDataset):
    """Is its own iterator, and begins anew whenever it is asked for one."""

    def __iter__(self):
        self.place, self.stop = _bounds()
        return self

    def __next__(self):
        if self.place >= self.stop:
            raise StopIteration
        self.place += 1
        return self.place - 1

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


class Backwards(Sampler):
    def __iter__(self):
        yield from reversed(range(SAMPLES))

    def __len__(self):
        return SAMPLES


class Shuffling(Backwards):
    def __iter__(self):
        yield from torch.randperm(SAMPLES).tolist()


class Saving(Backwards):
    """Saves its place; the order depends on how many passes were made."""

    def __init__(self):
        self.place = self.passes = 0

    def __iter__(self):
        start, self.place = self.place, 0
        for place in range(start, SAMPLES):
            self.place = place + 1
            yield (place * 3 + self.passes) % SAMPLES
        self.place = 0
        self.passes += 1

    def state_dict(self):
        return {"place": self.place, "passes": self.passes}

    def load_state_dict(self, state):
        self.place, self.passes = state["place"], state["passes"]


class Places:
    def __init__(self):
        self.place = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.place >= SAMPLES:
            raise StopIteration
        self.place += 1
        return SAMPLES - self.place

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


class SavingIterator(Backwards):
    def __iter__(self):
        return Places()


class Pairs(Backwards):
    def __iter__(self):
        drawn = torch.randperm(SAMPLES).tolist()
        for start in range(0, SAMPLES, 2):
            yield drawn[start : start + 2]


def own_generator():
    return torch.Generator().manual_seed(5)


CASES = {
    "sequential": lambda: {"dataset": Plain()},
    "drawn": lambda: {"dataset": Plain(), "shuffle": True},
    "drop last": lambda: {"dataset": Plain(), "shuffle": True, "drop_last": True},
    "own generator": lambda: {
        "dataset": Plain(),
        "shuffle": True,
        "generator": own_generator(),
    },
    "seeded": lambda: {"dataset": Plain(), "shuffle": True, "seed": 3},
    "shard": lambda: {"dataset": Plain(), "shuffle": True, "seed": 3, "shard": (1, 2)},
    "unbatched": lambda: {"dataset": Plain(), "shuffle": True, "batch_size": None},
    "unbatched seeded": lambda: {
        "dataset": Plain(),
        "shuffle": True,
        "batch_size": None,
        "seed": 1,
    },
    "data set with state": lambda: {"dataset": Drawing(), "shuffle": True},
    "sampler": lambda: {"dataset": Plain(), "sampler": Backwards()},
    "sampler that draws": lambda: {"dataset": Plain(), "sampler": Shuffling()},
    "weighted sampler": lambda: {
        "dataset": Plain(),
        "sampler": WeightedRandomSampler([1.0] * SAMPLES, SAMPLES),
    },
    "sampler with generator": lambda: {
        "dataset": Plain(),
        "sampler": RandomSampler(Plain(), generator=own_generator()),
    },
    "sampler with state": lambda: {"dataset": Plain(), "sampler": Saving()},
    "unbatched sampler with state": lambda: {
        "dataset": Plain(),
        "sampler": Saving(),
        "batch_size": None,
    },
    "sampler's iterator with state": lambda: {
        "dataset": Plain(),
        "sampler": SavingIterator(),
    },
    "batch sampler": lambda: {
        "dataset": Plain(),
        "batch_sampler": BatchSampler(Saving(), 2, drop_last=True),
        "batch_size": 1,
    },
    "own batch sampler": lambda: {
        "dataset": Plain(),
        "batch_sampler": Pairs(),
        "batch_size": 1,
    },
    "stream": lambda: {"dataset": Stream()},
    "stream, drop last": lambda: {"dataset": Stream(), "drop_last": True},
    "unbatched stream": lambda: {"dataset": Stream(), "batch_size": None},
    "stream with state": lambda: {"dataset": CountingStream()},
    "stream with state, seeded": lambda: {"dataset": CountingStream(), "seed": 1},
    "stream's iterator with state": lambda: {"dataset": WalkStream()},
    "stream that is its iterator, with state": lambda: {"dataset": OwnIterator()},
}


def make(case, num_workers, **changes):
    options = {"batch_size": 2, "collate_fn": keep, **CASES[case](), **changes}
    return DataLoader(num_workers=num_workers, **options)


def run(loader):
    batches, states = [], []
    for batch in loader:
        batches.append(batch)
        states.append(loader.state_dict())
    return batches, states


def by_json(state):
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("case", CASES)
def test_a_pass_goes_on_after_every_batch(case):
    torch.manual_seed(1)
    loader = make(case, 0)
    iterator = iter(loader)
    batches, states = [], [loader.state_dict()]
    for batch in iterator:
        batches.append(batch)
        states.append(loader.state_dict())
    assert len(batches) > 2
    for done, state in enumerate(states):
        torch.manual_seed(100 + done)
        rest = make(case, 0)
        rest.load_state_dict(by_json(state))
        assert list(rest) == batches[done:]


IN_PROCESS_ONLY = {"drop last", "shard", "unbatched seeded", "unbatched stream"}


@pytest.mark.parametrize(
    "case", [case for case in CASES if case not in IN_PROCESS_ONLY]
)
def test_a_pass_of_workers_goes_on_after_every_batch(case):
    torch.manual_seed(1)
    loader = make(case, 2)
    iterator = iter(loader)
    batches, states = [], [loader.state_dict()]
    for batch in iterator:
        batches.append(batch)
        states.append(loader.state_dict())
    # Processes take time: the ends, the first prefetched batches and one in between.
    for done in sorted({0, 1, 3, len(states) - 2, len(states) - 1}):
        torch.manual_seed(100 + done)
        rest = make(case, 2)
        rest.load_state_dict(by_json(states[done]))
        assert list(rest) == batches[done:]


@pytest.mark.parametrize("case", CASES)
def test_the_next_pass_is_the_one_that_would_have_come(case):
    if case in {"sampler that draws", "weighted sampler", "own batch sampler"}:
        pytest.skip("draws from the global generator, which is the user's to restore")
    torch.manual_seed(1)
    loader = make(case, 0)
    list(loader)
    state = by_json(loader.state_dict())
    second, third = list(loader), list(loader)
    again = make(case, 0)
    again.load_state_dict(state)
    assert list(again) == second
    if loader.seed is not None or "generator" in case or "with state" in case:
        assert list(again) == third


@pytest.mark.parametrize(
    "case",
    [
        "drawn",
        "own generator",
        "seeded",
        "data set with state",
        "sampler with state",
        "stream",
        "stream with state",
        "stream's iterator with state",
    ],
)
def test_persistent_workers_go_on_in_their_second_pass(case):
    torch.manual_seed(1)
    loader = make(case, 2, persistent_workers=True)
    list(loader)
    between = loader.state_dict()
    iterator = iter(loader)
    states = [between, loader.state_dict()]
    batches = []
    for batch in iterator:
        batches.append(batch)
        states.append(loader.state_dict())
    third = list(loader)
    for number in (0, 1, 2, 4, len(states) - 1):
        torch.manual_seed(100 + number)
        rest = make(case, 2, persistent_workers=True)
        rest.load_state_dict(by_json(states[number]))
        assert list(rest) == batches[max(number - 1, 0) :]
        if case not in {"drawn", "data set with state"}:
            assert list(rest) == third


def test_a_pass_given_up_by_persistent_workers_leaves_them_where_they_are():
    torch.manual_seed(1)
    loader = make("data set with state", 2, persistent_workers=True)
    next(iter(loader))
    iterator = iter(loader)
    state = by_json(loader.state_dict())
    batches = list(iterator)
    rest = make("data set with state", 2, persistent_workers=True)
    rest.load_state_dict(state)
    assert list(rest) == batches


def test_a_pass_goes_on_more_than_once():
    torch.manual_seed(1)
    loader = make("stream's iterator with state", 2)
    batches, states = run(loader)
    first = make("stream's iterator with state", 2)
    first.load_state_dict(states[0])
    assert next(iter(first)) == batches[1]
    second = make("stream's iterator with state", 2)
    second.load_state_dict(first.state_dict())
    assert list(second) == batches[2:]


def test_a_state_that_was_loaded_is_returned_until_a_pass_begins():
    _, states = run(make("sampler with state", 0))
    loader = make("sampler with state", 0)
    loader.load_state_dict(states[1])
    assert loader.state_dict() == states[1]


def test_a_state_after_the_last_batch_leaves_an_empty_rest():
    _, states = run(make("seeded", 2))
    loader = make("seeded", 2)
    loader.load_state_dict(states[-1])
    assert list(loader) == []
    assert len(list(loader)) == len(states)
    assert loader.epoch == 2


def test_a_state_is_not_changed_by_what_comes_after():
    loader = make("stream with state", 2)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    copy = by_json(state)
    next(iterator)
    assert state == copy


@pytest.mark.parametrize("counts", [(0, 1), (0, 3), (1, 0), (1, 3), (3, 1)], ids=str)
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_map_style_data_go_on_with_another_number_of_workers(counts):
    before, after = counts
    batches, states = run(make("seeded", before))
    loader = make("seeded", after)
    loader.load_state_dict(states[2])
    assert list(loader) == batches[3:]


@pytest.mark.parametrize("case", ["data set with state", "stream", "stream with state"])
@pytest.mark.parametrize("counts", [(0, 2), (2, 0), (1, 2)], ids=str)
def test_states_of_workers_need_the_same_number_of_them(case, counts):
    before, after = counts
    _, states = run(make(case, before))
    loader = make(case, after)
    loader.load_state_dict(states[1])
    with pytest.raises(ArgumentError, match=f"num_workers must be {before}, as when"):
        iter(loader)
    assert loader.state_dict() == states[1]


class Slow(Plain):
    def __getitem__(self, index):
        if index < 2:
            torch.utils.data.get_worker_info().dataset.wait()
        return index

    def __init__(self, event):
        self.event = event

    def wait(self):
        assert self.event.wait(20)


def test_out_of_order_each_batch_is_delivered_once():
    event = torch.multiprocessing.Event()
    loader = DataLoader(Slow(event), 2, num_workers=2, in_order=False)
    iterator = iter(loader)
    early = [next(iterator).tolist() for _ in range(2)]
    state = by_json(loader.state_dict())
    event.set()
    assert [0, 1] not in early
    assert state["delivered"] == 0
    rest = DataLoader(Slow(event), 2, num_workers=2, in_order=False)
    rest.load_state_dict(state)
    delivered = early + [batch.tolist() for batch in rest]
    assert sorted(itertools.chain(*delivered)) == list(range(SAMPLES))
    assert rest._pass.delivered == 6


class Failing(Plain):
    def __getitem__(self, index):
        if index == 4:
            raise ValueError("bad sample")
        return index


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_that_failed_is_not_counted_until_a_later_one_is(num_workers):
    loader = DataLoader(Failing(), 2, num_workers=num_workers)
    iterator = iter(loader)
    next(iterator), next(iterator)
    with pytest.raises(ValueError, match="bad sample"):
        next(iterator)
    assert loader.state_dict()["delivered"] == 2
    assert next(iterator).tolist() == [6, 7]
    assert loader.state_dict()["delivered"] == 4


def test_a_resumed_pass_draws_nothing_from_the_global_generator():
    _, states = run(make("drawn", 0))
    loader = make("drawn", 0)
    loader.load_state_dict(states[1])
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), before)
