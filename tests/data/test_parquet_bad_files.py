"""Bad files: one sentence that names the file, and how to go on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handful.data.batched import Pass
from handful.data.parquet_files import ParquetFiles
from handful.data.row_group_plan import RowGroupPlan
from handful.errors import ArgumentError, DataError, FormatError

pa = pytest.importorskip("pyarrow", reason="pyarrow is missing")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing")

GOOD = pa.table({"id": range(100), "x": np.arange(100) / 4})


def write(path: Path, table: Any = GOOD) -> Path:
    pq.write_table(table, path, row_group_size=10)
    return path


def read_all(data: ParquetFiles) -> list[Any]:
    plan = RowGroupPlan(
        files=data,
        batch_size=8,
        drop_last=False,
        shuffle=True,
        seed=0,
        shard=None,
        transform=None,
    )
    return list(plan.iterate(Pass(epoch=0), lambda current: None))


def about(path: Path, rest: str) -> str:
    return f"{re.escape(str(path))}.*{rest}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"id,x\n1,2\n", r"begins with b'PAR1' or b'ARROW1'; got b'id,x\\n1'"),
        (b"FEA1" + bytes(100), "got b'FEA1"),
        (b"PAR1", "footer can't be read"),
        (b"PAR1" + bytes(100), "footer can't be read"),
        (b"ARROW1", "footer can't be read"),
        (b"ARROW1" + bytes(200), "footer can't be read"),
    ],
)
def test_another_format_names_the_file(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=about(path, message)):
        ParquetFiles(tmp_path)


@pytest.mark.parametrize("kept", [0.2, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_truncated_file_is_named(tmp_path: Path, kind: str, kept: float) -> None:
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        write(path)
    else:
        with pa.ipc.new_file(str(path), GOOD.schema) as file:
            file.write_table(GOOD, max_chunksize=10)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(FormatError, match=about(path, "Write or copy it again")):
        ParquetFiles(path)


def test_a_stream_of_arrow_is_not_a_file_of_it(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    with pa.ipc.new_stream(str(path), GOOD.schema) as stream:
        stream.write_table(GOOD)
    with pytest.raises(FormatError, match=about(path, "must be a Parquet or an Arrow")):
        ParquetFiles(path)


def test_damage_within_a_row_group_names_it(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet")
    content = bytearray(path.read_bytes())
    content[40:140] = b"\xff" * 100
    path.write_bytes(content)
    with pytest.raises(FormatError, match=about(path, "row group 0 can't be read")):
        read_all(ParquetFiles(path))


def test_no_rows_at_all_name_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", GOOD.slice(0, 0))
    with pytest.raises(DataError, match=f"at least one row; {path} has none"):
        ParquetFiles(path)
    with pytest.raises(DataError, match=f"{path} and the others have none"):
        ParquetFiles([path, path])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", r"a folder with files named \*\.parquet, .*; got "),
        ("t.parquet", r"a file, a folder or a pattern of existing files; got "),
        ("*.parquet", r"a file, a folder or a pattern of existing files; got "),
    ],
)
def test_paths_without_files_are_named(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    with pytest.raises(DataError, match=message + re.escape(str(path))):
        ParquetFiles(path)


def test_an_empty_list_of_paths_is_refused() -> None:
    with pytest.raises(ArgumentError, match="paths must name at least one file"):
        ParquetFiles([])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": range(5), "x": range(5)}, "column 'x' is int64, and double in"),
        ({"id": range(5)}, "column 'x' is missing, and double in"),
        ({"id": range(5), "x": [0.5] * 5, "z": range(5)}, "'z' is int64, and miss"),
    ],
)
def test_the_file_of_another_schema_is_named(
    tmp_path: Path, table: dict[str, Any], message: str
) -> None:
    paths = [write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet")]
    paths.append(write(tmp_path / "c.parquet", pa.table(table)))
    with pytest.raises(DataError, match=about(paths[2], message)):
        ParquetFiles(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a"]),
        pa.array([b"a"]),
        pa.array([[1, 2]]),
        pa.array([0], pa.date32()),
        pa.array([0], pa.timestamp("us")),
        pa.array(["a"]).dictionary_encode(),
        pa.array([{"a": 1}]),
        pa.array([[[1, 2]]], pa.list_(pa.list_(pa.int8(), 2), 1)),
    ],
    ids=lambda values: str(values.type),
)
def test_columns_without_numbers_are_named_with_the_remedy(
    tmp_path: Path, values: Any
) -> None:
    path = write(tmp_path / "t.parquet", pa.table({"id": [1], "note": values}))
    message = f"column 'note' of {path} .*leave it out with columns="
    with pytest.raises(DataError, match=message):
        ParquetFiles(path)
    assert ParquetFiles(path, columns=["id"])[0]["id"].item() == 1


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    path = write(tmp_path / "t.parquet", table)
    with pytest.raises(DataError, match=about(path, "got 'a' more than once")):
        ParquetFiles(path)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_nulls_name_file_column_and_row_group(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"t.{kind}"
    values = [None if i in (71, 72) else i / 2 for i in range(100)]
    table = pa.table({"id": range(100), "x": values})
    if kind == "parquet":
        write(path, table)
    else:
        with pa.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table, max_chunksize=10)
    message = f"column 'x' of {path}, row group 7, must not have nulls; got 2"
    with pytest.raises(DataError, match=message):
        read_all(ParquetFiles(path))
    assert len(read_all(ParquetFiles(path, columns=["id"]))) == 13


def test_a_file_that_changed_while_it_was_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet")
    data = ParquetFiles(path)
    pq.write_table(GOOD, path, row_group_size=50)
    with pytest.raises(FormatError, match=about(path, "had 10 rows and now has 50")):
        data[0]
    path.unlink()
    with pytest.raises(FormatError, match=about(path, "row group 0 can't be read")):
        data[0]
