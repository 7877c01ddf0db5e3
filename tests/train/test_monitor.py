"""Monitor: which record is the best, and what schedules are told."""

from __future__ import annotations

import math
from typing import Any

import pytest

from handful.train.monitor import Monitor


def record(step: int, epoch: int = 1, **values: float) -> dict[str, Any]:
    return {"step": step, "epoch": epoch, **values}


@pytest.mark.parametrize(("higher", "best"), [(False, 2), (True, 3)])
def test_the_best_is_the_lowest_or_highest_and_the_first_of_equals(
    higher: bool, best: int
) -> None:
    monitor = Monitor("v", higher_is_better=higher)
    added = [monitor.add(record(s, v=v)) for s, v in enumerate([3.0, 1.0, 5.0, 5.0], 1)]
    assert monitor.best_step == best
    assert added == (
        [True, False, True, False] if higher else [True, True, False, False]
    )


def test_nan_is_never_the_best() -> None:
    monitor = Monitor("v")
    assert not monitor.add(record(1, v=math.nan))
    assert monitor.best_step is None
    assert monitor.add(record(2, v=3.0))
    assert not monitor.add(record(3, v=math.nan))
    assert monitor.best_step == 2


def test_records_without_the_value_are_passed_over() -> None:
    monitor = Monitor("v")
    assert not monitor.add(record(1, w=1.0))
    assert monitor.losses() == []


def test_two_records_of_one_step_are_one_value() -> None:
    monitor = Monitor("v")
    assert monitor.add(record(3, v=1.0))
    assert not monitor.add(record(3, v=1.0))
    assert monitor.losses() == [1.0]
    monitor.add(record(4, v=1.0))
    assert monitor.losses() == [1.0, 1.0]


def test_losses_fall_as_the_value_improves_and_leave_an_epoch_out() -> None:
    monitor = Monitor("v", higher_is_better=True)
    for step, epoch in ((1, 1), (2, 1), (3, 2), (4, 3)):
        monitor.add(record(step, epoch, v=step / 10))
    assert monitor.losses() == [-0.1, -0.2, -0.3, -0.4]
    assert monitor.losses(before_epoch=3) == [-0.1, -0.2, -0.3]
    assert monitor.losses(before_epoch=1) == []


def test_the_latest_value_is_that_of_the_epoch_or_none() -> None:
    monitor = Monitor("v")
    assert monitor.latest(1) is None
    monitor.add(record(1, 1, v=0.5))
    assert monitor.latest(1) == 0.5
    assert monitor.latest(2) is None
