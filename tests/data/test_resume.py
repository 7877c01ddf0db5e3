"""Resuming on the batched path: exact at every batch, and at no cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from handful import Columns, DataLoader
from handful.data.augment import RandomCrop
from handful.data.first_batch import first
from handful.data.transforms import ScaleBytes
from handful.errors import ArgumentError, DataError

X = torch.arange(42).reshape(21, 2)
IMAGES = torch.arange(21 * 16, dtype=torch.uint8).reshape(21, 1, 4, 4)

LOADERS: dict[str, Callable[[], DataLoader]] = {
    "sequential": lambda: DataLoader(X, batch_size=4),
    "drawn": lambda: DataLoader(TensorDataset(X), batch_size=4, shuffle=True),
    "drawn, drop_last": lambda: DataLoader(X, 4, shuffle=True, drop_last=True),
    "own generator": lambda: DataLoader(
        X, 4, shuffle=True, generator=torch.Generator().manual_seed(4)
    ),
    "no remainder": lambda: DataLoader(
        X, 7, shuffle=True, generator=torch.Generator().manual_seed(4)
    ),
    "seeded": lambda: DataLoader(Columns(x=X), batch_size=4, shuffle=True, seed=3),
    "seeded, in order": lambda: DataLoader(X, batch_size=4, seed=3),
    "subset": lambda: DataLoader(Subset(X, range(2, 19)), 3, shuffle=True),
    "shard": lambda: DataLoader(X, 4, shuffle=True, seed=3, shard=(1, 2)),
    "random transform": lambda: DataLoader(
        (IMAGES, X), 4, shuffle=True, batch_transform=RandomCrop(4, padding=1)
    ),
}


def values(batches: list[Any]) -> list[Any]:
    return json.loads(json.dumps(batches, default=lambda tensor: tensor.tolist()))


@pytest.mark.parametrize("name", LOADERS)
def test_resuming_at_every_batch_gives_the_rest_and_the_next_epoch(name: str) -> None:
    torch.manual_seed(11)
    for stop in range(len(LOADERS[name]()) + 1):
        torch.manual_seed(stop)
        loader = LOADERS[name]()
        list(loader)
        iterator = iter(loader)
        for _ in range(stop):
            next(iterator)
        state = json.loads(json.dumps(loader.state_dict()))
        generator_then = torch.get_rng_state()
        rest = values(list(iterator))
        following = values(list(loader))
        generator_after = torch.get_rng_state()

        torch.set_rng_state(generator_then)
        again = LOADERS[name]()
        again.load_state_dict(state)
        assert again.state_dict() == state
        assert values(list(again)) == rest
        assert values(list(again)) == following
        assert torch.equal(torch.get_rng_state(), generator_after)
        assert again.epoch == loader.epoch


@pytest.mark.parametrize("name", LOADERS)
def test_a_state_between_passes_holds_the_order_of_the_next(name: str) -> None:
    loader = LOADERS[name]()
    list(loader)
    state = loader.state_dict()
    expected = values(list(loader))
    torch.rand(7)
    again = LOADERS[name]()
    again.load_state_dict(state)
    assert values(list(again)) == expected


def test_a_state_counts_batches_handed_out() -> None:
    loader = DataLoader(X, batch_size=4, shuffle=True, seed=0)
    assert loader.state_dict()["delivered"] == 0
    iterator = iter(loader)
    for count in range(1, 7):
        next(iterator)
        assert loader.state_dict()["delivered"] == count
        assert loader.state_dict()["epoch"] == 0
    assert list(iterator) == []
    assert loader.state_dict()["delivered"] == 0
    assert loader.state_dict()["epoch"] == 1


def test_restoring_costs_the_same_anywhere() -> None:
    """A state of a pass over a thousand million samples is restored at once."""

    rows = np.lib.stride_tricks.as_strided(
        np.zeros(1, np.uint8), shape=(10**9,), strides=(0,)
    )
    loader = DataLoader(torch.from_numpy(rows), batch_size=5, shuffle=True, seed=1)
    next(iter(loader))
    state = loader.state_dict()
    state["delivered"] = 123_456_789
    loader.load_state_dict(state)
    assert len(next(iter(loader))) == 5


CHANGES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"batch_size": 5}, ArgumentError, "same batch_size; got 4 in the state and 5 h"),
    ({"shuffle": False}, ArgumentError, "fingerprint|same order"),
    ({"seed": 9}, ArgumentError, "same seed; got 3 in the state and 9 here"),
    ({"drop_last": True}, ArgumentError, "same drop_last"),
    ({"shard": (0, 2)}, ArgumentError, "same shard; got None"),
    ({"dataset": X[:20]}, DataError, "data set is another one"),
    ({"dataset": X + 1}, DataError, "data set is another one"),
    ({"dataset": X.float()}, DataError, "data set is another one"),
]


@pytest.mark.parametrize(("change", "error", "match"), CHANGES)
def test_a_state_of_another_loader_is_refused(
    change: dict[str, Any], error: type[Exception], match: str
) -> None:
    options = {"dataset": X, "batch_size": 4, "shuffle": True, "seed": 3}
    state = DataLoader(**options).state_dict()
    with pytest.raises(error, match=match):
        DataLoader(**{**options, **change}).load_state_dict(state)


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({}, "must be what state_dict"),
        (None, "got NoneType"),
        ({"_snapshot": {}}, r"a mapping with the keys \['_snapshot'\]"),
        ({"format": "handful.DataLoader", "version": 2}, "Install a newer handful"),
        ({"format": "handful.DataLoader", "version": 1}, "must have the key 'order'"),
    ],
)
def test_a_state_of_another_kind_is_refused(state: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        DataLoader(X).load_state_dict(state)


def test_a_change_outside_the_fingerprints_samples_goes_unnoticed_as_documented() -> (
    None
):
    large = torch.zeros(1000)
    state = DataLoader(large, batch_size=4).state_dict()
    large[1] = 1
    DataLoader(large, batch_size=4).load_state_dict(state)
    large[0] = 1
    with pytest.raises(DataError, match="data set is another one"):
        DataLoader(large, batch_size=4).load_state_dict(state)


def test_shards_are_disjoint_and_together_the_epoch() -> None:
    def samples(shard: tuple[int, int] | None) -> list[int]:
        loader = DataLoader(X[:, 0], 2, shuffle=True, seed=5, shard=shard)
        return torch.cat(list(loader)).tolist()

    parts = [samples((rank, 3)) for rank in range(3)]
    assert sorted(parts[0] + parts[1] + parts[2]) == X[:, 0].tolist()
    assert parts[1] == samples(None)[1::3]


def test_a_shard_needs_a_seed_and_no_sampler() -> None:
    with pytest.raises(ArgumentError, match="shard must come with a seed"):
        DataLoader(X, shuffle=True, shard=(0, 2))
    with pytest.raises(ArgumentError, match="rank of the shard must be"):
        DataLoader(X, shuffle=True, seed=0, shard=(2, 2))


@pytest.mark.parametrize("name", LOADERS)
def test_first_gives_the_next_passes_first_batch_and_leaves_no_trace(name: str) -> None:
    torch.manual_seed(2)
    loader = LOADERS[name]()
    list(loader)
    state, generator = loader.state_dict(), torch.get_rng_state()
    got = values([first(loader)])
    assert loader.state_dict() == state
    assert torch.equal(torch.get_rng_state(), generator)
    assert values(list(loader))[:1] == got


def test_first_of_nothing_is_refused() -> None:
    with pytest.raises(ArgumentError, match="must give at least one batch"):
        first(DataLoader(X[:0]))


def test_fused_transforms_give_the_bits_of_unfused_ones() -> None:
    loader = DataLoader((IMAGES, X), 4, shuffle=True, seed=0)
    fused = DataLoader(
        (IMAGES, X), 4, shuffle=True, seed=0, batch_transform=ScaleBytes()
    )
    for plain, scaled in zip(loader, fused, strict=True):
        assert torch.equal(scaled[0], plain[0].float() / 255)
        assert torch.equal(scaled[1], plain[1])


def test_a_random_transform_depends_on_the_sample_not_on_the_batch() -> None:
    def augmented(batch_size: int) -> dict[int, Any]:
        loader = DataLoader(
            (IMAGES, X),
            batch_size,
            shuffle=True,
            seed=0,
            batch_transform=RandomCrop(4, padding=2),
        )
        return {
            int(x[0]): image.tolist()
            for images, xs in loader
            for image, x in zip(images, xs, strict=True)
        }

    assert augmented(4) == augmented(7)
