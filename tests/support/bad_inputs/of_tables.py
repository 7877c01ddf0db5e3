"""Bad tables: CSV files, NumPy's, Parquet and IDX files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bad_inputs.case import Case, writes

CSVS, FILES = "CSV files", "IDX, Parquet and NumPy files"

_ROWS = "".join(f"{n * n},{n % 3},{'ab'[n % 2]}\n" for n in range(20))
_GOOD = "p,q,y\n" + _ROWS


def _csv(
    title: str, content: str | bytes, *says: str, code: int = 1, torch: bool = False
) -> Case:
    return Case(
        group=CSVS,
        title=title,
        command="train --data t.csv --target y --out new --epochs 1",
        make=writes("t.csv", content),
        code=code,
        says=says,
        needs_torch=torch,
    )


_OF_CSV = (
    _csv("an empty file", "", "t.csv must have a header and rows; the file is empty"),
    _csv("a header alone", "p,q,y\n", "must have rows below its header"),
    _csv("a ragged row", _GOOD + "1,2\n", "line 22 must have 3 cells", torch=True),
    _csv(
        "a cell that is no number",
        "p,y\n" + "".join(f"{n * n},{n}.5\n" for n in range(70_000)) + "x,1\n",
        *("line 70002, column 'p' must be a number; got 'x'",),
        torch=True,
    ),
    _csv("no such target", "p,q,z\n" + _ROWS, "--target", "got 'y'", code=2),
    _csv("the target's cell empty", _GOOD + "1,2,\n", "'y'", "1 row has", torch=True),
    _csv("a name twice", "p,p,y\n" + _ROWS, "got 'p' twice in its header"),
    _csv("another delimiter", _GOOD.replace(",", "|"), "'|'", "delimiter", code=2),
    _csv("an open quote", _GOOD + '"1,2,a\n', "line 22", "quote", torch=True),
    _csv("not UTF-8", b"p,q,y\n\xff,1,a\n", "must be text in UTF-8", torch=True),
    _csv("gzip data", b"\x1f\x8b\x08" + bytes(20), "got gzip data. Unpack it first"),
    _csv("an infinite number", _GOOD + "inf,1,a\n", "column 'p'", torch=True),
    _csv("one class", "p,q,y\n" + _ROWS.replace("b", "a"), "'y'", "vary", torch=True),
    _csv("four rows", _GOOD[:30], "t.csv must have at least 10 rows", torch=True),
    _csv(
        "a byte order mark and CRLF",
        b"\xef\xbb\xbf" + _GOOD.replace("\n", "\r\n").encode(),
        "no fault: trained",
        code=0,
        torch=True,
    ),
)


def _save(make: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    make(buffer)
    return buffer.getvalue()


def _npz(**arrays: object) -> bytes:
    return _save(lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def _file(
    title: str, name: str, content: bytes, *says: str, code: int = 1, target: str = ""
) -> Case:
    return Case(
        group=FILES,
        title=title,
        command=f"train --data {name} {target} --out new".replace("  ", " "),
        make=writes(name, content),
        code=code,
        says=says,
        needs_torch=code == 1,
    )


_X = np.ones((20, 2), np.float32)
_Y = np.arange(20) % 2
_WHOLE = _npz(X=np.random.default_rng(0).normal(size=(20, 2)), y=_Y)


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"p": list(range(20)), "y": [0, 1] * 10})
    return _save(lambda file: pq.write_table(table, file))


def _nested() -> bytes:
    import pyarrow as pa

    table = pa.table({"p": [[[1], [2]]] * 20, "q": [3, 1] * 10, "y": [0, 1] * 10})

    def write(file: io.BytesIO) -> None:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    return _save(write)


_OF_NUMPY = (
    _file(
        "no archive", "a.npz", b"PK nothing", "a.npz must be a file that numpy.savez"
    ),
    _file("an archive cut short", "a.npz", _WHOLE[:-200], "a.npz must be a file that"),
    _file(
        "no array y", "a.npz", _npz(X=_X), "the arrays X and y; got X. Write it with"
    ),
    _file("lengths that differ", "a.npz", _npz(X=_X, y=_Y[:9]), "y in a.npz must be"),
    _file(
        "Python objects",
        "a.npz",
        _npz(X=np.array([[1, "a"]] * 20, object), y=_Y),
        "a.npz must hold arrays of numbers or texts",
    ),
    _file("texts as inputs", "a.npz", _npz(X=_X.astype(str), y=_Y), "X in a.npz must"),
    _file("a bare .npy file", "a.npy", _save(lambda f: np.save(f, _X)), ".npz", code=2),
)


def _of_rows() -> tuple[Case, ...]:
    whole = _parquet()
    target = "--target y"
    return (
        _file("no Parquet", "a.parquet", b"PAR2" * 9, "b'PAR1'", "PAR2", target=target),
        _file("an empty file", "a.parquet", b"", "got an empty file", target=target),
        _file(
            "a file cut short",
            "a.parquet",
            whole[:-30],
            "a.parquet must be a whole Parquet or Arrow file",
            target=target,
        ),
        _file("lists of lists", "a.arrow", _nested(), "a.arrow", target="--target p"),
    )


_RECIPE_OF_IDX = """
import torch
from handful import Columns, Recipe
from handful.data.idx import read_idx

def make_data(seed):
    images = read_idx("images", expect_shape=(None, 2, 2), expect_dtype="uint8")
    return Columns(images, read_idx("labels")), None, None

recipe = Recipe(
    name="mine", make_data=make_data, loss="cross_entropy", optimizer="sgd", lr=0.1,
    make_model=lambda: torch.nn.Linear(4, 2), batch_size=2, epochs=1,
)
"""
_LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 4, 0, 1, 0, 1])
_IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(16)


def _idx(title: str, images: bytes, *says: str) -> Case:
    def make(folder: Path) -> None:
        (folder / "mine.py").write_text(_RECIPE_OF_IDX)
        (folder / "labels").write_bytes(_LABELS)
        (folder / "images").write_bytes(images)

    return Case(
        group=FILES,
        title=title,
        command="train mine.py:recipe --out new",
        make=make,
        code=1,
        says=says,
        needs_torch=True,
    )


_OF_IDX = (
    _idx(
        "IDX: a wrong magic number", b"PNG1" + _IMAGES[4:], "images must begin with an"
    ),
    _idx("IDX: a wrong type", b"\0\0\x07\x03" + _IMAGES[4:], "type codes", "got 07"),
    _idx("IDX: cut short", _IMAGES[:-1], "must hold 16 bytes after its", "got 15"),
    _idx("IDX: too long", _IMAGES + b"\0", "must hold 16 bytes", "got more"),
    _idx("IDX: other sizes", _LABELS, "images must hold uint8 of shape (any, 2, 2)"),
    _idx(
        "IDX: 2**32 images", _IMAGES[:4] + b"\xff" * 4 + _IMAGES[8:], "images must hold"
    ),
)

CASES = (*_OF_CSV, *_OF_NUMPY, *_of_rows(), *_OF_IDX)
"""Of tables."""
