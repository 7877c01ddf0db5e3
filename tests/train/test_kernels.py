"""Fused kernels called directly do what the optimiser's step does, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from handful.train.kernels import make_update

KINDS: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (Adam, {}),
    (Adam, {"amsgrad": True, "betas": (0.8, 0.9)}),
    (AdamW, {"weight_decay": 0.3}),
    (SGD, {}),
    (SGD, {"momentum": 0.9, "nesterov": True}),
    (SGD, {"momentum": 0.9, "dampening": 0.3, "maximize": True}),
    (Adagrad, {"lr_decay": 0.1}),
]


def make(kind: type[Optimizer], options: dict[str, Any]) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    groups = [
        {"params": [model[0].weight, model[2].weight], "lr": 0.05},
        {"params": [model[0].bias, model[2].bias]},
    ]
    return model, kind(groups, lr=0.1, fused=True, **options)  # type: ignore[call-arg]


def train(
    model: nn.Module, optimizer: Optimizer, *, direct: bool, skip: bool = False
) -> list[Tensor]:
    torch.manual_seed(1)
    update = optimizer.step
    for step in range(12):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 5)).square().mean()
        loss.backward()
        if skip and step in (5, 6):
            model[2].bias.grad = None  # type: ignore[index]
        if step == 8:
            optimizer.param_groups[0]["lr"] = 0.01
        update()
        if direct and step == 0:
            update = make_update(optimizer)
            assert update is not optimizer.step
            assert "Optimizer" not in repr(update)
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("skip", [False, True])
def test_weights_and_state_equal_those_of_step(
    kind: type[Optimizer], options: dict[str, Any], skip: bool
) -> None:
    one, other = make(kind, options), make(kind, options)
    ours = train(*one, direct=True, skip=skip)
    theirs = train(*other, direct=False, skip=skip)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    states = [optimizer.state_dict()["state"] for _, optimizer in (one, other)]
    for index, values in states[1].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                assert torch.equal(states[0][index][name], value)


def make_mixed(
    kind: type[Optimizer], options: dict[str, Any], dtypes: list[list[torch.dtype]]
) -> Optimizer:
    """Make an optimiser of groups of one parameter for each type."""
    torch.manual_seed(0)
    groups: list[dict[str, Any]] = [
        {
            "params": [torch.randn(6, dtype=d).requires_grad_() for d in row],
            "lr": 0.1 / (index + 1),
            "weight_decay": 0.2 * index,
        }
        for index, row in enumerate(dtypes)
    ]
    return kind(groups, lr=0.1, fused=True, **options)  # type: ignore[call-arg]


def train_mixed(optimizer: Optimizer, *, direct: bool) -> tuple[list[Tensor], bool]:
    """Do eight steps; return the parameters and whether the kernels were called."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    update = optimizer.step
    for step in range(8):
        for param in params:
            param.grad = param.detach() * 0.3 + step
        if step == 5:
            optimizer.param_groups[-1].update(lr=0.02, weight_decay=0.5)
        update()
        if direct and step == 0:
            update = make_update(optimizer)
    return [p.detach() for p in params], update != optimizer.step


F32, F64, B16 = torch.float32, torch.float64, torch.bfloat16


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize(
    ("dtypes", "is_direct"),
    [
        ([[F32, F32], [F32], [F32, F32, F32]], True),
        ([[F32, F32], [F64], [B16, B16]], True),
        ([[F32, F64], [F32, B16]], False),
    ],
)
def test_groups_of_other_rates_and_types_equal_those_of_step(
    kind: type[Optimizer],
    options: dict[str, Any],
    dtypes: list[list[torch.dtype]],
    is_direct: bool,
) -> None:
    options = {k: v for k, v in options.items() if k != "weight_decay"}
    one, other = (make_mixed(kind, options, dtypes) for _ in range(2))
    ours, was_direct = train_mixed(one, direct=True)
    theirs, _ = train_mixed(other, direct=False)
    assert was_direct is is_direct
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert [p.dtype for p in ours] == [d for row in dtypes for d in row]


@pytest.mark.parametrize(
    "prepare",
    [
        lambda o: o.register_step_pre_hook(lambda *_: None),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 3),
        lambda o: o.param_groups[0].update(lr=torch.tensor(0.1)),
        lambda o: o.param_groups[0].update(fused=False),
        lambda o: o.param_groups[0].update(decoupled_weight_decay=True),
    ],
)
def test_whatever_hooks_into_the_step_keeps_the_optimizers_own(prepare: Any) -> None:
    _, optimizer = make(Adam, {})
    prepare(optimizer)
    assert make_update(optimizer) == optimizer.step


def make_bump(values: Tensor) -> Any:
    """Make a hook that changes values before a step."""

    def bump(*_: Any) -> None:
        values.data.add_(1)

    return bump


@pytest.mark.parametrize("change", ["load", "add", "clear", "hook"])
def test_a_state_loaded_or_a_group_added_meanwhile_is_followed(change: str) -> None:
    ends = []
    for direct in (True, False):
        model, optimizer = make(Adam, {})
        extra = torch.ones(3, requires_grad=True)
        update = optimizer.step

        for step in range(6):
            optimizer.zero_grad()
            loss = model(torch.ones(2, 5)).square().sum() + (extra * step).sum()
            loss.backward()
            update()
            if direct and step == 0:
                update = make_update(optimizer)
            if step == 3 and change == "load":
                state = optimizer.state_dict()
                state["state"][0]["exp_avg"].zero_()
                optimizer.load_state_dict(state)
            if step == 3 and change == "clear":
                optimizer.state.clear()
            if step == 3 and change == "hook":
                optimizer.register_step_pre_hook(make_bump(extra))
            if step == 3 and change == "add":
                optimizer.add_param_group({"params": [extra]})
        ends.append([p.detach().clone() for p in (*model.parameters(), extra)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_an_optimizer_without_state_or_of_another_kind_keeps_its_own_step() -> None:
    _, optimizer = make(Adam, {})
    assert make_update(optimizer) == optimizer.step
    model = nn.Linear(2, 2)

    class Mine(Adam):
        pass

    for kind in (torch.optim.RMSprop, Mine):
        other = kind(model.parameters())
        assert make_update(other) == other.step
