"""Changes of images on their way into a batch: cropped, resized, mirrored, recoloured.

What is random is drawn for a whole batch from the samples' keys, before any file is
opened, as numbers that need no image; a row of them and the image's own size then say
what is done. So neither threads nor the order in which files come matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from handful.data.color_jitter import ColorJitter, change_colors
from handful.data.image_decoding import Pixels, opencv
from handful.data.sample_keys import SampleKeys
from handful.errors import ArgumentError

Window: TypeAlias = tuple[int, int, int, int]
"""Top row, left column, height and width."""

Size: TypeAlias = tuple[int, int]
"""Height and width."""


class Crop(Protocol):
    """Says which part of an image is resized to the size of the samples."""

    @property
    def is_random(self) -> bool:
        """Whether it draws for each sample."""
        ...

    def window(self, image: Size, sample: Size, drawn: list[float]) -> Window:
        """Return the part of one image.

        Args:
            image: The image's size.
            sample: The samples' size.
            drawn: Four numbers in ``[0, 1)``; empty if not `is_random`.
        """
        ...


@dataclass(frozen=True)
class CenterCrop:
    """Take the middle of an image, in the proportions of the samples.

    With the default and samples of 224 x 224 it is the part that a resize of the
    shorter side to 256 and a crop of the middle 224 keep, read off in one step.

    Args:
        fraction: Share of the largest such part, in ``(0, 1]``, along each side.

    Raises:
        ArgumentError: The fraction is out of its range.
    """

    fraction: float = 0.875
    is_random = False

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ArgumentError(
                f"fraction must be above 0 and at most 1; got {self.fraction!r}."
            )

    def window(
        self,
        image: Size,
        sample: Size,
        drawn: list[float],  # noqa: ARG002
    ) -> Window:
        """See `Crop.window`."""
        unit = min(image[0] / sample[0], image[1] / sample[1]) * self.fraction
        height, width = (
            min(max(round(length * unit), 1), most)
            for length, most in zip(sample, image, strict=True)
        )
        return (image[0] - height) // 2, (image[1] - width) // 2, height, width


@dataclass(frozen=True)
class RandomResizedCrop:
    """Take a part of random area, proportions and place.

    The crop of Szegedy et al. 2015, "Going deeper with convolutions", section 6: the
    area is drawn evenly, the logarithm of width / height evenly among the proportions
    that fit in the image with this area, and the place evenly. Where none fits, the
    largest part with the nearest proportions is taken, from the middle.

    Args:
        scale: Least and greatest area, as shares of the image, in ``(0, 1]``.
        ratio: Least and greatest width / height of the part.

    Raises:
        ArgumentError: A range is empty or out of bounds.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    is_random = True

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ArgumentError(
                "scale must be two shares of the area, 0 < least <= greatest <= 1; "
                f"got {self.scale!r}."
            )
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ArgumentError(
                "ratio must be two proportions, 0 < least <= greatest; "
                f"got {self.ratio!r}."
            )

    def window(
        self,
        image: Size,
        sample: Size,  # noqa: ARG002
        drawn: list[float],
    ) -> Window:
        """See `Crop.window`."""
        rows, columns = image
        least, greatest = self.scale
        area = rows * columns * (least + drawn[0] * (greatest - least))
        low = max(self.ratio[0], area / rows**2)
        high = min(self.ratio[1], columns**2 / area)
        if low > high:
            return self._largest(image)
        ratio = low * (high / low) ** drawn[1]
        height = min(max(round(math.sqrt(area / ratio)), 1), rows)
        width = min(max(round(math.sqrt(area * ratio)), 1), columns)
        top = int(drawn[2] * (rows - height + 1))
        left = int(drawn[3] * (columns - width + 1))
        return top, left, height, width

    def _largest(self, image: Size) -> Window:
        rows, columns = image
        ratio = min(max(columns / rows, self.ratio[0]), self.ratio[1])
        height = min(rows, max(round(columns / ratio), 1))
        width = min(columns, max(round(rows * ratio), 1))
        return (rows - height) // 2, (columns - width) // 2, height, width


