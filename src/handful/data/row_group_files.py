"""Files of row groups: Parquet, and Arrow's IPC files (Feather 2), group by group.

Whatever a file turns out to be, a `FormatError` of one sentence names it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from handful.errors import DataError, FormatError
from handful.extras import import_extra

MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow"}
"""What a file begins with, and what it is read as."""

SUFFIXES = (".parquet", ".pq", ".arrow", ".feather", ".ipc")
"""Names of the files that are looked for in a folder."""

OPEN_FILES = 8
"""Most Parquet files that a reader keeps open; each holds its footer in memory."""

TAIL_BYTES = 65_536
"""How much of a file's end goes into its digest: mostly the whole footer of Parquet."""


@dataclass(frozen=True)
class RowGroupFile:
    """A file as it was found.

    Attributes:
        path: Where it is.
        kind: ``"parquet"`` or ``"arrow"``.
        num_bytes: Its size.
        digest: 16 hexadecimal digits of its last `TAIL_BYTES`.
        schema: Its ``pyarrow.Schema``.
        counts: Rows of each row group, or record batch.
    """

    path: Path
    kind: str
    num_bytes: int
    digest: str
    schema: Any
    counts: tuple[int, ...]


def find_row_group_files(path: Path) -> list[Path]:
    """Return the files that a path, a folder or a pattern stands for, sorted.

    Args:
        path: A file; a folder, whose files with one of the `SUFFIXES` count, those of
            folders within it too; or a pattern such as ``data/part-*.parquet``.

    Returns:
        At least one path.

    Raises:
        DataError: There is none.
    """
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file()]
        wanted = f"a folder with files named {', '.join(f'*{s}' for s in SUFFIXES)}"
    elif path.is_file():
        return [path]
    else:
        root = Path(path.anchor)
        found = [p for p in root.glob(str(path.relative_to(root))) if p.is_file()]
        wanted = "a file, a folder or a pattern of existing files"
    if not found:
        raise DataError(f"paths must be {wanted}; got {path}. Check the spelling.")
    return sorted(found)


def inspect_file(path: Path) -> RowGroupFile:
    """Read what a file says of itself: its schema, and how many rows its groups have.

    Args:
        path: A Parquet file or an Arrow IPC file.

    Returns:
        The file's description. Of its rows nothing is read; of a compressed Arrow file,
        whose footer has no counts, one column.

    Raises:
        FormatError: It is another kind of file, or damaged.
        MissingExtraError: pyarrow is not installed.
    """
    pa = import_pyarrow()
    with _readable(path, "its footer"):
        kind, num_bytes, digest = _look_at(path)
        if kind == "parquet":
            with _parquet().ParquetFile(path) as file:
                footer = file.metadata
                sizes = [footer.row_group(i) for i in range(footer.num_row_groups)]
                counts = [group.num_rows for group in sizes]
                schema = file.schema_arrow
        else:
            with pa.memory_map(str(path)) as source:
                schema, counts = _inspect_arrow(pa, source)
        list(schema.names)  # decodes them, which may fail
    return RowGroupFile(path, kind, num_bytes, digest, schema, tuple(counts))


