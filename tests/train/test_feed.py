"""Feed: which batches a step has, and where an epoch goes on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)
from torch.utils.data import DataLoader as TorchDataLoader

from handful import DataLoader
from handful.errors import ArgumentError, CheckpointError, DataError, TrainingError
from handful.runs.files import from_json, to_json
from handful.train.feed import Feed, loader_length, ordered_by, validation_loader
from handful.train.generators import pack_within

CPU = torch.device("cpu")
X: Any = torch.arange(20.0)
SIXES = BatchSampler(SequentialSampler(X), 6, drop_last=False)


def make_feed(loader: Any, **options: Any) -> Feed:
    return Feed(loader, device=CPU, **options)


def through_json(feed: Feed) -> Any:
    return from_json(to_json(pack_within(feed.state_dict())))


class Endless:
    """Batches without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(X.split(8))


@pytest.mark.parametrize("accumulate", [1, 2, 3, 4])
def test_steps_take_so_many_batches_and_the_last_what_is_left(accumulate: int) -> None:
    feed = make_feed(list(X.split(3)), accumulate=accumulate)
    ends = []
    sizes = []
    for batches in feed.steps(0):
        sizes.append(len(batches))
        ends.append(feed.is_at_end)
    assert feed.steps_per_epoch == len(sizes)
    assert sum(sizes) == 7
    assert set(sizes[:-1]) <= {accumulate}
    assert ends == [False] * (len(sizes) - 1) + [True]
    assert feed.delivered == 0


def test_micro_batches_are_parts_of_the_batches_in_order() -> None:
    feed = make_feed(list(X.split(8)), accumulate=2, micro_batch_size=3)
    steps = [[part.tolist() for part in step] for step in feed.steps(0)]
    assert [len(part) for part in steps[0]] == [3, 3, 2, 3, 3, 2]
    assert [value for step in steps for part in step for value in part] == X.tolist()


def test_lengths_are_known_or_not() -> None:
    class Refuses(Endless):
        def __len__(self) -> int:
            raise NotImplementedError

    assert loader_length(Endless()) is None
    assert loader_length(Refuses()) is None
    assert loader_length([1, 2]) == 2
    feed = make_feed(Endless())
    assert feed.steps_per_epoch is None
    assert not any(feed.is_at_end for _ in feed.steps(0))


def test_an_epoch_without_a_batch_is_refused() -> None:
    with pytest.raises(TrainingError, match="at least one batch an epoch; it gave no"):
        list(make_feed([]).steps(0))


def test_a_sampler_with_a_generator_of_its_own_goes_on_where_it_was() -> None:
    def make() -> Feed:
        own = torch.Generator().manual_seed(4)
        data = TensorDataset(X)
        sampler = RandomSampler(data, generator=own)
        return make_feed(TorchDataLoader(data, 8, sampler=sampler))

    def steps(feed: Feed, epoch: int = 0) -> Iterator[tuple[int, list[float]]]:
        for number in range(epoch, 3):
            for batches in feed.steps(number):
                yield number, batches[0][0].tolist()

    whole = [batch for _, batch in steps(make())]
    for stop in range(1, 9):
        feed = make()
        epoch, _ = list(itertools.islice(steps(feed), stop))[-1]
        again = make()
        again.load_state_dict(through_json(feed))
        assert [batch for _, batch in steps(again, epoch)] == whole[stop:]


def test_a_state_that_was_not_gone_on_from_is_given_back_as_it_was() -> None:
    feed = make_feed(list(X.split(8)))
    next(feed.steps(0))
    state = through_json(feed)
    again = make_feed(list(X.split(8)))
    again.load_state_dict(state)
    assert through_json(again) == state
    assert again.delivered == 1


