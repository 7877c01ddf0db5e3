"""Parquet and Arrow files as a data set: what samples are made of, how it is read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful.data.parquet_files import WINDOW_BYTES, ParquetFiles
from handful.errors import ArgumentError, DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is missing")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing")


def make_table(start: int, stop: int) -> Any:
    """Make rows whose every number follows from ``id``."""
    ids = np.arange(start, stop)
    pairs = pa.array(np.stack([ids, -ids], 1).reshape(-1).astype(np.float32))
    return pa.table(
        {
            "id": ids,
            "half": ids / 2,
            "pair": pa.FixedSizeListArray.from_arrays(pairs, 2),
            "odd": ids % 2 == 1,
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make three files of 25, 0 and 17 rows, in row groups of 10."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, start, stop in (("a", 0, 25), ("b", 25, 25), ("c", 25, 42)):
        path = folder / f"{name}.parquet"
        pq.write_table(make_table(start, stop), path, row_group_size=10)
    return folder


def test_rows_of_all_files_count_and_empty_row_groups_do_not(folder: Path) -> None:
    data = ParquetFiles(folder)
    assert len(data) == 42
    assert data.counts == [10, 10, 5, 10, 7]
    assert len(data.files) == 3


@pytest.mark.parametrize("form", ["folder", "text", "pattern", "list", "within"])
def test_paths_come_in_every_form(folder: Path, form: str) -> None:
    forms: dict[str, Any] = {
        "folder": folder,
        "text": str(folder),
        "pattern": f"{folder}/*.parquet",
        "list": [folder / "a.parquet", str(folder / "b.parquet"), f"{folder}/c*"],
        "within": folder.parent,
    }
    assert [file.path.name for file in ParquetFiles(forms[form]).files] == [
        "a.parquet",
        "b.parquet",
        "c.parquet",
    ]


def test_samples_without_a_target_are_dicts_of_columns(folder: Path) -> None:
    sample = ParquetFiles(folder)[31]
    assert list(sample) == ["id", "half", "pair", "odd"]
    assert sample["id"].dtype is torch.int64
    assert sample["half"].dtype is torch.float64
    assert sample["pair"].tolist() == [31, -31]
    assert sample["odd"].item() is True


def test_samples_with_a_target_are_pairs_and_inputs_lie_side_by_side(
    folder: Path,
) -> None:
    inputs, target = ParquetFiles(folder, target="id")[-1]
    assert inputs.dtype is torch.float32
    assert inputs.tolist() == [20.5, 41, -41, 1]
    assert target.dtype is torch.int64
    assert target.item() == 41


@pytest.mark.parametrize(
    ("target", "dtype", "inputs_dtype", "target_dtype"),
    [
        ("half", torch.float32, torch.float32, torch.float32),
        ("half", torch.float16, torch.float16, torch.float16),
        ("odd", torch.float32, torch.float32, torch.int64),
        ("odd", None, torch.float64, torch.bool),
        ("half", None, torch.float64, torch.float64),
    ],
)
def test_dtype_is_that_of_inputs_and_of_real_targets(
    folder: Path,
    target: str,
    dtype: torch.dtype | None,
    inputs_dtype: torch.dtype,
    target_dtype: torch.dtype,
) -> None:
    inputs, value = ParquetFiles(folder, target=target, dtype=dtype)[3]
    assert inputs.dtype is inputs_dtype
    assert value.dtype is target_dtype


def test_columns_are_those_chosen_in_that_sequence(folder: Path) -> None:
    inputs, target = ParquetFiles(folder, columns=["odd", "half"], target="id")[5]
    assert inputs.tolist() == [1, 2.5]
    assert target.item() == 5
    assert list(ParquetFiles(folder, columns=["odd", "half"])[5]) == ["odd", "half"]


def test_an_index_beyond_the_rows_is_refused(folder: Path) -> None:
    with pytest.raises(IndexError, match="index must be below 42; got 42"):
        ParquetFiles(folder)[42]


def test_the_window_is_of_bytes_unless_its_rows_are_given(folder: Path) -> None:
    data = ParquetFiles(folder, target="id")
    assert data.row_bytes == 4 * 4 + 8
    assert data.window == WINDOW_BYTES // data.row_bytes
    assert ParquetFiles(folder, window=7).window == 7


@pytest.mark.parametrize("window", [0, -1, 1.5, True, "all"])
def test_a_window_that_is_no_number_of_rows_is_refused(
    folder: Path, window: Any
) -> None:
    with pytest.raises(ArgumentError, match=r"window must be a whole number of rows"):
        ParquetFiles(folder, window=window)


def test_it_is_pickled_without_what_it_has_read(folder: Path) -> None:
    data = ParquetFiles(folder, target="id")
    size = len(pickle.dumps(data))
    _ = data[0]
    copy = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) == size
    assert copy[17][1].item() == 17
    assert copy.identify() == data.identify()


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_arrow_files_are_read_by_the_record_batch(
    tmp_path: Path, compression: str
) -> None:
    feather = pytest.importorskip("pyarrow.feather", reason="pyarrow is missing")
    path = tmp_path / "t.feather"
    table = make_table(0, 42)
    feather.write_feather(table, str(path), compression=compression, chunksize=10)
    data = ParquetFiles(path, columns=["half", "pair"], target="id")
    assert data.counts == [10, 10, 10, 10, 2]
    for index in (0, 9, 41):
        inputs, target = data[index]
        assert inputs.tolist() == [index / 2, index, -index]
        assert target.item() == index


def test_a_column_named_with_a_dot_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a.b": [1, 2], "a": [3, 4]}), tmp_path / "t.parquet")
    data = ParquetFiles(tmp_path, columns=["a.b"])
    assert [data[i]["a.b"].item() for i in range(2)] == [1, 2]


def test_all_numbers_keep_their_values(tmp_path: Path) -> None:
    kinds = [pa.int8(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
    kinds += [pa.float16(), pa.float32()]
    columns = {str(k): pa.array(np.arange(3), pa.int64()).cast(k) for k in kinds}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    sample = ParquetFiles(tmp_path)[2]
    assert [str(sample[str(kind)].item()) for kind in kinds[:5]] == ["2"] * 5
    assert sample["uint32"].dtype is torch.uint32
    assert sample["halffloat"].dtype is torch.float16


def test_other_contents_have_another_hash(folder: Path) -> None:
    before = ParquetFiles(folder).identify()
    assert ParquetFiles(folder, columns=["id"]).identify()["hash"] != before["hash"]
    assert ParquetFiles(folder, window=5).identify() == {**before, "window": 5}
    table = make_table(25, 42)
    changed = table.set_column(0, "id", pa.array(range(100, 117)))
    pq.write_table(changed, folder / "c.parquet", row_group_size=10)
    assert ParquetFiles(folder).identify()["hash"] != before["hash"]


def test_files_may_differ_in_columns_that_are_not_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "note": ["x", "y"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"more": [0.5], "id": [3]}), tmp_path / "b.parquet")
    data = ParquetFiles(tmp_path, columns=["id"])
    assert [data[i]["id"].item() for i in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ["idd"]}, r"columns of .*a.parquet must be one of .*mean 'id'"),
        ({"target": "y"}, r"target of .*a.parquet must be one of half, id, odd, pair"),
        ({"columns": "id"}, r"columns must be a list of names; got 'id'"),
        ({"columns": ["id"], "target": "id"}, "columns must be at least one beside"),
        ({"target": "id", "dtype": torch.bfloat16}, "dtype must be a torch dtype"),
    ],
)
def test_wrong_arguments_are_named(
    folder: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        ParquetFiles(folder, **arguments)


@pytest.mark.parametrize("columns", [["id", "id"], []])
def test_columns_must_be_there_once(folder: Path, columns: list[str]) -> None:
    with pytest.raises(DataError, match=r"named once|at least one column"):
        ParquetFiles(folder, columns=columns)


def test_selected_row_groups_are_a_data_set_of_their_own(folder: Path) -> None:
    data = ParquetFiles(folder, columns=["id"])
    part = data.select([3, np.int64(1)])
    assert part.counts == [10, 10]
    assert [int(part[i]["id"]) for i in (0, 9, 10, 19)] == [10, 19, 25, 34]
    assert len(data) == 42
    assert part.identify() != data.identify()
    assert part.identify() == data.select([1, 3]).identify()
    assert part.identify() != data.select([1, 2]).identify()


@pytest.mark.parametrize("groups", [[], [5], [-1]])
def test_row_groups_that_are_not_there_are_not_selected(
    folder: Path, groups: list[int]
) -> None:
    with pytest.raises(ArgumentError, match="groups must be places from 0 to 4"):
        ParquetFiles(folder).select(groups)
