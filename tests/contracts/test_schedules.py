"""Every schedule traces the curve of PyTorch's own, and is a pure function."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, lr_scheduler

from handful.errors import ArgumentError
from handful.train.choices import SCHEDULES, Choice, parse_optimizer, parse_schedule
from handful.train.schedules import (
    Constant,
    CosineAnnealing,
    MultiStepDecay,
    OneCycle,
    Schedule,
    Unit,
    Warmup,
    check_total,
    describe_schedule,
    make_schedule,
)

TOTAL = 50
LR = 0.1

MakeTheirs = Callable[[SGD, int], Any]

CASES: dict[str, tuple[str, MakeTheirs]] = {
    "constant": ("constant", lambda o, n: lr_scheduler.ConstantLR(o, factor=1.0)),
    "step": ("step:step_size=7,gamma=0.3", lambda o, n: lr_scheduler.StepLR(o, 7, 0.3)),
    "step as it is": ("step", lambda o, n: lr_scheduler.StepLR(o, 10)),
    "step that grows": (
        "step:step_size=20,gamma=1.5",
        lambda o, n: lr_scheduler.StepLR(o, 20, 1.5),
    ),
    "multistep": (
        "multistep:milestones=3;20;21,gamma=0.5",
        lambda o, n: lr_scheduler.MultiStepLR(o, [3, 20, 21], 0.5),
    ),
    "multistep with one milestone": (
        "multistep:milestones=30",
        lambda o, n: lr_scheduler.MultiStepLR(o, [30]),
    ),
    "exponential": (
        "exponential:gamma=0.9",
        lambda o, n: lr_scheduler.ExponentialLR(o, 0.9),
    ),
    "cosine": ("cosine", lr_scheduler.CosineAnnealingLR),
    "cosine past its end": (
        "cosine:t_max=15,eta_min=0.01",
        lambda o, n: lr_scheduler.CosineAnnealingLR(o, 15, 0.01),
    ),
    "cosine restarts": (
        "cosine_restarts:t_0=7",
        lambda o, n: lr_scheduler.CosineAnnealingWarmRestarts(o, 7),
    ),
    "cosine restarts that lengthen": (
        "cosine_restarts:t_0=3,t_mult=2,eta_min=0.001",
        lambda o, n: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2, 0.001),
    ),
    "linear": ("linear", lambda o, n: lr_scheduler.LinearLR(o)),
    "linear down": (
        "linear:start_factor=1,end_factor=0,total_iters=40",
        lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.0, 40),
    ),
    "polynomial": ("polynomial", lr_scheduler.PolynomialLR),
    "polynomial that ends before": (
        "polynomial:total_iters=30,power=2.5",
        lambda o, n: lr_scheduler.PolynomialLR(o, 30, 2.5),
    ),
    "one cycle": ("one_cycle", lambda o, n: one_cycle(o, n)),
    "one cycle in lines": (
        "one_cycle:pct_start=0.45,anneal_strategy=linear,div_factor=5,"
        "final_div_factor=50",
        lambda o, n: one_cycle(
            o,
            n,
            pct_start=0.45,
            anneal_strategy="linear",
            div_factor=5,
            final_div_factor=50,
        ),
    ),
    "one cycle in three phases": (
        "one_cycle:pct_start=0.2,three_phase=true",
        lambda o, n: one_cycle(o, n, pct_start=0.2, three_phase=True),
    ),
    "one cycle that only falls": (
        "one_cycle:pct_start=0.0",
        lambda o, n: one_cycle(o, n, pct_start=0.0),
    ),
}

PLATEAUS: dict[str, dict[str, Any]] = {
    "plateau": {"factor": 0.5, "patience": 2},
    "plateau as it is": {},
    "plateau with everything": {
        "factor": 0.3,
        "patience": 1,
        "threshold": 0.05,
        "threshold_mode": "abs",
        "cooldown": 3,
        "min_lr": 0.002,
    },
}

SETTINGS: list[Any] = [
    *(text for text, _ in CASES.values()),
    *({"name": "plateau", **arguments} for arguments in PLATEAUS.values()),
]


def one_cycle(optimizer: SGD, total: int, **arguments: Any) -> Any:
    """Make PyTorch's class as ours stands for it: the user's rate is the peak."""
    return lr_scheduler.OneCycleLR(
        optimizer, LR, total_steps=total, cycle_momentum=False, **arguments
    )


def make_sgd() -> SGD:
    return SGD([torch.zeros(1, requires_grad=True)], lr=LR)


def read_lr(optimizer: SGD) -> float:
    return float(optimizer.param_groups[0]["lr"])


def make_variant(setting: Any, unit: Unit, warmup: int, start: float) -> Schedule:
    """Make a setting's schedule with a unit and a warm-up."""
    choice = parse_schedule(setting)
    arguments = {**choice.args, "unit": unit, "warmup": warmup, "warmup_start": start}
    return make_schedule(Choice(choice.name, arguments))


