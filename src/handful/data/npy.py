r"""Read NumPy's files, ``.npy`` and ``.npz``, without copying where that is possible.

A ``.npy`` file is a header and the items of one array::

    offset  bytes     meaning
    0       6         93 4E 55 4D 50 59 ("\x93NUMPY")
    6       2         version: 1.0, 2.0 or 3.0
    8       2 or 4    length of the header's text H, little-endian (4 from 2.0 on)
    ...     H         a dict literal with descr, fortran_order and shape
    ...     the rest  the items

A ``.npz`` file is a ZIP archive of such files. Items that are Python objects are a
pickle, which could run any code when it is read: they are refused.

Source: NEP 1 of NumPy and the documentation of `numpy.lib.format`.
"""

from __future__ import annotations

import ast
import errno
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from handful.data.columns import Columns, as_column
from handful.errors import DataError, FormatError, unknown_choice

__all__ = ["read_npy", "read_npz"]

MAX_HEADER_BYTES = 1 << 16
"""Longest header that is read; arrays of numbers have some hundred bytes."""

_CHUNK_BYTES = 1 << 20
_MAGIC = b"\x93NUMPY"
_LENGTHS = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}
_KEYS = {"descr", "fortran_order", "shape"}
_LOCAL_HEADER = struct.Struct("<26xHH")
_DAMAGES = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, UnicodeDecodeError),
    *(NotImplementedError, OSError),  # A seek to where no byte can be.
)


@dataclass(frozen=True)
class _Header:
    """What a header says of the items behind it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool
    num_bytes: int

    @property
    def num_item_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.name} of shape {self.shape}"


def read_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Map a ``.npy`` file into memory.

    Nothing is read but the header: the items come from the file when they are used, so
    that the array may be larger than the memory. The file must not change meanwhile.
    An array that is not in the machine's byte order is copied into memory.

    Args:
        path: The file, of an array of numbers or booleans.

    Returns:
        The array, of the shape and dtype that the file has; a memory map is read-only.

    Raises:
        FormatError: There is no such file, or it is none of NumPy's, damaged, cut short
            or too long.
        DataError: It holds objects, texts, dates or records, or a single value.
    """
    path = Path(path)
    _check_file(path, "a .npy file")
    with path.open("rb") as file:
        header = _read_header(file, str(path))
    found = path.stat().st_size - header.num_bytes
    _check_size(found, header, str(path))
    return _map(path, header, header.num_bytes)


def read_npz(
    path: str | os.PathLike[str], names: Sequence[str] | None = None
) -> Columns:
    """Read arrays of a ``.npz`` file into columns.

    What `numpy.savez` wrote is mapped into memory like a ``.npy`` file; what
    `numpy.savez_compressed` wrote is unpacked into memory, and its checksums are
    verified.

    Args:
        path: The file.
        names: Which arrays, in which order; None for all, in the file's order. They
            must have the same length.

    Returns:
        The columns, by their names.

    Raises:
        ArgumentError: There is no array of a name.
        FormatError: There is no such file, or it is no ZIP archive of NumPy's files, is
            damaged or cut short.
        DataError: An array holds objects, texts, dates or records, or a single value,
            or the lengths differ.

    Example:
        >>> np.savez("digits.npz", X=np.zeros((3, 64), np.float32), y=np.arange(3))
        >>> read_npz("digits.npz")
        Columns(X=(3, 64) float32, y=(3,) int64)
    """
    path = Path(path)
    _check_file(path, "a .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            chosen = list(members) if names is None else list(names)
            for name in chosen:
                if name not in members:
                    raise unknown_choice(f"an array of {path}", name, members)
            arrays = {n: _read_member(archive, members[n], path) for n in chosen}
    except _DAMAGES as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # The disk's fault, and not the file's.
        raise FormatError(
            f"{path} must be a whole ZIP archive of arrays, as numpy.savez writes it; "
            f"got damaged or other data ({error}). Replace it by a fresh copy."
        ) from None
    try:
        return Columns(**arrays)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    members = {
        info.filename.removesuffix(".npy"): info
        for info in archive.infolist()
        if info.filename.endswith(".npy")
    }
    if not members:
        raise FormatError(
            f"{path} must hold arrays, as numpy.savez writes them; got none. "
            "Give another archive."
        )
    return members


def _read_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path
) -> NDArray[Any]:
    label = f"{path}, array {info.filename.removesuffix('.npy')!r}"
    is_usual = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if info.flag_bits & 1 or not is_usual:
        raise FormatError(
            f"{label} must be stored or deflated; it is encrypted or packed in another "
            "way. Save it with numpy.savez."
        )
    with archive.open(info) as file:
        header = _read_header(file, label)
        _check_size(info.file_size - header.num_bytes, header, label)
        if info.compress_type != zipfile.ZIP_STORED:
            return _unpack(file, header, label)
    start = _start_of(info, path, label)
    return _map(path, header, start + header.num_bytes)


