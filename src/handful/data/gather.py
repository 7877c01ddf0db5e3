"""Gathering: the kinds of columns, and how samples of many indices are read at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from handful.data.sample_keys import SampleKeys
from handful.data.transforms import ColumnTransform

_BITS = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}
"""What unsigned integers are moved as."""


class Column(Protocol):
    """A column that can be gathered."""

    @property
    def sample_shape(self) -> torch.Size:
        """Shape of one sample."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the samples."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        ...

    def gather(self, indices: Tensor | range, out: Tensor) -> None:
        """Write the samples of some indices into a contiguous tensor.

        Args:
            indices: Each in ``[0, N)``: int64 of shape ``(B,)``, or a range of step 1.
            out: Of shape ``(B, *sample_shape)``, on the column's device.
        """
        ...


@dataclass(frozen=True)
class TensorColumn:
    """A dense tensor, shape ``(N, …)``."""

    values: Tensor

    @property
    def sample_shape(self) -> torch.Size:
        """Shape of one sample."""
        return self.values.shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the samples."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self.values.device

    def gather(self, indices: Tensor | range, out: Tensor) -> None:
        """Write samples; see `Column.gather`."""
        if isinstance(indices, range):
            out.copy_(self.values[indices.start : indices.stop])
        else:
            torch.index_select(as_bits(self.values), 0, indices, out=as_bits(out))


@dataclass(frozen=True)
class IndexedColumn:
    """Some samples of another column, in the order of an index."""

    column: Column
    index: Tensor

    @property
    def sample_shape(self) -> torch.Size:
        """Shape of one sample."""
        return self.column.sample_shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the samples."""
        return self.column.dtype

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self.column.device

    def gather(self, indices: Tensor | range, out: Tensor) -> None:
        """Write samples; see `Column.gather`."""
        if isinstance(indices, range):
            chosen = self.index[indices.start : indices.stop]
        else:
            chosen = torch.index_select(self.index, 0, indices)
        self.column.gather(chosen, out)


@dataclass(frozen=True)
class CastColumn:
    """Another column, its samples of another dtype."""

    column: Column
    dtype: torch.dtype

    @property
    def sample_shape(self) -> torch.Size:
        """Shape of one sample."""
        return self.column.sample_shape

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self.column.device

    def gather(self, indices: Tensor | range, out: Tensor) -> None:
        """Write samples; see `Column.gather`."""
        values = out.new_empty(out.shape, dtype=self.column.dtype)
        self.column.gather(indices, values)
        out.copy_(values)


class ConcatColumn:
    """Columns of the same shape and dtype, one after the other.

    Args:
        parts: The columns.
        ends: Number of samples up to and including each.
    """

    def __init__(self, parts: Sequence[Column], ends: Sequence[int]) -> None:
        self.parts = tuple(parts)
        self.sample_shape = parts[0].sample_shape
        self.dtype = parts[0].dtype
        self.device = parts[0].device
        self._ends = torch.tensor(ends)
        self._starts = [0, *ends[:-1]]

    def gather(self, indices: Tensor | range, out: Tensor) -> None:
        """Write samples; see `Column.gather`."""
        if isinstance(indices, range):
            indices = torch.arange(indices.start, indices.stop)
        part_of = torch.searchsorted(self._ends, indices, right=True)
        for number, (part, start) in enumerate(
            zip(self.parts, self._starts, strict=True)
        ):
            places = torch.nonzero(part_of == number).squeeze(1)
            if len(places):
                chosen = indices[places] - start
                values = out.new_empty((len(places), *self.sample_shape))
                part.gather(chosen, values)
                as_bits(out).index_copy_(0, places, as_bits(values))


class TransformedColumn:
    """A column whose samples are transformed as they are gathered.

    Args:
        column: What is gathered.
        transform: What is made of it.
        seed: Seed of random transforms.
        epoch: The pass, for random transforms.
    """

    def __init__(
        self, column: Column, transform: ColumnTransform, seed: int, epoch: int
    ) -> None:
        shape, dtype = transform.output_spec(tuple(column.sample_shape), column.dtype)
        self.sample_shape = torch.Size(shape)
        self.dtype = dtype
        self.device = column.device
        self._column = column
        self._transform = transform
        self._seed = seed
        self._epoch = epoch
        self._scratch = torch.empty(0, dtype=column.dtype, device=column.device)

    def gather(self, indices: Tensor | range, out: Tensor) -> None:
        """Write transformed samples; see `Column.gather`."""
        shape = (len(out), *self._column.sample_shape)
        if self._scratch.shape != shape:
            self._scratch = self._scratch.new_empty(shape)
        self._column.gather(indices, self._scratch)
        keys = None
        if self._transform.is_random:
            if isinstance(indices, range):
                indices = torch.arange(indices.start, indices.stop)
            keys = SampleKeys(self._seed, self._epoch, indices)
        self._transform.apply(self._scratch, keys, out)


def as_bits(values: Tensor) -> Tensor:
    """Return a view of a dtype that PyTorch's indexing knows, where it lacks this one.

    It has no kernels for some unsigned integers and floats of eight bits, of which none
    is computed with here: they are moved as other items of the same size.
    """
    dtype = values.dtype
    if dtype.is_floating_point and dtype.itemsize == 1:
        return values.view(torch.uint8)
    return values.view(_BITS[dtype]) if dtype in _BITS else values


def can_gather(values: Tensor) -> bool:
    """Say whether a tensor can be gathered: dense, and free of gradients."""
    return (
        type(values) is Tensor
        and values.layout is torch.strided
        and not values.requires_grad
        and not values.is_conj()
        and not values.is_neg()
        and not values.is_quantized
        and not values.is_nested
        and values.ndim > 0
    )
