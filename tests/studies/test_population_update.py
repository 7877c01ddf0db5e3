"""Updates of many models at once, against `torch.optim` on each of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from handful.studies.population_update import KINDS, Update

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"lr": 0.1},
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
        {"lr": 0.05, "momentum": 0.5, "dampening": 0.3},
    ],
    "Adam": [{"lr": 0.1}, {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.1}],
    "AdamW": [{"lr": 0.1}, {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.5}],
    "RMSprop": [{"lr": 0.1}, {"lr": 0.01, "alpha": 0.5, "momentum": 0.9}],
    "Adagrad": [{"lr": 0.1}, {"lr": 0.01, "lr_decay": 0.1, "weight_decay": 0.1}],
    "Adadelta": [{"lr": 1.0}, {"lr": 0.5, "rho": 0.5, "weight_decay": 0.1}],
    "Adamax": [{"lr": 0.1}, {"lr": 0.01, "betas": (0.5, 0.9)}],
    "NAdam": [{"lr": 0.1}, {"lr": 0.01, "momentum_decay": 0.1, "weight_decay": 0.1}],
}
FLAGS: dict[str, list[dict[str, Any]]] = {
    "Adam": [{"amsgrad": True}],
    "RMSprop": [{"centered": True}],
    "NAdam": [{"decoupled_weight_decay": True}],
}
CASES = [
    (kind, {**flags, **common})
    for kind in KINDS
    for flags in [{}, *FLAGS.get(kind.__name__, [])]
    for common in [{}, {"maximize": True}]
]


@pytest.mark.parametrize(
    ("kind", "flags"), CASES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_steps_are_those_of_torch_optim(kind: Any, flags: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    options = [{**given, **flags} for given in OPTIONS[kind.__name__]]
    start = torch.randn(len(options), 6, generator=generator)
    params = [torch.nn.Parameter(row.clone()) for row in start]
    optimizers = [kind([p], **o) for p, o in zip(params, options, strict=True)]
    owners = torch.arange(len(options)).repeat_interleave(6)
    weights = start.flatten().clone()
    groups = [optimizer.param_groups[0] for optimizer in optimizers]
    update = Update(kind, groups, owners, weights)
    for step in range(12):
        grads = torch.randn(start.shape, generator=generator)
        rates = [o["lr"] * 0.9**step for o in options]
        for param, optimizer, grad, rate in zip(
            params, optimizers, grads, rates, strict=True
        ):
            param.grad = grad.clone()
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        update.set_rates(rates)
        update.step(grads.flatten())
        wanted = torch.cat([p.detach() for p in params])
        torch.testing.assert_close(weights, wanted, rtol=2e-5, atol=2e-6)


def test_flags_that_differ_are_refused() -> None:
    groups = [
        {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": n}
        for n in (True, False)
    ]
    with pytest.raises(ValueError, match="differ in a flag"):
        Update(torch.optim.SGD, groups, torch.tensor([0, 1]), torch.zeros(2))