def _start_of(info: zipfile.ZipInfo, path: Path, label: str) -> int:
    """Return where the bytes of a stored member begin in the archive."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = file.read(_LOCAL_HEADER.size)
        lengths = _LOCAL_HEADER.unpack(local)
    start = int(info.header_offset + _LOCAL_HEADER.size + sum(lengths))
    if start + info.file_size > path.stat().st_size:
        raise FormatError(
            f"{label} must lie within the archive; its end is behind the file's. The "
            "archive is damaged: replace it by a fresh copy."
        )
    return start


def _unpack(file: IO[bytes], header: _Header, label: str) -> NDArray[Any]:
    """Return the items of a compressed member; memory grows with what it holds."""
    items, wanted = bytearray(), header.num_item_bytes
    # One byte more than promised makes the checksum be verified.
    while chunk := file.read(min(_CHUNK_BYTES, wanted + 1 - len(items))):
        items += chunk
    if len(items) != wanted:
        raise FormatError(
            f"{label} must hold {wanted} bytes of items; got another number. The "
            "archive is damaged: replace it by a fresh copy."
        )
    return _shape(np.frombuffer(items, header.dtype), header)


def _map(path: Path, header: _Header, offset: int) -> NDArray[Any]:
    if header.num_item_bytes == 0:  # Nothing of a file can't be mapped.
        return np.empty(header.shape, header.dtype.newbyteorder("="))
    order: Any = "F" if header.is_fortran else "C"
    array: NDArray[Any] = np.memmap(
        path, header.dtype, "r", offset, header.shape, order=order
    )
    return array if header.dtype.isnative else _native(array)


def _shape(items: NDArray[Any], header: _Header) -> NDArray[Any]:
    array = items.reshape(header.shape, order="F" if header.is_fortran else "C")
    return array if header.dtype.isnative else _native(array)


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(array).astype(array.dtype.newbyteorder("="))


def _read_header(file: IO[bytes], label: str) -> _Header:
    start = file.read(8)
    version = (start[6], start[7]) if len(start) == 8 else None
    if start[:6] != _MAGIC or version not in _LENGTHS:
        raise FormatError(
            f"{label} must begin with NumPy's magic number, 93 4E 55 4D 50 59, and the "
            f"version 1.0, 2.0 or 3.0; got {start.hex(' ').upper() or 'no bytes'}. "
            "Give a file that numpy.save wrote."
        )
    layout = _LENGTHS[version]
    length_bytes = file.read(struct.calcsize(layout))
    if len(length_bytes) < struct.calcsize(layout):
        raise _cut(label)
    length = int(struct.unpack(layout, length_bytes)[0])
    if length > MAX_HEADER_BYTES:
        raise FormatError(
            f"{label} must have a header of at most {MAX_HEADER_BYTES} bytes; got one "
            f"of {length}. Give a file of an array of numbers."
        )
    text = file.read(length)
    if len(text) < length:
        raise _cut(label)
    encoding = "utf-8" if version == (3, 0) else "latin-1"
    num_bytes = len(start) + len(length_bytes) + length
    return _parse_header(text, encoding, num_bytes, label)


def _parse_header(text: bytes, encoding: str, num_bytes: int, label: str) -> _Header:
    try:
        values = ast.literal_eval(text.decode(encoding).strip())
        if not isinstance(values, dict) or set(values) != _KEYS:
            raise ValueError(f"its keys must be {', '.join(sorted(_KEYS))}")
        dtype = _parse_dtype(values["descr"], label)
        shape, is_fortran = values["shape"], values["fortran_order"]
        if type(is_fortran) is not bool or not _is_shape(shape):
            raise ValueError("its shape must be sizes from 0 on, its order a boolean")
    except DataError:
        raise
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise FormatError(
            f"{label} must have a header that says dtype, order and shape; got "
            f"{_shorten(text)} ({type(error).__name__}: {error}). "
            "The file is damaged: replace it by a fresh copy."
        ) from None
    if not shape:
        raise DataError(
            f"{label} must have a first dimension, the samples; got a single value. "
            "Save an array of at least one dimension."
        )
    return _Header(dtype, tuple(shape), is_fortran, num_bytes)


def _parse_dtype(descr: Any, label: str) -> np.dtype[Any]:
    """Return the dtype that a header names, if PyTorch knows it."""
    if not isinstance(descr, (str, list, tuple)):
        raise ValueError("its descr must be a dtype")
    dtype = np.dtype(descr)
    if dtype.hasobject:
        raise DataError(
            f"{label} must hold numbers; got Python objects, which are a pickle that "
            "could run any code. Save it with a numeric dtype, and check that all rows "
            "have the same length."
        )
    as_column(np.empty(0, dtype), label)
    return dtype


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= 32
        and all(type(size) is int and 0 <= size < 2**62 for size in shape)
        and math.prod(size or 1 for size in shape) < 2**60
    )


def _check_size(found: int, header: _Header, label: str) -> None:
    if found != header.num_item_bytes:
        raise FormatError(
            f"{label} must hold {header.num_item_bytes} bytes behind its header, which "
            f"promises {header}; got {found}. The file is damaged: replace it by a "
            "fresh copy."
        )


def _check_file(path: Path, what: str) -> None:
    if not path.exists():
        raise FormatError(
            f"{path} must be {what}; there is no such file. Check the path."
        )
    if not path.is_file():
        raise FormatError(f"{path} must be {what}; got a folder. Name a file in it.")


def _cut(label: str) -> FormatError:
    return FormatError(
        f"{label} must have a whole header; the file ends before it. It is cut short: "
        "replace it by a fresh copy."
    )


def _shorten(text: bytes) -> str:
    return repr(text if len(text) <= 60 else text[:57] + b"...")
