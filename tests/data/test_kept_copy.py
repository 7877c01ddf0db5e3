"""Kept copies of what was read from a file: the same to the bit, and never stale."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from handful.data import kept_copy
from handful.data.csv_file import CsvTable, read_csv
from handful.data.csv_schema import TableSchema
from handful.data.kept_copy import KeptCopy, clear_copies, copies_folder
from handful.errors import ArgumentError, DataError

pytest.importorskip("pyarrow", reason="pyarrow is missing")

CARS = "speed,color,new,maker\n1.5,red,true,vw\n2,blue,false,bmw\n-3e2,red,true,vw\n"
GAPS = "a,b,y\n1.1,x,1\n,z,2\n3.3,,0.5\nNA,x,7\n"


def save(folder: Path, text: str, name: str = "t.csv") -> Path:
    """Write a file that has been as it is for a minute."""
    path = folder / name
    path.write_bytes(text.encode())
    settle(path)
    return path


def settle(path: Path) -> None:
    long_ago = time.time() - 60
    os.utime(path, (long_ago, long_ago))


def copy_of(folder: Path) -> Path:
    (path,) = folder.glob("*.kept")
    return path


def poison(folder: Path) -> None:
    """Change the last number of a copy, so that who reads it can be told."""
    path = copy_of(folder)
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


def same(a: CsvTable, b: CsvTable) -> bool:
    return (
        a.schema == b.schema
        and a.num_dropped == b.num_dropped
        and a.data.names == b.data.names
        and all(
            x.dtype is y.dtype
            and x.shape == y.shape
            and x.numpy().tobytes() == y.numpy().tobytes()
            for x, y in zip(a.data.tensors, b.data.tensors, strict=True)
        )
    )


CASES = {
    "matrix": (CARS, {"target": "maker"}),
    "named": (CARS, {"target": "speed", "layout": "named"}),
    "no target": (CARS, {}),
    "target by place": (CARS, {"target": -1}),
    "ignored": (CARS, {"dtypes": {"color": "ignore", "new": "category"}}),
    "values": ("x,y\n1,0\n2,1\n", {"target": "y", "dtypes": {"y": "values"}}),
    "whole classes": ("x,y\n1,30\n2,-10\n", {"target": "y"}),
    "drop": (GAPS, {"missing": "drop", "target": "y"}),
    "mean": (GAPS, {"missing": "mean", "target": "y"}),
    "no header": ("1;a\n2;b\n", {"header": False, "delimiter": ";"}),
    "quotes": ('x,name\n1,"a, ""b"""\n"2","two\nlines"\n', {}),
    "texts alone": ("a,b\nx,y\nz,ü\n", {}),
    "numbers alone": ("a,b\n0.1,1e-40\n-0.0,16777217\n", {"layout": "named"}),
    "one row": ("a\n1\n", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_copy_gives_equals_what_the_file_gives_to_the_bit(tmp_path, case):
    text, options = CASES[case]
    path, cache = save(tmp_path, text), tmp_path / "copies"
    plain = read_csv(path, **options)
    first = read_csv(path, **options, cache=cache)
    again = read_csv(path, **options, cache=cache)
    assert same(first, plain)
    assert same(again, plain)
    poison(cache)  # The second time it was the copy that was read, as this one shows.
    assert not same(read_csv(path, **options, cache=cache), plain)


def test_a_copy_is_of_one_set_of_options(tmp_path):
    path, cache = save(tmp_path, GAPS), tmp_path / "copies"
    for missing in ("drop", "mean"):
        for _ in range(2):
            table = read_csv(path, missing=missing, cache=cache)
            assert same(table, read_csv(path, missing=missing))
    assert len(list(cache.glob("*.kept"))) == 2


def test_a_schema_and_what_is_not_known_are_options_too(tmp_path):
    cache = tmp_path / "copies"
    schema = read_csv(save(tmp_path, CARS), target="maker").schema
    other = save(tmp_path, CARS.replace("red", "green"), "other.csv")
    for _ in range(2):
        table = read_csv(other, schema=schema, unknown="extra", cache=cache)
        assert table.data.tensors[1].flatten().tolist() == [2, 0, 2]
        with pytest.raises(DataError, match="must be one of the 2 categories"):
            read_csv(other, schema=schema, cache=cache)
    assert isinstance(table.schema, TableSchema)


@pytest.mark.parametrize("keeps_time", [False, True])
def test_a_file_that_changed_is_read_anew_and_its_copy_replaced(tmp_path, keeps_time):
    path, cache = save(tmp_path, "a\n1\n2\n"), tmp_path / "copies"
    read_csv(path, cache=cache)
    before = path.stat().st_mtime_ns
    time.sleep(0.02)  # The clock of a file system is coarse.
    path.write_text("a\n1\n3\n")
    if keeps_time:
        os.utime(path, ns=(before, before))
    else:
        settle(path)
    for _ in range(2):
        (values,) = read_csv(path, cache=cache).data.tensors
        assert values.tolist() == [[1], [3]]
    assert len(list(cache.iterdir())) == 1


def test_another_file_in_its_place_is_read_anew(tmp_path):
    path, cache = save(tmp_path, "a\n1\n2\n"), tmp_path / "copies"
    read_csv(path, cache=cache)
    other = save(tmp_path, "a\n5\n6\n", "other.csv")
    seen = path.stat()
    os.utime(other, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    other.replace(path)
    (values,) = read_csv(path, cache=cache).data.tensors
    assert values.tolist() == [[5], [6]]


def test_nothing_is_kept_of_a_file_that_was_just_written(tmp_path):
    path, cache = tmp_path / "t.csv", tmp_path / "copies"
    path.write_text("a\n1\n2\n")
    assert read_csv(path, cache=cache).data.tensors[0].tolist() == [[1], [2]]
    assert not cache.exists()


def test_nothing_is_kept_of_a_file_that_changed_while_it_was_read(tmp_path):
    path, cache = save(tmp_path, "a\n1\n2\n"), tmp_path / "copies"
    copy = KeptCopy.find(path, {}, cache)
    with path.open("a") as file:
        file.write("3\n")
    settle(path)
    copy.keep({}, {"a": np.zeros(2, np.float32)})
    assert not cache.exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def turn_a_bit_of_the_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def write_text(path: Path) -> None:
    path.write_bytes(b"something else, which is long enough for a beginning of one")


@pytest.mark.parametrize("damage", [cut, empty, turn_a_bit_of_the_header, write_text])
def test_a_damaged_copy_is_told_and_replaced(tmp_path, damage):
    path, cache = save(tmp_path, CARS), tmp_path / "copies"
    plain = read_csv(path, cache=cache)
    damage(copy_of(cache))
    with pytest.warns(UserWarning, match=r"must be a copy of .*t\.csv as it was"):
        assert same(read_csv(path, cache=cache), plain)
    assert same(read_csv(path, cache=cache), plain)


def test_a_folder_that_cannot_be_written_is_told_and_the_table_read(tmp_path):
    path, cache = save(tmp_path, CARS), tmp_path / "file"
    cache.write_text("no folder")
    with pytest.warns(UserWarning, match="cache must be a folder with room"):
        assert len(read_csv(path, cache=cache)) == 3


@pytest.mark.parametrize("cache", ["", 1, None])
def test_a_cache_that_is_neither_a_folder_nor_true_is_refused(tmp_path, cache):
    path = save(tmp_path, CARS)
    with pytest.raises(ArgumentError, match="cache must be True, False or a folder"):
        read_csv(path, cache=cache)


def test_a_missing_file_is_told_as_without_a_copy(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        read_csv(tmp_path / "none.csv", cache=tmp_path / "copies")


def test_writing_into_a_table_leaves_its_copy_alone(tmp_path):
    path, cache = save(tmp_path, CARS), tmp_path / "copies"
    plain = read_csv(path, cache=cache)
    read_csv(path, cache=cache).data.tensors[0].fill_(7)
    assert same(read_csv(path, cache=cache), plain)


def test_copies_lie_in_the_users_cache_and_can_be_cleared(tmp_path, monkeypatch):
    monkeypatch.setattr(
        kept_copy.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name)
    )
    read_csv(save(tmp_path, CARS), cache=True)
    path = copy_of(copies_folder())
    assert path.parent == tmp_path / "handful" / "copies"
    other = path.with_name("notes.txt")
    other.write_text("mine")
    size = path.stat().st_size
    assert clear_copies() == size
    assert list(copies_folder().iterdir()) == [other]
    assert clear_copies(tmp_path / "none") == 0


def test_the_copies_that_were_not_read_for_longest_make_room(tmp_path, monkeypatch):
    cache = tmp_path / "copies"
    paths = [save(tmp_path, CARS, f"{name}.csv") for name in "abc"]
    for age, path in enumerate(paths[:2]):
        read_csv(path, cache=cache)
        (copy,) = cache.glob(f"{path.stem}-*")
        os.utime(copy, (1e9 + age, 1e9 + age))
    read_csv(paths[0], cache=cache)  # Now the other one is the older one.
    monkeypatch.setattr(kept_copy, "MOST_BYTES", int(2.5 * copy.stat().st_size))
    read_csv(paths[2], cache=cache)
    assert {path.name[0] for path in cache.iterdir()} == {"a", "c"}


def test_what_a_broken_off_writer_left_is_removed_later(tmp_path):
    cache = tmp_path / "copies"
    cache.mkdir()
    for name, age in (("old.part", 7200), ("new.part", 60)):
        (cache / name).write_bytes(b"")
        os.utime(cache / name, (time.time() - age,) * 2)
    read_csv(save(tmp_path, CARS), cache=cache)
    assert [path.name for path in cache.glob("*.part")] == ["new.part"]


WRITER = """
import sys, warnings
from pathlib import Path
import numpy as np
from handful.data.kept_copy import KeptCopy
warnings.simplefilter("error")
source, folder, number = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
for _ in range(60):
    copy = KeptCopy.find(source, {}, folder)
    copy.keep({"number": number}, {"x": np.full(50_000, number, np.float32)})
    said, arrays = copy.load()
    assert (arrays["x"] == said["number"]).all() and len(arrays["x"]) == 50_000
"""


def test_processes_that_keep_the_same_at_once_see_whole_copies_only(tmp_path):
    source, cache = save(tmp_path, CARS), tmp_path / "copies"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(source), str(cache), str(number)],
            stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors.decode()
    assert len(list(cache.iterdir())) == 1


def test_every_dtype_of_a_table_is_kept_as_it_is(tmp_path):
    source = save(tmp_path, CARS)
    arrays = {
        kind: np.arange(6).reshape(3, 2).astype(kind)
        for kind in ("float32", "float64", "int64", "int32", "uint8", "bool")
    }
    arrays["empty"] = np.empty((0, 3), np.float32)
    arrays["turned"] = np.arange(6, dtype=np.float32).reshape(2, 3).T
    KeptCopy.find(source, {}, tmp_path / "copies").keep({"a": [1]}, arrays)
    said, found = KeptCopy.find(source, {}, tmp_path / "copies").load()
    assert said == {"a": [1]}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
        assert found[name].ctypes.data % 64 == 0
        assert torch.from_numpy(found[name]).shape == array.shape
