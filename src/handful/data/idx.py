"""Read IDX files, the format of MNIST and its relatives.

An IDX file is a header and the items of one array, all big-endian::

    offset  bytes     meaning
    0       2         zero
    2       1         type code: 08 uint8, 09 int8, 0B int16, 0C int32,
                      0D float32, 0E float64
    3       1         number of dimensions D, 1..255
    4       4 each    D sizes, uint32
    4+4D    the rest  the items, last dimension fastest

Source: the description under "The IDX file format" on the page of the MNIST database
(LeCun, Cortes and Burges, 1998).
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from handful.errors import FormatError

__all__ = ["read_idx"]

_DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(np.uint8),
    0x09: np.dtype(np.int8),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Header:
    """What an IDX header says about the items behind it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def num_item_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return _describe(self.dtype, self.shape)


def read_idx(
    path: str | os.PathLike[str],
    *,
    expect_shape: tuple[int | None, ...] | None = None,
    expect_dtype: npt.DTypeLike | None = None,
) -> npt.NDArray[Any]:
    """Read an IDX file, plain or compressed with gzip, into an array.

    Whether the file is compressed is decided by its first two bytes, not by its name.
    Memory grows with what the file really holds, never with what its header claims: a
    short file that declares a huge array is refused, and no more than one byte past
    the declared items is decompressed.

    Args:
        path: The file.
        expect_shape: The shape that the caller can use; ``None`` stands for any size
            of that dimension. Checked before any item is read.
        expect_dtype: The dtype that the caller can use. Checked likewise.

    Returns:
        The items, of the declared shape, in the machine's byte order, C-contiguous and
        writable.

    Raises:
        FormatError: The file is not IDX, is damaged, cut short or too long, or holds
            another shape or dtype than expected.
        OSError: The file does not exist, is a directory or cannot be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        if file.peek(2)[:2] != _GZIP_MAGIC:
            return _read_array(file, path, expect_shape, expect_dtype)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return _read_array(stream, path, expect_shape, expect_dtype)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise FormatError(
                f"{path} must be whole gzip data; got damaged data ({error}). "
                "Replace the file by a fresh copy."
            ) from error


def _read_array(
    stream: _Stream,
    path: Path,
    expect_shape: tuple[int | None, ...] | None,
    expect_dtype: npt.DTypeLike | None,
) -> npt.NDArray[Any]:
    header = _read_header(stream, path)
    _check_expected(header, path, expect_shape, expect_dtype)
    # One byte more than promised shows what follows and, at the end of gzip data,
    # makes the checksum be verified.
    items = _read_up_to(stream, header.num_item_bytes + 1)
    if len(items) != header.num_item_bytes:
        is_longer = len(items) > header.num_item_bytes
        raise FormatError(
            f"{path} must hold {header.num_item_bytes} bytes after its header, which "
            f"promises {header}; got {'more' if is_longer else len(items)}. The file "
            "is damaged: replace it by a fresh copy."
        )
    return _as_array(items, header, path)


def _read_header(stream: _Stream, path: Path) -> _Header:
    magic = bytes(_read_up_to(stream, 4))
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[3] == 0:
        raise FormatError(
            f"{path} must begin with an IDX magic number (two zero bytes, a type code, "
            f"a number of dimensions from 1 to 255); got {_hex(magic)}. Give a file in "
            "IDX format, plain or compressed with gzip."
        )
    if magic[2] not in _DTYPES:
        codes = ", ".join(f"{code:02X} {d.name}" for code, d in _DTYPES.items())
        raise FormatError(
            f"{path} must have one of IDX's type codes ({codes}) as its third byte; "
            f"got {magic[2]:02X}."
        )
    num_dims = magic[3]
    sizes = _read_up_to(stream, 4 * num_dims)
    if len(sizes) < 4 * num_dims:
        raise FormatError(
            f"{path} must have a header of {4 + 4 * num_dims} bytes for {num_dims} "
            f"dimensions; got {4 + len(sizes)} bytes. The file is cut short: replace "
            "it by a fresh copy."
        )
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    return _Header(_DTYPES[magic[2]], shape)


def _check_expected(
    header: _Header,
    path: Path,
    shape: tuple[int | None, ...] | None,
    dtype: npt.DTypeLike | None,
) -> None:
    wanted_dtype = header.dtype if dtype is None else np.dtype(dtype)
    wanted_shape = header.shape if shape is None else shape
    is_wanted = (
        header.dtype.newbyteorder("=") == wanted_dtype.newbyteorder("=")
        and len(header.shape) == len(wanted_shape)
        and all(w in (None, s) for w, s in zip(wanted_shape, header.shape, strict=True))
    )
    if not is_wanted:
        raise FormatError(
            f"{path} must hold {_describe(wanted_dtype, wanted_shape)}; got {header}."
        )


def _read_up_to(stream: _Stream, num_bytes: int) -> bytearray:
    found = bytearray()
    while len(found) < num_bytes:
        chunk = stream.read(min(_CHUNK_BYTES, num_bytes - len(found)))
        if not chunk:
            break
        found += chunk
    return found


def _as_array(items: bytearray, header: _Header, path: Path) -> npt.NDArray[Any]:
    array = np.frombuffer(items, header.dtype)
    if not array.dtype.isnative:
        array = array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))
    try:
        return array.reshape(header.shape)
    except ValueError as error:
        raise FormatError(
            f"{path} must have a shape that NumPy can hold; got {len(header.shape)} "
            f"dimensions ({error})."
        ) from error


def _describe(dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> str:
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    return f"{dtype.name} of shape ({sizes}{',' if len(shape) == 1 else ''})"


def _hex(start: bytes) -> str:
    return start.hex(" ").upper() if start else "an empty file"
