"""PyTorch's own schedulers: bound, stepped, and stored as plain values."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR

from handful.errors import ArgumentError, TrainingError
from handful.runs.files import from_json, to_json
from handful.train.choices import Choice
from handful.train.schedules import Constant
from handful.train.torch_schedule import TorchSchedule, is_torch_schedule


class Scale:
    """A callable object with state of its own."""

    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def __call__(self, epoch: int) -> float:
        return 0.5**epoch


class Drifting(lr_scheduler.LRScheduler):
    """A scheduler of a user, whose state has everything that JSON lacks."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.seen: dict[Any, Any] = {(0, 1): float("-inf"), "$tuple": (1, 2.5)}
        self.names = {"one": "two", "none": None, "flag": True}
        self.odd_name = {"$float": "text"}
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        self.seen[self.last_epoch, 1] = 1 / (1 + self.last_epoch)
        return [
            rate * 0.9 ** len(self.seen) * self.seen["$tuple"][0]
            for rate in self.base_lrs
        ]


Make = Callable[[Optimizer], lr_scheduler.LRScheduler]


def make_sequence(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 4),
            lr_scheduler.MultiStepLR(optimizer, [3, 5, 5], 0.5),
            lr_scheduler.CosineAnnealingLR(optimizer, 10),
        ],
        [4, 11],
    )


def make_chain(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ChainedScheduler(
        [
            lr_scheduler.ConstantLR(optimizer, 0.1, 4),
            lr_scheduler.ExponentialLR(optimizer, 0.9),
            make_lambda(optimizer),
        ]
    )


def make_lambda(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)


def make_one_cycle(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=20)


def make_cycle(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, 3, mode="exp_range", gamma=0.9)


KINDS: dict[str, Make] = {
    "step": lambda o: lr_scheduler.StepLR(o, 3),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [3, 7, 7]),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 9),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2),
    "polynomial": functools.partial(lr_scheduler.PolynomialLR, total_iters=12),
    "lambda": make_lambda,
    "callable object": lambda o: lr_scheduler.LambdaLR(o, Scale((1, 2))),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.8),
    "one cycle": make_one_cycle,
    "cyclic": make_cycle,
    "sequence": make_sequence,
    "chain": make_chain,
    "sequence of one cycle": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=3), make_one_cycle(o)], [3]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, cooldown=1),
    "plateau of a metric": lambda o: lr_scheduler.ReduceLROnPlateau(
        o, mode="max", patience=0, threshold=0.5, min_lr=[0.001, 0.0]
    ),
    "averaging": lambda o: SWALR(o, swa_lr=0.01, anneal_epochs=5),
    "of a user": Drifting,
}

if "anneal_func" in SWALR(SGD([torch.ones(1)], 0.1), swa_lr=0.1).state_dict():
    del KINDS["averaging"]  # older releases keep a function in the state

VALUES = [1.0, 0.8, 0.9, 0.95, 0.7, 0.71, 0.72, 0.73, 0.74, 0.2, 0.3, 0.4, 0.5, 0.6]


def make_optimizer(lr: float | Tensor = 0.1) -> Optimizer:
    """Make an optimiser of two groups, whose second has a rate of its own."""
    first, second = (torch.zeros(2, requires_grad=True) for _ in range(2))
    if isinstance(lr, Tensor):
        lr = lr.clone()
    other = lr / 4
    groups: Any = [{"params": [first]}, {"params": [second], "lr": other}]
    return SGD(groups, lr=lr, momentum=0.9)


