"""Batches of Parquet files: each row once, from any place, in bounded memory."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful.data import parquet_files
from handful.data.batched import Pass
from handful.data.draws import Draws
from handful.data.parquet_files import ParquetFiles
from handful.data.row_group_plan import RowGroupPlan
from handful.data.row_window import RowWindow
from handful.data.shuffle_window import StreamOrder, WindowOrder

pa = pytest.importorskip("pyarrow", reason="pyarrow is missing")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing")

ROWS = 430
WINDOWS = [1, 30, 100, 1000]


def make_table(start: int, stop: int) -> Any:
    ids = np.arange(start, stop)
    pairs = pa.array(np.stack([ids, -ids], 1).reshape(-1).astype(np.float32))
    columns = {"id": ids, "half": ids / 2}
    return pa.table({**columns, "pair": pa.FixedSizeListArray.from_arrays(pairs, 2)})


@pytest.fixture(scope="module", params=["parquet", "arrow"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Path:
    """Make three files of 430 rows, in row groups of up to 30."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    for number, (start, stop) in enumerate([(0, 200), (200, 201), (201, ROWS)]):
        table = make_table(start, stop)
        if request.param == "parquet":
            pq.write_table(table, folder / f"{number}.parquet", row_group_size=30)
            continue
        with pa.ipc.new_file(str(folder / f"{number}.arrow"), table.schema) as file:
            file.write_table(table, max_chunksize=30)
    return folder


def make_plan(folder: Path, *, window: int = 100, **arguments: Any) -> RowGroupPlan:
    settings: dict[str, Any] = {
        "files": ParquetFiles(folder, target="id", window=window),
        "batch_size": 16,
        "drop_last": False,
        "shuffle": True,
        "seed": 0,
        "shard": None,
        "transform": None,
    }
    return RowGroupPlan(**{**settings, **arguments})


def batches(plan: RowGroupPlan, epoch: int = 0, delivered: int = 0) -> list[Any]:
    current = Pass(epoch=epoch, delivered=delivered)
    made = list(plan.iterate(current, lambda current: None))
    assert current.has_ended
    assert current.delivered == delivered + len(made)
    return made


def ids_of(made: list[Any]) -> list[int]:
    return [number for _, target in made for number in target.tolist()]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_each_row_comes_once_with_its_own_numbers(
    folder: Path, window: int, batch_size: int
) -> None:
    made = batches(make_plan(folder, window=window, batch_size=batch_size))
    assert sorted(ids_of(made)) == list(range(ROWS))
    assert {len(target) for _, target in made[:-1]} <= {batch_size}
    for inputs, target in made:
        numbers = target.float()
        expected = torch.stack([numbers / 2, numbers, -numbers], 1)
        assert torch.equal(inputs, expected)


@pytest.mark.parametrize("window", WINDOWS)
def test_the_order_is_that_of_the_window(folder: Path, window: int) -> None:
    plan = make_plan(folder, window=window)
    counts = plan.files.counts
    order = WindowOrder(counts, window=window, seed=0, epoch=2)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    rows = order.rows(0, ROWS).numpy()
    block = np.searchsorted(order.starts, rows, side="right") - 1
    expected = offsets[order.blocks[block]] + rows - order.starts[block]
    assert ids_of(batches(plan, epoch=2)) == expected.tolist()


def test_without_shuffling_rows_come_in_the_files_order(folder: Path) -> None:
    plan = make_plan(folder, shuffle=False)
    assert ids_of(batches(plan)) == list(range(ROWS))


def test_without_a_target_batches_are_dicts(folder: Path) -> None:
    plan = make_plan(folder, files=ParquetFiles(folder), shuffle=False)
    batch = batches(plan)[1]
    assert list(batch) == ["id", "half", "pair"]
    assert batch["id"].tolist() == list(range(16, 32))
    assert batch["half"].dtype is torch.float64
    assert batch["pair"].shape == (16, 2)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_pass_goes_on_at_every_batch(
    folder: Path, window: int, shuffle: bool
) -> None:
    plan = make_plan(folder, window=window, shuffle=shuffle)
    whole = batches(plan, epoch=1)
    for delivered in range(len(whole) + 1):
        rest = batches(plan, epoch=1, delivered=delivered)
        assert ids_of(rest) == ids_of(whole[delivered:])


@pytest.mark.parametrize("drop_last", [False, True])
def test_smaller_last_batches_are_left_out_as_asked(
    folder: Path, drop_last: bool
) -> None:
    plan = make_plan(folder, drop_last=drop_last)
    made = batches(plan)
    assert len(made) == ROWS // 16 + (not drop_last)
    assert len(plan.iterate(Pass(epoch=0), lambda current: None)) == len(made)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("shuffle", [True, False])
def test_shards_share_out_each_row_once(
    folder: Path, window: int, world_size: int, shuffle: bool
) -> None:
    shards = [
        ids_of(
            batches(
                make_plan(
                    folder, window=window, shuffle=shuffle, shard=(rank, world_size)
                )
            )
        )
        for rank in range(world_size)
    ]
    assert [number for shard in shards for number in shard] == ids_of(
        batches(make_plan(folder, window=window, shuffle=shuffle))
    )
    sizes = [len(range(rank, ROWS, world_size)) for rank in range(world_size)]
    assert [len(shard) for shard in shards] == sizes


def test_a_shard_of_more_ranks_than_rows_may_be_empty(tmp_path: Path) -> None:
    pq.write_table(make_table(0, 3), tmp_path / "t.parquet")
    plans = [make_plan(tmp_path, shard=(rank, 5)) for rank in range(5)]
    assert [len(batches(plan)) for plan in plans] == [1, 1, 1, 0, 0]


