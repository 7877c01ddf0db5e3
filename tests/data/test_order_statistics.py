"""Shuffled orders look like permutations drawn uniformly and independently.

The seeds are fixed, so the outcome of each test is too. A test fails if what it saw
would happen less often than `FALSE_ALARM` among truly random permutations. Fewer than
250 such probabilities are looked at: were the seeds drawn anew each time, one run in a
million would fail.

The computed orders are used only above `PERMUTATION_LIMIT`. They are tested here at
sizes a thousand times smaller as well, where a weak construction would show first.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from handful.data.bijection import MAX_SIZE, Bijection
from handful.data.order import (
    PERMUTATION_LIMIT,
    _Computed,
    epoch_permutation,
    make_order,
)

FALSE_ALARM = 1e-6 / 250
"""Probability of a test failing by chance, so that all together have 1e-6."""

Ints: TypeAlias = NDArray[np.int64]

NUM_EPOCHS = 100

CASES = [
    *(("stored", n) for n in (8, 16, 17, 64, 100, 256, 1_000, 1_024)),
    *(("computed", n) for n in (16, 17, 64, 100, 256, 1_000, 1_024)),
]
"""Ways to make orders, and numbers of samples; powers of two among them."""

LARGE_SIZES = (PERMUTATION_LIMIT + 1, 10**9, 2**40 + 1, MAX_SIZE)

WINDOW = 2**18
"""Positions of a large order that are looked at."""

for_each_case = pytest.mark.parametrize(("way", "n"), CASES)
for_each_window = pytest.mark.parametrize(
    ("n", "start"), [(n, start) for n in LARGE_SIZES for start in (0, n // 2 - 77)]
)


@functools.cache
def orders(way: str, n: int) -> Ints:
    """Return orders by seed, epoch and position: shape (seeds, epochs, n)."""
    num_seeds = 40 if n <= 64 else 30 if n <= 256 else 20
    rows = [
        epoch_permutation(n, seed=seed, epoch=epoch).numpy()
        if way == "stored"
        else _Computed(n, seed, epoch).compute(range(n)).numpy()
        for seed in range(num_seeds)
        for epoch in range(NUM_EPOCHS)
    ]
    return np.stack(rows).reshape(num_seeds, NUM_EPOCHS, n)


@functools.cache
def window(n: int, start: int, seed: int = 0, epoch: int = 0) -> Ints:
    order = make_order(n, seed=seed, epoch=epoch)
    return order.indices(start, start + WINDOW).numpy()


def assert_likely(p_value: float) -> None:
    assert p_value >= FALSE_ALARM, f"p = {p_value:.2g}"


def assert_normal(z: float) -> None:
    assert_likely(2 * float(stats.norm.sf(abs(z))))


def assert_chi_squared(statistic: float, degrees: int) -> None:
    """Neither too uneven nor too even."""
    law = stats.chi2(degrees)
    assert_likely(2 * min(float(law.sf(statistic)), float(law.cdf(statistic))))


def assert_uniform(values: Ints, num_values: int, population: float = 1e300) -> None:
    """Values below ``num_values``, drawn without replacement from a population."""
    counts = np.bincount(values.ravel(), minlength=num_values)
    expected = values.size / num_values
    statistic = float(((counts - expected) ** 2).sum() / expected)
    drawn_back = 1 - values.size / population
    assert_chi_squared(statistic / drawn_back, num_values - 1)


def assert_poisson(counts: Ints) -> None:
    """Counts of matches between independent permutations: Poisson with mean 1.

    The two laws differ by less than 1/n!, so this holds from eight samples on.
    """
    seen = np.bincount(np.minimum(counts.ravel(), 5), minlength=6)
    law = stats.poisson(1)
    expected = np.append(law.pmf(range(5)), law.sf(4)) * counts.size
    assert_chi_squared(float(((seen - expected) ** 2 / expected).sum()), 5)


def count_cycles(permutations: Ints) -> Ints:
    """Count the cycles of each row: numbers that are the least of their cycle."""
    least = np.broadcast_to(np.arange(permutations.shape[1]), permutations.shape)
    jump = permutations
    for _ in range(permutations.shape[1].bit_length()):
        least = np.minimum(least, np.take_along_axis(least, jump, axis=1))
        jump = np.take_along_axis(jump, jump, axis=1)
    return (least == np.arange(permutations.shape[1])).sum(axis=1)


def neighbours(way: str, n: int, axis: int) -> tuple[Ints, Ints]:
    """Return the orders of consecutive seeds (axis 0) or epochs (axis 1)."""
    drawn = orders(way, n)
    count = drawn.shape[axis]
    earlier, later = range(count - 1), range(1, count)
    pair = drawn.take(earlier, axis), drawn.take(later, axis)
    return pair[0].reshape(-1, n), pair[1].reshape(-1, n)


def test_cycles_are_counted_right() -> None:
    rows = np.array([[0, 1, 2, 3], [1, 0, 2, 3], [1, 2, 3, 0], [1, 0, 3, 2]])
    assert count_cycles(rows).tolist() == [4, 3, 1, 2]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7])
def test_all_permutations_of_few_samples_are_as_frequent(n: int) -> None:
    number = {p: i for i, p in enumerate(itertools.permutations(range(n)))}
    num_seeds = max(2 * len(number) // 20, 20)
    seen = [
        number[tuple(epoch_permutation(n, seed=seed, epoch=epoch).tolist())]
        for seed in range(num_seeds)
        for epoch in range(NUM_EPOCHS)
    ]
    assert_uniform(np.array(seen), len(number))


@for_each_case
def test_half_of_the_orders_are_odd_permutations(way: str, n: int) -> None:
    is_odd = (n - count_cycles(orders(way, n).reshape(-1, n))) % 2
    assert_likely(stats.binomtest(int(is_odd.sum()), is_odd.size).pvalue)


@for_each_case
def test_every_index_comes_as_often_at_every_position(way: str, n: int) -> None:
    drawn = orders(way, n).reshape(-1, n)
    cells = np.bincount((np.arange(n) * n + drawn).ravel(), minlength=n * n)
    expected = len(drawn) / n
    statistic = float(((cells - expected) ** 2).sum() / expected)
    # Rows and columns of the table have fixed sums: the factor, and the degrees.
    assert_chi_squared(statistic * (n - 1) / n, (n - 1) ** 2)


@for_each_case
def test_fixed_points_are_as_many_as_chance_has_it(way: str, n: int) -> None:
    assert_poisson((orders(way, n) == np.arange(n)).sum(axis=2))


@for_each_case
@pytest.mark.parametrize("axis", [0, 1], ids=["seeds", "epochs"])
def test_neighbours_agree_as_seldom_as_chance_has_it(
    way: str, n: int, axis: int
) -> None:
    earlier, later = neighbours(way, n, axis)
    assert_poisson((earlier == later).sum(axis=1))


@for_each_case
@pytest.mark.parametrize("axis", [0, 1], ids=["seeds", "epochs"])
def test_neighbours_are_not_correlated(way: str, n: int, axis: int) -> None:
    earlier, later = (x - (n - 1) / 2 for x in neighbours(way, n, axis))
    correlations = (earlier * later).sum(axis=1) / (n * (n**2 - 1) / 12)
    # One of independent permutations has mean 0 and variance 1 / (n - 1).
    assert_normal(float(correlations.sum()) * math.sqrt((n - 1) / len(earlier)))


@for_each_case
def test_all_steps_between_adjacent_samples_are_as_frequent(way: str, n: int) -> None:
    drawn = orders(way, n)[..., : n // 2 * 2]
    steps = (drawn[..., 1::2] - drawn[..., ::2]) % n
    assert_uniform(steps - 1, n - 1)


@for_each_case
def test_all_steps_across_half_the_order_are_as_frequent(way: str, n: int) -> None:
    """In a computed order of square size these positions have the right half alike."""
    drawn = orders(way, n)[..., : n // 2 * 2].reshape(-1, 2, n // 2)
    steps = (drawn[:, 1] - drawn[:, 0]) % n
    assert_uniform(steps - 1, n - 1)


@pytest.mark.parametrize("n", [2**16, 2**16 + 2**9, 2**20])
@pytest.mark.parametrize("key", [0, 1])
def test_halves_of_a_number_tell_nothing_of_the_halves_it_maps_to(
    n: int, key: int
) -> None:
    side = math.isqrt(n - 1) + 1
    numbers = np.arange(n)
    mapped = Bijection(n, key=key)(numbers.astype(np.uint64)).astype(np.int64)
    for half, mapped_half in itertools.product(
        (numbers // side, numbers % side), (mapped // side, mapped % side)
    ):
        seen = np.bincount(half * side + mapped_half, minlength=side * side)
        rows, columns = np.bincount(half), np.bincount(mapped_half)
        expected = np.outer(rows, columns).ravel() / n
        seen = seen[: expected.size]
        statistic = float(((seen - expected) ** 2 / expected).sum()) * (n - 1) / n
        degrees = (len(rows) - 1) * (len(columns) - 1)
        assert_normal((statistic - degrees) / math.sqrt(2 * degrees))


@for_each_window
def test_indices_of_a_window_are_spread_over_all(n: int, start: int) -> None:
    places = (window(n, start) / n * 4_096).astype(np.int64)
    assert_uniform(places, 4_096, population=n)


@for_each_window
@pytest.mark.parametrize("modulus", [4_096, 4_093])
def test_last_digits_of_a_window_are_as_frequent(
    n: int, start: int, modulus: int
) -> None:
    assert_uniform(window(n, start) % modulus, modulus, population=n)


@for_each_window
@pytest.mark.parametrize("lag", [1, 2])
def test_place_tells_nothing_of_the_places_that_follow(
    n: int, start: int, lag: int
) -> None:
    places = (window(n, start) / n * 64).astype(np.int64).reshape(-1, 2 * lag)
    assert_uniform(places[:, 0] * 64 + places[:, lag], 4_096, population=n)


@for_each_window
def test_steps_in_a_window_are_spread_over_all(n: int, start: int) -> None:
    indices = window(n, start)
    steps = (indices[1::2] - indices[::2]) % n
    assert_uniform((steps / n * 4_096).astype(np.int64), 4_096)


@pytest.mark.parametrize("n", LARGE_SIZES)
@pytest.mark.parametrize("other", [(0, 1), (1, 0)], ids=["epoch", "seed"])
def test_window_of_a_neighbour_is_not_correlated(
    n: int, other: tuple[int, int]
) -> None:
    this, that = window(n, 0) / n - 0.5, window(n, 0, *other) / n - 0.5
    assert_normal(float((this * that).sum()) * 12 / math.sqrt(WINDOW))


@pytest.mark.parametrize("n", LARGE_SIZES)
@pytest.mark.parametrize("other", [(0, 1), (1, 0)], ids=["epoch", "seed"])
def test_window_of_a_neighbour_has_as_few_samples_in_common(
    n: int, other: tuple[int, int]
) -> None:
    common = np.intersect1d(window(n, 0), window(n, 0, *other)).size
    law = stats.hypergeom(n, WINDOW, WINDOW) if n < 2**31 else stats.poisson(2**36 / n)
    assert_likely(2 * min(float(law.sf(common - 1)), float(law.cdf(common)), 0.5))