def trace(
    schedule: Schedule, losses: Sequence[float] = (), total: int = TOTAL
) -> list[float]:
    """Return the rates of a whole run, with a validation after each position."""
    return [
        schedule.lr_at(n, lr=LR, total=total, losses=losses[:n]) for n in range(total)
    ]


def trace_theirs(make_theirs: MakeTheirs, warmup: int, start: float) -> list[float]:
    """Return the rates that PyTorch's classes set, stepped as documented."""
    optimizer, rates = make_sgd(), []
    if warmup:
        rise = lr_scheduler.LinearLR(optimizer, start, 1.0, warmup)
        then = make_theirs(optimizer, TOTAL - warmup)
        theirs: Any = lr_scheduler.SequentialLR(optimizer, [rise, then], [warmup])
    else:
        theirs = make_theirs(optimizer, TOTAL)
    for _ in range(TOTAL):
        rates.append(read_lr(optimizer))
        optimizer.step()
        theirs.step()
    return rates


@pytest.mark.parametrize(("warmup", "start"), [(0, 1.0), (6, 0.01), (1, 0.5), (9, 1.0)])
@pytest.mark.parametrize("unit", ["epoch", "step"])
@pytest.mark.parametrize("name", CASES)
def test_curve_equals_pytorchs(
    name: str, unit: Unit, warmup: int, start: float
) -> None:
    setting, make_theirs = CASES[name]
    schedule = make_variant(setting, unit, warmup, start)
    assert schedule.unit == unit
    theirs = trace_theirs(make_theirs, warmup, start)
    assert trace(schedule) == pytest.approx(theirs, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("name", PLATEAUS)
@settings(deadline=None)  # a busy machine makes no test fail
@given(values=st.lists(st.floats(0, 2) | st.just(math.nan), min_size=1, max_size=40))
def test_plateau_equals_pytorchs(
    name: str, mode: Any, warmup: int, values: list[float]
) -> None:
    optimizer, curve = make_sgd(), []
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, mode, **PLATEAUS[name])
    for n, value in enumerate(values):
        rise = LR * (0.01 + 0.99 * n / (warmup or 1))
        curve.append(rise if n < warmup else read_lr(optimizer))
        theirs.step(value)
    setting = {"name": "plateau", **PLATEAUS[name]}
    losses = values if mode == "min" else [-value for value in values]
    ours = trace(make_variant(setting, "epoch", warmup, 0.01), losses, len(losses))
    assert ours == pytest.approx(curve, rel=1e-12)


def test_a_loss_below_zero_that_rises_is_no_improvement() -> None:
    schedule = make_schedule("plateau:patience=0,threshold=0.5")
    lrs = [
        schedule.lr_at(2, lr=LR, total=None, losses=[-1.0, second])
        for second in (-0.75, -1.25, -1.75)
    ]
    assert lrs == [LR * 0.1, LR * 0.1, LR]


