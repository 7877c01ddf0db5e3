"""The cheapest way to call an operation gives the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from handful.train.kernel_calls import OutCall, Ways, have_same_bits

aten = torch.ops.aten
X = torch.linspace(-2, 2, 24).reshape(4, 6)
W = torch.linspace(-1, 1, 18).reshape(6, 3)


def choose(function: Any, *args: Any) -> Any:
    return Ways().choose(function, args, {}, function(*args))


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (aten.mm.default, (X, W)),
        (aten.addmm.default, (torch.ones(3), X, W)),
        (aten.relu.default, (X,)),
        (aten.add.Tensor, (X, X)),
        (aten._log_softmax.default, (X, 1, False)),
        (aten.max.dim, (X, 1)),
        (aten.cat.default, ([X, X], 1)),
    ],
)
def test_an_operation_that_can_writes_into_given_tensors(
    function: Any, args: tuple[Any, ...]
) -> None:
    way = choose(function, *args)
    wanted = function(*args)
    wanted = list(wanted) if isinstance(wanted, tuple) else [wanted]
    assert isinstance(way, OutCall)
    given = [torch.empty_like(value) for value in wanted]
    way.call(*args, **way.name_outputs(given))
    assert have_same_bits(given, wanted)


def test_an_operation_that_can_not_is_called_as_it_is() -> None:
    way = choose(aten.native_dropout.default, X, 0.0, True)
    assert not isinstance(way, OutCall)
    assert have_same_bits(way(X, 0.0, True), aten.native_dropout.default(X, 0.0, True))


def test_a_loss_does_not_use_its_result_for_what_is_in_between() -> None:
    way = choose(aten.mse_loss.default, X, X + 1, 1)
    assert not isinstance(way, OutCall)


def test_a_way_with_other_numbers_is_not_taken() -> None:
    wrong = aten.mm.default(X, W) + 1
    way = Ways().choose(aten.mm.default, (X, W), {}, wrong)
    assert way is getattr(aten.mm.default, "_op", aten.mm.default)


def test_operations_that_are_alike_are_compared_once() -> None:
    ways = Ways()
    first = ways.choose(aten.mm.default, (X, W), {}, X @ W)
    assert ways.choose(aten.mm.default, (X * 2, W), {}, torch.zeros(1)) is first
    other = ways.choose(aten.mm.default, (X.T, X), {}, torch.zeros(1))
    assert not isinstance(other, OutCall)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (X.clone(), True),
        (X.T.contiguous().T, False),
        (X.double(), False),
        (X + 1e-7, False),
        (X.flatten(), False),
        (None, False),
    ],
)
def test_bits_and_layout_are_compared(other: Tensor | None, same: bool) -> None:
    assert have_same_bits(X, other) == same


def test_minus_zero_is_another_number_and_nan_the_same() -> None:
    zero, nan = torch.zeros(2), torch.full((2,), torch.nan)
    assert not have_same_bits(zero, -zero)
    assert have_same_bits(nan, nan.clone())
    assert not have_same_bits([nan], [nan, nan])
