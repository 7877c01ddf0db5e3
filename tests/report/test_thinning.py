"""Thinning: a long line drawn with few points looks the same."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from handful.report.thinning import thin_line

VALUES = st.lists(st.floats(width=32), min_size=1, max_size=300)


@given(values=VALUES, columns=st.integers(1, 20))
def test_no_peak_is_lost(values: list[float], columns: int) -> None:
    y = np.array(values)
    x, thin = thin_line(np.arange(len(y), dtype=float), y, columns)
    finite = y[np.isfinite(y)]
    kept = thin[np.isfinite(thin)]
    assert len(finite) == 0 or (kept.min(), kept.max()) == (finite.min(), finite.max())
    assert np.all(np.diff(x) >= 0)


@given(values=VALUES, columns=st.integers(1, 20))
def test_each_point_is_one_of_the_line(values: list[float], columns: int) -> None:
    y = np.array(values)
    x, thin = thin_line(np.arange(len(y), dtype=float), y, columns)
    whole = np.where(np.isfinite(y), y, np.nan)
    assert_array_equal(thin, whole[x.astype(int)])


def test_a_line_of_a_million_points_is_drawn_with_two_a_column() -> None:
    y = np.sin(np.arange(1_000_000) / 1e5)
    x, thin = thin_line(np.arange(1_000_000.0), y, 800)
    assert len(x) == len(thin) == 1600


def test_a_last_column_that_is_shorter_is_kept() -> None:
    y = np.array([0.0] * 10 + [1.0])
    x, thin = thin_line(np.arange(11.0), y, 2)
    assert_array_equal(x, [0, 0, 6, 10])
    assert_array_equal(thin, [0, 0, 0, 1])


def test_a_short_line_stays_as_it_is() -> None:
    x, y = np.arange(3.0), np.array([1.0, 2.0, 0.5])
    assert_array_equal(thin_line(x, y, 1), (x, y))


def test_a_column_without_a_finite_value_stays_a_gap() -> None:
    y = np.array([1.0] * 10 + [np.inf] * 10 + [2.0] * 10)
    _, thin = thin_line(np.arange(30.0), y, 3)
    assert_array_equal(thin, [1, 1, np.nan, np.nan, 2, 2])
