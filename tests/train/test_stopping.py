"""Early stopping: one decision for the same values, and Keras' decision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handful.errors import ArgumentError
from handful.train.stopping import EarlyStopping


def keras_stops_at(
    values: Sequence[float],
    *,
    patience: int,
    min_delta: float,
    start: int,
    higher_is_better: bool,
) -> int | None:
    """Return the index of the epoch after which Keras 3 would stop, None for never.

    Its callback keeps a best value and a counter over the epochs; this is the same
    automaton, written without it.
    """
    sign = 1.0 if higher_is_better else -1.0
    wait, best = 0, None
    for epoch, value in enumerate(values):
        if epoch < start:
            continue
        wait += 1
        if best is None or sign * (value - sign * min_delta) > sign * best:
            best, wait = value, 0
        elif wait >= patience and epoch > 0:
            return epoch
    return None


def stops_at(
    stopping: EarlyStopping, values: Sequence[float], *, higher_is_better: bool
) -> int | None:
    """Return the index of the first value after which there is a reason to stop."""
    for index in range(len(values)):
        seen = values[: index + 1]
        if stopping.reason_to_stop(seen, higher_is_better=higher_is_better):
            return index
    return None


# Few distinct values, so that ties and steps of exactly min_delta are common.
COARSE = st.integers(-8, 8).map(lambda number: number / 8)
FINITE = st.floats(-1e3, 1e3, allow_nan=False)
VALUES = st.lists(COARSE | FINITE | st.sampled_from([math.inf, -math.inf]), max_size=40)


@given(
    values=VALUES,
    patience=st.integers(0, 8),
    min_delta=st.sampled_from([0.0, 0.125, 0.25, 0.3]),
    start=st.integers(0, 5),
    higher_is_better=st.booleans(),
)
def test_it_stops_where_keras_does(
    values: list[float],
    patience: int,
    min_delta: float,
    start: int,
    higher_is_better: bool,
) -> None:
    stopping = EarlyStopping(patience, min_delta, start)
    assert stops_at(
        stopping, values, higher_is_better=higher_is_better
    ) == keras_stops_at(
        values,
        patience=patience,
        min_delta=min_delta,
        start=start,
        higher_is_better=higher_is_better,
    )


@given(
    values=st.lists(COARSE | st.just(math.nan), max_size=40),
    patience=st.integers(1, 4),
    higher_is_better=st.booleans(),
)
def test_nan_after_a_number_waits_as_in_keras(
    values: list[float], patience: int, higher_is_better: bool
) -> None:
    values = [0.0, *values]
    stopping = EarlyStopping(patience)
    assert stops_at(
        stopping, values, higher_is_better=higher_is_better
    ) == keras_stops_at(
        values,
        patience=patience,
        min_delta=0.0,
        start=0,
        higher_is_better=higher_is_better,
    )


def test_a_number_after_a_first_nan_is_an_improvement() -> None:
    values = [math.nan, 3.0, 2.0, 1.0]
    assert EarlyStopping(2).reason_to_stop(values, higher_is_better=False) is None


def test_nan_alone_stops_after_the_patience() -> None:
    stopping = EarlyStopping(2)
    assert stopping.reason_to_stop([math.nan] * 2, higher_is_better=False) is None
    assert (
        stopping.reason_to_stop([math.nan] * 3, higher_is_better=False, name="mae")
        == "mae has been NaN for 3 validations."
    )


def test_the_reason_names_the_value_the_wait_and_the_best() -> None:
    values = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 0.31, 0.4, 0.5, 0.35, 0.31, 0.32]
    assert (
        EarlyStopping().reason_to_stop(
            values, higher_is_better=False, name="valid_loss"
        )
        == "valid_loss has not improved for 5 validations (best 0.31 at 7)."
    )


def test_one_validation_is_written_without_an_s() -> None:
    reason = EarlyStopping(1).reason_to_stop([0.9, 0.8], higher_is_better=True)
    assert reason is not None
    assert "for 1 validation (best 0.9 at 1)" in reason


def test_a_rise_of_just_min_delta_does_not_count() -> None:
    stopping = EarlyStopping(1, min_delta=0.25)
    assert stopping.reason_to_stop([0.5, 0.75], higher_is_better=True)
    assert not stopping.reason_to_stop([0.5, 0.76], higher_is_better=True)


def test_small_improvements_add_up_to_one_that_counts() -> None:
    stopping = EarlyStopping(3, min_delta=0.25)
    assert not stopping.reason_to_stop([1.0, 0.9, 0.8, 0.7], higher_is_better=False)


def test_values_before_the_start_are_not_the_best() -> None:
    stopping = EarlyStopping(2, start=2)
    values = [0.1, 0.1, 0.9, 0.8, 0.7]
    assert stopping.reason_to_stop(values, higher_is_better=False) is None


def test_the_values_are_left_as_they_are() -> None:
    values = [0.5, math.nan, 0.75]
    before = list(map(str, values))
    EarlyStopping(1).reason_to_stop(values, higher_is_better=True)
    assert list(map(str, values)) == before


@pytest.mark.parametrize("name", ["patience", "start"])
@pytest.mark.parametrize("value", [-1, 1.0, True, "3", None])
def test_counts_must_be_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"{name} must be a whole number from 0"):
        EarlyStopping(**{name: value})


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, True, "0.1", None])
def test_min_delta_must_be_finite_and_not_below_zero(value: Any) -> None:
    with pytest.raises(ArgumentError, match="min_delta must be a finite number"):
        EarlyStopping(min_delta=value)
