"""Masks of dropout, drawn many at a time: PyTorch's own, and its generator's state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from handful import DataLoader, Trainer

pytestmark = pytest.mark.usefixtures("native_player")

SIZES = (0, 1, 3, 311, 312, 313, 512, 700, 20_001)
PROBABILITIES = (0.0, 1e-20, 0.1, 1 / 3, 0.5, 0.9, 1 - 1e-16, 1.0)


def fill(mask: torch.Tensor, p: float) -> bool:
    return bool(torch.ops.handful_player.fill_mask(mask, p))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("drawn", [0, 1, 2, 5, 623, 624])
@pytest.mark.parametrize("size", SIZES)
def test_masks_and_the_generator_after_them_are_pytorchs(
    size: int, drawn: int, dtype: torch.dtype
) -> None:
    for p in PROBABILITIES:
        torch.manual_seed(size)
        torch.rand(drawn)
        theirs = torch.empty(size, dtype=dtype).bernoulli_(p)
        after = torch.get_rng_state()
        torch.manual_seed(size)
        torch.rand(drawn)
        ours = torch.empty(size, dtype=dtype)
        assert fill(ours, p)
        assert torch.equal(ours, theirs), p
        assert torch.equal(torch.get_rng_state(), after), p


@pytest.mark.parametrize(
    ("mask", "p"),
    [
        (torch.empty(8, dtype=torch.bfloat16), 0.5),
        (torch.empty(8, dtype=torch.int64), 0.5),
        (torch.empty(4, 4).t(), 0.5),
        (torch.empty(8), 1.5),
        (torch.empty(8), float("nan")),
    ],
    ids=["bfloat16", "whole numbers", "another order", "more than 1", "no number"],
)
def test_what_it_does_not_know_is_left_to_pytorch(mask: torch.Tensor, p: float) -> None:
    before = torch.get_rng_state()
    assert not fill(mask, p)
    assert torch.equal(torch.get_rng_state(), before)


def dropping() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 40), nn.Dropout(0.3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(40, 3)
    )


def train(engine: str) -> tuple[dict[str, Any], Any]:
    g = torch.Generator().manual_seed(0)
    data = torch.randn(160, 6, generator=g), torch.randint(0, 3, (160,), generator=g)
    torch.manual_seed(3)
    trainer = Trainer(
        dropping(), loss="cross_entropy", engine=engine, num_threads=1, progress="off"
    )
    run = trainer.fit(DataLoader(data, 8, shuffle=True, seed=0), epochs=4)
    return trainer.model.state_dict(), run


@pytest.mark.parametrize("draws", [True, False])
def test_dropout_played_natively_gives_the_bits_of_eager_steps(draws: bool) -> None:
    eager, _ = train("eager")
    torch.ops.handful_player.draw_masks(draws)
    try:
        played, run = train("captured")
    finally:
        torch.ops.handful_player.draw_masks(True)
    assert any("as a whole" in event["message"] for event in run.events)
    assert all(torch.equal(eager[name], played[name]) for name in eager)