@dataclass(frozen=True)
class ImageChanges:
    """What is done with each image.

    Attributes:
        size: The samples' height and width; None to leave images as large as they are.
        crop: The part that is resized; None for all.
        flip: Probability of mirroring left to right.
        jitter: Random changes of colours; None for none.
        is_fast: Whether OpenCV changes colours where it is installed.
    """

    size: Size | None
    crop: Crop | None = None
    flip: float = 0.0
    jitter: ColorJitter | None = None
    is_fast: bool = True

    @property
    def is_random(self) -> bool:
        """Whether anything is drawn for each sample."""
        is_cropped = self.crop is not None and self.crop.is_random
        return is_cropped or self.flip > 0 or self.jitter is not None

    def draw(self, keys: SampleKeys) -> list[ImageDraws]:
        """Draw what `apply` needs for each sample.

        Args:
            keys: Which samples they are, B of them.

        Returns:
            B draws.
        """
        count = len(keys.indices)
        places: list[list[float]] = [[]] * count
        if self.crop is not None and self.crop.is_random:
            names = ("area", "ratio", "top", "left")
            places = _columns([keys.uniform(f"image crop: {n}") for n in names])
        flips = [False] * count
        if self.flip > 0:
            flips = (keys.uniform("image flip") < self.flip).tolist()
        colors: list[list[float] | None] = [None] * count
        if self.jitter is not None:
            colors = self.jitter.draw(keys).tolist()
        return list(map(ImageDraws, places, flips, colors))

    def apply(self, pixels: Pixels, drawn: ImageDraws) -> Pixels:
        """Change one image.

        Args:
            pixels: Shape ``(H, W, C)``.
            drawn: What was drawn for it.

        Returns:
            The image, shape ``(*size, C)``, contiguous; perhaps the same memory.
        """
        if self.size is not None:
            if self.crop is not None:
                top, left, height, width = self.crop.window(
                    (pixels.shape[0], pixels.shape[1]), self.size, drawn.place
                )
                pixels = pixels[top : top + height, left : left + width]
            pixels = resize(pixels, self.size)
        if drawn.is_flipped:
            pixels = _mirror(pixels, is_fast=self.is_fast)
        if drawn.colors is not None:
            brightness, contrast, saturation, hue = drawn.colors
            colors = brightness, contrast, saturation, hue
            pixels = change_colors(pixels, colors, is_fast=self.is_fast)
        return pixels


@dataclass(frozen=True, slots=True)
class ImageDraws:
    """What was drawn for one sample; by default nothing is changed."""

    place: list[float]
    is_flipped: bool = False
    colors: list[float] | None = None


def resize(pixels: Pixels, size: Size) -> Pixels:
    """Resize an image by a triangle filter, as wide as the pixels of the smaller image.

    It is bilinear interpolation with antialiasing: Pillow's ``BILINEAR``. Three values
    in a thousand differ from Pillow's by 1 level, as both round between rows and
    columns; hardly any by 2, none by more.

    Args:
        pixels: Shape ``(H, W, C)``.
        size: The new height and width.

    Returns:
        The image, contiguous, shape ``(*size, C)``; the same memory if it is so large.
    """
    if pixels.shape[:2] == size:
        return np.ascontiguousarray(pixels)
    height, width, channels = pixels.shape
    row, column, plane = pixels.strides
    # Spelt out, since only with these strides are pixels kept side by side throughout,
    # which takes two thirds of the time.
    planes = torch.from_numpy(pixels).as_strided(
        (1, channels, height, width), (height * row, plane, row, column)
    )
    resized = torch.nn.functional.interpolate(
        planes, size, mode="bilinear", antialias=True, align_corners=False
    )
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _mirror(pixels: Pixels, *, is_fast: bool) -> Pixels:
    cv2 = opencv() if is_fast else None
    if cv2 is None:
        return np.ascontiguousarray(pixels[:, ::-1])
    mirrored: Pixels = cv2.flip(pixels, 1)
    return mirrored.reshape(pixels.shape)


def _columns(drawn: list[Tensor]) -> list[list[float]]:
    rows: list[list[float]] = torch.stack(drawn, 1).tolist()
    return rows
