"""Order: a pure function of (seed, epoch, position)."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from handful.data.order import SeededSampler, epoch_permutation, mix_seed

GOLDEN = ([9, 7, 3, 8, 0, 4, 1, 5, 6, 2], [8, 9, 3, 1, 4, 6, 7, 0, 2, 5])
"""Orders of ten samples, seed 0, epochs 0 and 1. A change breaks every resumed run."""


@given(st.integers(0, 500), st.integers(0, 2**63 - 1), st.integers(0, 10_000))
def test_every_epoch_holds_each_sample_once(n: int, seed: int, epoch: int) -> None:
    order = epoch_permutation(n, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(n))


def test_order_is_the_pinned_one() -> None:
    assert epoch_permutation(10, seed=0, epoch=0).tolist() == GOLDEN[0]
    assert epoch_permutation(10, seed=0, epoch=1).tolist() == GOLDEN[1]


def test_order_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    epoch_permutation(100, seed=1, epoch=2)
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_and_epochs_give_different_orders() -> None:
    orders = {
        tuple(epoch_permutation(50, seed=s, epoch=e).tolist())
        for s in range(10)
        for e in range(10)
    }
    assert len(orders) == 100


def test_sampler_yields_the_order_of_its_epoch() -> None:
    sampler = SeededSampler(20, seed=3)
    sampler.epoch = 4
    assert list(sampler) == epoch_permutation(20, seed=3, epoch=4).tolist()
    assert len(sampler) == 20


def test_mixed_seeds_fit_a_signed_word_and_depend_on_each_part() -> None:
    seeds = {mix_seed(a, b) for a in range(30) for b in ("x", "y")}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
