"""Every schedule traces the curve of PyTorch's own, and is a pure function."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD, lr_scheduler

from handful.errors import ArgumentError
from handful.train.schedules import describe_schedule, make_schedule

EPOCHS = 40

CASES: dict[str, tuple[Any, Callable[[SGD], Any]]] = {
    "constant": (None, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    "step": ("step:step_size=7,gamma=0.3", lambda o: lr_scheduler.StepLR(o, 7, 0.3)),
    "exponential": (
        "exponential:gamma=0.9",
        lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    ),
    "cosine": ("cosine", lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS)),
    "cosine past its end": (
        "cosine:t_max=15,eta_min=0.01",
        lambda o: lr_scheduler.CosineAnnealingLR(o, 15, 0.01),
    ),
    "plateau": (
        "plateau:factor=0.5,patience=2",
        lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=2),
    ),
    "plateau with everything": (
        {
            "name": "plateau",
            "factor": 0.3,
            "patience": 1,
            "threshold": 0.05,
            "threshold_mode": "abs",
            "cooldown": 3,
            "min_lr": 0.002,
        },
        lambda o: lr_scheduler.ReduceLROnPlateau(
            o,
            factor=0.3,
            patience=1,
            threshold=0.05,
            threshold_mode="abs",
            cooldown=3,
            min_lr=0.002,
        ),
    ),
}


def make_losses(seed: int) -> list[float]:
    """Draw losses that fall, stall and jump."""
    draw = random.Random(seed)
    return [1 / (1 + epoch // 9) + draw.choice([0, 0.001, 0.3]) for epoch in range(40)]


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(5))
def test_curve_equals_pytorchs(name: str, seed: int) -> None:
    value, make_theirs = CASES[name]
    losses = make_losses(seed)
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs, curve = make_theirs(optimizer), []
    for loss in losses:
        curve.append(optimizer.param_groups[0]["lr"])
        on_loss = isinstance(theirs, lr_scheduler.ReduceLROnPlateau)
        theirs.step(loss) if on_loss else theirs.step()
    ours = make_schedule(value)
    got = [
        ours.lr_at(e, lr=0.1, epochs=EPOCHS, losses=losses[:e]) for e in range(EPOCHS)
    ]
    assert got == pytest.approx(curve, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", CASES)
def test_description_makes_the_same_schedule_again(name: str) -> None:
    schedule = make_schedule(CASES[name][0])
    assert make_schedule(describe_schedule(schedule)) == schedule


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
        ("step:gamma=-1", "gamma of the schedule must be above 0; got -1"),
        ("step:gamma=big", "gamma"),
        ("plateau:factor=1.5", "factor of the schedule must be between 0 and 1"),
        ("plateau:threshold_mode=x", "threshold_mode .* must be 'rel' or 'abs'"),
        ("constant:gamma=1", "takes no arguments"),
        ("step:gamma", "must be written name:?"),
        (3, "schedule must be a name"),
    ],
)
def test_wrong_schedules_are_refused(value: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        make_schedule(value)
