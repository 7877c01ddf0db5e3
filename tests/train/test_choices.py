"""Choices: names and values are checked before torch is needed."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from handful.errors import ArgumentError
from handful.train.choices import (
    LOSSES,
    Choice,
    check_batch_size,
    check_epochs,
    check_lr,
    check_seed,
    parse_optimizer,
)


def test_text_and_mapping_say_the_same() -> None:
    expected = Choice("sgd", {"momentum": 0.9, "nesterov": True})
    assert parse_optimizer("sgd:momentum=0.9,nesterov=true") == expected
    mapping = {"name": "sgd", "momentum": 0.9, "nesterov": True}
    assert parse_optimizer(mapping) == expected
    assert parse_optimizer(expected) == expected
    assert parse_optimizer(str(expected)) == expected


@pytest.mark.parametrize("name", LOSSES)
def test_every_named_loss_and_argument_exists_in_torch(name: str) -> None:
    class_name, arguments = LOSSES[name]
    signature = inspect.signature(getattr(nn, class_name))
    assert set(arguments) <= set(signature.parameters)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("adm", "optimizer must be one of .*; got 'adm'. Did you mean 'adam'"),
        ("sgd:momentun=1", "Did you mean 'momentum'"),
        ("sgd:momentum", "must be written name or name:key=value"),
        ("sgd:", "must be written"),
        ("sgd:momentum=1,momentum=2", "has 'momentum' twice"),
        ({"momentum": 1}, "must be a name, or a mapping with a name"),
        (7, "must be a name"),
    ],
)
def test_wrong_choices_are_refused(value: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        parse_optimizer(value)


@pytest.mark.parametrize("value", [1, 32, "64", "full"])
def test_batch_sizes(value: Any) -> None:
    assert check_batch_size(value) in (1, 32, 64, "full")


@pytest.mark.parametrize(
    "value", [0, -1, "abc", "1e400", "1_0", " 5", 1.5, None, True, ""]
)
def test_wrong_batch_sizes_are_refused(value: Any) -> None:
    with pytest.raises(ArgumentError, match="batch_size must be a whole number from 1"):
        check_batch_size(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1, "x", None, True])
def test_wrong_rates_are_refused(value: Any) -> None:
    with pytest.raises(ArgumentError, match="lr must be a finite number above 0"):
        check_lr(value)


@given(st.floats(min_value=1e-300, allow_infinity=False, exclude_min=True))
def test_rates_are_kept_exactly(value: float) -> None:
    assert check_lr(repr(value)) == value


def test_epochs_and_seeds_have_bounds() -> None:
    assert check_epochs("3") == 3
    assert check_seed(2**63 - 1) == 2**63 - 1
    with pytest.raises(ArgumentError, match="epochs must be a whole number from 1"):
        check_epochs(0)
    with pytest.raises(ArgumentError, match=r"seed must be below 2\*\*63"):
        check_seed(2**63)
    with pytest.raises(ArgumentError, match="seed must be a whole number from 0"):
        check_seed(-1)
