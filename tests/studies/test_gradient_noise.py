"""Gradient noise: unbiased, as the definitions have it, and without side effects."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handful import DataLoader, Trainer
from handful.studies.gradient_noise import estimate_noise, measure_gradient_noise
from handful.train.assembly import make_step
from handful.train.precision import Precision

CPU = torch.device("cpu")


def _make_problem() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(40, 3, generator=generator)
    y = X.sum(1, keepdim=True) + torch.randn(40, 1, generator=generator)
    model = nn.Linear(3, 1)
    nn.init.constant_(model.weight, 0.3)
    nn.init.zeros_(model.bias)
    return model, X, y


def _gradient(model: nn.Module, X: Tensor, y: Tensor) -> Tensor:
    loss = nn.functional.mse_loss(model(X), y)
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])]
    )


def _exact(model: nn.Module, X: Tensor, y: Tensor) -> tuple[float, float]:
    """Return |G|² and tr(Σ) from the gradients of all single samples."""
    each = torch.stack(
        [_gradient(model, X[i : i + 1], y[i : i + 1]) for i in range(40)]
    )
    mean = each.mean(0)
    return float(mean @ mean), float((each - mean).square().sum(1).mean())


def _measure(model: nn.Module, X: Tensor, y: Tensor, **more: Any) -> Any:
    trainer = Trainer(model, loss="mse", progress="off")
    settings = {"small": 4, "num_samples": 40, "batch_size": 10, **more}
    return measure_gradient_noise(
        model,
        DataLoader((X, y), batch_size=4),
        step=make_step(trainer, Precision("float32", CPU)),
        device=CPU,
        **settings,
    )


def test_mean_of_the_estimates_is_the_exact_value() -> None:
    model, X, y = _make_problem()
    squared, variance = _exact(model, X, y)
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(300):
        drawn = torch.randint(40, (32,), generator=generator)
        found.append(_measure(model, X[drawn], y[drawn]))
    for name, exact in (("gradient_squared", squared), ("variance", variance)):
        values = torch.tensor([getattr(noise, name) for noise in found])
        error = float(values.std() / len(values) ** 0.5)
        assert abs(float(values.mean()) - exact) < 4 * error
        assert error < 0.05 * exact


def test_formulas_are_solved_exactly_for_known_norms() -> None:
    # E|g_B|² = |G|² + tr(Σ)/B with |G|² = 2 and tr(Σ) = 24.
    noise = estimate_noise(
        2 + 24 / 4, 2 + 24 / 12, small=4, large=12, num_samples=61, batch_size=6
    )
    assert noise is not None
    assert noise.gradient_squared == pytest.approx(2)
    assert noise.variance == pytest.approx(24)
    assert noise.noise_scale == pytest.approx(12)
    assert noise.relative_std == pytest.approx((24 / 6 * 55 / 60 / 2) ** 0.5)


def test_full_batches_have_no_noise_and_noise_alone_no_scale() -> None:
    sizes = {"small": 1, "large": 4, "num_samples": 10}
    full = estimate_noise(4.0, 2.0, batch_size=10, **sizes)
    assert full is not None
    assert full.relative_std == 0
    alone = estimate_noise(4.0, 0.5, batch_size=2, **sizes)
    assert alone is not None
    assert alone.gradient_squared < 0
    assert (alone.noise_scale, alone.relative_std) == (None, None)
    assert estimate_noise(float("nan"), 1.0, batch_size=2, **sizes) is None


def test_measuring_leaves_model_and_generators_alone() -> None:
    _, X, y = _make_problem()
    model = nn.Sequential(
        nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 1)
    )
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = _measure(model, X, y), _measure(model, X, y)
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [m.training for m in model] == [True, False, True, True]


def test_a_model_without_trained_parameters_has_no_noise() -> None:
    model, X, y = _make_problem()
    assert _measure(model.requires_grad_(False), X, y) is None


def test_dropout_and_statistics_of_batches_are_left_out() -> None:
    _, X, y = _make_problem()
    model = nn.Sequential(nn.Linear(3, 9), nn.BatchNorm1d(9), nn.Dropout())
    model.append(nn.Linear(9, 1))
    assert _measure(model.train(), X, y) == _measure(model.eval(), X, y)
