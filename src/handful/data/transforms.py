"""Transforms of whole batches, which a loader can run on many batches at once.

A column transform reads one element of a batch and treats each sample by itself, so a
`DataLoader` may run it on a chunk of a few thousand samples and cut the result into
batches. However the samples are cut, the bits are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handful.data.sample_keys import SampleKeys
from handful.errors import ArgumentError, DataError, unknown_choice

BLOCK_BYTES = 8 * 2**20
"""Most that a `Chain` makes at a time. More goes through slow fresh memory between its
steps; less costs more calls than it saves."""


class ColumnTransform(ABC):
    """A transform of one element of a batch, sample by sample.

    Whoever makes one of their own gives `output_spec` and `write`. What `write` makes
    of a sample may depend on this sample and its key alone.
    """

    column: int | str = 0
    """Which element of the batch: a position, or a name where the batch is a dict."""

    is_random: bool = False
    """Whether it draws random numbers and so needs the samples' keys."""

    is_elementwise: bool = False
    """Whether `write` works with ``out`` being ``values``, if the dtype is the same."""

    is_pixelwise: bool = False
    """Whether each number depends on the number at its place and its channel alone, the
    samples' first dimension, and the shape stays."""

    @abstractmethod
    def output_spec(
        self, shape: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[tuple[int, ...], torch.dtype]:
        """Return the shape and dtype that a sample will have.

        Args:
            shape: A sample's shape now, without the batch's dimension.
            dtype: Its dtype now.

        Raises:
            DataError: Such samples cannot be transformed.
            ArgumentError: They could be, with other arguments.
        """

    @abstractmethod
    def write(self, values: Tensor, keys: SampleKeys | None, out: Tensor) -> None:
        """Write the transformed samples; `apply` has checked the arguments.

        Args:
            values: The samples, shape ``(B, …)``, B at least 1; left as they are.
            keys: Which samples they are; never None if `is_random`.
            out: Contiguous, of the shape and dtype that `output_spec` says.
        """

    def apply(
        self, values: Tensor, keys: SampleKeys | None = None, out: Tensor | None = None
    ) -> Tensor:
        """Transform samples.

        Args:
            values: The samples, shape ``(B, …)``.
            keys: Which samples they are; needed if `is_random`.
            out: Where to write: contiguous, on the device of ``values``, shape
                ``(B, …)`` and dtype as `output_spec` says. None for a new tensor.

        Returns:
            The transformed samples, ``out`` where it was given.

        Raises:
            DataError: Such samples cannot be transformed.
            ArgumentError: They could be, with other arguments, or keys are missing.
        """
        if self.is_random and keys is None:
            raise ArgumentError(
                f"keys must be given to {self!r}, which draws for each sample; "
                "got None. Pass handful.data.sample_keys.SampleKeys."
            )
        shape, dtype = self.output_spec(tuple(values.shape[1:]), values.dtype)
        if out is None:
            out = values.new_empty((len(values), *shape), dtype=dtype)
        assert out.shape == (len(values), *shape)
        assert out.dtype is dtype
        if len(values) > 0:
            self.write(values, keys, out)
        return out

    def __call__(self, batch: Any, keys: SampleKeys | None = None) -> Any:
        """Transform the column of a batch.

        Args:
            batch: A tensor, a list, a tuple or a dict of them; left as it is.
            keys: Which samples it holds; needed if `is_random`.

        Returns:
            A batch of the same type; its other elements are the same objects.

        Raises:
            DataError: The batch or its column cannot be transformed.
            ArgumentError: The batch has no such column, or keys are missing.
        """
        if isinstance(batch, Tensor):
            locate_column(self.column, None, 1)
            return self.apply(batch, keys)
        if isinstance(batch, Mapping):
            name = [*batch][locate_column(self.column, tuple(batch), len(batch))]
            return {**batch, name: self.apply(self._tensor(batch[name]), keys)}
        if not isinstance(batch, (list, tuple)):
            raise DataError(
                "batch must be a tensor, a list, a tuple or a dict; "
                f"got {type(batch).__name__}."
            )
        values = list(batch)
        position = locate_column(self.column, None, len(values))
        values[position] = self.apply(self._tensor(values[position]), keys)
        make = getattr(type(batch), "_make", type(batch))  # A named tuple has _make.
        return make(values)

    def _tensor(self, value: object) -> Tensor:
        if isinstance(value, Tensor):
            return value
        raise DataError(
            f"column {self.column!r} must be a tensor; got {type(value).__name__}."
        )


def locate_column(
    column: int | str, names: Sequence[str] | None, num_columns: int
) -> int:
    """Return the position of a column.

    Args:
        column: Its name where columns have names, else its position.
        names: The columns' names, or None.
        num_columns: How many there are.

    Raises:
        ArgumentError: There is no such column.
    """
    if names is None:
        if isinstance(column, int) and 0 <= column < num_columns:
            return column
        raise ArgumentError(
            f"column must be a position below {num_columns}, since the batch has no "
            f"names; got {column!r}."
        )
    if column not in names:
        raise unknown_choice("column", column, map(str, names))
    return [*names].index(str(column))


@dataclass(frozen=True)
class ScaleBytes(ColumnTransform):
    """Turn bytes into numbers from 0 to 1: uint8 to float32, divided by 255.

    The same bits as torchvision's ``ToTensor`` gives for each image.

    Args:
        column: Which element of the batch.

    Example:
        >>> ScaleBytes()([torch.tensor([[0, 51, 255]], dtype=torch.uint8), "labels"])
        [tensor([[0.0000, 0.2000, 1.0000]]), 'labels']
    """

    column: int | str = 0
    is_pixelwise = True

    def output_spec(
        self, shape: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[tuple[int, ...], torch.dtype]:
        """See `ColumnTransform.output_spec`."""
        if dtype is not torch.uint8:
            raise DataError(
                f"column {self.column!r} must be uint8 for ScaleBytes; got {dtype}. "
                "Leave ScaleBytes out for values that are no bytes."
            )
        return shape, torch.float32

    def write(
        self,
        values: Tensor,
        keys: SampleKeys | None,  # noqa: ARG002
        out: Tensor,
    ) -> None:
        """See `ColumnTransform.write`."""
        # Multiplying by 1/255 gives other bits for half of the byte values, which is
        # what CUDA does when it divides by a number instead of a tensor; a table of
        # the 256 results takes four times as long.
        out.copy_(values).div_(out.new_full((), 255))


@dataclass(frozen=True)
class Normalize(ColumnTransform):
    """Subtract a mean, then divide by a standard deviation, in float32.

    Args:
        mean: A number, or one for each channel, the samples' first dimension.
        std: The same, above 0.
        column: Which element of the batch.

    Raises:
        ArgumentError: A mean is not finite, a standard deviation is not above 0, or
            there are several of both but not equally many.

    Example:
        >>> Normalize(mean=[1, 2], std=0.5)(torch.ones(1, 2, 3))
        tensor([[[ 0.,  0.,  0.],
                 [-2., -2., -2.]]])
    """

    mean: float | Sequence[float]
    std: float | Sequence[float]
    column: int | str = 0
    is_elementwise = True
    is_pixelwise = True

    def __post_init__(self) -> None:
        mean, std = _numbers(self.mean), _numbers(self.std)
        if not np.isfinite(mean).all():
            raise ArgumentError(f"mean must be finite; got {self.mean!r}.")
        if not (np.isfinite(std).all() and (np.array(std, np.float32) > 0).all()):
            raise ArgumentError(f"std must be above 0 in float32; got {self.std!r}.")
        if len({len(mean), len(std)} - {1}) > 1:
            raise ArgumentError(
                "mean and std must have one number for each channel; "
                f"got {len(mean)} and {len(std)}."
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    def output_spec(
        self, shape: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[tuple[int, ...], torch.dtype]:
        """See `ColumnTransform.output_spec`."""
        if dtype is not torch.float32:
            raise DataError(
                f"column {self.column!r} must be float32 for Normalize; got {dtype}. "
                "Put ScaleBytes before it for bytes; convert other values beforehand."
            )
        num_channels = max(len(_numbers(self.mean)), len(_numbers(self.std)))
        if num_channels > 1 and shape[:1] != (num_channels,):
            raise DataError(
                f"column {self.column!r} must have {num_channels} channels, as many "
                f"as Normalize has numbers; got samples of shape {shape}."
            )
        return shape, dtype

    def write(
        self,
        values: Tensor,
        keys: SampleKeys | None,  # noqa: ARG002
        out: Tensor,
    ) -> None:
        """See `ColumnTransform.write`."""
        mean, std = (
            values.new_tensor(numbers).view(-1, *(1,) * max(values.ndim - 2, 0))
            for numbers in (self.mean, self.std)
        )
        torch.sub(values, mean, out=out).div_(std)


class Chain(ColumnTransform):
    """Several transforms of one column, one after the other.

    The samples go through all steps some 8 MiB at a time, and elementwise steps work
    in place where they can: less memory is touched, and the bits are the same.

    Args:
        *transforms: Of the same column.

    Raises:
        ArgumentError: There are none, their columns differ, or one is no column
            transform.

    Example:
        >>> Chain(ScaleBytes(), Normalize(0.5, 0.5))
        Chain(ScaleBytes(column=0), Normalize(mean=(0.5,), std=(0.5,), column=0))
    """

    def __init__(self, *transforms: ColumnTransform) -> None:
        if not transforms:
            raise ArgumentError("transforms must be one or more; got none.")
        for transform in transforms:
            if not isinstance(transform, ColumnTransform):
                raise ArgumentError(
                    "transforms must be column transforms; got "
                    f"{transform!r}. Call others in a function of the batch."
                )
        columns = {repr(transform.column) for transform in transforms}
        if len(columns) > 1:
            raise ArgumentError(
                "transforms must be of the same column; got columns "
                f"{', '.join(sorted(columns))}. Make a chain for each."
            )
        self.transforms = transforms
        self.column = transforms[0].column
        self.is_random = any(t.is_random for t in transforms)
        self.is_elementwise = all(t.is_elementwise for t in transforms)
        self.is_pixelwise = all(t.is_pixelwise for t in transforms)

    def output_spec(
        self, shape: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[tuple[int, ...], torch.dtype]:
        """See `ColumnTransform.output_spec`."""
        for transform in self.transforms:
            shape, dtype = transform.output_spec(shape, dtype)
        return shape, dtype

    def write(self, values: Tensor, keys: SampleKeys | None, out: Tensor) -> None:
        """See `ColumnTransform.write`."""
        rows = max(BLOCK_BYTES // max(out[:1].nbytes, 1), 1)
        for start in range(0, len(values), rows):
            part = slice(start, start + rows)
            part_keys = None if keys is None else keys[part]
            self._write_block(values[part], part_keys, out[part])

    def _write_block(
        self, values: Tensor, keys: SampleKeys | None, out: Tensor
    ) -> None:
        spec = tuple(out.shape[1:]), out.dtype
        for position, step in enumerate(self.transforms):
            later = self.transforms[position + 1 :]
            made = step.output_spec(tuple(values.shape[1:]), values.dtype)
            # Only steps that may work in place can come after one that wrote there.
            ends_here = made == spec and all(t.is_elementwise for t in later)
            values = step.apply(values, keys, out if ends_here else None)
        assert values is out

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.transforms))})"


def _numbers(value: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(np.asarray(value, dtype=np.float64).reshape(-1).tolist())
