"""Batches of samples of similar length: each once, less padding, exact resumption."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch.utils.data import DataLoader as TorchDataLoader

from handful import DataLoader
from handful.data.length_buckets import LengthBuckets
from handful.errors import ArgumentError, DataError

LENGTHS = np.maximum(
    1, np.exp(np.random.default_rng(0).normal(3.5, 0.7, 20_000))
).astype(np.int64)


def padded_share(batches: LengthBuckets) -> float:
    places = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    return 1 - LENGTHS.sum() / places


@settings(deadline=None)
@given(
    count=st.integers(1, 60),
    size=st.integers(1, 9),
    window=st.integers(1, 9),
    seed=st.integers(-5, 5),
    drop_last=st.booleans(),
)
def test_each_sample_comes_once_in_batches_of_the_size(
    count, size, window, seed, drop_last
):
    lengths = np.arange(count) % 7
    batches = LengthBuckets(
        lengths, size, seed=seed, window=window, drop_last=drop_last
    )
    found = list(batches)
    assert len(found) == len(batches)
    flat = [index for batch in found for index in batch]
    assert len(set(flat)) == len(flat)
    assert len(flat) == (count // size * size if drop_last else count)
    assert all(len(batch) == size for batch in found[: count // size])


def test_batches_are_a_function_of_seed_and_epoch():
    first, again = (LengthBuckets(LENGTHS, 32, seed=3) for _ in range(2))
    epochs = [list(first) for _ in range(3)]
    assert epochs == [list(again) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    again.set_epoch(1)
    assert list(again) == epochs[1]
    assert list(LengthBuckets(LENGTHS, 32, seed=4)) != epochs[0]


def test_a_larger_window_pads_less():
    shares = [
        padded_share(LengthBuckets(LENGTHS, 32, seed=0, window=window))
        for window in (1, 8, 64, 10**6)
    ]
    assert [round(share, 2) for share in shares] == [0.72, 0.34, 0.09, 0.01]


def test_a_window_of_one_pads_as_plain_shuffling_does():
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(LENGTHS), generator=generator).numpy()
    plain = LENGTHS[order].reshape(-1, 32)
    share = 1 - LENGTHS.sum() / (plain.max(1).sum() * 32)
    ours = padded_share(LengthBuckets(LENGTHS, 32, seed=0, window=1))
    assert ours == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("window", [1, 64, 10**6])
def test_when_a_sample_comes_depends_neither_on_its_length_nor_on_its_place(window):
    order = np.array([i for b in LengthBuckets(LENGTHS, 32, window=window) for i in b])
    for other in (LENGTHS[order], order):
        # 625 batches are independent: the correlation's deviation is 0.04.
        by_batch = other.reshape(-1, 32).mean(1)
        assert abs(spearmanr(np.arange(len(by_batch)), by_batch).statistic) < 0.16


@pytest.mark.parametrize(
    ("window", "low", "high"), [(1, 0, 0.01), (64, 0.02, 0.08), (10**6, 0.12, 1)]
)
def test_companions_change_less_the_larger_the_window(window, low, high):
    batches = LengthBuckets(LENGTHS, 32, seed=0, window=window)
    first, second = np.empty((2, len(LENGTHS)), np.int64)
    for place in (first, second):
        for number, batch in enumerate(batches):
            place[batch] = number
    members = second[np.argsort(first, kind="stable")].reshape(-1, 32)
    is_same = members[:, :, None] == members[:, None, :]
    assert low <= (is_same.sum() - is_same.shape[0] * 32) / (625 * 32 * 31) <= high


def test_what_fills_no_batch_is_a_random_part_and_comes_last():
    lengths = np.arange(1, 71)
    seen = [list(LengthBuckets(lengths, 32, seed=seed))[-1] for seed in range(40)]
    assert all(len(batch) == 6 for batch in seen)
    assert 30 < np.mean([lengths[batch].mean() for batch in seen]) < 41


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_state_at_every_batch_goes_on_exactly(drop_last):
    def make() -> LengthBuckets:
        return LengthBuckets(LENGTHS[:70], 8, seed=1, window=3, drop_last=drop_last)

    whole = make()
    epochs = [list(whole), list(whole)]
    for done in range(len(epochs[0]) + 1):
        batches = make()
        iterator = iter(batches)
        for _ in range(done):
            next(iterator)
        other = make()
        other.load_state_dict(json.loads(json.dumps(batches.state_dict())))
        assert other.state_dict() == batches.state_dict()
        assert list(other) == epochs[0][done:]
        assert list(other) == epochs[1]


def test_a_state_between_passes_is_of_the_next_one():
    batches = LengthBuckets(LENGTHS[:70], 8, seed=1)
    list(batches)
    other = LengthBuckets(LENGTHS[:70], 8, seed=1)
    other.load_state_dict(batches.state_dict())
    assert list(other) == list(batches)


def test_setting_the_epoch_that_was_loaded_keeps_the_place():
    batches = LengthBuckets(LENGTHS[:70], 8, seed=1)
    order = list(batches)
    batches.set_epoch(0)
    iterator = iter(batches)
    next(iterator)
    other = LengthBuckets(LENGTHS[:70], 8, seed=1)
    other.load_state_dict(batches.state_dict())
    other.set_epoch(0)
    assert list(other) == order[1:]
    other.load_state_dict(batches.state_dict())
    other.set_epoch(2)
    assert len(list(other)) == len(order)


class Ids(torch.utils.data.Dataset):
    def __len__(self):
        return 70

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_resumes_it_at_every_batch_and_goes_on_to_the_next_epoch(num_workers):
    def make() -> DataLoader:
        batches = LengthBuckets(LENGTHS[:70], 8, seed=1, window=3)
        return DataLoader(Ids(), batch_sampler=batches, num_workers=num_workers)

    def ids(batches) -> list[list[int]]:
        return [batch.tolist() for batch in batches]

    whole = make()
    assert len(whole) == 9
    epochs = [ids(whole), ids(whole)]
    assert epochs[0] == list(LengthBuckets(LENGTHS[:70], 8, seed=1, window=3))
    assert sorted(i for batch in epochs[0] for i in batch) == list(range(70))
    steps = range(10) if num_workers == 0 else (0, 1, 4, 9)
    for done in steps:
        loader = make()
        batches = iter(loader)
        for _ in range(done):
            next(batches)
        state = json.loads(json.dumps(loader.state_dict()))
        del batches, loader
        other = make()
        other.load_state_dict(state)
        assert ids(other) == epochs[0][done:], done
        assert ids(other) == epochs[1], done


def test_pytorchs_loader_takes_it_too():
    batches = LengthBuckets(LENGTHS[:70], 8, seed=1)
    loader = TorchDataLoader(Ids(), batch_sampler=batches)
    assert [batch.tolist() for batch in loader] == list(
        LengthBuckets(LENGTHS[:70], 8, seed=1)
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on; got 0"),
        ({"batch_size": 2, "window": 0}, "window must be a whole number from 1 on"),
        ({"batch_size": 2, "seed": 1.5}, r"seed must be a whole number; got 1\.5"),
        ({"batch_size": True}, "batch_size must be a whole number from 1 on; got True"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(options, match):
    with pytest.raises(ArgumentError, match=match):
        LengthBuckets([1, 2], **options)


@pytest.mark.parametrize("lengths", [[], [[1], [2]], [1, float("nan")], ["a"], 5])
def test_lengths_that_cannot_be_used_are_refused(lengths):
    with pytest.raises(DataError, match="lengths must be one finite number for each"):
        LengthBuckets(lengths, 2)


def test_a_state_of_others_is_refused():
    state = LengthBuckets([1, 2, 3], 2, seed=1).state_dict()
    for other, match in (
        (LengthBuckets([1, 2, 3], 2, seed=2), "with the same seed; got 1 in the state"),
        (LengthBuckets([1, 2, 3], 2, seed=1, window=2), "with the same window; got 64"),
    ):
        with pytest.raises(ArgumentError, match=match):
            other.load_state_dict(state)
    with pytest.raises(DataError, match="the lengths are others than those"):
        LengthBuckets([1, 2, 4], 2, seed=1).load_state_dict(state)
    with pytest.raises(ArgumentError, match="state must be what state_dict"):
        LengthBuckets([1, 2, 3], 2).load_state_dict({"epoch": 1})
    with pytest.raises(ArgumentError, match="delivered of the state must be a whole"):
        LengthBuckets([1, 2, 3], 2, seed=1).load_state_dict({**state, "delivered": -1})