@pytest.mark.parametrize(
    ("other", "error", "match"),
    [
        (DataLoader(X, 4, seed=1), ArgumentError, "same batch_size; got 8 in the sta"),
        (DataLoader(X + 1, 8, seed=1), DataError, "the data set is another one"),
        (
            DataLoader(X, 8, seed=2),
            ArgumentError,
            "same seed; got 1 in the state and 2",
        ),
        (list(X.split(8)), CheckpointError, "one without a state_dict"),
        (DataLoader(X, 8), CheckpointError, "one with a state_dict of its own"),
    ],
)
def test_the_middle_of_an_epoch_of_another_loader_is_refused(
    other: Any, error: type[Exception], match: str
) -> None:
    feed = make_feed(DataLoader(X, 8, seed=1))
    next(feed.steps(0))
    again = make_feed(other)

    def go_on() -> None:
        again.load_state_dict(through_json(feed))
        list(again.steps(0))

    with pytest.raises(error, match=match):
        go_on()


def test_another_loader_may_go_on_between_two_epochs() -> None:
    feed = make_feed(DataLoader(X, 8, seed=1))
    list(feed.steps(0))
    again = make_feed(list(X.split(4)))
    again.load_state_dict(through_json(feed))
    assert len(list(again.steps(1))) == 5


def test_a_state_of_a_loader_that_no_file_can_hold_is_refused() -> None:
    class Odd(Endless):
        def state_dict(self) -> Any:
            return {"place": object()}

        def load_state_dict(self, state: Any) -> None: ...

    with pytest.raises(CheckpointError, match="state_dict of train, a Odd, must be of"):
        make_feed(Odd()).state_dict()


def test_a_stream_of_ours_is_drawn_anew() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(X[torch.randperm(20)])

    whole = make_feed(DataLoader(Stream(), 8))
    torch.manual_seed(3)
    batches = [step[0].tolist() for step in whole.steps(0)]
    feed = make_feed(DataLoader(Stream(), 8))
    torch.manual_seed(3)
    next(feed.steps(0))
    again = make_feed(DataLoader(Stream(), 8))
    again.load_state_dict(through_json(feed))
    torch.manual_seed(4)
    assert [step[0].tolist() for step in again.steps(0)] == batches[1:]


def test_a_seed_is_lent_to_a_loader_without_one_and_given_back() -> None:
    loader = DataLoader(X, 8, shuffle=True)
    with ordered_by(loader, 5):
        assert loader.seed == 5
    assert loader.seed is None
    for other in (
        DataLoader(X, 8, shuffle=True, seed=2),
        DataLoader(X, 8, shuffle=True, generator=torch.Generator()),
    ):
        with ordered_by(other, 5):
            assert other.seed != 5


def test_validating_leaves_the_place_of_the_training_and_repeats_an_order() -> None:
    train = DataLoader(X, 8, shuffle=True, seed=1)
    valid = validation_loader(train, train)
    assert valid is not None
    place = train.state_dict()
    first = [batch.tolist() for batch in valid]
    assert [batch.tolist() for batch in valid] == first
    assert train.state_dict() == place
    plain = list(X.split(8))
    assert validation_loader(plain, train) is plain
    assert validation_loader(None, train) is None


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda: TorchDataLoader(X, 4), "batch_size of train .* mid-epoch, 8; got 4"),
        (lambda: TorchDataLoader(X[:9], 8), "length of train .* mid-epoch, 3; got 2"),
        (lambda: TorchDataLoader(X, batch_sampler=SIXES), "mid-epoch, 8; got 6"),
    ],
)
def test_the_middle_of_an_epoch_cut_into_other_batches_is_refused(
    other: Any, match: str
) -> None:
    feed = make_feed(TorchDataLoader(X, 8, shuffle=True))
    steps = feed.steps(0)
    next(steps)
    state = through_json(feed)
    again = make_feed(other())
    with pytest.raises(CheckpointError, match=match):
        again.load_state_dict(state)
    list(steps)
    again.load_state_dict(through_json(feed))
    assert sum(len(batch) for step in again.steps(1) for batch in step) >= 9


def test_a_state_without_the_size_of_batches_goes_on() -> None:
    feed = make_feed(TorchDataLoader(X, 8))
    next(feed.steps(0))
    state = through_json(feed)
    del state["batch_size"], state["length"]
    again = make_feed(TorchDataLoader(X, 8))
    again.load_state_dict(state)
    assert len(list(again.steps(0))) == 2
