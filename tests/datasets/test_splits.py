"""Splitting and standardizing: the arithmetic, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from handful.datasets.splits import split_indices, standardize, stratified_split
from handful.errors import ArgumentError, DataError

seeds = st.integers(0, 2**64)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=5), seed=seeds)
def test_parts_have_their_sizes_and_share_nothing(sizes, seed):
    n = sum(sizes)
    parts = split_indices(n, sizes, seed)
    assert [len(part) for part in parts] == sizes
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert all(part.dtype == np.int64 for part in parts)


@settings(deadline=None)
@given(n=st.integers(1, 200), seed=seeds)
def test_a_split_is_a_pure_function_of_the_seed(n, seed):
    np.random.seed(0)
    first = split_indices(n, (n,), seed)[0]
    np.random.seed(1)
    assert split_indices(n, (n,), seed)[0].tolist() == first.tolist()


def test_splits_differ_between_seeds_and_are_not_sorted():
    first, second = (split_indices(100, (100,), seed)[0].tolist() for seed in (0, 1))
    assert first != second
    assert first != sorted(first)


def test_the_split_of_one_seed_is_pinned():
    train, test = split_indices(10, (7, 3), seed=42)
    assert train.tolist() == [5, 6, 0, 7, 3, 2, 4]
    assert test.tolist() == [9, 1, 8]


@pytest.mark.parametrize(
    ("n", "sizes", "message"),
    [
        (10, (8, 1), r"must sum to n = 10; got \(8, 1\), which sum to 9"),
        (10, (), r"must sum to n = 10; got \(\)"),
        (0, (), r"must sum to n = 0; got \(\)"),
        (10, (11, -1), r"whole numbers of 0 or more; got \(11, -1\)"),
        (1, (0.8, 0.2), r"whole numbers of 0 or more; got \(0.8, 0.2\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(n, sizes, message):
    with pytest.raises(ArgumentError, match=message):
        split_indices(n, sizes, seed=0)


@pytest.mark.parametrize("seed", [-1, None, 1.5])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(ArgumentError, match="`seed` must be an integer of 0 or more"):
        split_indices(2, (1, 1), seed)


targets = np_st.arrays(np.int64, st.integers(2, 120), elements=st.integers(-2, 4))
fractions = st.floats(0.001, 0.999)


@settings(deadline=None)
@given(target=targets, fraction=fractions, seed=seeds)
def test_every_class_gives_its_share_to_within_one(target, fraction, seed):
    n = len(target)
    total = round(n * fraction)
    assume(0 < total < n)
    rest, held_out = stratified_split(target, fraction, seed)
    assert len(held_out) == total
    assert sorted([*rest, *held_out]) == list(range(n))
    remainders = {True: [], False: []}
    for label in np.unique(target):
        count = int((target == label).sum())
        given_up = int((target[held_out] == label).sum())
        assert count * total // n <= given_up <= -(-count * total // n)
        is_rounded_up = given_up > count * total // n
        remainders[is_rounded_up].append(count * total % n)
    # Hamilton's method: nobody who was rounded down had a larger remainder.
    assert max(remainders[False], default=0) <= min(remainders[True], default=n)


@settings(deadline=None)
@given(target=targets, seed=seeds)
def test_a_stratified_split_is_a_pure_function_of_the_seed(target, seed):
    assume(0 < round(len(target) * 0.3) < len(target))
    first, second = (stratified_split(target, 0.3, seed) for _ in range(2))
    assert [part.tolist() for part in first] == [part.tolist() for part in second]


def test_every_member_of_a_class_can_be_held_out():
    target = [0] * 6 + [1] * 6
    held = {
        index
        for seed in range(50)
        for index in stratified_split(target, 0.5, seed)[1].tolist()
    }
    assert held == set(range(12))


def test_classes_may_be_words():
    rest, held_out = stratified_split(["cat"] * 4 + ["dog"] * 2, 0.5, seed=3)
    assert sum(held_out < 4) == 2
    assert sum(rest < 4) == 2


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(ArgumentError, match="`fraction` must lie between 0 and 1; got"):
        stratified_split([0, 1, 0, 1], fraction, seed=0)


@pytest.mark.parametrize(("fraction", "held"), [(0.01, "0 of 4"), (0.99, "4 of 4")])
def test_a_fraction_that_leaves_one_side_empty_is_refused(fraction, held):
    with pytest.raises(ArgumentError, match=f"both sides; got .* holds out {held}"):
        stratified_split([0, 1, 0, 1], fraction, seed=0)


def test_a_target_of_two_dimensions_is_refused():
    with pytest.raises(DataError, match=r"`target` must have .*; got \(4, 1\)"):
        stratified_split(np.zeros((4, 1)), 0.5, seed=0)


features = np_st.arrays(
    np.float32,
    st.tuples(st.integers(1, 20), st.integers(1, 4)),
    elements=st.floats(-1e4, 1e4, width=32),
)


@settings(deadline=None)
@given(train=features)
def test_standardized_columns_have_mean_0_and_deviation_1_or_0(train):
    (result,) = standardize(train)
    assert result.dtype == np.float32
    assert result.shape == train.shape
    for column, original in zip(result.T, train.T, strict=True):
        is_constant = (original == original[0]).all()
        wide = original.astype(np.float64)
        # Means and deviations that cannot be told from rounding prove nothing.
        assume(is_constant or wide.std() > 1e-9 * abs(wide).max())
        assert column.mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
        expected = pytest.approx(0 if is_constant else 1, abs=1e-5)
        assert column.std(dtype=np.float64) == expected


def test_others_are_shifted_and_scaled_by_the_numbers_of_train_alone():
    train, other, again = standardize([[0.0], [2.0]], [[1.0], [5.0]], [[-1.0]])
    assert train.tolist() == [[-1.0], [1.0]]
    assert other.tolist() == [[0.0], [4.0]]
    assert again.tolist() == [[-2.0]]
    assert other.dtype == again.dtype == np.float32


def test_a_constant_column_is_centred_and_not_blown_up():
    # The mean of many 0.1 is not 0.1, so that a naive deviation is not zero.
    train = np.full((1000, 1), 0.1)
    assert train.std() > 0
    result, other = standardize(train, [[1.1]])
    assert abs(result).max() < 1e-12
    assert other[0, 0] == pytest.approx(1.0)


def test_the_arguments_are_left_as_they_were():
    train = np.array([[0.0], [2.0]])
    standardize(train)
    assert train.tolist() == [[0.0], [2.0]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([1.0, 2.0],), r"`train` must have shape \(N, F\) .*; got \(2,\)"),
        ((np.empty((0, 3)),), r"`train` must have shape .*; got \(0, 3\)"),
        (
            (np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 4))),
            r"`others\[1\]` must have as many columns .* \(2, 4\) .* \(2, 3\)",
        ),
        (([[1.0], [np.nan]],), "`train` must be finite; got 1 values"),
        (([[1.0]], [[np.inf]]), r"`others\[0\]` must be finite; got 1 values"),
    ],
)
def test_features_that_cannot_be_standardized_are_refused(arrays, message):
    with pytest.raises(DataError, match=message):
        standardize(*arrays)
