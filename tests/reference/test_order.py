"""Orders: what each epoch sees, and in which batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handful.errors import ArgumentError
from handful.reference.order import make_order, reseeded_order, split_batches

counts = st.integers(1, 30)
both = pytest.mark.parametrize("make", [make_order, reseeded_order])


@given(num_samples=counts, epochs=counts, seed=st.integers(0, 2**32 - 1))
@both
def test_every_epoch_has_every_sample_once(
    make: Callable[..., Any], num_samples: int, epochs: int, seed: int
) -> None:
    order = make(num_samples, epochs, seed)
    assert order.dtype == np.int64
    assert order.shape == (epochs, num_samples)
    assert (np.sort(order, axis=1) == np.arange(num_samples)).all()


def test_made_order_differs_between_epochs_and_seeds() -> None:
    order = make_order(50, epochs=20, seed=3)
    assert len(np.unique(order, axis=0)) == 20
    assert not np.array_equal(order, make_order(50, epochs=20, seed=4))


def test_made_order_is_the_same_for_the_same_seed_and_grows_with_epochs() -> None:
    assert np.array_equal(make_order(9, 5, seed=1)[:3], make_order(9, 3, seed=1))


def test_reseeded_order_is_what_a_loop_that_reseeds_gets() -> None:
    state = np.random.get_state()
    try:
        expected = []
        for _ in range(3):
            np.random.seed(42)
            expected.append(np.random.permutation(100))
    finally:
        np.random.set_state(state)
    assert np.array_equal(reseeded_order(100, epochs=3, seed=42), expected)


@both
def test_orders_leave_the_global_generator_alone(make: Callable[..., Any]) -> None:
    before = np.random.get_state()[1].copy()
    make(10, 2, 42)
    assert np.array_equal(np.random.get_state()[1], before)


@given(num_samples=counts, batch_size=counts)
def test_batches_laid_end_to_end_are_the_epoch(
    num_samples: int, batch_size: int
) -> None:
    epoch = make_order(num_samples, 1, seed=0)[0]
    batches = list(split_batches(epoch, batch_size))
    assert np.array_equal(np.concatenate(batches), epoch)
    assert [len(rows) for rows in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("num_samples", (0, 1, 0)), ("epochs", (1, 0, 0)), ("seed", (1, 1, -1))],
)
@both
def test_number_out_of_range_is_named(
    make: Callable[..., Any], name: str, arguments: tuple[int, int, int]
) -> None:
    with pytest.raises(ArgumentError, match=rf"^`{name}` must be .* or more; got"):
        make(*arguments)


def test_reseeded_order_says_which_seeds_the_older_generator_takes() -> None:
    with pytest.raises(ArgumentError, match=r"`seed` must lie in 0 to 2\*\*32 - 1"):
        reseeded_order(3, 1, 2**32)
