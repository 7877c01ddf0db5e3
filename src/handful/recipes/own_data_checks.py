"""What own data are, and whether they can be used, as far as that shows at a glance.

Nothing here needs torch, or reads more than names and headers.
"""

from __future__ import annotations

import difflib
import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from handful.data.csv_text import CsvFile
from handful.data.image_listing import list_folder
from handful.data.row_group_files import (
    SUFFIXES,
    find_row_group_files,
    inspect_file,
)
from handful.errors import ArgumentError, DataError, FormatError, unknown_choice
from handful.recipes.own_data import OwnData

CSV, ARRAYS, ROWS, IMAGES = "csv", "arrays", "rows", "images"

HASHED_BYTES = 2**28
"""Up to how many bytes files are hashed whole; of larger ones the ends are."""

_END_BYTES = 2**16
_LISTED_COLUMNS = 12


def check_own_data(data: OwnData) -> str:
    """Check that data are there, and that they have the target.

    Args:
        data: What was named.

    Returns:
        What they are: ``"csv"``, ``"arrays"``, ``"rows"`` (of Parquet or Arrow files)
        or ``"images"``.

    Raises:
        ArgumentError: There is no such file, its ending is unknown, or the target is
            missing, unknown or out of place.
        DataError: The file or the folder cannot be used.
        MissingExtraError: A package that reads it is not installed.
    """
    kind = find_kind(data)
    if kind in (CSV, ROWS):
        _check_target(data, column_names(data, kind))
        return kind
    if data.target is not None:
        whose = "the folders' names" if kind == IMAGES else "the array y"
        raise ArgumentError(
            f"--target must be left out for {data.path}, whose target is {whose}; got "
            f"{data.target!r}."
        )
    if kind == IMAGES:
        _check_folder(data)
    else:
        _check_arrays(data)
    return kind


def find_kind(data: OwnData) -> str:
    """Return what data are, by their place and name.

    Raises:
        ArgumentError: There are none, or their ending is unknown.
    """
    path = Path(data.path)
    if path.is_dir():
        has_rows = any(entry.suffix in SUFFIXES for entry in path.rglob("*"))
        return ROWS if has_rows else IMAGES
    if not path.exists() and any(mark in data.path for mark in "*?["):
        _check_pattern(data)
        return ROWS
    if not path.exists():
        raise ArgumentError(
            f"--data must be a file or a folder that exists; got {data.path!r}."
            f"{_nearest(path)}"
        )
    ending = path.suffix.lower()
    kinds = {".csv": CSV, ".tsv": CSV, ".npz": ARRAYS, **dict.fromkeys(SUFFIXES, ROWS)}
    if ending not in kinds:
        raise ArgumentError(
            f"--data must end in {', '.join(kinds)}, or be a folder of images with one "
            f"folder a class; got {data.path!r}."
        )
    return kinds[ending]


def column_names(data: OwnData, kind: str) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        DataError: The file is no such table.
    """
    if kind == CSV:
        return open_text(data).read_names()
    first = find_row_group_files(Path(data.path))[0]
    return list(inspect_file(first).schema.names)


def open_text(data: OwnData) -> CsvFile:
    """Return a CSV file, its delimiter told by the name and the first line.

    Raises:
        FormatError: The line is not UTF-8.
    """
    path = Path(data.path)
    if path.suffix.lower() == ".tsv":
        return CsvFile(path, "\t")
    with path.open("rb") as file:
        header = file.readline(_END_BYTES)
    found = [mark for mark in (",", ";", "\t") if mark.encode() in header]
    return CsvFile(path, found[0] if found else ",")


def fingerprint_own_data(data: OwnData) -> str:
    """Return a hash by which data are known again.

    It covers the names and sizes of all files. Of tables and arrays it also covers the
    whole content up to `HASHED_BYTES`, and above that the last 64 KiB of each file. A
    change of images that keeps names and sizes goes unnoticed.

    Returns:
        16 hexadecimal digits.
    """
    kind = find_kind(data)
    files = _list_files(data, kind)
    root = Path(data.path)
    sizes = [path.stat().st_size for path in files]
    is_small = sum(sizes) <= HASHED_BYTES
    digest = hashlib.sha256()
    for path, size in zip(files, sizes, strict=True):
        name = path.relative_to(root).as_posix() if root.is_dir() else path.name
        digest.update(f"{name}\0{size}\0".encode())
        if kind != IMAGES:
            for piece in _read_pieces(path, 0 if is_small else size - _END_BYTES):
                digest.update(piece)
    return digest.hexdigest()[:16]


def check_fingerprint(data: OwnData, known: str) -> None:
    """Check that data are those that a run or a configuration was made with.

    Raises:
        DataError: They are others.
    """
    found = fingerprint_own_data(data)
    if found != known:
        raise DataError(
            f"{data.path} must be as it was when the run began, with the fingerprint "
            f"{known}; its content has changed, to {found}. Bring the old content "
            "back, or train anew with --data."
        )


def _check_target(data: OwnData, names: Sequence[str]) -> None:
    if data.target is None:
        listed = ", ".join(map(repr, names[:_LISTED_COLUMNS]))
        more = len(names) - _LISTED_COLUMNS
        rest = f" and {more} more" if more > 0 else ""
        raise ArgumentError(
            f"--target must name the column to predict; {data.path} has {listed}{rest}."
            f" If it is the last one, add --target {names[-1]!r}."
        )
    if data.target not in names:
        raise unknown_choice(f"--target for {data.path}", data.target, names)


def _check_pattern(data: OwnData) -> None:
    try:
        find_row_group_files(Path(data.path))
    except DataError:
        raise ArgumentError(
            f"--data must be a pattern of files that exist; got {data.path!r}, which "
            "none fits."
        ) from None


def _check_folder(data: OwnData) -> None:
    if not any(entry.is_dir() for entry in Path(data.path).iterdir()):
        raise DataError(
            f"{data.path} must hold a folder of images for each class, or files of "
            f"rows ({', '.join(SUFFIXES)}); it holds neither."
        )
    listing = list_folder(data.path)
    if listing.classes is not None and len(listing.classes) < 2:
        raise DataError(
            f"{data.path} must have a folder for each of two classes or more; got "
            f"{listing.classes[0]!r} alone. Name the folder that holds the classes."
        )


def _check_arrays(data: OwnData) -> None:
    try:
        with zipfile.ZipFile(data.path) as file:
            names = sorted(name.removesuffix(".npy") for name in file.namelist())
    except zipfile.BadZipFile:
        raise FormatError(
            f"{data.path} must be a file that numpy.savez wrote; it is none."
        ) from None
    if not {"X", "y"} <= {*names}:
        raise DataError(
            f"{data.path} must hold the arrays X and y; got {', '.join(names)}. "
            "Write it with numpy.savez(path, X=X, y=y)."
        )


def _nearest(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return ""
    names = [entry.name for entry in folder.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {str(folder / near[0])!r}?" if near else ""


def _list_files(data: OwnData, kind: str) -> list[Path]:
    if kind == ROWS:
        return find_row_group_files(Path(data.path))
    if kind == IMAGES:
        return [Path(path) for path in list_folder(data.path).paths]
    return [Path(data.path)]


def _read_pieces(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(max(start, 0))
        while piece := file.read(2**20):
            yield piece
