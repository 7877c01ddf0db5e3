"""Sources: what a data set is made of, where it can be read many samples at a time.

`find_source` recognises data sets by their exact type: a subclass may do anything in
its ``__getitem__``, so it is read sample by sample. A source is a list of columns, and
a function that packs a batch's columns into the containers that PyTorch's collation
would make of its samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset

from handful.data.arrow import ArrowTable
from handful.data.columns import Columns, as_column
from handful.data.gather import (
    CastColumn,
    Column,
    ConcatColumn,
    IndexedColumn,
    TensorColumn,
    can_gather,
)
from handful.data.hugging_face import is_hugging_face, read_hugging_face
from handful.errors import DataError


@dataclass(frozen=True)
class Source:
    """A data set that is read many samples at a time.

    Attributes:
        columns: Its columns, all on the same device.
        num_samples: Number of samples, N.
        pack: Makes a batch of one tensor per column.
        names: Names of the columns where a batch is a dict of them.
        is_flat: Whether a batch holds the columns themselves, not containers of them.
    """

    columns: tuple[Column, ...]
    num_samples: int
    pack: Callable[[Sequence[Tensor]], Any]
    names: tuple[str, ...] | None = None
    is_flat: bool = True


def find_source(dataset: Any) -> Source | str:
    """Return the source of a data set, or the reason why it has none.

    Args:
        dataset: Any data set.

    Returns:
        The source of a `torch.utils.data.TensorDataset`, `Columns`, tensor, NumPy array
        or memory map, `ArrowTable` or Hugging Face data set, and of a ``Subset``,
        ``ConcatDataset`` or ``StackDataset`` of such. For others a clause that says why
        samples must be read one by one.
    """
    kind = type(dataset)
    if kind is TensorDataset:
        return _tensor_source(dataset.tensors, list)
    if kind is Columns:
        return _tensor_source(dataset.tensors, _columns_packer(dataset), dataset.names)
    if kind is ArrowTable:
        return _chunked_source(dataset.chunks, len(dataset))
    if is_hugging_face(dataset):
        return _hugging_face_source(dataset)
    if kind is Tensor or kind is np.ndarray or kind is np.memmap:
        return _array_source(dataset)
    if kind is Subset:
        return _subset_source(dataset)
    if kind is ConcatDataset:
        return _concat_source(dataset)
    if kind is StackDataset:
        return _stack_source(dataset)
    return f"{kind.__name__} is read sample by sample"


def move_source(source: Source, device: torch.device) -> Source:
    """Return a source whose columns were copied to a device, in order."""
    columns = []
    for column in source.columns:
        shape = (source.num_samples, *column.sample_shape)
        values = torch.empty(shape, dtype=column.dtype, device=column.device)
        column.gather(range(source.num_samples), values)
        columns.append(TensorColumn(values.to(device)))
    return replace(source, columns=tuple(columns))


def _tensor_source(
    tensors: Iterable[Tensor],
    pack: Callable[[Sequence[Tensor]], Any],
    names: tuple[str, ...] | None = None,
) -> Source | str:
    columns = tuple(TensorColumn(values) for values in tensors)
    if not columns:
        return "the data set has no columns"
    if not all(can_gather(column.values) for column in columns):
        return "an array has a gradient or is not dense"
    if len({column.device for column in columns}) > 1:
        return "the arrays are on different devices"
    lengths = {len(column.values) for column in columns}
    if len(lengths) > 1:
        return "the arrays have different lengths"
    return Source(columns, lengths.pop(), pack, names)


def _array_source(array: Any) -> Source | str:
    if array.ndim == 0:
        return f"{type(array).__name__} has no samples"
    try:
        return _tensor_source((as_column(array, "dataset"),), _first)
    except DataError:
        return f"an array of {array.dtype} is read sample by sample"


def _chunked_source(chunks: Mapping[str, Sequence[Tensor]], length: int) -> Source:
    names = tuple(chunks)
    columns: list[Column] = []
    for parts in chunks.values():
        ends = list(itertools.accumulate(len(part) for part in parts))
        tensors = [TensorColumn(part) for part in parts]
        columns.append(tensors[0] if len(parts) == 1 else ConcatColumn(tensors, ends))
    return Source(tuple(columns), length, _dict_packer(names), names)


def _hugging_face_source(dataset: Any) -> Source | str:
    read = read_hugging_face(dataset)
    if isinstance(read, str):
        return read
    parts, index = read
    source = _chunked_source({n: chunks for n, (chunks, _) in parts.items()}, 0)
    columns: list[Column] = []
    for column, (_, dtype) in zip(source.columns, parts.values(), strict=True):
        inner = column if index is None else IndexedColumn(column, index)
        columns.append(inner if dtype is inner.dtype else CastColumn(inner, dtype))
    return replace(source, columns=tuple(columns), num_samples=len(dataset))


def _subset_source(dataset: Subset[Any]) -> Source | str:
    inner = find_source(dataset.dataset)
    if isinstance(inner, str):
        return inner
    try:
        index = torch.from_numpy(np.array(dataset.indices))
    except (TypeError, ValueError):
        return "the indices of a Subset are not numbers"
    if index.ndim != 1 or index.is_floating_point() or index.dtype is torch.bool:
        return "the indices of a Subset are not whole numbers"
    index = index.to("cpu", torch.int64)
    if len(index):
        lowest, highest = (int(v) for v in torch.aminmax(index))
        if lowest < -inner.num_samples or highest >= inner.num_samples:
            return "an index of a Subset is out of range"
        if lowest < 0:
            index = torch.where(index < 0, index + inner.num_samples, index)
    columns = tuple(IndexedColumn(column, index) for column in inner.columns)
    return replace(inner, columns=columns, num_samples=len(index))


def _concat_source(dataset: ConcatDataset[Any]) -> Source | str:
    inner = [find_source(part) for part in dataset.datasets]
    sources = [source for source in inner if not isinstance(source, str)]
    for reason in inner:
        if isinstance(reason, str):
            return reason
    first = sources[0]
    for source in sources[1:]:
        alike = len(source.columns) == len(first.columns) and all(
            (a.sample_shape, a.dtype, a.device) == (b.sample_shape, b.dtype, b.device)
            for a, b in zip(source.columns, first.columns, strict=True)
        )
        probe = list(range(len(first.columns)))
        if not alike or source.pack(probe) != first.pack(probe):  # type: ignore[arg-type]
            return "the parts of a ConcatDataset differ in kind, shape or dtype"
    ends = list(dataset.cumulative_sizes)
    columns = tuple(
        ConcatColumn(parts, ends)
        for parts in zip(*(source.columns for source in sources), strict=True)
    )
    return replace(first, columns=columns, num_samples=ends[-1])


def _stack_source(dataset: StackDataset[Any]) -> Source | str:
    inside = dataset.datasets
    names = tuple(inside) if isinstance(inside, dict) else None
    parts = inside.values() if isinstance(inside, dict) else inside
    sources: list[Source] = []
    for part in parts:
        source = find_source(part)
        if isinstance(source, str):
            return source
        sources.append(source)
    columns = tuple(column for source in sources for column in source.columns)
    if len({column.device for column in columns}) > 1:
        return "the arrays are on different devices"

    def pack(values: Sequence[Tensor]) -> Any:
        rest, packed = list(values), []
        for source in sources:
            width = len(source.columns)
            packed.append(source.pack(rest[:width]))
            rest = rest[width:]
        return packed if names is None else dict(zip(names, packed, strict=True))

    return Source(columns, len(dataset), pack, is_flat=False)


def _columns_packer(dataset: Columns) -> Callable[[Sequence[Tensor]], Any]:
    return list if dataset.names is None else _dict_packer(dataset.names)


def _dict_packer(names: tuple[str, ...]) -> Callable[[Sequence[Tensor]], Any]:
    return lambda values: dict(zip(names, values, strict=True))


def _first(values: Sequence[Tensor]) -> Tensor:
    return values[0]
