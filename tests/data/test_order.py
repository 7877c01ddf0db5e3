"""Order: a pure function of (seed, epoch, position)."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handful.data.bijection import MAX_SIZE
from handful.data.order import (
    BLOCK_POSITIONS,
    PERMUTATION_LIMIT,
    Order,
    SeededSampler,
    check_shard,
    epoch_permutation,
    make_order,
    mix_seed,
    order_fingerprint,
)
from handful.errors import ArgumentError

GOLDEN = ([9, 7, 3, 8, 0, 4, 1, 5, 6, 2], [8, 9, 3, 1, 4, 6, 7, 0, 2, 5])
"""Orders of ten samples, seed 0, epochs 0 and 1. A change breaks every resumed run."""

PINNED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "orders.json").read_text(encoding="utf-8")
)

SIZES = st.one_of(
    st.integers(0, 300),
    st.integers(PERMUTATION_LIMIT + 1, 2 * PERMUTATION_LIMIT),
    st.integers(2**32, MAX_SIZE),
)
SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 10_000)


def _all(order: Order) -> list[int]:
    return order.indices(0, len(order)).tolist()


@given(st.integers(0, 500), SEEDS, EPOCHS)
def test_every_epoch_holds_each_sample_once(n: int, seed: int, epoch: int) -> None:
    order = epoch_permutation(n, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert _all(make_order(n, seed=seed, epoch=epoch)) == order.tolist()


def test_computed_order_holds_each_sample_once() -> None:
    order = make_order(PERMUTATION_LIMIT + 3, seed=0, epoch=0)
    counts = torch.zeros(len(order), dtype=torch.uint8)
    counts[order.indices(0, len(order))] += 1
    assert bool((counts == 1).all())


def test_order_is_the_pinned_one() -> None:
    assert epoch_permutation(10, seed=0, epoch=0).tolist() == GOLDEN[0]
    assert epoch_permutation(10, seed=0, epoch=1).tolist() == GOLDEN[1]


@pytest.mark.parametrize(
    "row",
    PINNED["orders"],
    ids=lambda r: f"{r['num_samples']}-{r['seed']}-{r['start']}",
)
def test_orders_of_every_size_are_the_pinned_ones(row: dict[str, Any]) -> None:
    order = make_order(row["num_samples"], seed=row["seed"], epoch=row["epoch"])
    stop = row["start"] + len(row["indices"])
    assert order.indices(row["start"], stop).tolist() == row["indices"]


def test_fingerprint_is_the_pinned_one() -> None:
    assert order_fingerprint() == PINNED["fingerprint"]


def test_fingerprint_tells_when_the_permutations_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    randperm = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **kw: randperm(n, **kw).flip(0))
    assert order_fingerprint.__wrapped__() != PINNED["fingerprint"]


def test_fingerprint_tells_when_the_bijections_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("handful.data.bijection.ROUNDS", 10)
    assert order_fingerprint.__wrapped__() != PINNED["fingerprint"]


@given(SIZES, SEEDS, EPOCHS, st.data())
def test_any_piece_is_that_piece_of_the_whole(
    n: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    shuffle = data.draw(st.booleans())
    world_size = data.draw(st.integers(1, 9))
    shard = (data.draw(st.integers(0, world_size - 1)), world_size)
    order = make_order(n, seed=seed, epoch=epoch, shuffle=shuffle, shard=shard)
    first = data.draw(st.integers(0, len(order)))
    last = min(len(order), first + data.draw(st.integers(0, 400)))
    whole = order.indices(first, last)
    cuts = data.draw(st.lists(st.integers(first, last), max_size=6))
    edges = [first, *sorted(cuts), last]
    pieces = [order.indices(a, b) for a, b in itertools.pairwise(edges)]
    assert torch.equal(torch.cat(pieces), whole)
    fresh = make_order(n, seed=seed, epoch=epoch, shuffle=shuffle, shard=shard)
    assert torch.equal(fresh.indices(first, last), whole)
    assert whole.dtype == torch.int64
    assert whole.shape == (last - first,)
    assert all(0 <= index < n for index in whole.tolist())


@pytest.mark.parametrize("n", [100_000, PERMUTATION_LIMIT + 1, MAX_SIZE])
@pytest.mark.parametrize("size", [1, 1_000, BLOCK_POSITIONS // 2 + 1, 40_000])
def test_calls_of_any_size_agree_across_blocks(n: int, size: int) -> None:
    order = make_order(n, seed=1, epoch=2)
    start = BLOCK_POSITIONS - 500
    whole = make_order(n, seed=1, epoch=2).indices(start, start + 60_000)
    for first in (0, 490, 500, 3_000, BLOCK_POSITIONS - 9, 1):
        got = order.indices(start + first, start + first + size)
        assert torch.equal(got, whole[first : first + size])


@settings(deadline=None)
@given(st.integers(0, 300), SEEDS, st.integers(1, 12), st.booleans())
def test_shards_deal_out_the_order_in_turn(
    n: int, seed: int, world_size: int, shuffle: bool
) -> None:
    whole = _all(make_order(n, seed=seed, epoch=3, shuffle=shuffle))
    shards = [
        make_order(n, seed=seed, epoch=3, shuffle=shuffle, shard=(rank, world_size))
        for rank in range(world_size)
    ]
    for rank, shard in enumerate(shards):
        assert _all(shard) == whole[rank::world_size]
    lengths = [len(shard) for shard in shards]
    assert sum(lengths) == n
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(PERMUTATION_LIMIT + 1, MAX_SIZE), st.integers(1, 12), st.data())
def test_shards_of_a_computed_order_deal_it_out_in_turn(
    n: int, world_size: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, n // world_size - 5))
    whole = make_order(n, seed=0, epoch=0).indices(
        step * world_size, (step + 5) * world_size
    )
    for rank in range(world_size):
        shard = make_order(n, seed=0, epoch=0, shard=(rank, world_size))
        assert torch.equal(shard.indices(step, step + 5), whole[rank::world_size])
        assert shard.positions[step] == rank + step * world_size


def test_samples_of_a_global_step_do_not_depend_on_the_world_size() -> None:
    total_batch_size, n = 24, 2_400
    steps = []
    for world_size in (1, 2, 3, 8):
        size = total_batch_size // world_size
        orders = [
            make_order(n, seed=0, epoch=1, shard=(rank, world_size))
            for rank in range(world_size)
        ]
        steps.append(
            [
                sorted(i for o in orders for i in o.indices(s, s + size).tolist())
                for s in range(0, n // world_size, size)
            ]
        )
    assert all(other == steps[0] for other in steps)


def test_order_without_shuffling_counts_up() -> None:
    order = make_order(MAX_SIZE, seed=1, epoch=1, shuffle=False)
    assert order.indices(0, 3).tolist() == [0, 1, 2]
    last = [MAX_SIZE - 2, MAX_SIZE - 1]
    assert order.indices(MAX_SIZE - 2, MAX_SIZE).tolist() == last


def test_more_ranks_than_samples_leave_some_ranks_empty() -> None:
    shards = [make_order(2, seed=0, epoch=0, shard=(rank, 4)) for rank in range(4)]
    assert [len(shard) for shard in shards] == [1, 1, 0, 0]
    assert shards[3].indices(0, 0).tolist() == []


@pytest.mark.parametrize("n", [10, PERMUTATION_LIMIT + 1])
def test_indices_are_the_callers_own(n: int) -> None:
    order = make_order(n, seed=0, epoch=0)
    first = order.indices(0, 10)
    before = first.clone()
    first.zero_()
    assert torch.equal(order.indices(0, 10), before)


@pytest.mark.parametrize("n", [100, PERMUTATION_LIMIT + 1])
def test_copy_sent_to_another_process_gives_the_same_order(n: int) -> None:
    order = make_order(n, seed=0, epoch=0, shard=(1, 2))
    copy = pickle.loads(pickle.dumps(order))
    assert torch.equal(copy.indices(3, 20), order.indices(3, 20))


def test_order_is_the_same_in_every_process() -> None:
    program = """