def read_lrs(optimizer: Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def follow(
    schedule: TorchSchedule, optimizer: Optimizer, values: list[float]
) -> list[list[float]]:
    """Step the optimiser and the schedule; return the rates after each step."""
    rates = []
    for value in values:
        optimizer.step()
        schedule.advance(value)
        assert schedule.last_lrs() == read_lrs(optimizer)
        rates.append(schedule.last_lrs())
    return rates


def start(make: Make, lr: float | Tensor = 0.1) -> tuple[TorchSchedule, Optimizer]:
    """Make a schedule that is bound to an optimiser, and that optimiser."""
    schedule, optimizer = TorchSchedule(make), make_optimizer(lr)
    schedule.bind(optimizer)
    return schedule, optimizer


@pytest.mark.parametrize("kind", KINDS)
def test_rates_are_those_of_the_scheduler_alone(kind: str) -> None:
    optimizer = make_optimizer()
    scheduler: Any = KINDS[kind](optimizer)
    expected = []
    for value in VALUES:
        optimizer.step()
        by_value = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        scheduler.step(value) if by_value else scheduler.step()
        expected.append(read_lrs(optimizer))
    assert follow(*start(KINDS[kind]), VALUES) == expected
    assert len({tuple(rates) for rates in expected}) > 1


@pytest.mark.parametrize("stop", [0, 1, 5, 11])
@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_continued_has_the_rates_of_one_that_was_not(
    kind: str, lr: float | Tensor, stop: int
) -> None:
    whole = follow(*start(KINDS[kind], lr), VALUES)
    schedule, optimizer = start(KINDS[kind], lr)
    follow(schedule, optimizer, VALUES[:stop])
    stored, weights = schedule.state_dict(), optimizer.state_dict()
    for state in (json.loads(json.dumps(stored, allow_nan=False)), stored):
        again, fresh = start(KINDS[kind], lr)
        fresh.load_state_dict(weights)
        again.load_state_dict(from_json(to_json(state)))
        assert again.state_dict() == stored
        assert follow(again, fresh, VALUES[stop:]) == whole[stop:]


def test_a_stored_state_is_a_copy() -> None:
    schedule, optimizer = start(make_sequence)
    stored = schedule.state_dict()
    text = json.dumps(stored)
    follow(schedule, optimizer, VALUES)
    assert json.dumps(stored) == text
    schedule.load_state_dict(stored)
    follow(schedule, optimizer, VALUES[:2])
    assert json.dumps(stored) == text


def test_a_scheduler_that_needs_the_value_waits_for_one() -> None:
    schedule, optimizer = start(lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0))
    before = schedule.state_dict()
    schedule.advance(None)
    assert schedule.state_dict() == before
    rates = follow(schedule, optimizer, [1.0, 1.0])
    assert rates == [[0.1, 0.025], pytest.approx([0.01, 0.0025])]


def test_other_schedulers_need_no_value() -> None:
    schedule, optimizer = start(lambda o: lr_scheduler.StepLR(o, 1))
    optimizer.step()
    schedule.advance(None)
    assert schedule.last_lrs() == pytest.approx([0.01, 0.0025])


PER_STEP = {"one cycle", "cyclic", "sequence of one cycle"}


@pytest.mark.parametrize("kind", KINDS)
def test_unit_is_the_step_where_pytorch_documents_it(kind: str) -> None:
    schedule, _ = start(KINDS[kind])
    assert schedule.unit == ("step" if kind in PER_STEP else "epoch")
    assert TorchSchedule(KINDS[kind](make_optimizer())).unit == schedule.unit


def test_a_unit_that_is_given_stands() -> None:
    assert TorchSchedule(make_one_cycle, unit="epoch").unit == "epoch"
    assert TorchSchedule(make_lambda, unit="step").unit == "step"


def test_a_scheduler_over_the_optimizer_is_used_as_it_is() -> None:
    optimizer = make_optimizer()
    scheduler = lr_scheduler.StepLR(optimizer, 2)
    schedule = TorchSchedule(scheduler)
    schedule.bind(optimizer)
    follow(schedule, optimizer, VALUES[:3])
    assert scheduler.last_epoch == 3


def test_a_function_makes_a_fresh_scheduler_each_time() -> None:
    schedule, optimizer = start(KINDS["step"])
    first = follow(schedule, optimizer, VALUES)
    other = make_optimizer()
    schedule.bind(other)
    assert follow(schedule, other, VALUES) == first


def test_a_refused_optimizer_leaves_the_bound_one() -> None:
    optimizer = make_optimizer()
    schedule = TorchSchedule(lr_scheduler.StepLR(optimizer, 2))
    schedule.bind(optimizer)
    with pytest.raises(ArgumentError, match="over the optimiser that trains; got a St"):
        schedule.bind(make_optimizer())
    assert follow(schedule, optimizer, VALUES[:2])


