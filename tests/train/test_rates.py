"""Rates: set for each group by the schedule, exactly, and put back in the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler

from handful.errors import ArgumentError
from handful.runs.files import from_json, to_json
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


def test_a_constant_rate_that_someone_sets_stays_and_is_reset_in_the_end() -> None:
    optimizer = make_optimizer()
    rates = Rates(optimizer, make_schedule(None), epochs=3, steps=None)
    rates.set(0, [])
    optimizer.param_groups[0]["lr"] = 0.07
    rates.set(1, [])
    rates.set(2, [])
    assert lrs(optimizer) == [0.07, 0.3]
    rates.reset()
    assert lrs(optimizer) == [0.1, 0.3]


def test_a_rate_that_someone_sets_is_a_factor_on_its_group_alone() -> None:
    optimizer = make_optimizer()
    schedule = make_schedule("step:step_size=1,gamma=0.5")
    rates = Rates(optimizer, schedule, epochs=9, steps=None)
    rates.set(1, [])
    optimizer.param_groups[1]["lr"] /= 10
    rates.set(1, [])
    assert lrs(optimizer) == pytest.approx([0.05, 0.015])
    rates.set(2, [])
    assert lrs(optimizer) == pytest.approx([0.025, 0.0075])
    optimizer.param_groups[0]["lr"] *= 4
    rates.set(3, [])
    assert lrs(optimizer) == pytest.approx([0.05, 0.00375])
    rates.reset()
    assert lrs(optimizer) == [0.1, 0.3]


def test_a_group_that_was_frozen_by_its_rate_can_be_thawed() -> None:
    optimizer = make_optimizer()
    schedule = make_schedule("step:step_size=1,gamma=0.5")
    rates = Rates(optimizer, schedule, epochs=9, steps=None)
    rates.set(0, [])
    optimizer.param_groups[0]["lr"] = 0.0
    rates.set(1, [])
    assert lrs(optimizer) == [0.0, pytest.approx(0.15)]
    optimizer.param_groups[0]["lr"] = 0.05
    rates.set(2, [])
    assert lrs(optimizer) == pytest.approx([0.025, 0.075])


@pytest.mark.parametrize("schedule", [None, "step:step_size=2", "cosine"])
def test_rates_that_someone_set_are_the_same_after_a_resume(schedule: Any) -> None:
    optimizer, other = make_optimizer(), make_optimizer()
    rates = Rates(optimizer, make_schedule(schedule), epochs=7, steps=None)
    rates.set(2, [])
    assert rates.state_dict() == {}
    optimizer.param_groups[1]["lr"] = 0.0123
    state = from_json(to_json(rates.state_dict()))
    again = Rates(other, make_schedule(schedule), epochs=7, steps=None)
    again.load_state_dict(state)
    assert from_json(to_json(again.state_dict())) == state
    other.param_groups[1]["lr"] *= 0.5  # a callback, when the run begins again
    again.set(2, [])
    assert lrs(other) == lrs(optimizer)
    for epoch in range(3, 7):
        rates.set(epoch, [])
        again.set(epoch, [])
        assert lrs(other) == lrs(optimizer)


@pytest.mark.parametrize(
    ("epochs", "steps", "total"), [(9, 21, 3), (2, 21, 2), (None, 21, 3), (4, None, 4)]
)
def test_epochs_are_those_that_the_steps_begin(
    epochs: int | None, steps: int | None, total: int
) -> None:
    optimizer, schedule = make_optimizer(), make_schedule("cosine")
    rates = Rates(optimizer, schedule, epochs=epochs, steps=steps, steps_per_epoch=10)
    rates.set(1, [])
    assert rates.lr == schedule.lr_at(1, lr=0.1, total=total, losses=[])


def test_epochs_that_are_not_known_are_refused_with_the_other_unit() -> None:
    with pytest.raises(ArgumentError, match="or epochs, or unit=step with max_steps"):
        Rates(make_optimizer(), make_schedule("cosine"), epochs=None, steps=21)


@pytest.mark.parametrize(
    ("mode", "higher_is_better", "match"),
    [
        ("min", True, "must be 'max', as the monitored value should rise; got 'min'"),
        ("max", False, "must be 'min', as the monitored value should fall; got 'max'"),
    ],
)
def test_a_plateau_of_the_wrong_direction_is_refused(
    mode: Any, higher_is_better: bool, match: str
) -> None:
    def start(higher_is_better: bool | None) -> Rates:
        schedule = TorchSchedule(lambda o: lr_scheduler.ReduceLROnPlateau(o, mode))
        return Rates(
            make_optimizer(),
            schedule,
            epochs=3,
            steps=None,
            higher_is_better=higher_is_better,
        )

    with pytest.raises(ArgumentError, match=match):
        start(higher_is_better)
    assert start(not higher_is_better).unit == start(None).unit == "epoch"
