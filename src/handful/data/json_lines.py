"""JSON-lines files larger than memory, read line by line as a data set.

A JSON-lines file has a JSON object on each line, in UTF-8. Where each line begins is
found once; a sample is parsed when it is asked for.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from handful.errors import ArgumentError, FormatError

CHUNK_BYTES = 1 << 20
"""How much is searched for line ends at a time: what the processor's cache holds."""

_BOM = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
_NEWLINE, _RETURN = 10, 13


class JsonLines(Dataset[dict[str, Any]]):
    r"""A JSON-lines file as a map-style data set whose samples are dicts.

    Numbers, booleans and texts come as Python has them, lists of whole numbers (tokens)
    as int64 tensors of shape ``(L,)``. Empty lines are left out. The file is mapped
    into memory, not read, and a line's place takes 16 bytes; it must not change
    meanwhile. Worker processes map it themselves.

    Args:
        path: The file.
        fields: Which fields samples have, in this order; None for those of the first
            line. Further fields of a line are passed over.

    Attributes:
        path: The file.
        fields: The fields of each sample.

    Raises:
        ArgumentError: ``fields`` is a text, or empty.
        FormatError: There is no such file, it has no line, or the first is no object.

    Example:
        >>> text = '{"tokens": [5, 3], "label": 1}\n{"tokens": [7], "label": 0}\n'
        >>> _ = Path("reviews.jsonl").write_text(text)
        >>> data = JsonLines("reviews.jsonl")
        >>> len(data), data[0]
        (2, {'tokens': tensor([5, 3]), 'label': 1})
    """

    def __init__(
        self, path: str | os.PathLike[str], fields: Sequence[str] | None = None
    ) -> None:
        self.path = Path(path)
        _check_file(self.path)
        self._map: mmap.mmap | None = None
        with self._open() as content:
            self._starts, self._ends = find_lines(content)
            if not len(self._starts):
                raise FormatError(
                    f"{self.path} must have a JSON object on each line; it has no "
                    "line that is not empty. Give a file with content."
                )
        self.fields = tuple(self._parse(0)) if fields is None else _check_names(fields)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"index must be below {count}; got {index}")
        index %= count
        values = self._parse(index)
        return {name: self._value(values, name, index) for name in self.fields}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the samples of several indices."""
        return [self[index] for index in indices]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def __repr__(self) -> str:
        return f"JsonLines({str(self.path)!r}, fields={self.fields})"

    def num_bytes(self) -> NDArray[np.int64]:
        """Return the length of each sample's line in bytes, shape ``(N,)``.

        It grows with the number of tokens or letters, and costs nothing to know: what
        `LengthBuckets` needs where the lengths are not known.
        """
        return np.asarray(self._ends - self._starts)

    def line_of(self, index: int) -> int:
        """Return on which line of the file, from 1 on, a sample stands."""
        start, line = int(self._starts[index]), 1
        with self._open() as content:
            for first in range(0, start, CHUNK_BYTES):
                line += content[first : min(first + CHUNK_BYTES, start)].count(b"\n")
        return line

    def _open(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _parse(self, index: int) -> dict[str, Any]:
        if self._map is None:
            self._map = self._open()
        line = self._map[self._starts[index] : self._ends[index]]
        try:
            values = json.loads(line.decode("utf-8"), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            reason = str(error) or "it is nested too deeply"
            must = f"be a JSON object; got {_shorten(line)}"
            raise self._wrong(index, must, reason) from None
        if not isinstance(values, dict):
            raise self._wrong(index, f"be a JSON object; got {_shorten(line)}", "")
        return values

    def _value(self, values: dict[str, Any], name: str, index: int) -> Any:
        if name not in values:
            listed = ", ".join(map(repr, values)) or "none"
            raise self._wrong(index, f"have the field {name!r}; got {listed}", "")
        value = values[name]
        if isinstance(value, (str, float)) or (isinstance(value, int) and _fits(value)):
            return value
        if isinstance(value, list) and all(
            type(item) is int and _fits(item) for item in value
        ):
            return torch.tensor(value, dtype=torch.int64)
        wanted = "a text, a number that int64 holds, or a list of such whole numbers"
        shown = _shorten(json.dumps(value).encode())
        raise self._wrong(index, f"have {wanted} as {name!r}; got {shown}", "")

    def _wrong(self, index: int, must: str, reason: str) -> FormatError:
        why = f" ({reason})" if reason else ""
        return FormatError(
            f"{self.path}, line {self.line_of(index)} must {must}{why}. "
            "Correct the line, or take it out."
        )


def find_lines(
    content: mmap.mmap | bytes,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the lines that are not empty.

    Args:
        content: The bytes of a file, at least one; a byte order mark is left out.

    Returns:
        Where each line begins and where it ends, its line end not counted, shape
        ``(N,)`` both.
    """
    data = np.frombuffer(content, np.uint8)
    size = len(data)
    begin = len(_BOM) if content[:3] == _BOM else 0
    breaks = [
        first + np.flatnonzero(data[first : first + CHUNK_BYTES] == _NEWLINE)
        for first in range(begin, size, CHUNK_BYTES)
    ]
    ends = np.concatenate([*breaks, [size]]).astype(np.int64, copy=False)
    starts = np.empty_like(ends)
    starts[0] = begin
    starts[1:] = ends[:-1] + 1
    before = data[np.maximum(ends - 1, 0)] if size else data
    ends -= (ends > starts) & (before == _RETURN)
    is_line = ends > starts
    return starts[is_line], ends[is_line]


def _check_file(path: Path) -> None:
    if not path.exists():
        raise FormatError(
            f"{path} must be a JSON-lines file; there is no such file. Check the path."
        )
    if not path.is_file():
        raise FormatError(
            f"{path} must be a JSON-lines file; got a folder. Name a file in it."
        )
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        raise FormatError(
            f"{path} must have a JSON object on each line; the file is empty. "
            "Give a file with content."
        )
    if start == _GZIP_MAGIC:
        raise FormatError(f"{path} must be plain text; got gzip data. Unpack it first.")


def _check_names(fields: Sequence[str]) -> tuple[str, ...]:
    if isinstance(fields, str) or not fields:
        raise ArgumentError(
            f"fields must be a list of names; got {fields!r}. "
            'Name one field as ["name"].'
        )
    return tuple(fields)


def _fits(number: int) -> bool:
    return -(2**63) <= number < 2**63


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _shorten(line: bytes) -> str:
    text = line[:60].decode("utf-8", "replace")
    return repr(text if len(line) <= 60 else f"{text[:57]}...")
