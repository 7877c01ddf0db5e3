"""Columns: equal-length arrays as a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader

from handful import Columns
from handful.errors import ArgumentError, DataError


def test_samples_are_tuples_without_names_and_dicts_with() -> None:
    x, y = torch.arange(6.0).reshape(3, 2), torch.tensor([5, 6, 7])
    assert [v.tolist() for v in Columns(x, y)[1]] == [[2.0, 3.0], 6]
    named = Columns(x=x, y=y)[2]
    assert {k: v.tolist() for k, v in named.items()} == {"x": [4.0, 5.0], "y": 7}


def test_arrays_are_shared_not_copied() -> None:
    array = np.zeros((3, 2), np.float32)
    columns = Columns(array)
    array[1, 1] = 4
    assert columns[1][0].tolist() == [0, 4]


def test_memory_maps_open_read_only(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(6).reshape(3, 2))
    columns = Columns(np.load(path, mmap_mode="r"))
    assert columns[2][0].tolist() == [4, 5]


def test_big_endian_and_reversed_arrays_keep_their_values() -> None:
    big = np.arange(4, dtype=">i4")
    assert Columns(big)[3][0].item() == 3
    assert Columns(np.arange(4)[::-1])[0][0].item() == 3


def test_pytorchs_own_loader_reads_columns() -> None:
    columns = Columns(x=torch.arange(4), y=torch.arange(4.0))
    first = next(iter(TorchDataLoader(columns, batch_size=3)))
    assert first["x"].tolist() == [0, 1, 2]


def test_different_lengths_are_refused_with_both() -> None:
    with pytest.raises(DataError, match="same length; got x 3, y 4"):
        Columns(x=np.zeros(3), y=np.zeros(4))


def test_text_arrays_are_refused() -> None:
    with pytest.raises(DataError, match="array 0 must be of a dtype"):
        Columns(np.array(["a", "b"]))


def test_values_without_samples_are_refused() -> None:
    with pytest.raises(DataError, match="array 1 must have a first dimension"):
        Columns(np.zeros(2), np.array(3.0))
    with pytest.raises(
        DataError, match="array 0 must be a tensor, a NumPy or an Arrow"
    ):
        Columns([1, 2])  # type: ignore[arg-type]


def test_names_are_all_or_none() -> None:
    with pytest.raises(ArgumentError, match="got 1 without and 1 with"):
        Columns(np.zeros(2), y=np.zeros(2))
    with pytest.raises(ArgumentError, match="got 0 without and 0 with"):
        Columns()


def test_repr_tells_shapes_and_dtypes() -> None:
    text = repr(Columns(x=torch.zeros(2, 3), y=torch.zeros(2, dtype=torch.uint8)))
    assert text == "Columns(x=(2, 3) float32, y=(2,) uint8)"
