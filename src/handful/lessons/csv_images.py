"""Images listed in a CSV file, read when they are asked for."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from handful.errors import DataError, FormatError, MissingDataError

HEADER = ("file", "label")
LABELS_FILE = "labels.csv"

Sample = tuple[Any, int]
Transform = Callable[[Any], Any]


class CsvImages(Dataset[Sample]):
    """Images whose names and labels stand in a CSV file.

    The file, with a heading, is read at once; an image only when it is asked for.

    Args:
        csv_file: Each line has the image's path, relative to `root`, and its label, a
            whole number from 0 on.
        root: The images' folder.
        transform: Applied to an image, uint8 of shape ``(H, W)`` or ``(H, W, C)``.

    Attributes:
        labels: All labels, in the file's order.

    Raises:
        MissingDataError: There is no such file.
        FormatError: A line has no path and no such label, or there are no lines.
    """

    def __init__(
        self, csv_file: Path, root: Path, transform: Transform | None = None
    ) -> None:
        entries = _read_entries(csv_file)
        self.paths = [root / name for name, _ in entries]
        self.labels = [label for _, label in entries]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        image: Any = read_image(self.paths[index])
        if self.transform is not None:
            image = self.transform(image)
        return image, self.labels[index]


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image, grey or in colour.

    Returns:
        Shape ``(H, W)`` if it is grey, else ``(H, W, 3)``, 0 to 255.

    Raises:
        DataError: There is no such file, or it is no image.
    """
    try:
        with Image.open(path) as image:
            grey = image.mode in ("1", "L", "LA")
            return np.asarray(image.convert("L" if grey else "RGB"), np.uint8)
    except FileNotFoundError:
        raise DataError(
            f"{path} must exist; the CSV file lists it. "
            "Paths there are relative to the CSV file's folder."
        ) from None
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(
            f"{path} must be an image; it cannot be read: {error}."
        ) from None


def _read_entries(csv_file: Path) -> list[tuple[str, int]]:
    try:
        with csv_file.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except OSError as error:
        raise MissingDataError(
            f"{csv_file} cannot be read: {error.strerror}."
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{csv_file} must be a CSV file in UTF-8: {error}.") from None
    entries = [
        _read_entry(csv_file, number, line)
        for number, line in enumerate(lines[1:], start=2)
        if line
    ]
    if not entries:
        raise FormatError(
            f"{csv_file} must list at least one image below its heading; it has none."
        )
    return entries


def _read_entry(csv_file: Path, number: int, line: Sequence[str]) -> tuple[str, int]:
    label = line[1].strip() if len(line) > 1 else ""
    if not (label.isascii() and label.isdigit()):
        raise FormatError(
            f"{csv_file}, line {number} must be an image's path and its label, a whole "
            f"number from 0 on; got {','.join(line)!r}."
        )
    return line[0], int(label)


class Compose:
    """Several transforms, one after another.

    Args:
        *transforms: The first is applied first.
    """

    def __init__(self, *transforms: Transform) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        """Return the transformed image."""
        return reduce(lambda value, transform: transform(value), self.transforms, image)


def to_float(image: NDArray[np.uint8]) -> Tensor:
    """Return an image as float32 in [0, 1], channels first.

    Args:
        image: Shape ``(H, W)`` or ``(H, W, C)``, 0 to 255.

    Returns:
        Shape ``(1, H, W)`` or ``(C, H, W)``.
    """
    channels = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return torch.from_numpy(channels.astype(np.float32) / np.float32(255))


class Normalise:
    """Shift and scale: ``(value - mean) / std``.

    Args:
        mean: What is subtracted.
        std: What the difference is divided by; not 0.
    """

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def __call__(self, image: Tensor) -> Tensor:
        """Return the normalised image, of the same shape."""
        return (image - self.mean) / self.std


TRANSFORM = Compose(to_float, Normalise(0.5, 0.5))
"""From 0 to 255 to -1 to 1, channels first."""


def write_images(
    images: NDArray[np.uint8], labels: NDArray[np.integer], folder: Path
) -> Path:
    """Write images as PNG files and list them in a CSV file.

    Args:
        images: Shape ``(N, H, W)``.
        labels: Shape ``(N,)``.
        folder: An existing folder; the images go below it, into ``images``.

    Returns:
        The CSV file.
    """
    (folder / "images").mkdir()
    names = [f"images/{number:05}.png" for number in range(len(images))]
    for image, name in zip(images, names, strict=True):
        Image.fromarray(image).save(folder / name)
    table = folder / LABELS_FILE
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(zip(names, labels.tolist(), strict=True))
    return table
