"""CSV files as text: the header, quotes, and where a fault stands.

The cells are read by Arrow, which says little of where one is wrong. What is here reads
the file a second time, once that has failed, and counts lines as an editor does.
"""

from __future__ import annotations

import codecs
import csv
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handful.errors import ArgumentError, DataError, FormatError

MISSING_TEXTS = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"),
    *("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
"""What stands in a cell of a number or boolean column that has no value."""

BOOLEAN_TEXTS = ("0", "1", "False", "True", "false", "true", "FALSE", "TRUE")

_DELIMITERS = (",", ";", "\t", "|")
_CHUNK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_QUOTE, _NEWLINE, _RETURN = 34, 10, 13


@dataclass(frozen=True)
class CsvFile:
    """A CSV file as text.

    Attributes:
        path: The file.
        delimiter: What stands between cells.
        has_header: Whether the first line names the columns.
    """

    path: Path
    delimiter: str = ","
    has_header: bool = True

    def read_names(self) -> list[str]:
        """Return the names of the columns; without a header "0", "1" and so on.

        Raises:
            ArgumentError: The delimiter is another, as it seems.
            FormatError: There is no file, no header or no row, or two columns have the
                same name.
        """
        self._check_file()
        with self._records() as records:
            first = next(records, None)
            rest = first if not self.has_header else next(records, None)
        if first is None:
            raise FormatError(
                f"{self.path} must have {self._wanted()}; the file is empty. "
                "Give a file with content."
            )
        names = first[1]
        self._check_delimiter(names)
        if rest is None:
            raise FormatError(
                f"{self.path} must have rows below its header; got the header alone. "
                "Pass header=False if its only line is a row."
            )
        if not self.has_header:
            return [str(i) for i in range(len(names))]
        self._check_duplicates(names)
        return names

    def line_of_row(self, row: int) -> int:
        """Return on which line, from 1 on, a row begins.

        Args:
            row: The row's number, from 0 on; the header and empty lines don't count.
        """
        with self._records() as records:
            for number, (line, _) in enumerate(records):
                if number == row + self.has_header:
                    return line
        raise AssertionError

    def place(self, row: int, column: str) -> str:
        """Return where a cell stands, as the beginning of a sentence."""
        return f"{self.path}, line {self.line_of_row(row)}, column {column!r}"

    def cell(self, row: int, place: int) -> str:
        """Return the text of a cell: its row from 0 on, and its place in the row."""
        with self._records() as records:
            for number, (_, cells) in enumerate(records):
                if number == row + self.has_header:
                    return cells[place]
        raise AssertionError

    def find_fault(self, kinds: Mapping[int, str]) -> FormatError | None:
        """Look for what is wrong in the file, from its beginning on.

        Args:
            kinds: For places of columns that hold no texts, ``"number"``,
                ``"boolean"`` or, for a target, ``"value"``.

        Returns:
            An error that names the line and, for a wrong cell, the column; None if
            nothing was found.
        """
        try:
            with self._records() as records:
                return self._check_records(records, kinds)
        except FormatError as error:
            return error

    def _check_records(
        self, records: Iterator[tuple[int, list[str]]], kinds: Mapping[int, str]
    ) -> FormatError | None:
        names: list[str] | None = None
        for line, cells in records:
            if names is None:
                names = list(cells)
                if self.has_header:
                    continue
                names = [str(i) for i in range(len(cells))]
            if len(cells) != len(names):
                return FormatError(
                    f"{self.path}, line {line} must have {_count(len(names), 'cell')}, "
                    f"as the first line has; got {len(cells)}. Put texts that hold "
                    f"{self.delimiter!r} in double quotes, and complete short rows."
                )
            for place, kind in kinds.items():
                if not _is_right(cells[place], kind):
                    name = names[place]
                    where = f"{self.path}, line {line}, column {name!r}"
                    return _wrong_cell(where, cells[place], name, kind)
        return None

    @contextmanager
    def _records(self) -> Iterator[Iterator[tuple[int, list[str]]]]:
        """Give the records with the lines that they begin on, empty ones left out."""
        with self.path.open(encoding="utf-8-sig", newline="") as text:
            try:
                yield self._iterate(text)
            except UnicodeDecodeError:
                raise self.wrong_bytes() from None

    def _iterate(self, text: Any) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(text, delimiter=self.delimiter, strict=True)
        line = 1
        try:
            for cells in reader:
                if cells:
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            if "field limit" in str(error):
                raise FormatError(
                    f"{self.path}, line {line} must have cells of at most "
                    f"{csv.field_size_limit():,} characters; got a longer one. "
                    "Close a quote that is open there, or shorten the cell."
                ) from None
            raise FormatError(
                f"{self.path}, line {line} must be cells of which each quote that "
                f"opens one also closes it; got a row that begins there and is not "
                f"so ({error}). Close the quote, and write a quote within one twice."
            ) from None

    def _check_file(self) -> None:
        if not self.path.exists():
            raise FormatError(
                f"{self.path} must be a CSV file; there is no such file. "
                "Check the path."
            )
        if not self.path.is_file():
            raise FormatError(
                f"{self.path} must be a CSV file; got a folder. Name a file in it."
            )
        with self.path.open("rb") as file:
            if file.read(2) == _GZIP_MAGIC:
                raise FormatError(
                    f"{self.path} must be plain text; got gzip data. Unpack it first."
                )

    def _check_delimiter(self, names: list[str]) -> None:
        others = [d for d in _DELIMITERS if d != self.delimiter and d in names[0]]
        if len(names) == 1 and others:
            likely = max(others, key=names[0].count)
            raise ArgumentError(
                f"delimiter must be what stands between the cells of {self.path}, "
                f"{likely!r} as it seems; got {self.delimiter!r}. "
                f"Pass delimiter={likely!r}."
            )

    def _check_duplicates(self, names: list[str]) -> None:
        seen: set[str] = set()
        twice = next((n for n in names if n in seen or seen.add(n)), None)  # type: ignore[func-returns-value]
        if twice is not None:
            remedy = "Rename one of them."
            if all(is_number(name) for name in names):
                remedy = "Pass header=False if the first line is a row."
            raise FormatError(
                f"{self.path} must have columns with different names; got {twice!r} "
                f"twice in its header. {remedy}"
            )

    def wrong_bytes(self) -> FormatError:
        """Make the error for a file that is not UTF-8; it names the line."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        line = 1
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                pending = len(decoder.getstate()[0])
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError as error:
                    at = max(error.start - pending, 0)
                    line += chunk[:at].count(b"\n")
                    break
                line += chunk.count(b"\n")
        return FormatError(
            f"{self.path} must be text in UTF-8; got other bytes on line {line}. "
            "Save it as UTF-8."
        )

    def _wanted(self) -> str:
        return "a header and rows" if self.has_header else "rows"


@dataclass(frozen=True)
class Quoting:
    """How a file uses quotes.

    Attributes:
        is_regular: Whether each quote stands at the beginning or the end of a cell, or
            is one of a pair within it.
        has_newlines: Whether a cell in quotes goes over several lines.
    """

    is_regular: bool
    has_newlines: bool


def scan_quotes(path: Path, delimiter: str) -> Quoting:
    """Find out how a file uses quotes, at the speed of memory.

    Args:
        path: A file that is not empty.
        delimiter: What stands between its cells.

    Returns:
        How; the first line's quotes are taken to be regular.
    """
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        start = content.find(b"\n") + 1
        if content.find(b'"', start) < 0:
            return Quoting(is_regular=True, has_newlines=False)
        data = np.frombuffer(content, np.uint8)
        try:
            return _scan(data, start, ord(delimiter))
        finally:
            del data  # The map cannot be closed while an array is of it.


def _scan(data: Any, start: int, delimiter: int) -> Quoting:
    ends = np.array([delimiter, _NEWLINE, _RETURN, _QUOTE], np.uint8)
    count, has_newlines, is_regular = 0, False, True
    for first in range(start, len(data), _CHUNK_BYTES):
        chunk = data[first : first + _CHUNK_BYTES]
        quotes = np.flatnonzero(chunk == _QUOTE)
        breaks = np.flatnonzero((chunk == _NEWLINE) | (chunk == _RETURN))
        before = count + np.searchsorted(quotes, breaks)
        has_newlines = has_newlines or bool((before % 2).any())
        is_opening = (count + np.arange(len(quotes))) % 2 == 0
        # What stands before an opening quote, and behind a closing one.
        beside = first + quotes + np.where(is_opening, -1, 1)
        inside = beside[(beside >= start) & (beside < len(data))]
        is_regular = is_regular and bool(np.isin(data[inside], ends).all())
        count += len(quotes)
    return Quoting(is_regular and count % 2 == 0, has_newlines)


def is_number(text: str) -> bool:
    """Say whether a text is a number as CSV files have it."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _is_right(text: str, kind: str) -> bool:
    if text in MISSING_TEXTS:
        return True
    return text in BOOLEAN_TEXTS if kind == "boolean" else is_number(text.strip())


def _wrong_cell(place: str, text: str, name: str, kind: str) -> FormatError:
    wanted = "true or false" if kind == "boolean" else "a number"
    other = "classes" if kind == "value" else "category"
    return FormatError(
        f"{place} must be {wanted}; got {shorten(text)}. Correct the cell, or read the "
        f"column as texts: dtypes={{{name!r}: {other!r}}}."
    )


def shorten(text: str) -> str:
    """Return a text in quotes, its end left out if it is long."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def check_delimiter(delimiter: object) -> str:
    """Return a delimiter that can be used.

    Raises:
        ArgumentError: It is not one ASCII character other than a quote or a newline.
    """
    if (
        not isinstance(delimiter, str)
        or len(delimiter) != 1
        or not delimiter.isascii()
        or delimiter in '"\r\n'
    ):
        raise ArgumentError(
            "delimiter must be one ASCII character other than a quote; got "
            f"{delimiter!r}. Pass what stands between the cells."
        )
    return delimiter


def no_rows_left(path: Path) -> DataError:
    """Make the error for a table of which every row was dropped."""
    return DataError(
        f'{path} must have a row without missing cells for missing="drop"; got none. '
        'Pass missing="mean", or leave columns out: dtypes={name: "ignore"}.'
    )
