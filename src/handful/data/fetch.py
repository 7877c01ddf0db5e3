"""Fetching: gather many samples at once, hand them out in batches.

One gather of a chunk costs far less than a gather a batch, and cutting the chunk costs
next to nothing. A batch is nevertheless its receiver's own: it has a storage and a
version counter of its own, so that it can be kept, written in place and saved alone.
Keeping one keeps the memory of its chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.data.gather import Column

CHUNK_BYTES = 8 * 2**20
"""Most bytes of a column gathered at once."""

KEPT_BYTES = 31 * 2**20
"""Blocks up to this size are taken from memory that the process keeps."""

ALIGNMENT_BYTES = 64
"""How each batch is aligned: as PyTorch's own tensors are. Sums within matrix products
run in an order that depends on it, so that less would change a model's last bits."""

GATHER_ALONE_BYTES = 16_384
"""From how many bytes on a batch of an odd size is gathered by itself."""

ONE_BATCH_BYTES = 2**20
"""Up to this size a chunk of one batch needs no cutting: it is gathered alone."""

CHUNK_SAMPLES = 16_384
"""Most samples gathered at once."""

Indices = Callable[[int, int], "Tensor | range"]
"""Gives the indices of the positions from start to stop."""

_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def iterate_batches(
    columns: Sequence[Column],
    indices: Indices,
    *,
    start: int,
    stop: int,
    batch_size: int,
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the samples of some positions in batches.

    Args:
        columns: What to read.
        indices: Gives the indices at positions, int64 on the CPU, or a range of step 1.
        start: The first position.
        stop: The position after the last.
        batch_size: Samples a batch; the last may have fewer.

    Yields:
        For each column a contiguous tensor of shape ``(batch_size, …)``.
    """
    keep_memory()
    chunk = chunk_samples(columns, batch_size)
    for first in range(start, stop, chunk):
        part = indices(first, min(first + chunk, stop))
        yield from zip(*(_cut(c, part, batch_size) for c in columns), strict=True)


def chunk_samples(columns: Sequence[Column], batch_size: int) -> int:
    """Return how many samples to gather at once: a multiple of the batch size."""
    row_bytes = max(c.sample_shape.numel() * c.dtype.itemsize for c in columns)
    samples = min((CHUNK_BYTES - ALIGNMENT_BYTES) // max(row_bytes, 1), CHUNK_SAMPLES)
    return max(samples // batch_size, 1) * batch_size


def _cut(column: Column, part: Tensor | range, batch_size: int) -> Iterator[Tensor]:
    """Gather a chunk of a column and cut it into batches."""
    row_bytes = column.sample_shape.numel() * column.dtype.itemsize
    if column.device.type != "cpu" or row_bytes == 0:
        return _cut_one_by_one(column, part, batch_size)
    if len(part) <= batch_size and len(part) * row_bytes <= ONE_BATCH_BYTES:
        return _cut_one_by_one(column, part, batch_size)
    if batch_size * row_bytes % ALIGNMENT_BYTES == 0:
        return _cut_dense(column, part, batch_size)
    if batch_size * row_bytes >= GATHER_ALONE_BYTES:
        return _cut_one_by_one(column, part, batch_size)
    return _cut_padded(column, part, batch_size)


def _cut_dense(
    column: Column, part: Tensor | range, batch_size: int
) -> Iterator[Tensor]:
    """Cut where one batch begins aligned behind the other."""
    shape = (len(part), *column.sample_shape)
    memory = _allocate(column.sample_shape.numel() * len(part) * column.dtype.itemsize)
    whole = memory.view(column.dtype).view(shape)
    column.gather(part, whole)
    block = _as_numpy(whole)
    full = len(part) // batch_size * batch_size
    slices: list[Any] = list(block[:full].reshape(-1, batch_size, *block.shape[1:]))
    if full < len(part):
        slices.append(block[full:])
    return _as_tensors(slices, column.dtype)


def _cut_padded(
    column: Column, part: Tensor | range, batch_size: int
) -> Iterator[Tensor]:
    """Cut with a gap behind each batch, so that the next one begins aligned."""
    scratch = torch.empty((len(part), *column.sample_shape), dtype=column.dtype)
    column.gather(part, scratch)
    block = _as_numpy(scratch)
    stride = -(-batch_size * block[:1].nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    full, rest = divmod(len(part), batch_size)
    memory = _allocate((full + (rest > 0)) * stride).numpy()
    shape = (full, batch_size, *block.shape[1:])
    whole = np.ndarray(shape, block.dtype, memory.data, 0, (stride, *block.strides))
    whole[...] = block[: full * batch_size].reshape(shape)
    slices: list[Any] = list(whole)
    if rest:
        last = np.ndarray((rest, *shape[2:]), block.dtype, memory.data, full * stride)
        last[...] = block[full * batch_size :]
        slices.append(last)
    return _as_tensors(slices, column.dtype)


@functools.cache
def keep_memory() -> None:
    """Let the C library keep the memory of freed chunks for the next ones.

    glibc gives large blocks back to the system at once, and a new block's pages cost
    more than the gather into them, or the decoding of a small image, unless a larger
    block was freed before (its dynamic mmap threshold, mallopt(3)). One that is never
    written costs microseconds. Worker processes that are forked inherit it.
    """
    np.empty(KEPT_BYTES, np.uint8)


def _allocate(num_bytes: int) -> Tensor:
    """Return uninitialised bytes, aligned as PyTorch's own memory is."""
    memory = torch.from_numpy(np.empty(num_bytes + ALIGNMENT_BYTES, np.uint8))
    return memory.narrow(0, -memory.data_ptr() % ALIGNMENT_BYTES, num_bytes)


def _as_numpy(values: Tensor) -> NDArray[Any]:
    """Return a tensor's memory as an array; of a dtype that NumPy lacks as its bits."""
    try:
        return values.numpy()
    except TypeError:  # bfloat16 and the like
        return values.view(_SAME_SIZE[values.dtype.itemsize]).numpy()


def _as_tensors(slices: list[Any], dtype: torch.dtype) -> Iterator[Tensor]:
    # A tensor made from a slice of NumPy's has a storage of just that slice.
    pieces = map(torch.from_numpy, slices)
    if torch.from_numpy(slices[0]).dtype is dtype:
        return pieces
    return (piece.view(dtype) for piece in pieces)


def _cut_one_by_one(
    column: Column, part: Tensor | range, batch_size: int
) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        part = part.to(column.device)
    for first in range(0, len(part), batch_size):
        chosen = part[first : first + batch_size]
        out = torch.empty(
            (len(chosen), *column.sample_shape),
            dtype=column.dtype,
            device=column.device,
        )
        column.gather(chosen, out)
        yield out
