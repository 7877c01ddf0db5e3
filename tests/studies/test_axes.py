"""Axes: what may be varied, how values are read, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from handful import Recipe
from handful.errors import ArgumentError
from handful.studies.axes import AXES, apply_settings, check_vary, split_vary
from handful.train.options import OPTIONS


@pytest.mark.parametrize(
    ("vary", "axes"),
    [
        ({"batch-size": ["1", 10, "full"]}, {"batch_size": [1, 10, "full"]}),
        ({"lr": ["1e-3", 1]}, {"lr": [0.001, 1.0]}),
        ({"lr": np.array([0.5, 0.25])}, {"lr": [0.5, 0.25]}),
        ({"batch_size": np.array([2, 4])}, {"batch_size": [2, 4]}),
        ({"batch_size": range(1, 3)}, {"batch_size": [1, 2]}),
        ({"clip_norm": ["none", "1"]}, {"clip_norm": [None, 1.0]}),
        ({"log_norms": ["true", False]}, {"log_norms": [True, False]}),
        ({"metrics": ["mae;mse", ["mae"]]}, {"metrics": [["mae", "mse"], ["mae"]]}),
        (
            {"optimizer": ["adam", "sgd:momentum=0.9"]},
            {"optimizer": ["adam", {"name": "sgd", "momentum": 0.9}]},
        ),
        (
            {"early-stopping": ["2"]},
            {"early_stopping": [{"patience": 2, "min_delta": 0.0, "start": 0}]},
        ),
    ],
)
def test_values_are_read_as_on_the_command_line_and_kept_plain(
    vary: Any, axes: Any
) -> None:
    found = check_vary(vary)
    assert found == axes
    assert json.loads(json.dumps(found)) == found
    assert check_vary(found) == found


@pytest.mark.parametrize(
    ("vary", "match"),
    [
        ({}, "vary must map settings to lists of values"),
        ({"batch-sizes": [1]}, "Did you mean 'batch_size'"),
        ({"seed": [1, 2]}, "vary must not name the seed"),
        ({"lr": [0.1, "1e-1"]}, "got 0.1 twice, which makes two equal rows"),
        ({"lr": [-1]}, "lr must be a finite number above 0; got -1"),
        ({"lr": 0.1}, "lr must be varied over a list of values; got 0.1"),
        ({"lr": "0.1"}, "lr must be varied over a list of values; got '0.1'"),
        ({"lr": []}, "one value or more; got none"),
        ({"batch_size": ["all"]}, "whole number from 1 on or 'full'; got 'all'"),
        ({"batch-size": [1], "batch_size": [2]}, "must name batch_size once"),
        ({"schedule": ["step:step_size=0"]}, "step_size of the schedule must be"),
        ({"optimizer": ["adamm"]}, "Did you mean 'adam'"),
        ({"loss": [lambda a, b: 0]}, "loss must be varied over names and numbers"),
        ({"step": [print]}, "vary must be one of"),
        ({"last_batch": ["away"]}, "last_batch must be one of drop, keep"),
    ],
)
def test_what_cannot_be_varied_is_refused_in_a_sentence(vary: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        check_vary(vary)


def test_every_option_with_a_plain_value_can_be_varied() -> None:
    never = {"checkpoint_every", "save_every", "on_save_error", "step"}
    assert set(OPTIONS) - set(AXES) == never


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("batch-size=1,10,full", ["1", "10", "full"]),
        ("lr=0.1", ["0.1"]),
        (
            "optimizer=adam,sgd:momentum=0.9,nesterov=true,rmsprop",
            ["adam", "sgd:momentum=0.9,nesterov=true", "rmsprop"],
        ),
    ],
)
def test_commas_inside_arguments_separate_no_values(
    text: str, values: list[str]
) -> None:
    assert split_vary(text) == (text.partition("=")[0], values)


@pytest.mark.parametrize("text", ["lr", "=1", "lr=", "lr=1,,2"])
def test_a_vary_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="must be written NAME=VALUE,VALUE"):
        split_vary(text)


def test_settings_reach_fields_and_options(line: Recipe) -> None:
    settings = {"lr": 0.5, "clip_norm": 1.0, "metrics": ["mse"], "ema": 0.9}
    own = apply_settings(line, settings)
    assert (own.lr, own.metrics) == (0.5, ("mse",))
    assert own.options == {"clip_norm": 1.0, "ema": 0.9}
    assert line.options == {}


def test_a_length_replaces_the_other_one(line: Recipe) -> None:
    by_steps = apply_settings(line, {"max_steps": 5})
    assert (by_steps.epochs, by_steps.options["max_steps"]) == (None, 5)
    by_epochs = apply_settings(by_steps, {"epochs": 2})
    assert (by_epochs.epochs, "max_steps" in by_epochs.options) == (2, False)
