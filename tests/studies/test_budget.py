"""Budgets and targets: read, refused, and turned into a trial's limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handful.errors import ArgumentError
from handful.studies.budget import (
    Budget,
    Limits,
    limit_trial,
    parse_budget,
    parse_target,
)


@pytest.mark.parametrize(
    ("text", "budget", "spelled"),
    [
        ("20epochs", Budget(20, "epochs"), "20epochs"),
        ("1 epoch", Budget(1, "epochs"), "1epochs"),
        ("5000steps", Budget(5000, "steps"), "5000steps"),
        ("1e6samples", Budget(1e6, "samples"), "1000000samples"),
        ("60s", Budget(60, "s"), "60s"),
        ("0.5s", Budget(0.5, "s"), "0.5s"),
    ],
)
def test_budgets_are_read_and_written(text: str, budget: Budget, spelled: str) -> None:
    assert parse_budget(text) == budget
    assert str(budget) == spelled
    assert parse_budget(spelled) == budget


@pytest.mark.parametrize(
    "text", ["20", "epochs", "0steps", "1.5epochs", "-1s", "1e999s", "5 minutes", 5]
)
def test_other_budgets_are_refused(text: Any) -> None:
    with pytest.raises(ArgumentError, match="budget must be a number above 0 and a"):
        parse_budget(text)


def test_targets_compare_both_ways() -> None:
    low, high = parse_target("valid_loss<=0.3"), parse_target(" valid_f1 >= .5 ")
    assert low.is_reached({"valid_loss": 0.3})
    assert not low.is_reached({"valid_loss": 0.31})
    assert not low.is_reached({"valid_loss": math.nan})
    assert not low.is_reached({"train_loss": 0.1})
    assert high.is_reached({"valid_f1": 0.6})
    assert str(high) == "valid_f1>=0.5"


@pytest.mark.parametrize("text", ["valid_loss", "valid_loss<0.3", "<=1", "a<=b", 1])
def test_other_targets_are_refused(text: Any) -> None:
    with pytest.raises(ArgumentError, match="target must be a value of the history"):
        parse_target(text)


def _limit(text: str, batch_size: int | str, **more: Any) -> Limits:
    settings = {"num_samples": 100, "accumulate": 1, "drop_last": False, **more}
    return limit_trial(parse_budget(text), batch_size=batch_size, **settings)


def test_budgets_become_epochs_steps_and_seconds() -> None:
    assert _limit("20epochs", 32) == Limits(epochs=20)
    assert _limit("9steps", 32) == Limits(epochs=3, max_steps=9)
    assert _limit("2.5s", 32) == Limits(seconds=2.5)
    assert _limit("250samples", 32) == Limits(epochs=3, max_steps=10)
    assert _limit("250samples", "full") == Limits(epochs=3, max_steps=3)
    assert _limit("200samples", 32, drop_last=True).max_steps == 3 * 2 + 1
    assert _limit("250samples", 10, accumulate=2).max_steps == 13


@given(
    samples=st.integers(1, 2000),
    batch_size=st.integers(1, 120) | st.just("full"),
    accumulate=st.integers(1, 4),
    drop_last=st.booleans(),
)
def test_samples_become_the_least_steps_that_see_so_many(
    samples: int, batch_size: int | str, accumulate: int, drop_last: bool
) -> None:
    size = 100 if batch_size == "full" else int(batch_size)
    if drop_last and size > 100:
        return
    full, rest = divmod(100, size) if size <= 100 else (0, 100)
    batches = [size] * full + ([rest] if rest and not drop_last else [])
    steps = [
        sum(batches[i : i + accumulate]) for i in range(0, len(batches), accumulate)
    ]
    seen = count = 0
    while seen < samples:
        seen += steps[count % len(steps)]
        count += 1
    limits = _limit(
        f"{samples}samples", batch_size, accumulate=accumulate, drop_last=drop_last
    )
    assert limits.max_steps == count
    assert limits.epochs == -(-count // len(steps))
