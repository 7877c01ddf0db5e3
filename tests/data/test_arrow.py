"""Arrow tables and arrays, read in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader

from handful import Columns, DataLoader
from handful.data.arrow import ArrowTable
from handful.errors import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is missing")


def make_table(num_chunks: int = 1) -> Any:
    """Make a table of twelve rows."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(range(24), pa.float32()), 2)
    table = pa.table(
        {
            "id": pa.array(range(12), pa.int64()),
            "vector": vectors,
            "flag": [i % 3 == 0 for i in range(12)],
        }
    )
    size = 12 // num_chunks
    parts = [table.slice(i * size, size) for i in range(num_chunks)]
    return pa.concat_tables(parts)


@pytest.mark.parametrize("num_chunks", [1, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_dicts_equal_to_pytorchs_collation(
    num_chunks: int, shuffle: bool
) -> None:
    table = make_table(num_chunks)
    torch.manual_seed(1)
    ours = DataLoader(table, batch_size=5, shuffle=shuffle)
    assert ours.path.startswith("batched")
    batches = list(ours)
    torch.manual_seed(1)
    theirs = list(TorchDataLoader(ArrowTable(table), batch_size=5, shuffle=shuffle))
    assert len(batches) == len(theirs) == 3
    for one, other in zip(batches, theirs, strict=True):
        assert list(one) == ["id", "vector", "flag"]
        for name in one:
            assert one[name].dtype is other[name].dtype
            assert torch.equal(one[name], other[name])


def test_a_memory_mapped_file_is_read_in_place(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    table = make_table(3)
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=5)
    with pa.memory_map(str(path)) as source:
        before = pa.total_allocated_bytes()
        loader = DataLoader(pa.ipc.open_file(source).read_all(), batch_size=12)
        (batch,) = loader
        assert pa.total_allocated_bytes() - before < 1000
    assert batch["vector"][:, 1].tolist() == list(range(1, 24, 2))


def test_arrow_arrays_are_columns() -> None:
    columns = Columns(x=make_table(3)["vector"], y=make_table()["id"])
    assert columns[11]["x"].tolist() == [22, 23]


def test_samples_are_found_from_both_ends() -> None:
    data = ArrowTable(make_table(3))
    assert data[-1]["id"].item() == 11
    with pytest.raises(IndexError, match="index must be below 12; got 12"):
        data[12]


def test_an_empty_table_has_no_batches() -> None:
    assert list(DataLoader(make_table().slice(0, 0))) == []


@pytest.mark.parametrize(
    ("column", "match"),
    [
        (["a", "b"], r"column 'c' must hold numbers, .* got string"),
        ([1, None], "column 'c' must not have nulls; got 1"),
        ([[1], [2, 3]], "column 'c' must hold numbers, .* got list"),
    ],
)
def test_columns_that_are_no_numbers_are_named(column: list[Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        DataLoader(pa.table({"c": column}))
