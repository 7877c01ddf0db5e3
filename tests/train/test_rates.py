"""Rates: set for each group by the schedule, exactly, and put back in the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler

from handful.errors import ArgumentError
from handful.train.rates import Rates
from handful.train.schedules import make_schedule
from handful.train.torch_schedule import TorchSchedule


def make_optimizer(kind: Any = SGD, **options: Any) -> Any:
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)]},
        {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.3},
    ]
    return kind(groups, **{"lr": 0.1, **options})


def lrs(optimizer: Optimizer) -> list[Any]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("base", [0.1, 0.3, 0.7, 0.05, 0.013])
def test_the_first_group_has_the_rate_exactly_and_others_keep_their_ratio(
    base: float,
) -> None:
    optimizer = make_optimizer(lr=base)
    schedule = make_schedule("cosine:eta_min=0.0003")
    rates = Rates(optimizer, schedule, epochs=60, steps=None)
    for epoch in range(60):
        rates.set(epoch, [])
        expected = schedule.lr_at(epoch, lr=base, total=60, losses=[])
        assert lrs(optimizer)[0] == rates.lr == expected
        assert lrs(optimizer)[1] == pytest.approx(0.3 / base * expected, rel=1e-12)
    rates.reset()
    assert lrs(optimizer) == [base, 0.3]


def test_a_group_that_a_callback_adds_keeps_its_own_rate() -> None:
    optimizer = make_optimizer()
    rates = Rates(optimizer, make_schedule("step:step_size=1"), epochs=3, steps=None)
    group = {"params": [torch.zeros(1, requires_grad=True)], "lr": 7.0}
    optimizer.add_param_group(group)
    rates.set(2, [])
    rates.reset()
    assert lrs(optimizer) == [0.1, 0.3, 7.0]


def test_a_rate_in_a_tensor_stays_in_it() -> None:
    lr = torch.tensor(0.5)
    optimizer = AdamW([torch.zeros(1, requires_grad=True)], lr=lr)
    rates = Rates(
        optimizer, make_schedule("step:step_size=1,gamma=0.5"), epochs=3, steps=None
    )
    rates.set(1, [])
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.25
    rates.reset()
    assert lr.item() == 0.5


def test_an_optimizer_without_rates_is_refused() -> None:
    class Plain(Optimizer):
        def __init__(self) -> None:
            super().__init__([torch.zeros(1, requires_grad=True)], {"size": 1})

    with pytest.raises(ArgumentError, match=r"a rate lr in each .*; got one with size"):
        Rates(Plain(), make_schedule(None), epochs=1, steps=None)


def test_what_a_scheduler_leaves_in_the_groups_is_gone_in_the_end() -> None:
    optimizer = make_optimizer(momentum=0.9)
    before = [dict(group) for group in optimizer.param_groups]
    schedule = TorchSchedule(
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=5)
    )
    rates = Rates(optimizer, schedule, epochs=1, steps=5)
    assert rates.unit == "step"
    assert rates.changes_groups
    optimizer.step()
    rates.advance(None)
    assert optimizer.param_groups[0]["momentum"] != 0.9
    rates.reset()
    assert [dict(group) for group in optimizer.param_groups] == before


def test_a_schedulers_place_is_taken_and_put_back_without_a_warning() -> None:
    def make(optimizer: Any) -> Any:
        parts = [
            lr_scheduler.ConstantLR(optimizer, 0.5, 1),
            lr_scheduler.StepLR(optimizer, 1),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])

    optimizer, other = make_optimizer(), make_optimizer()
    rates = Rates(optimizer, TorchSchedule(make), epochs=5, steps=None)
    optimizer.step()
    rates.advance(None)
    again = Rates(other, TorchSchedule(make), epochs=5, steps=None)
    other.load_state_dict(optimizer.state_dict())
    again.load_state_dict(rates.state_dict())
    for _ in range(3):
        rates.advance(None)
        again.advance(None)
        assert lrs(optimizer) == lrs(other)
