"""Columns: equal-length arrays as a data set."""

from __future__ import annotations

import warnings
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from handful.data.arrow import arrow_chunks, is_arrow, join_chunks
from handful.errors import ArgumentError, DataError

ArrayLike: TypeAlias = "Tensor | NDArray[Any] | Any"


class Columns(Dataset[Any]):
    """Equal-length arrays, read side by side; a map-style data set of PyTorch's.

    ``Columns(X, y)`` has tuples as samples, ``Columns(x=X, y=y)`` dicts. `DataLoader`
    reads it by one gather for many samples; to any other loader it is an ordinary
    data set. The arrays are not copied, except Arrow arrays of several chunks.

    Args:
        *arrays: Tensors, NumPy arrays (memory maps among them), each of shape
            ``(N, …)`` and of a numeric or boolean dtype, or Arrow arrays of such.
        **named: The same, by name. Either all have names or none has.

    Raises:
        ArgumentError: There are none, or some have names and some have not.
        DataError: Lengths differ, or an array has no first dimension or a dtype that
            PyTorch does not know.

    Example:
        >>> data = Columns(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0]))
        >>> len(data), data[1]
        (3, (tensor([2., 3.]), tensor(1)))
    """

    def __init__(self, /, *arrays: ArrayLike, **named: ArrayLike) -> None:
        if bool(arrays) == bool(named):
            raise ArgumentError(
                "Columns must be given arrays, either all with names or all without; "
                f"got {len(arrays)} without and {len(named)} with."
            )
        labels = tuple(named) or tuple(f"array {i}" for i in range(len(arrays)))
        values = tuple(named.values()) or arrays
        self.names: tuple[str, ...] | None = tuple(named) or None
        self.tensors = tuple(
            as_column(value, name) for name, value in zip(labels, values, strict=True)
        )
        check_lengths(dict(zip(labels, self.tensors, strict=True)))

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> Any:
        values = tuple(column[index] for column in self.tensors)
        if self.names is None:
            return values
        return dict(zip(self.names, values, strict=True))

    def __repr__(self) -> str:
        labels = self.names or ("",) * len(self.tensors)
        parts = (
            f"{name}{'=' if name else ''}{tuple(t.shape)} {str(t.dtype)[6:]}"
            for name, t in zip(labels, self.tensors, strict=True)
        )
        return f"Columns({', '.join(parts)})"


def is_array(value: object) -> bool:
    """Say whether a value can be a column: a tensor or an array of some length."""
    return isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0


def as_column(value: object, name: str) -> Tensor:
    """Return an array as a tensor that shares its memory where that is possible.

    Args:
        value: A tensor, a NumPy array, shape ``(N, …)``, or an Arrow array.
        name: What it is called, for errors.

    Returns:
        The tensor, shape ``(N, …)``. A read-only array stays read-only in fact: it is
        never written here.

    Raises:
        DataError: It is no array, has no first dimension, or a dtype without a
            counterpart in PyTorch.
    """
    if is_arrow(value) and hasattr(value, "null_count"):
        return join_chunks(arrow_chunks(value, name))
    if not isinstance(value, (Tensor, np.ndarray)):
        raise DataError(
            f"{name} must be a tensor, a NumPy or an Arrow array; "
            f"got {type(value).__name__}. "
            "Convert it with numpy.asarray."
        )
    if value.ndim == 0:
        raise DataError(f"{name} must have a first dimension, the samples; got none.")
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array)
    try:
        with warnings.catch_warnings():
            # Read-only arrays are only read here.
            warnings.filterwarnings("ignore", message="The given NumPy array is not w")
            return torch.from_numpy(array)
    except TypeError:
        raise DataError(
            f"{name} must be of a dtype that PyTorch knows; got {array.dtype}. "
            "Encode text and objects as numbers first."
        ) from None


def check_lengths(columns: dict[str, Tensor]) -> None:
    """Check that all columns have the same number of samples.

    Raises:
        DataError: They have not.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(
            f"arrays must have the same length; got {listed}. "
            "Row i of each belongs to sample i."
        )
