"""Parquet files in handful's DataLoader and Trainer: resumed exactly."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from handful import DataLoader, Trainer, first
from handful.data.augment import RandomHorizontalFlip
from handful.data.parquet_files import ParquetFiles
from handful.errors import ArgumentError, DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is missing")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing")

ROWS = 430


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make two files of 430 rows whose target follows from their inputs."""
    folder = tmp_path / "data"
    folder.mkdir()
    X = np.random.default_rng(0).standard_normal((ROWS, 3)).astype(np.float32)
    y = (X.sum(1) > 0).astype(np.int64)
    for number, part in enumerate([slice(0, 301), slice(301, ROWS)]):
        columns = {f"x{i}": X[part, i] for i in range(3)}
        table = pa.table({**columns, "y": y[part]})
        write(table, folder / f"{number}.parquet")
    return folder


def write(table: Any, path: Path, rows: int = 40) -> None:
    """Write a file whose size does not depend on its values."""
    plain = {"compression": "none", "use_dictionary": False}
    pq.write_table(table, path, row_group_size=rows, **plain)


def make_loader(folder: Path, *, window: int = 90, **arguments: Any) -> DataLoader[Any]:
    files = ParquetFiles(folder, target="y", window=window)
    settings = {"batch_size": 32, "shuffle": True, "seed": 0, **arguments}
    return DataLoader(files, **settings)


def digest(batches: list[Any]) -> list[list[float]]:
    return [inputs[:, 0].tolist() for inputs, _ in batches]


def test_the_path_says_how_files_are_read(folder: Path) -> None:
    loader = make_loader(folder)
    assert loader.path == "batched: ParquetFiles is read by the row group"
    assert len(loader) == len(iter(loader)) == 14


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("shuffle", [True, False])
def test_epochs_are_complete_and_differ_where_they_are_shuffled(
    folder: Path, seed: int | None, shuffle: bool
) -> None:
    loader = make_loader(folder, shuffle=shuffle, seed=seed)
    one, two = digest(list(loader)), digest(list(loader))
    assert loader.epoch == 2
    assert (one != two) is shuffle
    assert sorted(itertools.chain(*one)) == sorted(itertools.chain(*two))
    assert len(set(itertools.chain(*one))) == ROWS


@pytest.mark.parametrize("seed", [0, None])
def test_a_loader_goes_on_at_every_batch(folder: Path, seed: int | None) -> None:
    for delivered in range(15):
        loader = make_loader(folder, seed=seed)
        iterator = iter(loader)
        for _ in range(delivered):
            next(iterator)
        state = json.loads(json.dumps(loader.state_dict()))
        other = make_loader(folder, seed=seed)
        other.load_state_dict(state)
        rest = digest(list(iterator))
        assert len(rest) == 14 - delivered
        assert digest(list(other)) == rest
        assert other.epoch == 1


def test_between_two_passes_the_next_one_comes(folder: Path) -> None:
    loader = make_loader(folder)
    list(loader)
    other = make_loader(folder)
    other.load_state_dict(loader.state_dict())
    assert digest(list(other)) == digest(list(loader))


def test_a_generator_of_the_loaders_own_orders_the_rows(folder: Path) -> None:
    def take() -> list[list[float]]:
        generator = torch.Generator().manual_seed(8)
        return digest(list(make_loader(folder, seed=None, generator=generator)))

    assert take() == take()


def test_looking_at_the_first_batch_changes_nothing(folder: Path) -> None:
    loader = make_loader(folder)
    inputs, _ = first(loader)
    assert torch.equal(next(iter(loader))[0], inputs)


def test_ranks_share_out_the_rows(folder: Path) -> None:
    shards = [make_loader(folder, shard=(rank, 3)) for rank in range(3)]
    taken = [list(itertools.chain(*digest(list(shard)))) for shard in shards]
    assert [len(part) for part in taken] == [144, 143, 143]
    assert len(set(itertools.chain(*taken))) == ROWS
    assert [len(shard) for shard in shards] == [5, 5, 5]


def test_a_transform_of_batches_is_applied(folder: Path) -> None:
    files = ParquetFiles(folder, columns=["x0"], target="y")
    plain = DataLoader(files, batch_size=50)
    shifted = DataLoader(
        files, batch_size=50, batch_transform=lambda batch: [batch[0] + 1, batch[1]]
    )
    for (one, _), (other, _) in zip(plain, shifted, strict=True):
        assert torch.equal(one + 1, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_workers": 2}, "num_workers must be 0 .*A thread of its own reads ahead"),
        ({"batch_size": None}, "batch_size must be a number .*got None"),
        ({"collate_fn": list}, "collate_fn must be None .*batch_transform"),
        ({"device": "cpu"}, "device must be None .*Move the batches"),
        (
            {"sampler": range(3), "shuffle": None, "seed": None},
            "sampler must be None .*got 'range'",
        ),
        (
            {"batch_sampler": [[1]], "batch_size": 1, "shuffle": None, "seed": None},
            "batch_sampler must be None .*got 'list'",
        ),
        (
            {"batch_transform": RandomHorizontalFlip()},
            "batch_transform must be one that draws no random numbers",
        ),
    ],
)
def test_what_needs_single_samples_is_refused(
    folder: Path, arguments: dict[str, Any], message: str
) -> None:
    loader = make_loader(folder, **arguments)
    with pytest.raises(ArgumentError, match=message):
        iter(loader)


@pytest.mark.parametrize("change", ["rows", "values", "columns", "window", "name"])
def test_a_state_of_other_files_is_refused(folder: Path, change: str) -> None:
    state = make_loader(folder).state_dict()
    path = folder / "1.parquet"
    table = pq.read_table(path)
    if change == "name":
        path.rename(folder / "2.parquet")
    elif change == "rows":
        write(table, path, rows=30)
    elif change == "values":
        size = path.stat().st_size
        changed = pa.array(table["x0"].to_numpy() + 1)
        write(table.set_column(0, "x0", changed), path)
        assert path.stat().st_size == size
    files = ParquetFiles(
        folder,
        target="y",
        columns=["x0"] if change == "columns" else None,
        window=91 if change == "window" else 90,
    )
    loader = DataLoader(files, batch_size=32, shuffle=True, seed=0)
    with pytest.raises(DataError, match="the data set is another one"):
        loader.load_state_dict(state)


def test_the_same_files_in_another_folder_go_on(folder: Path) -> None:
    state = make_loader(folder).state_dict()
    moved = folder.rename(folder.with_name("moved"))
    loader = make_loader(moved)
    loader.load_state_dict(state)
    assert len(list(loader)) == 14


def fit(folder: Path, out: Path, seed: int | None, **arguments: Any) -> list[Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    valid = DataLoader(ParquetFiles(folder, target="y"), batch_size=500)
    trainer = Trainer(model, loss="cross_entropy", lr=0.01, progress="off")
    run = trainer.fit(
        make_loader(folder, seed=seed),
        valid,
        epochs=2,
        run_dir=out,
        **arguments,
    )
    weights = [values.tolist() for values in model.state_dict().values()]
    return [weights, [{**line, "seconds": None} for line in run.history]]


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("step", [1, 13, 14, 20])
def test_a_training_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, seed: int | None, step: int
) -> None:
    whole = fit(folder, tmp_path / "whole", seed)
    fit(folder, tmp_path / "parts", seed, max_steps=step)
    assert fit(folder, tmp_path / "parts", seed, resume=True) == whole
