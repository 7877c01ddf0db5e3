"""ParquetFiles: tables larger than memory as a data set."""

from __future__ import annotations

import copy
import hashlib
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from handful.data.row_fields import plan_fields, table_columns
from handful.data.row_group_files import (
    RowGroupFile,
    RowGroupReader,
    find_row_group_files,
    inspect_file,
)
from handful.errors import ArgumentError, DataError

PathLike: TypeAlias = "str | os.PathLike[str]"

WINDOW_BYTES = 64 * 2**20
"""Size of the window in memory, unless its rows are given."""

PORTION_BYTES = 32 * 2**20
"""How much of a row group is decoded at a time: some columns, or all of them."""


class ParquetFiles(Dataset[Any]):
    """Parquet or Arrow files, larger than memory or not, as a data set.

    handful's `DataLoader` reads them by the row group, in a thread, ahead of the
    batches; Arrow's IPC files, also known as Feather 2, by the record batch.
    ``shuffle=True`` mixes rows within a window, as `WindowOrder` describes: row groups
    come in a drawn order, and each one's rows are spread evenly over the next `window`
    rows. Memory holds the window, a row group at either end of it, and one that is
    read ahead, never a file. Row groups of some 16 MiB are best; those of a million
    rows, as some programs write them, are read too, but two of them take memory.

    The window is where randomness ends. Rows that lie side by side in a file come about
    0.3 windows apart, not 0.3 epochs as in a full shuffle, and a batch has rows of only
    as many row groups as a window holds. Where the files are sorted, by class or by
    time, take a window as large as memory allows, or write the files in a random order
    once. A window of all rows is a full shuffle.

    The same rows may be read by several ranks with ``shard=(rank, world_size)``. A rank
    has a stretch of the epoch's order, and reads no row groups but those it lies in.

    A single sample, ``files[i]``, costs the reading of its row group, unless it is that
    of the sample before.

    Args:
        paths: A file, a folder, a pattern such as ``"data/*.parquet"``, or a list of
            these. What a folder or a pattern stands for is sorted by name. A folder's
            names, as in ``year=2024/``, are not read as columns.
        columns: Names of the columns to read; None for all. They must hold numbers,
            booleans, or lists of a fixed size of these, without nulls.
        target: None for batches that are dicts of columns. The name of a column for
            batches ``[inputs, target]``: the other columns side by side, shape
            ``(B, F)``, and this one, shape ``(B,)``.
        window: Rows of the window, 1 or more; None for `WINDOW_BYTES` of them. Without
            shuffling there is none.
        dtype: Of the inputs, and of a target of real numbers; None for the columns'
            own. A target of whole numbers or booleans becomes int64, unless it is None.
            Without a target columns keep their own dtype.

    Attributes:
        files: What was found: path, size, schema and row groups of each file.
        fields: What a batch is made of.
        counts: Rows of each row group that has any, in the order of the files.
        window: Rows of the window.

    Raises:
        ArgumentError: A name is not that of a column, or the window is no number.
        DataError: There are no files or no rows, or a column holds something else.
        FormatError: A file is none of the two formats, or is damaged.
        MissingExtraError: pyarrow is not installed.

    Example::

        files = ParquetFiles("data/*.parquet", target="y")
        train = DataLoader(files, batch_size=256, shuffle=True, seed=0)
    """

    def __init__(
        self,
        paths: PathLike | Iterable[PathLike],
        *,
        columns: Sequence[str] | None = None,
        target: str | None = None,
        window: int | None = None,
        dtype: torch.dtype | None = torch.float32,
    ) -> None:
        listed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        found = [file for path in listed for file in find_row_group_files(Path(path))]
        if not found:
            raise ArgumentError("paths must name at least one file; got none.")
        self.files = tuple(inspect_file(path) for path in found)
        self.fields = plan_fields(
            self.files[0].schema,
            columns=columns,
            target=target,
            dtype=dtype,
            name=str(found[0]),
        )
        self.is_paired = target is not None
        self.columns = tuple(name for field in self.fields for name in field.columns)
        _check_schemas(self.files, self.columns, all_columns=columns is None)
        self._groups = [
            (number, group, count)
            for number, file in enumerate(self.files)
            for group, count in enumerate(file.counts)
            if count
        ]
        if not self._groups:
            raise DataError(
                f"paths must have at least one row; {found[0]}"
                f"{' and the others have' if len(found) > 1 else ' has'} none."
            )
        self.counts = [count for _, _, count in self._groups]
        self._ends = np.cumsum(self.counts)
        self.window = self._default_window() if window is None else _check_rows(window)
        self._last: tuple[int, dict[str, Any]] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be below {len(self)}; got {index}")
        index %= len(self)
        group = int(np.searchsorted(self._ends, index, side="right"))
        if self._last is None or self._last[0] != group:
            self._last = None
            portions = self.read_group(self.open_reader(), group)
            self._last = (
                group,
                {n: v for portion in portions for n, v in portion.items()},
            )
        row = index - int(self._ends[group]) + self.counts[group]
        values = []
        for field in self.fields:
            sample = np.empty((1, *field.shape), field.dtype)
            field.write(self._last[1], row, sample)
            values.append(torch.from_numpy(sample)[0])
        return tuple(values) if self.is_paired else self.pack(values)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def __repr__(self) -> str:
        shapes = ", ".join(f"{f.name} {f.shape} {f.dtype}" for f in self.fields)
        return f"ParquetFiles({len(self.files)} files, {len(self)} rows: {shapes})"

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory."""
        return sum(sum(field.widths) * field.dtype.itemsize for field in self.fields)

    def select(self, groups: Iterable[int]) -> ParquetFiles:
        """Return some row groups as a data set, in the files' order.

        Args:
            groups: Which, as places in `counts`.

        Raises:
            ArgumentError: There are none, or one of them isn't there.
        """
        chosen = sorted({operator.index(group) for group in groups})
        if not chosen or chosen[0] < 0 or chosen[-1] >= len(self.counts):
            raise ArgumentError(
                f"groups must be places from 0 to {len(self.counts) - 1}, one at "
                f"least; got {chosen}."
            )
        part = copy.copy(self)
        part._groups = [self._groups[group] for group in chosen]
        part.counts = [count for _, _, count in part._groups]
        part._ends = np.cumsum(part.counts)
        part._last = None
        return part

    def pack(self, values: Sequence[Tensor]) -> Any:
        """Return a batch of its fields: a list, or a dict without a target."""
        if self.is_paired:
            return list(values)
        names = (field.name for field in self.fields)
        return dict(zip(names, values, strict=True))

    def open_reader(self) -> RowGroupReader:
        """Return a reader of the files, for one thread."""
        return RowGroupReader(self.files)

    def read_group(
        self, reader: RowGroupReader, number: int
    ) -> Iterator[dict[str, Any]]:
        """Read one of the row groups that have rows, a few columns at a time.

        Args:
            reader: One that `open_reader` made.
            number: Which, in the order of `counts`.

        Yields:
            Columns by name, as NumPy arrays, about `PORTION_BYTES` of them.

        Raises:
            DataError: It can't be read, or has nulls; the file, the row group and the
                column are named.
        """
        file_number, group, count = self._groups[number]
        place = f"{self.files[file_number].path}, row group {group},"
        at_once = PORTION_BYTES * len(self.columns) // max(count * self.row_bytes, 1)
        step = max(at_once, 1)
        for first in range(0, len(self.columns), step):
            names = self.columns[first : first + step]
            table = reader.read(file_number, group, names)
            yield table_columns(table, names, place)

    def identify(self) -> dict[str, Any]:
        """Return what a loader's state must share with the files it goes on with.

        Returns:
            A hash of the names and sizes of the files, the rows of their row groups,
            what is read of them, and the last bytes of each, which for Parquet say
            where each column lies and between what its values do; and the window.
        """
        digest = hashlib.sha256(repr((self.fields, self._groups)).encode())
        for file in self.files:
            known = (file.path.name, file.num_bytes, file.digest, file.counts)
            digest.update(repr(known).encode())
        return {"hash": digest.hexdigest()[:16], "window": self.window}

    def _default_window(self) -> int:
        return max(WINDOW_BYTES // max(self.row_bytes, 1), 1)


def _check_schemas(
    files: Sequence[RowGroupFile], columns: Sequence[str], *, all_columns: bool
) -> None:
    """Check that the columns to read are the same in all files."""
    first = files[0]
    for file in files[1:]:
        names = [*columns, *(file.schema.names if all_columns else ())]
        for name in names:
            here, there = (_type_of(f, name) for f in (file, first))
            if here != there:
                raise DataError(
                    f"{file.path} must have the columns of the other files; its column "
                    f"{name!r} is {here}, and {there} in {first.path}. "
                    "Write it anew, or choose others with columns=[...]."
                )


def _type_of(file: RowGroupFile, name: str) -> str:
    if file.schema.names.count(name) != 1:
        return "missing" if name not in file.schema.names else "there more than once"
    return str(file.schema.field(name).type)


def _check_rows(window: int) -> int:
    try:
        rows = operator.index(window)
    except TypeError:
        rows = 0
    if rows < 1 or isinstance(window, bool):
        raise ArgumentError(
            f"window must be a whole number of rows from 1 on; got {window!r}."
        )
    return rows