@pytest.mark.parametrize("name", PLATEAUS)
def test_plateau_reduces_on_losses_that_stall(name: str) -> None:
    losses = [1 / (1 + n // 9) for n in range(12)] + [0.5] * 38
    rates = trace(make_schedule({"name": "plateau", **PLATEAUS[name]}), losses)
    assert rates[0] == LR
    assert rates[-1] < LR / 2


class CountedFloat(float):
    """A loss that counts how often it is looked at."""

    looks = 0

    def __lt__(self, other: float) -> bool:
        CountedFloat.looks += 1
        return float(self) < other


def test_plateau_looks_at_losses_anew_only_when_there_are_others() -> None:
    schedule = make_schedule("plateau:warmup=3,unit=step,patience=0")
    losses = [CountedFloat(n) for n in (7.0, 8.0, 9.0)]
    CountedFloat.looks = 0
    rates = {
        schedule.lr_at(n, lr=LR, total=None, losses=losses) for n in range(3, 2000)
    }
    assert rates == {LR * 0.1 * 0.1}
    assert CountedFloat.looks == len(losses)
    others = [CountedFloat(n) for n in (9.5, 9.4, 9.0)]
    assert schedule.lr_at(3, lr=LR, total=None, losses=others) == LR
    assert schedule.lr_at(3, lr=2 * LR, total=None, losses=losses) < LR


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("unit", ["epoch", "step"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_schedule_answers_the_same_in_any_order(
    setting: Any, unit: Unit, warmup: int
) -> None:
    draw = random.Random(str(setting))
    losses = [draw.random() for _ in range(TOTAL)]
    schedule = make_variant(setting, unit, warmup, 0.1)
    forward = trace(schedule, losses)
    order = draw.sample(range(TOTAL), TOTAL)
    fresh = make_variant(setting, unit, warmup, 0.1)
    shuffled = {n: fresh.lr_at(n, lr=LR, total=TOTAL, losses=losses[:n]) for n in order}
    assert [shuffled[n] for n in range(TOTAL)] == forward
    assert trace(schedule, losses) == forward
    assert all(math.isfinite(rate) and rate >= 0 for rate in forward)
    assert all(rate > 0 for rate in forward[:30])


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("unit", ["epoch", "step"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_description_makes_the_same_schedule_again(
    setting: Any, unit: Unit, warmup: int
) -> None:
    schedule = make_variant(setting, unit, warmup, 0.2)
    described = describe_schedule(schedule)
    assert make_schedule(described) == schedule
    assert make_schedule(json.loads(json.dumps(described))) == schedule
    assert isinstance(described, dict)
    assert make_schedule(str(parse_schedule(described))) == schedule


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_name_takes_the_arguments_that_its_table_lists(name: str) -> None:
    needed = {"milestones": [4]} if name == "multistep" else {}
    usual = {"warmup": 2, "warmup_start": 0.5}
    described: Any = describe_schedule(make_schedule({"name": name, **needed, **usual}))
    assert {*described, "unit"} == {"name", *SCHEDULES[name]}
    assert "unit" not in described


def test_cases_cover_every_name() -> None:
    assert {parse_schedule(setting).name for setting in SETTINGS} == set(SCHEDULES)


@settings(deadline=None)
@given(
    total=st.integers(1, 60),
    pct_start=st.floats(0, 1) | st.sampled_from([0.1, 0.25, 0.5]),
    three_phase=st.booleans(),
    strategy=st.sampled_from(["cos", "linear"]),
)
def test_one_cycle_stays_between_its_lowest_rate_and_its_peak(
    total: int, pct_start: float, three_phase: bool, strategy: Any
) -> None:
    if three_phase:
        pct_start /= 2
    schedule = OneCycle(pct_start, strategy, three_phase=three_phase)
    rates = [schedule.lr_at(n, lr=LR, total=total, losses=()) for n in range(total + 3)]
    lowest = LR / 25 / 1e4
    assert all(lowest * (1 - 1e-9) <= rate <= LR * (1 + 1e-9) for rate in rates)
    if pct_start * total < total:
        assert rates[total - 1 :] == pytest.approx([lowest] * 4)


def test_one_cycle_whose_rise_has_no_length_starts_at_its_peak() -> None:
    schedule = OneCycle(pct_start=0.1)
    assert schedule.lr_at(0, lr=LR, total=10, losses=()) == LR


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("cosine:unit=step", "number of steps .* got None. Give t_max, or max_steps"),
        ("cosine", "number of epochs of the run must be known.* Give t_max, or epochs"),
        ("cosine:unit=step,warmup=9", "Give t_max, or max_steps"),
        ("polynomial:unit=step", "Give total_iters, or max_steps"),
        ("one_cycle", "number of steps of the run must be known .* Give max_steps"),
        ("one_cycle:warmup=2", "Give max_steps"),
        ("one_cycle:unit=epoch", "Give epochs"),
    ],
)
def test_a_schedule_that_needs_the_runs_length_says_so_at_once(
    setting: str, match: str
) -> None:
    schedule = make_schedule(setting)
    with pytest.raises(ArgumentError, match=match):
        check_total(schedule, None)
    check_total(schedule, 10)


@pytest.mark.parametrize(
    "setting",
    [
        *("constant", "step", "multistep:milestones=3", "exponential", "linear"),
        *("cosine:t_max=9", "cosine_restarts", "plateau", "polynomial:total_iters=9"),
    ],
)
@pytest.mark.parametrize("warmup", [0, 3])
def test_other_schedules_need_no_length(setting: str, warmup: int) -> None:
    schedule = make_variant(setting, "step", warmup, 0.1)
    check_total(schedule, None)
    rates = [schedule.lr_at(n, lr=LR, total=None, losses=()) for n in range(8)]
    assert rates == trace(schedule, total=8)


def test_a_run_that_is_shorter_than_its_warmup_only_rises() -> None:
    rates = trace(make_schedule("cosine:warmup=100"), total=20)
    assert rates == sorted(rates)
    for total in (10, 20):
        late = make_schedule("cosine:warmup=20")
        assert late.lr_at(20, lr=LR, total=total, losses=()) == LR


def test_warmup_of_none_leaves_the_schedule_as_it_is() -> None:
    assert make_schedule("cosine:warmup=0") == CosineAnnealing()
    assert make_schedule("cosine:warmup=0,warmup_start=0.3") == CosineAnnealing()
    assert make_schedule(None) == Constant()
    expected = Warmup(CosineAnnealing(unit="step"), 500)
    assert make_schedule("cosine:warmup=500,unit=step") == expected


def test_milestones_are_a_list_in_text_and_in_mappings() -> None:
    expected = MultiStepDecay((30, 80))
    assert make_schedule("multistep:milestones=30;80") == expected
    assert make_schedule({"name": "multistep", "milestones": [30, 80]}) == expected
    assert make_schedule("multistep:milestones=30") == MultiStepDecay((30,))


def test_lists_and_none_are_written_as_they_are_read() -> None:
    choice = parse_optimizer("adam:betas=0.9; 0.99,amsgrad=true")
    assert choice == Choice("adam", {"betas": [0.9, 0.99], "amsgrad": True})
    assert str(choice) == "adam:betas=0.9;0.99,amsgrad=True"
    assert parse_optimizer(str(choice)) == choice
    assert parse_schedule("cosine:t_max=none").args == {"t_max": None}


@dataclass(frozen=True)
class Halves:
    """A schedule of a user: halves at every position."""

    unit: Unit = "step"

    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        return lr / 2**position


def test_an_object_of_another_class_is_a_schedule_with_or_without_warmup() -> None:
    schedule = Halves()
    assert make_schedule(schedule) is schedule
    check_total(schedule, None)
    warmed = Warmup(schedule, 2, 0.5)
    assert make_schedule(warmed) is warmed
    assert warmed.unit == "step"
    assert trace(warmed, total=4) == pytest.approx([LR / 2, LR * 0.75, LR, LR / 2])
    assert describe_schedule(schedule) == "Halves(unit='step')"
    assert describe_schedule(warmed) == repr(warmed)


class Unitless:
    def lr_at(
        self, position: int, *, lr: float, total: int | None, losses: Sequence[float]
    ) -> float:
        return lr


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("cosin", "schedule must be one of .* Did you mean 'cosine'"),
        ("step:step_sise=3", "argument of schedule 'step' .* Did you mean 'step_size'"),
        (
            "step:step_size=0",
            "step_size of the schedule must be 1 or more, and whole; got 0",
        ),
        (
            "step:step_size=2.5",
            "step_size of the schedule must be 1 or more, and whole",
        ),
        ("step:step_size=true", "step_size of the schedule must be 1 or more"),
        ("step:gamma=-1", "gamma of the schedule must be above 0; got -1"),
        ("step:gamma=inf", "gamma of the schedule must be above 0; got inf"),
        ("exponential:gamma=nan", "gamma of the schedule must be above 0; got nan"),
        ("exponential:gamma=big", "gamma of the schedule must be above 0; got 'big'"),
        ("multistep", r"milestones of the schedule must be whole .*; got \(\)"),
        ("multistep:milestones=80;30", "each above the one before; got .80, 30."),
        ("multistep:milestones=30;30", "each above the one before"),
        ("multistep:milestones=0;30", "whole numbers from 1 on"),
        ("multistep:milestones=3;x", "whole numbers from 1 on"),
        ("multistep:milestones=3;true", "whole numbers from 1 on"),
        ("multistep:milestones=3;", "must be written name or name:key=value"),
        ("multistep:milestones=3,gamma=0", "gamma of the schedule must be above 0"),
        ("cosine:t_max=0", "t_max of the schedule must be 1 or more, and whole; got 0"),
        ("cosine:eta_min=-1", "eta_min of the schedule must be 0 or more; got -1"),
        ("cosine_restarts:t_0=0", "t_0 of the schedule must be 1 or more, and whole"),
        ("cosine_restarts:t_mult=1.5", "t_mult of the schedule must be 1 or more"),
        ("cosine_restarts:eta_min=x", "eta_min of the schedule must be 0 or more"),
        ("plateau:factor=1.5", "factor of the schedule must be between 0 and 1"),
        ("plateau:patience=-1", "patience of the schedule must be 0 or more"),
        ("plateau:threshold=big", "threshold of the schedule must be 0 or more"),
        ("plateau:threshold_mode=x", "threshold_mode .* must be one of abs, rel"),
        ("plateau:cooldown=0.5", "cooldown of the schedule must be 0 or more"),
        ("plateau:min_lr=-1", "min_lr of the schedule must be 0 or more"),
        ("linear:start_factor=0", "start_factor .* must be above 0, at most 1; got 0"),
        ("linear:end_factor=1.5", "end_factor .* must be from 0 to 1; got 1.5"),
        ("linear:total_iters=0", "total_iters of the schedule must be 1 or more"),
        ("polynomial:power=0", "power of the schedule must be above 0; got 0"),
        ("polynomial:total_iters=x", "total_iters of the schedule must be 1 or more"),
        ("one_cycle:pct_start=1.5", "pct_start of the schedule must be from 0 to 1"),
        (
            "one_cycle:pct_start=0.6,three_phase=true",
            "pct_start of the schedule must be at most 0.5 with three_phase",
        ),
        (
            "one_cycle:anneal_strategy=cosine",
            "must be one of cos, linear; got 'cosine'",
        ),
        ("one_cycle:div_factor=0", "div_factor of the schedule must be above 0"),
        ("one_cycle:final_div_factor=0", "final_div_factor of the .* above 0"),
        ("one_cycle:three_phase=1", "three_phase .* must be true or false; got 1"),
        ("one_cycle:max_lr=1", "argument of schedule 'one_cycle' must be one of"),
        ("constant:gamma=1", "argument of schedule 'constant' must be one of unit"),
        ("cosine:unit=steps", "unit of the schedule must be .* Did you mean 'step'"),
        ("cosine:warmup=-1", "warmup of the schedule must be 0 or more, and whole"),
        ("cosine:warmup=0.5", "warmup of the schedule must be 0 or more, and whole"),
        ("cosine:warmup=5,warmup_start=0", "warmup_start .* must be above 0, at most"),
        ("cosine:warmup=5,warmup_start=2", "warmup_start .* must be above 0, at most"),
        ("cosine:warmup=0,warmup_start=2", "warmup_start .* must be above 0, at most"),
        ("cosine:warmup_start=0.1", "warmup of the schedule must be given with"),
        ("step:gamma", "must be written name or name:key=value"),
        (3, "schedule must be a name"),
        (Unitless(), "must be a name or an object with `unit` and `lr_at`; got"),
        (Constant, "got <class .*Constant.>. Its `unit` .* a class is to be called"),
        (Halves(unit="batch"), "unit of the schedule must be one of epoch, step"),  # type: ignore[arg-type]
    ],
)
def test_wrong_schedules_are_refused(value: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        make_schedule(value)


@pytest.mark.parametrize("schedule", [Warmup(Constant(), 3), Unitless(), "cosine"])
def test_warmup_stands_before_one_schedule_without_one(schedule: Any) -> None:
    with pytest.raises(ArgumentError, match="must be another schedule, without a warm"):
        Warmup(schedule, 3)


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS if "one_cycle" not in str(s)], ids=str
)
def test_every_unit_but_one_cycles_is_the_epoch_by_default(setting: Any) -> None:
    assert make_schedule(setting).unit == "epoch"


def test_one_cycle_counts_steps_by_default() -> None:
    assert make_schedule("one_cycle").unit == "step"
    assert describe_schedule(make_schedule("one_cycle:unit=epoch"))["unit"] == "epoch"  # type: ignore[index]