from handful.data.order import make_order, order_fingerprint
for n in (1_000, 10**9):
    print(make_order(n, seed=7, epoch=8, shard=(1, 3)).indices(20, 60).tolist())
print(order_fingerprint())
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for hash_seed in ("0", "1")
    }
    here = [
        make_order(n, seed=7, epoch=8, shard=(1, 3)).indices(20, 60).tolist()
        for n in (1_000, 10**9)
    ]
    assert outputs == {f"{here[0]}\n{here[1]}\n{order_fingerprint()}\n"}


def test_order_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state()
    python_before, numpy_before = random.getstate(), np.random.get_state()[1]
    order_fingerprint.__wrapped__()
    list(SeededSampler(100, seed=1))
    make_order(100, seed=1, epoch=2).indices(0, 100)
    make_order(10**9, seed=1, epoch=2).indices(0, 100)
    assert torch.equal(before, torch.get_rng_state())
    assert random.getstate() == python_before
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_order_does_not_depend_on_the_global_generators() -> None:
    seen = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        seen.append(
            [
                make_order(n, seed=1, epoch=2).indices(0, 50).tolist()
                for n in (100, 10**9)
            ]
        )
    assert seen[0] == seen[1]


def test_threads_that_share_an_order_see_the_same_one() -> None:
    order = make_order(10**9, seed=0, epoch=0)
    expected = make_order(10**9, seed=0, epoch=0).indices(0, 40_000)
    wrong: list[int] = []

    def read(first: int) -> None:
        for start in range(first, 39_000, 611):
            if not torch.equal(order.indices(start, start + 97), expected[start:][:97]):
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(i * 211,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


@pytest.mark.parametrize("n", [50, 10**9])
def test_seeds_and_epochs_give_different_orders(n: int) -> None:
    orders = {
        tuple(make_order(n, seed=s, epoch=e).indices(0, 50).tolist())
        for s in range(10)
        for e in range(10)
    }
    assert len(orders) == 100


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 11), (11, 11)])
def test_positions_outside_the_order_are_refused(start: int, stop: int) -> None:
    order = make_order(20, seed=0, epoch=0, shard=(1, 2))
    with pytest.raises(ArgumentError, match=f"stop <= 10; got {start} and {stop}"):
        order.indices(start, stop)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": -1}, r"num_samples must be a whole number from 0 to 4611"),
        ({"num_samples": MAX_SIZE + 1}, r"from 0 to \d+; got 4611686018427387905"),
        ({"num_samples": 3.0}, r"num_samples must be .*; got 3\.0"),
        ({"seed": "3"}, r"seed must be a whole number; got '3'"),
        ({"seed": True}, r"seed must be a whole number; got True"),
        ({"epoch": -1}, r"epoch must be a whole number from 0 on; got -1"),
        ({"shard": (2, 2)}, r"rank of the shard must be .* from 0 to 1; got 2"),
        ({"shard": (-1, 2)}, r"rank of the shard must be .* from 0 to 1; got -1"),
        ({"shard": (0, 0)}, r"world_size of the shard must be .* from 1 on; got 0"),
        ({"shard": (0.0, 2)}, r"rank of the shard must be .*; got 0\.0"),
        ({"shard": (0, "2")}, r"world_size of the shard must be .*; got '2'"),
        ({"shard": 3}, r"shard must be two numbers, \(rank, world_size\); got 3"),
        ({"shard": (0, 1, 2)}, r"shard must be two numbers, .*; got \(0, 1, 2\)"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"num_samples": 10, "seed": 0, "epoch": 0}
    with pytest.raises(ArgumentError, match=message):
        make_order(**{**usual, **arguments})


