"""Listing images: which files there are, and what their labels are.

A folder of each class, or a CSV file with a row for each image.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handful.errors import ArgumentError, DataError

ENDINGS = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif"}
    | {".tiff", ".webp"}
)
"""How names of image files end, in any case; other files of a folder are left out."""


@dataclass(frozen=True)
class ImageListing:
    """Images that were found.

    Attributes:
        paths: Their files.
        labels: Label of each, an index into ``classes`` where there are some.
        classes: Names of the classes, sorted; None where the labels are the file's own
            numbers.
    """

    paths: list[str]
    labels: list[int]
    classes: tuple[str, ...] | None


def list_folder(root: str | Path) -> ImageListing:
    """List the images of a folder that has one folder for each class.

    Files are looked for in the classes' folders and in folders within these, whose
    links are not followed. Names that begin with a dot, and files whose names do not
    end as images' do, are left out.

    Args:
        root: The folder.

    Returns:
        The images, class by class, each class sorted by path.

    Raises:
        ArgumentError: The folder does not exist or is a file.
        DataError: It has no folders, a class has no images, or an image is a link to
            nothing.
    """
    folder = Path(root)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise ArgumentError(f"root must be a folder of images; {root} is {what}.")
    found = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    folders = sorted(entry for entry in found if entry.is_dir())
    if not folders:
        raise DataError(
            f"{root} must hold one folder for each class; it holds no folder. "
            "Give the paths and labels of the images instead."
        )
    paths: list[str] = []
    labels: list[int] = []
    for label, of_class in enumerate(folders):
        images = sorted(map(str, _walk(of_class)))
        if not images:
            raise DataError(
                f"{of_class} must hold at least one image; it holds none. "
                "Remove the folder, or put the images of the class into it."
            )
        paths += images
        labels += [label] * len(images)
    return ImageListing(paths, labels, tuple(entry.name for entry in folders))


def list_csv(
    file: str | Path,
    root: str | Path | None = None,
    *,
    path_column: int | str = 0,
    label_column: int | str = 1,
    has_header: bool | None = None,
) -> ImageListing:
    """List the images that a CSV file names, one a row.

    Args:
        file: The file, in UTF-8, with commas between its columns.
        root: The folder that relative paths start from; None for the file's own.
        path_column: Which column holds the paths: a position, or a name of the header.
        label_column: Which column holds the labels. If all are whole numbers, they are
            taken as they are; otherwise they are the names of classes.
        has_header: Whether the first row names the columns. None to tell: it does where
            a column is given by name, or where its path is no file while that of the
            second row is one.

    Returns:
        The images in the order of the rows.

    Raises:
        ArgumentError: The file does not exist, or has no such column.
        DataError: It has no rows, or a row lacks a column, names no file or has an
            empty label. File, line and column are named.
    """
    table = _read_rows(Path(file))
    base = Path(file).parent if root is None else Path(root)
    first, second = table[0], table[1] if len(table) > 1 else None
    if has_header is None:
        named = isinstance(path_column, str) or isinstance(label_column, str)
        has_header = named or _is_header(first, second, path_column, base)
    names = first[1] if has_header else None
    columns = [
        _locate(name, column, names, len(first[1]), file)
        for name, column in (
            ("path_column", path_column),
            ("label_column", label_column),
        )
    ]
    rows = table[1:] if has_header else table
    if not rows:
        raise DataError(f"{file} must list at least one image; it has only a header.")
    paths, texts = [], []
    for line, row in rows:
        where = f"{file}, line {line}"
        path, text = (_cell(row, column, where) for column in columns)
        paths.append(str(_check_file(base / path, where)))
        texts.append(text)
    labels, classes = _number_labels(texts)
    return ImageListing(paths, labels, classes)


def _walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _walk(entry)
        elif entry.suffix.lower() in ENDINGS:
            if not entry.exists():
                raise DataError(
                    f"{entry} must be an image; it is a link to {entry.readlink()}, "
                    "which does not exist. Remove the link, or put the file there."
                )
            yield entry


def _read_rows(file: Path) -> list[tuple[int, list[str]]]:
    """Return the rows that are not empty, each with its line's number."""
    if not file.is_file():
        what = "a folder" if file.is_dir() else "no such file"
        raise ArgumentError(f"csv must be a CSV file; {file} is {what}.")
    rows = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            for row in reader:
                if row:
                    rows.append((reader.line_num, row))
    except csv.Error as error:
        raise DataError(
            f"{file}, line {reader.line_num}, is not CSV: {error}."
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"{file} must be text in UTF-8; it is not.") from None
    if not rows:
        raise DataError(f"{file} must list at least one image; it is empty.")
    return rows


def _is_header(
    first: tuple[int, list[str]],
    second: tuple[int, list[str]] | None,
    column: int | str,
    base: Path,
) -> bool:
    if second is None or not isinstance(column, int):
        return False
    if not 0 <= column < min(len(first[1]), len(second[1])):
        return False
    paths = [base / row[column] for _, row in (first, second)]
    return not _is_file(paths[0]) and _is_file(paths[1])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # A name that no file can have.
        return False


def _locate(
    name: str,
    column: int | str,
    names: list[str] | None,
    width: int,
    file: str | Path,
) -> int:
    if isinstance(column, int) and 0 <= column < width:
        return column
    if names is not None and column in names:
        return names.index(str(column))
    listed = "" if names is None else f" ({', '.join(names)})"
    raise ArgumentError(
        f"{name} must be one of the {width} columns of {file}{listed}, by position or "
        f"by a name of its header; got {column!r}."
    )


def _cell(row: list[str], column: int, where: str) -> str:
    if column >= len(row):
        raise DataError(
            f"{where}, must have at least {column + 1} columns; it has {len(row)}."
        )
    text = row[column].strip()
    if not text:
        raise DataError(f"{where}, column {column + 1}, must not be empty.")
    return text


def _check_file(path: Path, where: str) -> Path:
    if not _is_file(path):
        link = " (a link to nothing)" if os.path.islink(path) else ""  # noqa: PTH114
        raise DataError(
            f"{where}, must name an image; there is no file {path}{link}. Give root= "
            "if the paths start from another folder."
        )
    return path


def _number_labels(texts: list[str]) -> tuple[list[int], tuple[str, ...] | None]:
    try:
        return [int(text) for text in texts], None
    except ValueError:
        classes = tuple(sorted(set(texts)))
        numbers = {name: number for number, name in enumerate(classes)}
        return [numbers[text] for text in texts], classes
