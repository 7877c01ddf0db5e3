"""Sample keys: numbers that are a sample's own, uniform and independent."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handful.data.sample_keys import SampleKeys

EVERYONE = torch.arange(20_000)
CHI_SQUARED_255 = 347.7
"""What a chi-squared of 255 degrees of freedom exceeds once in 10,000 times."""


def chi_squared(counts: torch.Tensor) -> float:
    """Return the statistic of counts that should all be the same."""
    expected = counts.sum() / counts.numel()
    return float(((counts - expected) ** 2 / expected).sum())


def cells(numbers: torch.Tensor, num_cells: int) -> torch.Tensor:
    """Return which of as many equal parts of [0, 1) each number is in."""
    return (numbers * num_cells).long()


@given(
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 1000),
    indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=20),
)
def test_a_number_depends_on_seed_epoch_index_and_purpose_alone(
    seed: int, epoch: int, indices: list[int]
) -> None:
    together = SampleKeys(seed, epoch, torch.tensor(indices))
    for position, index in enumerate(indices):
        alone = SampleKeys(seed, epoch, torch.tensor([index]))
        assert together.uniform("a")[position] == alone.uniform("a")[0]
        assert together.integers(9, "a")[position] == alone.integers(9, "a")[0]
        assert together[position:].uniform("a")[0] == alone.uniform("a")[0]


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_numbers_are_uniform(seed: int) -> None:
    keys = SampleKeys(seed, 4, EVERYONE)
    numbers = keys.uniform("flip")
    assert numbers.dtype is torch.float64
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert chi_squared(torch.bincount(cells(numbers, 256))) < CHI_SQUARED_255
    whole = keys.integers(256, "flip")
    assert whole.dtype is torch.int64
    assert chi_squared(torch.bincount(whole, minlength=256)) < CHI_SQUARED_255


@pytest.mark.parametrize("stride", [2, 256, 2**20, 2**32])
def test_numbers_of_every_nth_sample_are_uniform(stride: int) -> None:
    numbers = SampleKeys(0, 0, EVERYONE * stride).uniform("flip")
    assert chi_squared(torch.bincount(cells(numbers, 256))) < CHI_SQUARED_255


KEYS = SampleKeys(0, 0, EVERYONE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (KEYS.uniform("crop: top"), KEYS.uniform("crop: left")),
        (KEYS.uniform("a"), SampleKeys(0, 1, EVERYONE).uniform("a")),
        (KEYS.uniform("a"), SampleKeys(1, 0, EVERYONE).uniform("a")),
        (KEYS.uniform("a"), SampleKeys(0, 0, EVERYONE + 1).uniform("a")),
    ],
    ids=["purpose", "epoch", "seed", "neighbour"],
)
def test_numbers_are_independent_across(one: torch.Tensor, other: torch.Tensor) -> None:
    both = 16 * cells(one, 16) + cells(other, 16)
    assert chi_squared(torch.bincount(both, minlength=256)) < CHI_SQUARED_255


@pytest.mark.parametrize("high", [1, 3, 5, 2**32])
def test_integers_reach_every_number_below_high_and_no_other(high: int) -> None:
    drawn = KEYS.integers(high, "crop")
    assert drawn.min() >= 0
    assert drawn.max() < high
    assert high > 5 or len(drawn.unique()) == high


def test_numbers_stay_the_same_in_later_versions() -> None:
    drawn = SampleKeys(7, 2, torch.tensor([0, 1, 59_999])).integers(1000, "flip")
    assert drawn.tolist() == [462, 827, 786]


def test_nothing_is_drawn_from_global_generators() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    KEYS.uniform("a")
    KEYS.integers(3, "a")
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()
