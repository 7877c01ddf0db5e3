"""Fetching from columns: gather thousands of samples at once, hand out batches.

One gather of a chunk costs far less than a gather a batch, and cutting the chunk costs
next to nothing. A batch is nevertheless its receiver's own: it has a storage and a
version counter of its own, so that it can be kept, written in place and saved alone.
Keeping one keeps the memory of its chunk, a few MiB at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

CHUNK_BYTES = 4 * 2**20
"""Most bytes of a column gathered at once; larger blocks cost page faults."""

CHUNK_SAMPLES = 16_384
"""Most samples gathered at once."""

_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def can_gather(column: Tensor) -> bool:
    """Say whether a column can be read by chunks: dense, without a gradient."""
    return (
        type(column) is Tensor
        and column.layout is torch.strided
        and not column.requires_grad
        and not column.is_conj()
        and not column.is_neg()
        and not column.is_quantized
        and column.ndim > 0
    )


def iterate_batches(
    columns: Sequence[Tensor], order: Tensor | range, batch_size: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the samples of an order in batches.

    Args:
        columns: Each of shape ``(N, …)``, such that `can_gather` holds.
        order: Indices in ``[0, N)``, int64, shape ``(K,)``; or a range of them with
            step 1, which is read without a gather.
        batch_size: Samples a batch; the last may have fewer.

    Yields:
        For each column a contiguous tensor of shape ``(batch_size, …)``.
    """
    chunk = _chunk_samples(columns, batch_size)
    for start in range(0, len(order), chunk):
        part = order[start : start + chunk]
        yield from zip(*(_cut(c, part, batch_size) for c in columns), strict=True)


def _chunk_samples(columns: Sequence[Tensor], batch_size: int) -> int:
    row_bytes = max((c[:1].nbytes for c in columns), default=1)
    samples = min(CHUNK_BYTES // max(row_bytes, 1), CHUNK_SAMPLES)
    return max(samples // batch_size, 1) * batch_size


def _cut(column: Tensor, part: Tensor | range, batch_size: int) -> Iterator[Tensor]:
    if column.device.type != "cpu" or column.numel() == 0:
        return _cut_one_by_one(column, part, batch_size)
    dtype = column.dtype
    try:
        numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
    except TypeError:  # bfloat16 and others that NumPy lacks: move the same bits.
        same_size = _SAME_SIZE[dtype.itemsize]
        pieces = _cut(column.view(same_size), part, batch_size)
        return (piece.view(dtype) for piece in pieces)
    block = np.empty((len(part), *column.shape[1:]), numpy_dtype)
    whole = torch.from_numpy(block)
    if isinstance(part, range):
        whole.copy_(column[part.start : part.stop])
    else:
        torch.index_select(column, 0, part, out=whole)
    # A tensor made from a slice of NumPy's has a storage of just that slice.
    starts = range(0, len(part), batch_size)
    return map(torch.from_numpy, [block[i : i + batch_size] for i in starts])


def _cut_one_by_one(
    column: Tensor, part: Tensor | range, batch_size: int
) -> Iterator[Tensor]:
    if isinstance(part, range):
        part = torch.arange(part.start, part.stop)
    part = part.to(column.device)
    for start in range(0, len(part), batch_size):
        yield torch.index_select(column, 0, part[start : start + batch_size])
