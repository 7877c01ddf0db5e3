"""Decoding: the bytes of an image file as pixels of eight bits.

Files are recognised by their content; the name's ending does not matter. What becomes
of each kind:

- JPEG in RGB or grey is decoded by simplejpeg where it is installed, anything else by
  Pillow. Both use libjpeg-turbo and give the same pixels.
- A palette is looked up; CMYK is converted by Pillow's plain formula, without colour
  profiles; of transparency the colours are kept and alpha is left out.
- Sixteen bits become eight, the upper ones. One bit becomes 0 or 255.
- Of an animation the first frame is read.
- EXIF's orientation is applied, so that up is up.
- Three channels are RGB; one is ITU-R 601 luma, L = 0.299 R + 0.587 G + 0.114 B, of a
  JPEG the luma that it stores (up to a few levels from that of its RGB pixels).

Pixels of 32 bits, integers or floats, have no range that is known, and are refused.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from handful.errors import MissingExtraError
from handful.extras import import_extra

Pixels: TypeAlias = NDArray[np.uint8]

MAX_PIXELS = 89_478_485
"""Most pixels of an image unless told otherwise: 256 MiB as RGB, Pillow's own bound."""

_JPEG = b"\xff\xd8\xff"
_BEGINNINGS = {_JPEG: "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"RIFF": "WebP"}
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True)}
_TURNS |= {6: (3, False), 7: (1, True), 8: (1, False)}


class UnreadableImageError(Exception):
    """Says why an image cannot be read; whoever knows the file's name reports it."""


@dataclass(frozen=True)
class ImageDecoder:
    """How files become pixels.

    Attributes:
        channels: 3 for RGB, 1 for grey.
        max_pixels: Images with more are refused before they are decoded.
        is_fast: Whether simplejpeg is used where it is installed.
    """

    channels: int = 3
    max_pixels: int = MAX_PIXELS
    is_fast: bool = True

    def decode(self, data: bytes) -> Pixels:
        """Decode an image.

        Args:
            data: The content of a file.

        Returns:
            Its pixels, uint8, shape ``(H, W, C)``, contiguous, in memory of their own.

        Raises:
            UnreadableImageError: It is damaged, too large or no image.
        """
        if not data:
            raise UnreadableImageError("the file is empty")
        pixels = None
        if self.is_fast and data.startswith(_JPEG):
            pixels = self._decode_jpeg(data)
        return self._decode_any(data) if pixels is None else pixels

    def _decode_jpeg(self, data: bytes) -> Pixels | None:
        """Decode a plain JPEG; None where Pillow must do it, or say what is wrong."""
        jpeg = fast_jpeg()
        if jpeg is None or b"Exif\0" in data[:4096]:
            return None
        try:
            height, width, colours, _ = jpeg.decode_jpeg_header(data)
            if colours not in ("YCbCr", "RGB", "Gray"):
                return None
            self._check_size(width, height)
            kind = "RGB" if self.channels == 3 else "GRAY"
            pixels: Pixels = jpeg.decode_jpeg(data, colorspace=kind)
        except ValueError:
            return None
        return pixels

    def _decode_any(self, data: bytes) -> Pixels:
        pillow = _pillow()
        bombs = (pillow.DecompressionBombError, pillow.DecompressionBombWarning)
        try:
            image = pillow.open(io.BytesIO(data))
            self._check_size(*image.size)
            image.load()
            pixels = _as_bytes(image, self.channels)
            turns, is_mirrored = _TURNS.get(image.getexif().get(_ORIENTATION), (0, 0))
        except bombs as error:
            raise UnreadableImageError(f"it has too many pixels ({error})") from None
        except pillow.UnidentifiedImageError:
            raise UnreadableImageError(_unknown(data)) from None
        except UnreadableImageError:
            raise
        except Exception as error:  # Decoders raise whatever their format suggests.
            raise UnreadableImageError(f"it is damaged ({error})") from None
        pixels = np.rot90(pixels, turns)
        return np.ascontiguousarray(pixels[:, ::-1] if is_mirrored else pixels)

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise UnreadableImageError(
                f"it has {width} x {height} pixels, more than max_pixels="
                f"{self.max_pixels}"
            )


@functools.cache
def fast_jpeg() -> Any | None:
    """Return simplejpeg, or None where it is not installed."""
    try:
        return import_extra("simplejpeg", extra="images", purpose="Fast decoding")
    except MissingExtraError:
        return None


@functools.cache
def opencv() -> Any | None:
    """Return OpenCV, or None where it is not installed."""
    try:
        return import_extra("cv2", extra="images", purpose="Fast handling of pixels")
    except MissingExtraError:
        return None


@functools.cache
def _pillow() -> Any:
    return import_extra("PIL.Image", extra="images", purpose="Reading image files")


def _as_bytes(image: Any, channels: int) -> Pixels:
    """Return a loaded image's pixels, shape ``(H, W, C)``."""
    if image.mode in _DEEP_GREY or (image.mode == "I" and image.format == "PNG"):
        deep = np.asarray(image).astype(np.uint16)
        grey = (deep >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], channels, axis=2)
    if image.mode in ("I", "F"):
        raise UnreadableImageError(
            f"its pixels have 32 bits (Pillow's mode {image.mode!r}), whose range is "
            "not known"
        )
    pixels = np.array(image.convert("RGB" if channels == 3 else "L"))
    return pixels.reshape(image.size[1], image.size[0], channels)


def _unknown(data: bytes) -> str:
    for beginning, kind in _BEGINNINGS.items():
        if data.startswith(beginning):
            return f"it is a damaged {kind} file"
    return f"it is no image of a known format; it begins with {data[:8]!r}"
