"""Random changes of images, drawn for each sample from its key."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from handful.data.sample_keys import SampleKeys
from handful.data.transforms import ColumnTransform
from handful.errors import ArgumentError, DataError


@dataclass(frozen=True)
class RandomHorizontalFlip(ColumnTransform):
    """Mirror images left to right, each with some probability.

    Args:
        p: Probability, in ``[0, 1]``.
        column: Which element of the batch: images of shape ``(B, C, H, W)`` or
            ``(B, H, W)``, of any dtype.
        stream: Names the random numbers. Flips with the same one choose alike for a
            sample, as an image and its mask must; others independently.

    Raises:
        ArgumentError: ``p`` is not in ``[0, 1]``.
    """

    p: float = 0.5
    column: int | str = 0
    stream: str = "flip"
    is_random = True

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ArgumentError(f"p must be from 0 to 1; got {self.p!r}.")

    def output_spec(
        self, shape: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[tuple[int, ...], torch.dtype]:
        """See `ColumnTransform.output_spec`."""
        _check_images(self, shape)
        return shape, dtype

    def write(self, values: Tensor, keys: SampleKeys | None, out: Tensor) -> None:
        """See `ColumnTransform.write`."""
        assert keys is not None
        flipped = (keys.uniform(self.stream) < self.p).nonzero().squeeze(1)
        # One gather from the images and the mirrored ones behind them is faster than
        # writing the mirrored ones between the others.
        order = torch.arange(len(values))
        order[flipped] = torch.arange(len(values), len(values) + len(flipped))
        mirrored = values.index_select(0, flipped.to(values.device)).flip(-1)
        pool = torch.cat([values, mirrored])
        torch.index_select(pool, 0, order.to(values.device), out=out)


@dataclass(frozen=True)
class RandomCrop(ColumnTransform):
    """Cut a window out of each image, at a random place, all places equally likely.

    Args:
        size: Height and width of the window; one number for a square.
        padding: Rows and columns of zeros put around each image before.
        column: Which element of the batch: images of shape ``(B, C, H, W)`` or
            ``(B, H, W)``, of any dtype.
        stream: Names the random numbers. Crops with the same one choose alike for a
            sample, as an image and its mask must; others independently.

    Raises:
        ArgumentError: A size is below 1 or the padding below 0.
    """

    size: int | tuple[int, int]
    padding: int = 0
    column: int | str = 0
    stream: str = "crop"
    is_random = True

    def __post_init__(self) -> None:
        if len(self._window) != 2 or min(self._window) < 1:
            raise ArgumentError(
                "size must be a number from 1 on, or a height and a width; "
                f"got {self.size!r}."
            )
        if self.padding < 0:
            raise ArgumentError(f"padding must be 0 or more; got {self.padding!r}.")

    @property
    def _window(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def output_spec(
        self, shape: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[tuple[int, ...], torch.dtype]:
        """See `ColumnTransform.output_spec`."""
        _check_images(self, shape)
        height, width = self._window
        rows, columns = (length + 2 * self.padding for length in shape[-2:])
        if height > rows or width > columns:
            raise ArgumentError(
                f"size must be at most {rows} x {columns}, the image with its "
                f"padding; got {height} x {width}. Pad more, or crop less."
            )
        return (*shape[:-2], height, width), dtype

    def write(self, values: Tensor, keys: SampleKeys | None, out: Tensor) -> None:
        """See `ColumnTransform.write`."""
        assert keys is not None
        height, width = self._window
        images = _pad(values.reshape(len(values), -1, *values.shape[-2:]), self.padding)
        num_channels, rows, columns = images.shape[1:]
        top = keys.integers(rows - height + 1, f"{self.stream}: top")
        left = keys.integers(columns - width + 1, f"{self.stream}: left")
        starts = torch.arange(len(images)) * images[0].numel() + top * columns + left
        # A view of every window that begins anywhere in memory: one gather is all.
        extent = ((num_channels - 1) * rows + height - 1) * columns + width
        windows = images.as_strided(
            (images.numel() - extent + 1, num_channels, height, width),
            (1, rows * columns, columns, 1),
        )
        window_out = out.view(len(out), num_channels, height, width)
        torch.index_select(windows, 0, starts.to(values.device), out=window_out)


def _check_images(transform: ColumnTransform, shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3) or 0 in shape:
        raise DataError(
            f"column {transform.column!r} must hold images of shape (H, W) or "
            f"(C, H, W) for {type(transform).__name__}; got samples of shape {shape}."
        )


def _pad(images: Tensor, padding: int) -> Tensor:
    """Return images with zeros around them, contiguous; themselves where possible."""
    if padding == 0:
        return images.contiguous()
    num_images, num_channels, height, width = images.shape
    padded = images.new_zeros(
        (num_images, num_channels, height + 2 * padding, width + 2 * padding)
    )
    padded[..., padding:-padding, padding:-padding] = images
    return padded
