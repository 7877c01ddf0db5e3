"""Gathering: rows of every dtype come as they are."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import ConcatDataset, Subset

from handful import Columns, DataLoader

DTYPES = [
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
]


@pytest.mark.parametrize("shape", [(100,), (100, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_every_dtype_are_gathered_to_the_bit(dtype, shape):
    kind = getattr(torch, dtype)
    row_bytes = torch.empty((1, *shape[1:]), dtype=kind).nbytes
    bits = torch.arange(shape[0] * row_bytes).reshape(shape[0], row_bytes)
    bits = (bits % (2 if kind is torch.bool else 251)).to(torch.uint8)
    rows, places = bits.view(kind).reshape(shape), torch.arange(100)
    whole = Columns(rows, places)
    halves = ConcatDataset(
        [Columns(rows[:40], places[:40]), Columns(rows[40:], places[40:])]
    )
    for data in (whole, halves, Subset(whole, range(100))):
        loader = DataLoader(data, batch_size=7, shuffle=True, seed=3)
        assert loader.path.startswith("batched")
        found = [(bits_of(batch), order) for batch, order in loader]
        order = torch.cat([order for _, order in found])
        assert torch.equal(torch.cat([part for part, _ in found]), bits[order])
        assert sorted(order.tolist()) == list(range(100))


def bits_of(rows: torch.Tensor) -> torch.Tensor:
    return rows.reshape(len(rows), -1).view(torch.uint8)
