"""Changes: what counts as another setting, and what does not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from handful.runs.changes import describe_changes


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"lr": 1}, {"lr": 1.0}),
        ({"betas": [0.9, [1]]}, {"betas": (0.9, (1,))}),
        (
            {"optimizer": {"name": "sgd", "b": [1]}},
            {"optimizer": {"b": (1,), "name": "sgd"}},
        ),
        ({"x": math.nan}, {"x": math.nan}),
        ({"schedule": "<Mine at 0x7f01>"}, {"schedule": "<Mine at 0x7Fab>"}),
        ({"epochs": 3, "max_steps": None}, {"epochs": 4, "max_steps": 9}),
        ({}, {"new": 1}),
    ],
)
def test_settings_that_mean_the_same_are_no_change(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert describe_changes(before, after) == ""


def test_each_setting_that_changed_is_named_with_both_values() -> None:
    before = {"lr": 0.001, "seed": 0, "note": "a", "schedule": "<Mine at 0x1>"}
    after = {"seed": 0, "lr": 0.5, "schedule": "<Other at 0x1>"}
    assert describe_changes(before, after) == (
        "lr was 0.001, is 0.5; note was a, is None; "
        "schedule was <Mine at 0x1>, is <Other at 0x1>"
    )