class RowGroupReader:
    """Reads row groups of some files, and keeps a few of the files open.

    Args:
        files: The files.
    """

    def __init__(self, files: Sequence[RowGroupFile]) -> None:
        self._files = files
        self._open: OrderedDict[int, Any] = OrderedDict()

    def read(self, file_number: int, group: int, columns: Sequence[str]) -> Any:
        """Return columns of a row group as a ``pyarrow.Table``.

        Args:
            file_number: Which of the files.
            group: Which of its row groups, or record batches.
            columns: Names of the columns.

        Raises:
            FormatError: It can't be read, or is not what it was when the file was
                first looked at.
        """
        file = self._files[file_number]
        with _readable(file.path, f"row group {group}"):
            if file.kind == "arrow":
                table = self._read_arrow(file, group, columns)
            else:
                opened = self._opened(file_number)
                table = opened.read_row_group(group, columns=list(columns))
        if table.num_rows != file.counts[group]:
            raise FormatError(
                f"{file.path} must stay as it is while it is read; its row group "
                f"{group} had {file.counts[group]} rows and now has {table.num_rows}."
                " Make the data set anew."
            )
        return table

    def close(self) -> None:
        """Close the files."""
        while self._open:
            self._open.popitem()[1].close()

    def _opened(self, file_number: int) -> Any:
        if file_number not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            path = self._files[file_number].path
            self._open[file_number] = _parquet().ParquetFile(path)
        self._open.move_to_end(file_number)
        return self._open[file_number]

    def _read_arrow(
        self, file: RowGroupFile, group: int, columns: Sequence[str]
    ) -> Any:
        # Mapped anew each time: pages that were read are the process's until unmapped.
        pa = import_pyarrow()
        chosen = [file.schema.get_field_index(name) for name in columns]
        with pa.memory_map(str(file.path)) as source:
            options = pa.ipc.IpcReadOptions(included_fields=chosen)
            batch = pa.ipc.open_file(source, options=options).get_batch(group)
            return pa.Table.from_batches([batch])


def import_pyarrow() -> ModuleType:
    """Return pyarrow.

    Raises:
        MissingExtraError: It is not installed.
    """
    import_extra("pyarrow.ipc", extra="arrow", purpose="Reading Parquet files")
    return import_extra("pyarrow", extra="arrow", purpose="Reading Parquet files")


def _parquet() -> ModuleType:
    return import_extra(
        "pyarrow.parquet", extra="arrow", purpose="Reading Parquet files"
    )


def _look_at(path: Path) -> tuple[str, int, str]:
    """Return a file's kind by its first bytes, its size, and a digest of its end."""
    with path.open("rb") as file:
        head = file.read(max(map(len, MAGIC)))
        num_bytes = file.seek(0, 2)
        file.seek(max(num_bytes - TAIL_BYTES, 0))
        digest = hashlib.sha256(file.read()).hexdigest()[:16]
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind, num_bytes, digest
    if not head:
        raise FormatError(
            f"{path} must be a Parquet or an Arrow file; got an empty file. "
            "Write it again."
        )
    raise FormatError(
        f"{path} must be a Parquet or an Arrow file, which begins with b'PAR1' or "
        f"b'ARROW1'; got {head!r}. Convert it with pyarrow.parquet.write_table."
    )


def _inspect_arrow(pa: ModuleType, source: Any) -> tuple[Any, list[int]]:
    """Return an Arrow file's schema, and the rows of its record batches."""
    schema = pa.ipc.open_file(source).schema
    widths = [(_bit_width(field.type), place) for place, field in enumerate(schema)]
    narrowest = [min(widths)[1]] if widths else []
    options = pa.ipc.IpcReadOptions(included_fields=narrowest)
    reader = pa.ipc.open_file(source, options=options)
    numbers = range(reader.num_record_batches)
    return schema, [reader.get_batch(number).num_rows for number in numbers]


def _bit_width(kind: Any) -> int:
    try:
        return int(kind.bit_width)
    except ValueError:  # texts and lists have none
        return 2**31


@contextlib.contextmanager
def _readable(path: Path, part: str) -> Iterator[None]:
    """Turn what reading a part of a file may raise into an error that names both."""
    pa = import_pyarrow()
    try:
        yield
    except FormatError:
        raise
    except (OSError, EOFError, ValueError, KeyError, pa.ArrowException) as error:
        # Names of columns that are not UTF-8 are a ValueError.
        reason = " ".join(str(error).split()).rstrip(".")[:300]
        raise FormatError(
            f"{path} must be a whole Parquet or Arrow file; {part} can't be read: "
            f"{reason}. Write or copy it again."
        ) from error