def over_another(_: Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.StepLR(make_optimizer(), 2)


class KeepsObjects(lr_scheduler.StepLR):
    """A scheduler whose state has an object in the middle."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.plans: dict[Any, Any] = {"late": [1, Scale(2)]}
        super().__init__(optimizer, 3)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (over_another, "got a StepLR over another. Give a function that makes it"),
        (lr_scheduler.StepLR, "StepLR failed: .*step_size.* as in functools.partial"),
        (lambda: None, "takes the optimiser alone; .*<lambda> failed"),
        (lambda o: 3, "from an optimiser to a scheduler .*<lambda> returned 3"),
        (
            lambda o: lr_scheduler.LambdaLR(o, Scale(torch.nn.ReLU())),
            r"scheduler LambdaLR must be .* got lr_lambdas\[0\].factor, an object of R",
        ),
        (
            lambda o: lr_scheduler.LambdaLR(o, Scale(make_lambda)),
            r"got lr_lambdas\[0\].factor, an object of function",
        ),
        (
            lambda o: lr_scheduler.SequentialLR(
                o, [lr_scheduler.LambdaLR(o, Scale(Scale(1)))], []
            ),
            r"SequentialLR\(LambdaLR\) .* got _schedulers\[0\].lr_lambdas\[0\].factor",
        ),
        (
            lambda o: lr_scheduler.LambdaLR(o, abs),
            "must be readable.*A built-in function has no state",
        ),
        (KeepsObjects, r"got plans.late\[1\], an object of Scale"),
    ],
)
def test_a_scheduler_that_cannot_be_used_is_refused(make: Any, match: str) -> None:
    schedule = TorchSchedule(make)
    with pytest.raises(ArgumentError, match=match):
        schedule.bind(make_optimizer())
    with pytest.raises(TrainingError, match="must be bound to an optimiser before"):
        schedule.advance(1.0)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"an optimiser to one; got 'cos'"):
        TorchSchedule("cos")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"unit .* must be one of auto, ep"):
        TorchSchedule(make_lambda, unit="batch")  # type: ignore[arg-type]


def test_a_plateau_is_not_looked_for_after_every_step() -> None:
    schedule = TorchSchedule(KINDS["plateau"], unit="step")
    with pytest.raises(ArgumentError, match="unit of ReduceLROnPlateau must be 'epoch"):
        schedule.bind(make_optimizer())


def test_what_needs_the_scheduler_says_that_it_is_not_bound() -> None:
    schedule = TorchSchedule(make_lambda)
    for ask in (
        lambda: schedule.unit,
        schedule.last_lrs,
        schedule.state_dict,
        lambda: schedule.load_state_dict({"scheduler": "LambdaLR", "state": {}}),
    ):
        with pytest.raises(TrainingError, match=r"Call bind\(optimizer\) first"):
            ask()


def test_the_state_of_another_scheduler_is_refused() -> None:
    stored = start(make_sequence)[0].state_dict()
    schedule, _ = start(make_chain)
    with pytest.raises(
        ArgumentError,
        match=r"here, ChainedScheduler\(ConstantLR, ExponentialLR, LambdaLR\); got "
        r"that of SequentialLR\(LinearLR, MultiStepLR, CosineAnnealingLR\)",
    ):
        schedule.load_state_dict(stored)
    with pytest.raises(ArgumentError, match="keys 'scheduler' and 'state'; got the ke"):
        schedule.load_state_dict({"state": {}})


@pytest.mark.parametrize(
    "value",
    [
        TorchSchedule(make_lambda),
        make_lambda(make_optimizer()),
        lr_scheduler.ReduceLROnPlateau(make_optimizer()),
        lr_scheduler.ReduceLROnPlateau,
        functools.partial(lr_scheduler.StepLR, step_size=3),
        functools.partial(make_lambda),
        make_lambda,
    ],
)
def test_schedulers_of_pytorch_are_told(value: Any) -> None:
    assert is_torch_schedule(value)


@pytest.mark.parametrize(
    "value",
    [
        *(None, "cosine", {"name": "cosine"}, Choice("cosine"), 3),
        *(Constant(), Constant, functools.partial(Constant), SGD),
    ],
)
def test_our_own_schedules_are_told_apart(value: Any) -> None:
    assert not is_torch_schedule(value)


def test_a_description_names_the_scheduler_and_its_unit() -> None:
    assert (
        repr(TorchSchedule(make_chain(make_optimizer())))
        == "TorchSchedule(ChainedScheduler(ConstantLR, ExponentialLR, LambdaLR), "
        "unit='auto')"
    )
    partial = functools.partial(lr_scheduler.StepLR, step_size=3)
    assert repr(TorchSchedule(partial, "step")) == "TorchSchedule(StepLR, unit='step')"
    assert repr(TorchSchedule(make_chain)) == "TorchSchedule(make_chain, unit='auto')"
