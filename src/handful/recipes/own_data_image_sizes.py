"""Which size images of a folder are resized to, told from some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from handful.data.image_decoding import ImageDecoder, UnreadableImageError
from handful.errors import DataError

SAMPLED = 24
"""How many images, evenly spaced among all, are looked at."""

MOST_PIXELS = 64
"""Longest side that is chosen unasked."""


@dataclass(frozen=True)
class ImageShape:
    """What images are resized to.

    Attributes:
        size: Height and width, in pixels.
        channels: 1 for grey, 3 for colour.
        is_own: Whether the images that were looked at are of that size as they are.
    """

    size: tuple[int, int]
    channels: int
    is_own: bool

    @property
    def num_bytes(self) -> int:
        """Bytes of an image in memory."""
        return self.size[0] * self.size[1] * self.channels

    def describe(self) -> str:
        """Return the size in words."""
        how = "of" if self.is_own else "resized to"
        return f"{how} {self.size[1]} x {self.size[0]} pixels"


def choose_shape(paths: Sequence[str]) -> ImageShape:
    """Choose a size and a number of channels for images.

    The size is their own where those looked at are all alike and no side is above
    `MOST_PIXELS`; otherwise a square of the median of their shorter sides, up to that.

    Args:
        paths: The files, one or more.

    Raises:
        DataError: A file that is looked at is no image.
        MissingExtraError: Nothing that reads images is installed.
    """
    places = [len(paths) * i // SAMPLED for i in range(SAMPLED)]
    found = [_look(paths[place]) for place in sorted({*places})]
    channels = 3 if any(is_coloured for _, is_coloured in found) else 1
    sizes = {size for size, _ in found}
    size = found[0][0]
    if len(sizes) == 1 and max(size) <= MOST_PIXELS:
        return ImageShape(size, channels, is_own=True)
    side = min(round(median(min(size) for size, _ in found)), MOST_PIXELS)
    return ImageShape((side, side), channels, is_own=False)


def _look(path: str) -> tuple[tuple[int, int], bool]:
    """Return an image's height and width, and whether it is in colour."""
    try:
        pixels = ImageDecoder(3).decode(Path(path).read_bytes())
    except (UnreadableImageError, OSError) as error:
        raise DataError(
            f"{path} must be an image; it can't be read: {error}. Replace or remove it."
        ) from None
    height, width = pixels.shape[:2]
    is_coloured = bool((pixels != pixels[..., :1]).any())
    return (height, width), is_coloured