def test_whole_numbers_of_other_types_are_taken_for_what_they_are() -> None:
    same = make_order(
        np.int64(50), seed=np.int32(3), epoch=np.uint8(4), shard=(np.int64(1), 2)
    )
    assert _all(same) == _all(make_order(50, seed=3, epoch=4, shard=(1, 2)))
    assert check_shard((np.int64(1), 2)) == (1, 2)


def test_sampler_yields_the_order_of_its_epoch() -> None:
    sampler = SeededSampler(20, seed=3)
    sampler.epoch = 4
    assert list(sampler) == epoch_permutation(20, seed=3, epoch=4).tolist()
    assert len(sampler) == 20


@pytest.mark.parametrize("shuffle", [True, False])
def test_sampler_yields_its_shard(shuffle: bool) -> None:
    n = 2 * BLOCK_POSITIONS + 1
    samplers = [
        SeededSampler(n, 3, shuffle=shuffle, shard=(rank, 2)) for rank in (0, 1)
    ]
    whole = _all(make_order(n, seed=3, epoch=0, shuffle=shuffle))
    assert [len(sampler) for sampler in samplers] == [
        BLOCK_POSITIONS + 1,
        BLOCK_POSITIONS,
    ]
    assert [list(sampler) for sampler in samplers] == [whole[::2], whole[1::2]]


def test_sampler_of_a_thousand_million_starts_at_once_with_plain_numbers() -> None:
    iterator = iter(SeededSampler(10**9, seed=0))
    first = [next(iterator) for _ in range(3)]
    assert first == make_order(10**9, seed=0, epoch=0).indices(0, 3).tolist()
    assert all(type(index) is int for index in first)


def test_sampler_refuses_a_wrong_shard_when_it_is_made() -> None:
    with pytest.raises(ArgumentError, match=r"rank of the shard .* got 5"):
        SeededSampler(10, seed=0, shard=(5, 2))


def test_mixed_seeds_fit_a_signed_word_and_depend_on_each_part() -> None:
    seeds = {mix_seed(a, b) for a in range(30) for b in ("x", "y")}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
