"""Copies of loaders: the same batches, other settings, nothing of the user's moved."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import (
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from handful import DataLoader
from handful.data.loader_candidates import (
    COLUMNS,
    HANDFUL,
    Candidate,
    count_cores,
    list_candidates,
    make_candidate,
)
from handful.data.loader_copies import (
    batches_ahead,
    close_loader,
    copy_loader,
    kept_state,
    to_handful,
)
from handful.data.loader_parts import SampleParts, count_bytes
from handful.data.loader_timing import (
    count_samples,
    repeat_passes,
    time_loader,
    time_step,
)
from handful.data.lock_probe import watched_thread


class Squares(Dataset[Any]):
    """Numbers and their squares."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([float(index)]), index * index


class Stream(IterableDataset[Any]):
    """Ten numbers."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


class Stubborn(Sampler[int]):
    """A sampler that nobody can copy."""

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[int]:
        return iter(range(20))

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("no copies")


def take(loader: Any, *, seed: int | None = None) -> list[Any]:
    if seed is not None:
        torch.manual_seed(seed)
    return [[values.tolist() for values in batch] for batch in loader]


def own(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LOADERS: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: TorchDataLoader(Squares(), 4, shuffle=True),
    "drawn from its own": lambda: TorchDataLoader(
        Squares(), 4, shuffle=True, generator=own(1)
    ),
    "weighted": lambda: TorchDataLoader(
        Squares(), 4, sampler=WeightedRandomSampler([1.0] * 20, 9, generator=own(2))
    ),
    "batches given": lambda: TorchDataLoader(
        Squares(), batch_sampler=[[1, 2], [3], [4, 5, 6]]
    ),
    "short last left out": lambda: TorchDataLoader(Squares(), 3, drop_last=True),
    "ours": lambda: DataLoader(Squares(), 4, shuffle=True, seed=3),
    "ours in arrays": lambda: DataLoader(
        TensorDataset(torch.arange(20), torch.arange(20)), 4, shuffle=True, seed=3
    ),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_copy_gives_the_batches_that_the_loader_would(name: str) -> None:
    loader = LOADERS[name]()
    copied = take(copy_loader(loader), seed=7)
    assert take(copy_loader(loader), seed=7) == copied
    assert take(loader, seed=7) == copied


@pytest.mark.parametrize("name", [name for name in LOADERS if "ours" not in name])
def test_handfuls_loader_gives_the_same_batches(name: str) -> None:
    loader = LOADERS[name]()
    moved = take(to_handful(loader), seed=7)
    assert moved == take(loader, seed=7)


@pytest.mark.parametrize("workers", [{"num_workers": 2, "persistent_workers": True}])
def test_a_copy_may_have_workers(workers: dict[str, Any]) -> None:
    loader = TorchDataLoader(Squares(), 4)
    twin = copy_loader(loader, workers)
    assert take(twin) == take(loader)
    assert twin._iterator is not None
    close_loader(twin)
    assert twin._iterator is None
    assert loader.num_workers == 0
    assert batches_ahead(twin) == 4


def test_a_copy_without_workers_has_nothing_that_needs_them() -> None:
    loader = TorchDataLoader(
        Squares(),
        4,
        num_workers=2,
        timeout=5,
        multiprocessing_context="spawn",
        persistent_workers=True,
        prefetch_factor=3,
    )
    assert take(copy_loader(loader, {"num_workers": 0})) == take(
        TorchDataLoader(Squares(), 4)
    )
    assert (loader.timeout, loader.prefetch_factor) == (5, 3)
    assert make_candidate(loader, Candidate("x", {"num_workers": 0}, HANDFUL)).path


def test_a_copy_of_ours_has_threads_of_its_own() -> None:
    loader = DataLoader(Squares(), 4, num_workers=1, worker_type="thread")
    twin = copy_loader(loader, {"num_workers": 3})
    assert take(twin) == take(DataLoader(Squares(), 4))
    assert loader._threads._executor is None
    assert isinstance(twin, DataLoader)
    assert twin._threads.count == 3
    close_loader(twin)


def test_an_order_that_cannot_be_copied_is_replaced_by_another() -> None:
    loader = TorchDataLoader(Squares(), 4, sampler=Stubborn())
    batches = take(copy_loader(loader))
    assert sorted(n for _, squares in batches for n in squares) == [
        n * n for n in range(20)
    ]


def test_samples_are_put_in_arrays_with_the_loaders_batches() -> None:
    loader = TorchDataLoader(Squares(), 3, drop_last=True)
    arrays = make_candidate(loader, Candidate("x", {"pin_memory": True}, COLUMNS))
    assert arrays.pin_memory
    moved = make_candidate(loader, Candidate("x", {}, COLUMNS))
    assert isinstance(moved, DataLoader)
    assert moved.path == "batched: Columns is in arrays"
    assert take(moved) == take(loader)


def test_a_stream_is_copied_as_it_is() -> None:
    loader = TorchDataLoader(Stream(), 4)
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [batch.tolist() for batch in copy_loader(loader)] == expected
    assert [batch.tolist() for batch in to_handful(loader)] == expected


def test_generators_behind_a_subset_are_put_back() -> None:
    data = Squares()
    data.dice = random.Random(1)  # type: ignore[attr-defined]
    before = data.dice.getstate()  # type: ignore[attr-defined]
    with kept_state(TorchDataLoader(Subset(data, [1, 2]))):
        data.dice.random()  # type: ignore[attr-defined]
    assert data.dice.getstate() == before  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("batch", "size", "count"),
    [
        (torch.zeros(5, 2), None, 5),
        (torch.tensor(1.0), None, 1),
        ([torch.zeros(5, 2), torch.zeros(5)], None, 5),
        ({"x": torch.zeros(6), "y": [1]}, None, 6),
        ([{"x": torch.zeros(6)}], None, 6),
        (["a", "b", "c"], None, 3),
        ([torch.zeros(7)] * 4, 4, 4),
        ([torch.zeros(4)] * 4, 4, 4),
        ([torch.zeros(3), torch.zeros(3)], 4, 3),
        ("text", None, 1),
        ([], None, 0),
        ({}, None, 0),
    ],
)
def test_samples_of_a_batch_are_counted(
    batch: Any, size: int | None, count: int
) -> None:
    assert count_samples(batch, size) == count


def test_bytes_of_a_sample_are_counted() -> None:
    sample = {"x": torch.zeros(3), "y": (1, "four"), "z": [b"12"]}
    assert count_bytes(sample) == 12 + 8 + 4 + 2


def test_passes_are_repeated_until_one_gives_nothing() -> None:
    batches = repeat_passes([1, 2])
    assert [next(batches) for _ in range(5)] == [1, 2, 1, 2, 1]
    assert list(repeat_passes(iter([1, 2]))) == [1, 2]
    assert list(repeat_passes([])) == []


def test_a_rate_lies_within_its_spread() -> None:
    timing = time_loader(TorchDataLoader(Squares(), 4), seconds=0.05)
    assert timing.low <= timing.samples_per_second <= timing.high
    assert timing.batches >= 2
    assert timing.waiting > 0
    assert timing.first_batch[1].tolist() == [0, 1, 4, 9]


def test_steps_are_called_with_the_same_batch() -> None:
    batch, seen = torch.zeros(3), []
    timing = time_step(seen.append, batch, seconds=0.01)
    assert all(one is batch for one in seen)
    assert timing.samples_per_second > 0


def test_a_thread_that_computes_in_python_holds_the_lock() -> None:
    with watched_thread() as use:
        for _ in range(100):
            sum(k * k for k in range(20_000))
    assert use.locked > 0.5
    assert use.computing > use.waiting
    assert use.looks > 0


PARTS = SampleParts(reading=1e-3, waiting=0.0, locked=0.1, num_bytes=8, is_fixed=True)


def names(loader: Any, cause: str, parts: SampleParts = PARTS) -> list[str]:
    groups = list_candidates(loader, cause, parts)
    return [candidate.name for group in groups for candidate in group]


def test_the_most_promising_settings_come_first() -> None:
    loader = TorchDataLoader(Squares(), 4)
    assert names(loader, "slow disk")[0].endswith("threads")
    assert names(loader, "tiny rows")[0] == "in arrays"
    assert "process" in names(loader, "slow transform")[0]
    assert names(loader, "slow decode")[-1] == "handful.DataLoader"
    assert count_cores() >= 1


def test_settings_that_would_change_the_batches_are_not_tried() -> None:
    assert names(TorchDataLoader(Stream(), 4), "slow decode") == ["handful.DataLoader"]
    random_rows = SampleParts(1e-5, 0.0, 0.1, 8, is_fixed=False)
    assert "in arrays" not in names(
        TorchDataLoader(Squares(), 4), "tiny rows", random_rows
    )
    collated = TorchDataLoader(Squares(), 4, collate_fn=list)
    assert "in arrays" not in names(collated, "tiny rows")
    initialised = TorchDataLoader(Squares(), 4, worker_init_fn=print)
    assert not any("thread" in name for name in names(initialised, "slow disk"))


def test_threads_are_not_tried_where_the_lock_is_held() -> None:
    held = SampleParts(1e-3, 0.0, 0.95, 8)
    assert not any(
        "thread" in name
        for name in names(TorchDataLoader(Squares(), 4), "slow transform", held)
    )


def test_settings_that_a_loader_has_are_not_tried_again() -> None:
    count = count_cores()
    loader = DataLoader(Squares(), 4, num_workers=count, worker_type="thread")
    tried = names(loader, "slow decode")
    assert f"{count} threads" not in tried
    assert "no workers" in tried
    assert "handful.DataLoader" not in tried