def test_drawn_orders_differ_and_are_repeated_from_their_state(folder: Path) -> None:
    def take(draws: Draws) -> list[int]:
        current = Pass(epoch=0, draws=draws)
        return ids_of(list(make_plan(folder).iterate(current, lambda current: None)))

    draws = Draws(None)
    first = take(draws)
    assert take(Draws(None)) != first
    assert take(Draws(None, draws.begun(at_start=False))) == first


def test_a_transform_is_applied_to_every_batch(folder: Path) -> None:
    plan = make_plan(folder, transform=lambda batch: batch[1] + 1000)
    assert sorted(torch.cat(batches(plan)).tolist()) == list(range(1000, 1430))


def test_a_batch_is_its_receivers_own(folder: Path) -> None:
    plan = make_plan(folder)
    expected = [inputs.clone() for inputs, _ in batches(plan)]
    kept = []
    for inputs, _ in plan.iterate(Pass(epoch=0), lambda current: None):
        kept.append(inputs.clone())
        inputs.fill_(-1)
    assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))
    made = batches(plan)
    assert all(torch.equal(a, b) for (a, _), b in zip(made, expected, strict=True))


def test_row_groups_that_were_delivered_are_not_read_again(tmp_path: Path) -> None:
    for number in range(3):
        table = make_table(100 * number, 100 * number + 100)
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=10)
    plan = make_plan(tmp_path, shuffle=False, batch_size=50)
    (tmp_path / "0.parquet").unlink()
    assert ids_of(batches(plan, delivered=2)) == list(range(100, 300))


def test_a_shard_reads_none_of_the_others_row_groups(tmp_path: Path) -> None:
    for number in range(8):
        table = make_table(10 * number, 10 * number + 10)
        pq.write_table(table, tmp_path / f"{number}.parquet")
    plan = make_plan(tmp_path, window=10, shard=(1, 2))
    order = WindowOrder([10] * 8, window=10, seed=0, epoch=0)
    for number in order.blocks[:4]:
        (tmp_path / f"{number}.parquet").unlink()
    assert len(ids_of(batches(plan))) == 40


@pytest.mark.parametrize("window", [1, 300, 2000])
@pytest.mark.parametrize("chunk", [16, 512])
def test_memory_holds_the_window_and_three_row_groups(
    tmp_path: Path, window: int, chunk: int
) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(make_table(0, 20_000), path, row_group_size=100)
    files = ParquetFiles(path, target="id", window=window)
    order = WindowOrder(files.counts, window=window, seed=0, epoch=0)
    rows = RowWindow(files, order, range(20_000), chunk)
    try:
        for column in rows.columns:
            assert len(column.array) <= window + 3 * 100 + 2 * chunk
    finally:
        rows.close()


def test_a_row_group_goes_round_the_rings_end(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    counts = [30, 17, 30, 5, 30, 29, 1, 30]
    with pq.ParquetWriter(path, make_table(0, 1).schema) as writer:
        for start, count in zip(np.cumsum([0, *counts]), counts, strict=False):
            writer.write_table(make_table(start, start + count))
    files = ParquetFiles(path, target="id")
    rows = RowWindow(files, StreamOrder(files.counts), range(172), 10)
    try:
        assert len(rows.columns[0].array) < 172
        for start in range(0, 172, 10):
            stop = min(start + 10, 172)
            places = rows.indices(start, stop)
            out = torch.empty(stop - start, dtype=torch.int64)
            rows.columns[1].gather(places, out)
            assert out.tolist() == list(range(start, stop))
    finally:
        rows.close()


def test_a_pass_that_is_dropped_leaves_no_thread_and_no_open_file(
    folder: Path,
) -> None:
    def count() -> tuple[int, int]:
        gc.collect()
        names = [thread.name for thread in threading.enumerate()]
        descriptors = Path("/proc/self/fd")
        is_there = descriptors.is_dir()
        num_open = len(os.listdir(descriptors)) if is_there else 0  # noqa: PTH208
        return sum(name.startswith("handful-rows") for name in names), num_open

    plan = make_plan(folder)
    batches(plan)
    before = count()
    assert before[0] == 0
    for _ in range(3):
        iterator = plan.iterate(Pass(epoch=0), lambda current: None)
        next(iterator)
        assert count()[0] == 1
        del iterator
    assert count() == before


def test_what_can_not_be_read_ends_the_pass_where_it_is_needed(tmp_path: Path) -> None:
    values = [None if number == 77 else number for number in range(100)]
    table = pa.table({"id": range(100), "x": values})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=10)
    plan = make_plan(tmp_path, shuffle=False, batch_size=10)
    current = Pass(epoch=0)
    iterator = plan.iterate(current, lambda current: None)
    # A chunk is read at once; it may hold several batches.
    with pytest.raises(ValueError, match=r"column 'x' of .*row group 7, must not have"):
        list(iterator)
    assert current.delivered <= 7
    assert not current.has_ended
    assert list(iterator) == []


@pytest.mark.parametrize("portion_bytes", [1, 250, 500])
def test_large_row_groups_are_decoded_a_few_columns_at_a_time(
    folder: Path, portion_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(folder)
    whole = batches(plan)
    monkeypatch.setattr(parquet_files, "PORTION_BYTES", portion_bytes)
    portions = list(plan.files.read_group(plan.files.open_reader(), 0))
    assert len(portions) > 1
    assert [name for part in portions for name in part] == ["half", "pair", "id"]
    parts = batches(plan)
    assert ids_of(parts) == ids_of(whole)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(parts, whole, strict=True))
