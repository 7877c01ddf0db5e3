"""Arrow: tables and their columns as tensors that share their memory.

pyarrow itself is never imported here: whoever passes a table has done so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from handful.errors import DataError


class ArrowTable(Dataset[Any]):
    """An Arrow table as a data set whose samples are dicts of tensors.

    Its memory, a memory-mapped file's too, is read in place. `DataLoader` makes one of
    a ``pyarrow.Table`` that it is given.

    Args:
        table: A ``pyarrow.Table`` of numbers, booleans and lists of a fixed size of
            numbers, without nulls.

    Raises:
        DataError: A column holds something else; it is named.
    """

    def __init__(self, table: Any) -> None:
        self.chunks = {
            str(name): arrow_chunks(column, f"column {name!r}")
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
        self._length = int(table.num_rows)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -self._length <= index < self._length:
            raise IndexError(f"index must be below {self._length}; got {index}")
        index %= self._length
        return {name: _pick(chunks, index) for name, chunks in self.chunks.items()}


def is_arrow(value: object) -> bool:
    """Say whether a value is one of pyarrow's."""
    return type(value).__module__.partition(".")[0] == "pyarrow"


def is_arrow_table(value: object) -> bool:
    """Say whether a value is a ``pyarrow.Table``."""
    return is_arrow(value) and type(value).__name__ == "Table"


def arrow_chunks(column: Any, name: str) -> list[Tensor]:
    """Return the chunks of an Arrow array as tensors, without copying numbers.

    Args:
        column: A ``pyarrow.ChunkedArray`` or ``pyarrow.Array``.
        name: What it is called, for errors.

    Returns:
        At least one tensor, each of shape ``(N_i,)``, or ``(N_i, size)`` for lists.

    Raises:
        DataError: It has nulls, or holds something other than numbers, booleans or
            lists of a fixed size of numbers.
    """
    if column.null_count:
        raise DataError(
            f"{name} must not have nulls; got {column.null_count}. "
            "Fill or drop them first."
        )
    chunks = column.chunks if hasattr(column, "chunks") else [column]
    tensors = [_as_tensor(chunk, name) for chunk in chunks if len(chunk)]
    return tensors or [_as_tensor(_empty_like(column), name)]


def join_chunks(chunks: Sequence[Tensor]) -> Tensor:
    """Return one tensor: the only chunk itself, or a copy of several."""
    return chunks[0] if len(chunks) == 1 else torch.cat(list(chunks))


def _as_tensor(array: Any, name: str) -> Tensor:
    kind = str(array.type)
    if kind.startswith("fixed_size_list"):
        flat = array.flatten()
        if flat.null_count:
            raise DataError(f"{name} must not have nulls within its lists.")
        return _as_tensor(flat, name).reshape(len(array), array.type.list_size)
    try:
        numbers = array.to_numpy(zero_copy_only=kind != "bool")
        with warnings.catch_warnings():
            # Arrow's memory is read-only, and is only read here.
            warnings.filterwarnings("ignore", message="The given NumPy array is not w")
            return torch.from_numpy(numbers)
    except (TypeError, ValueError, NotImplementedError):
        raise DataError(
            f"{name} must hold numbers, booleans or lists of a fixed size of numbers; "
            f"got {kind}. Encode it as numbers first."
        ) from None


def _empty_like(column: Any) -> Any:
    return column.combine_chunks() if hasattr(column, "chunks") else column


def _pick(chunks: Sequence[Tensor], index: int) -> Tensor:
    for chunk in chunks:
        if index < len(chunk):
            return chunk[index]
        index -= len(chunk)
    raise AssertionError
