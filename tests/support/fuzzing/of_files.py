"""The parsers of data: IDX, NumPy's, CSV, JSON lines, Parquet, lists of images."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np

from fuzzing.mutations import mutate_bytes, mutate_json
from fuzzing.parser import Parser
from handful.data.csv_file import read_csv
from handful.data.idx import read_idx
from handful.data.image_listing import list_csv
from handful.data.json_lines import JsonLines
from handful.data.npy import read_npy, read_npz
from handful.data.row_group_files import RowGroupReader, inspect_file

DELIMITERS = (",", ";", "\t")
POLICIES = ("raise", "drop", "mean")


def _idx_seeds(_: Path) -> list[bytes]:
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 6]) + bytes(range(6))
    images = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 2]) + bytes(12)
    floats = bytes([0, 0, 13, 2, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(16)
    packed = [gzip.compress(data, mtime=0) for data in (labels, images)]
    return [labels, images, floats, *packed]


def _read_idx(folder: Path, data: bytes) -> None:
    path = folder / "a.idx"
    path.write_bytes(data)
    if len(data) % 3 == 0:
        read_idx(path, expect_shape=(None, 3, 2), expect_dtype="u1")
    else:
        read_idx(path).sum()


def _npy_seeds(_: Path) -> list[bytes]:
    arrays = [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(4, dtype=">i2"),
        np.asfortranarray(np.ones((3, 2), np.uint8)),
        np.array([True, False]),
        np.zeros((0, 3)),
        np.array(["a", "b"]),
    ]
    seeds = []
    for array in arrays:
        for version in ((1, 0), (2, 0)):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, version)
            seeds.append(buffer.getvalue())
    return seeds


def _read_npy(folder: Path, data: bytes) -> None:
    path = folder / "a.npy"
    path.write_bytes(data)
    np.asarray(read_npy(path)).sum()


def _npz_seeds(_: Path) -> list[bytes]:
    seeds = []
    arrays = {"X": np.ones((4, 2), np.float32), "y": np.arange(4)}
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **arrays)
        seeds.append(buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../X.npy", _npy_seeds(Path())[0])
        archive.writestr("notes.txt", "no array")
    return [*seeds, buffer.getvalue()]


def _read_npz(folder: Path, data: bytes) -> None:
    path = folder / "a.npz"
    path.write_bytes(data)
    columns = read_npz(path, ["X", "y"] if len(data) % 3 == 0 else None)
    if len(columns):
        columns[0]


def _csv_seeds(_: Path) -> list[bytes]:
    tables = [
        b"a,b,y\n1,2.5,up\n3,,down\n-4,1e3,up\n",
        b'a,t,y\n1,"x, ""y""",0\n2,"two\nlines",1\n3,z,0\n',
        b"\xef\xbb\xbfa;b;y\r\n1;true;3\r\n2;false;4\r\n",
        b"a\tb\ty\n1\t2024-01-01\t1\n2\t2024-01-02\t2\n",
        b"1,2,3\n4,5,6\n7,8,9\n",
    ]
    return [bytes([n]) + table for n, table in enumerate(tables)]


def _read_csv(folder: Path, data: bytes) -> None:
    """Read a table; its first byte chooses the arguments."""
    choice = data[0] if data else 0
    path = folder / "a.csv"
    path.write_bytes(data[1:])
    table = read_csv(
        path,
        target=(None, "y", -1, 0)[choice // 2 % 4],
        dtypes={"a": "category"} if choice % 16 == 15 else None,
        missing=POLICIES[choice % 3],
        layout=("matrix", "named")[choice // 8 % 2],
        delimiter=DELIMITERS[choice // 4 % 3],
        header=choice < 224,
    )
    if choice % 5 == 0:
        read_csv(path, schema=table.schema, unknown="extra")


def _json_lines_seeds(_: Path) -> list[bytes]:
    return [
        b'{"tokens": [5, 3], "label": 1}\n{"tokens": [7], "label": 0}\n',
        b'{"text": "a\\u00e9", "x": 1.5, "b": true}\r\n\r\n{"text": "", "x": 2}\r\n',
        b'\xef\xbb\xbf{"a": []}\n',
    ]


def _read_json_lines(folder: Path, data: bytes) -> None:
    path = folder / "a.jsonl"
    path.write_bytes(data)
    lines = JsonLines(path)
    for index in range(len(lines)):
        lines[index]
    lines.num_bytes()


def _row_seeds(_: Path) -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"x": [1.0, 2.0, None], "n": [1, 2, 3], "t": ["a", "b", "a"]}
    table = pa.table(columns)
    parquet, arrow = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, row_group_size=2, compression="none")
    with pa.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table)
    return [parquet.getvalue(), arrow.getvalue()]


def _read_rows(folder: Path, data: bytes) -> None:
    path = folder / "a.parquet"
    path.write_bytes(data)
    found = inspect_file(path)
    reader = RowGroupReader([found])
    try:
        for group in range(min(len(found.counts), 4)):
            reader.read(0, group, found.schema.names)
    finally:
        reader.close()


def _image_list_seeds(folder: Path) -> list[bytes]:
    (folder / "a.png").touch()
    return [
        b"path,label\na.png,cat\na.png,dog\n",
        b"a.png,1\na.png,0\n",
        b'"a.png","3"\r\n../a.png,x\r\n',
    ]


def _read_image_list(folder: Path, data: bytes) -> None:
    path = folder / "list.csv"
    path.write_bytes(data)
    names = len(data) % 4 == 0
    columns = {"path_column": "path", "label_column": "label"} if names else {}
    list_csv(path, **columns)


PARSERS = (
    Parser(
        name="idx",
        what="IDX files, plain and with gzip",
        make_seeds=_idx_seeds,
        read=_read_idx,
        mutate=mutate_bytes,
    ),
    Parser(
        name="npy",
        what="`.npy` files",
        make_seeds=_npy_seeds,
        read=_read_npy,
        mutate=mutate_bytes,
    ),
    Parser(
        name="npz",
        what="`.npz` files",
        make_seeds=_npz_seeds,
        read=_read_npz,
        mutate=mutate_bytes,
    ),
    Parser(
        name="csv",
        what="CSV files and the arguments of `read_csv`",
        make_seeds=_csv_seeds,
        read=_read_csv,
        mutate=mutate_bytes,
    ),
    Parser(
        name="json_lines",
        what="JSON-lines files",
        make_seeds=_json_lines_seeds,
        read=_read_json_lines,
        mutate=mutate_json,
    ),
    Parser(
        name="row_groups",
        what="Parquet and Arrow files",
        make_seeds=_row_seeds,
        read=_read_rows,
        mutate=mutate_bytes,
    ),
    Parser(
        name="image_list",
        what="CSV lists of images",
        make_seeds=_image_list_seeds,
        read=_read_image_list,
        mutate=mutate_bytes,
    ),
)
"""Those that read data."""
