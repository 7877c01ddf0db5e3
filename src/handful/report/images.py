"""A sheet of images with their titles."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from handful.errors import ArgumentError, DataError
from handful.runs.files import write_atomic

__all__ = ["draw_image_grid"]

MOST_IMAGES = 36
"""As many images as one sheet shows."""

_INCHES = 8.0
_DPI = 200


def draw_image_grid(
    images: NDArray[Any],
    titles: Sequence[str],
    path: str | Path,
    *,
    columns: int | None = None,
) -> Path:
    """Draw images in rows, each under its title, into a PNG file.

    Of more than 36 images the first 36 are drawn, and the sheet says so. Values of
    ``uint8`` are shown as they are, 0 black and 255 white; others are scaled from the
    least to the greatest value of the images drawn, and the sheet names the two.

    Args:
        images: Shape ``(N, H, W)``, ``(N, 1, H, W)``, ``(N, 3, H, W)`` or
            ``(N, H, W, 3)``, N at least 1. Of ``(N, 3, H, 3)`` the first 3 is taken for
            the channels.
        titles: One for each image; an empty one leaves its place free.
        path: The file; its folder exists.
        columns: Images a row, from 1 on; None for a square sheet.

    Returns:
        The file. It is written whole or not at all.

    Raises:
        ArgumentError: The images have another shape, there are none, the titles are
            not as many, or ``columns`` is below 1.
        DataError: An image has a value that is not finite.
        OSError: The file cannot be written.
    """
    images = to_channels_last(np.asarray(images))
    if len(titles) != len(images):
        raise ArgumentError(
            f"titles must be as many as images, {len(images)}; got {len(titles)}."
        )
    if columns is not None and columns < 1:
        raise ArgumentError(f"columns must be a whole number from 1 on; got {columns}.")
    shown = images[:MOST_IMAGES]
    pixels, note = to_pixels(shown)
    if len(images) > len(shown):
        note.insert(0, f"the first {len(shown)} of {len(images)} images")
    columns = min(len(shown), columns or math.ceil(math.sqrt(len(shown))))
    figure = draw_grid(pixels, titles, columns, "; ".join(note))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    file = Path(path)
    write_atomic(file, buffer.getvalue())
    return file


def draw_grid(
    pixels: NDArray[np.uint8], titles: Sequence[str], columns: int, note: str
) -> Figure:
    """Draw on one panel that covers the figure and is measured in inches."""
    rows = -(-len(pixels) // columns)
    cell = _INCHES / max(columns, 3)
    longest = max(map(len, titles[: len(pixels)]))
    # In points: a letter is about 0.6 of the font's size wide.
    font_size = min(11.0, 6 * cell, 72 * cell / (0.6 * max(1, longest)))
    title_height = 2 * font_size / 72
    image_width = 0.92 * cell
    image_height = image_width * pixels.shape[1] / pixels.shape[2]
    foot = 0.3 if note else 0.05
    width, height = columns * cell, rows * (image_height + title_height) + foot
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for place, (image, title) in enumerate(zip(pixels, titles, strict=False)):
        row, column = divmod(place, columns)
        left = (column + 0.04) * cell
        top = height - row * (image_height + title_height) - title_height
        axes.imshow(
            image,
            cmap="gray",
            vmin=0,
            vmax=255,
            interpolation="nearest",
            extent=(left, left + image_width, top - image_height, top),
        )
        axes.text(
            left + image_width / 2,
            top + 0.4 * font_size / 72,
            title,
            fontsize=font_size,
            parse_math=False,
            ha="center",
        )
    axes.set(xlim=(0, width), ylim=(0, height), aspect="auto")
    if note:
        axes.text(width / 2, 0.1, f"Shown: {note}.", ha="center", fontsize=8)
    return figure


def to_channels_last(images: NDArray[Any]) -> NDArray[Any]:
    """Return images of shape ``(N, H, W)`` or ``(N, H, W, 3)``."""
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    elif images.ndim == 4 and images.shape[1] == 3:
        images = images.transpose(0, 2, 3, 1)
    is_known = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if not is_known or 0 in images.shape:
        raise ArgumentError(
            "images must have the shape (N, H, W), (N, 1, H, W), (N, 3, H, W) or "
            f"(N, H, W, 3), with N from 1 on; got {images.shape}."
        )
    return images


def to_pixels(images: NDArray[Any]) -> tuple[NDArray[np.uint8], list[str]]:
    """Return the images in 0 to 255, and what was done to get there."""
    if images.dtype == np.uint8:
        return images, []
    values = images.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("images must be finite; got values that are NaN or infinite.")
    low, high = values.min(), values.max()
    scaled = (values - low) * (255 / (high - low) if high > low else 0.0)
    note = f"values from {low:.4g} (black) to {high:.4g} (white)"
    return np.rint(scaled).astype(np.uint8), [note]
