r"""Arrays that were made of a file, kept so that they need not be made again.

A copy is one file of its own form, in the user's cache or a folder of his choice. It is
mapped into memory when it is read, so that this takes no longer for a large one::

    offset  bytes     meaning
    0       8         89 48 46 4B 45 50 54 0A ("\x89HFKEPT\n")
    8       8         length of the header H, little-endian
    16      32        SHA-256 of the header
    48      H         JSON: which file, what was asked of it, what is said of the
                      arrays, and where each lies
    ...               the arrays' items, little-endian, each from a multiple of 64 on

Nothing in it is a pickle or is evaluated. It is written under a temporary name, flushed
to the disk, and then renamed: whoever reads it at the same time has the old one or the
new one, never a part.

A copy counts while its source has the path, size, times and inode that it had. A source
that was changed less than two seconds before it was read is not copied: where times are
coarse, a second change might not show.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import platformdirs
from numpy.typing import NDArray

from handful import __version__
from handful.errors import ArgumentError

__all__ = ["MOST_BYTES", "Kept", "KeptCopy", "clear_copies", "copies_folder"]

MOST_BYTES = 16 * 2**30
"""How much all copies in a folder may take; those that were not read for longest go."""

FORMAT = 1
SETTLED_SECONDS = 2.0
"""How long a source must have been as it is for a copy to be trusted."""

_MAGIC = b"\x89HFKEPT\n"
_SUFFIX, _PART_SUFFIX = ".kept", ".part"
_HEAD_BYTES = 48
_MOST_HEADER_BYTES = 2**28
_ALIGNMENT = 64
_LEFTOVER_SECONDS = 3600.0
_DTYPES = {name: np.dtype(name) for name in ("<f4", "<f8", "<i8", "<i4", "|u1", "|b1")}

Kept: TypeAlias = "tuple[dict[str, Any], dict[str, NDArray[Any]]]"
"""What is said of arrays, as JSON has it, and the arrays by name."""


@dataclass(frozen=True)
class KeptCopy:
    """The copy of what was read from a file with certain options.

    Attributes:
        source: The file that was read.
        path: Where the copy lies, or will lie.
        options: What was asked for, as JSON.
        state: The source before it was read; see `_look_at`.
        began: The time of that, in seconds.
    """

    source: Path
    path: Path
    options: str
    state: tuple[int, ...]
    began: float

    @staticmethod
    def find(
        source: Path,
        options: Mapping[str, Any],
        cache: bool | str | os.PathLike[str],
    ) -> KeptCopy | None:
        """Return where a copy belongs.

        Args:
            source: The file that is read.
            options: All that decides what is made of it.
            cache: True for the user's cache, or a folder; False for no copy.

        Returns:
            The copy, whether there is one yet or not; None where there can't be one.

        Raises:
            ArgumentError: ``cache`` is neither a bool nor a path.
        """
        if cache is False:
            return None
        folder = copies_folder() if cache is True else _folder(cache)
        began = time.time()
        try:
            state = _look_at(source)
        except OSError:
            return None  # Whoever reads it says what is wrong.
        asked = json.dumps(options, sort_keys=True, default=repr)
        where = f"{os.path.realpath(source)}\0{asked}\0{FORMAT}"
        key = hashlib.sha256(where.encode("utf-8", "surrogateescape")).hexdigest()
        stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in source.stem)
        path = folder / f"{stem[:40]}-{key[:24]}{_SUFFIX}"
        return KeptCopy(source, path, asked, state, began)

    def load(self) -> Kept | None:
        """Return what is kept; None if there is nothing, or it is of another state.

        The arrays are mapped into memory: writing into them changes the memory of this
        process alone. A copy that is damaged is told in a warning.
        """
        try:
            with self.path.open("rb") as file:
                header, begin = _read_header(file)
                if header["about"] != self._about():
                    return None
                content = np.memmap(file, np.uint8, "c")
            found = {
                name: _slice(content, begin, place)
                for name, place in header["arrays"].items()
            }
        except OSError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(
                f"{self.path} must be a copy of {self.source} as it was written; got "
                f"{error or type(error).__name__}. The file is read anew, and the copy "
                "replaced.",
                stacklevel=3,
            )
            return None
        with contextlib.suppress(OSError):
            os.utime(self.path)  # It is the last one to be removed now.
        return header["said"], found

    def keep(self, said: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a copy of arrays, if the source has not changed since `find`.

        What can't be written is told in a warning.

        Args:
            said: What is said of them; plain values.
            arrays: The arrays, C-contiguous or not, of a dtype of `_DTYPES`.
        """
        if not self._is_settled():
            return
        header, places = _make_header(self._about(), said, arrays)
        if len(header) > _MOST_HEADER_BYTES or places > MOST_BYTES:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(self.path, header, arrays.values())
            _make_room(self.path.parent, self.path)
        except OSError as error:
            warnings.warn(
                f"cache must be a folder with room that can be written; got {error}. "
                f"Nothing is kept of {self.source}, which will be read anew.",
                stacklevel=3,
            )

    def _is_settled(self) -> bool:
        try:
            is_same = _look_at(self.source) == self.state
        except OSError:
            return False
        changed = self.state[1] / 1e9
        return is_same and changed < self.began - SETTLED_SECONDS

    def _about(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "handful": __version__,
            "pyarrow": _version("pyarrow"),
            "source": os.path.realpath(self.source),
            "state": list(self.state),
            "options": self.options,
        }


def copies_folder() -> Path:
    """Return the folder of the user's cache for copies; it need not be there."""
    return Path(platformdirs.user_cache_dir("handful"), "copies")


def clear_copies(folder: str | os.PathLike[str] | None = None) -> int:
    """Remove all copies from a folder; other files are left alone.

    Args:
        folder: What ``cache`` was told; None for the user's cache.

    Returns:
        How many bytes they took.
    """
    freed = 0
    where = copies_folder() if folder is None else Path(folder)
    for path, _, size in _list_files(where, (_SUFFIX, _PART_SUFFIX)):
        with contextlib.suppress(OSError):
            path.unlink()
            freed += size
    return freed


def _folder(cache: object) -> Path:
    if isinstance(cache, str | os.PathLike) and os.fspath(cache):
        return Path(cache).expanduser()
    raise ArgumentError(
        f"cache must be True, False or a folder; got {cache!r}. True keeps copies in "
        f"{copies_folder()}."
    )


def _look_at(source: Path) -> tuple[int, ...]:
    """Return size, times in nanoseconds, and place on the disk of a file."""
    seen = source.stat()
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_dev


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _make_header(
    about: Mapping[str, Any],
    said: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
) -> tuple[bytes, int]:
    """Return the header, and how many bytes lie behind it."""
    places, end = {}, 0
    for name, array in arrays.items():
        begin = -(-end // _ALIGNMENT) * _ALIGNMENT
        kind = array.dtype.newbyteorder("<").str
        assert kind in _DTYPES, kind
        places[name] = {"dtype": kind, "shape": list(array.shape), "begin": begin}
        end = begin + array.nbytes
    fields = {"about": about, "said": said, "arrays": places, "bytes": end}
    return json.dumps(fields).encode(), end


def _read_header(file: Any) -> tuple[dict[str, Any], int]:
    """Return the header, checked, and where the arrays begin."""
    head = file.read(_HEAD_BYTES)
    size = int.from_bytes(head[8:16], "little")
    if len(head) < _HEAD_BYTES or head[:8] != _MAGIC or size > _MOST_HEADER_BYTES:
        raise ValueError("another beginning")
    text = file.read(size)
    if hashlib.sha256(text).digest() != head[16:]:
        raise ValueError("another header")
    header = dict(json.loads(text))
    begin = _begin_of_arrays(size)
    if os.fstat(file.fileno()).st_size != begin + header["bytes"]:
        raise ValueError("another size")
    return header, begin


def _slice(
    content: NDArray[np.uint8], begin: int, place: Mapping[str, Any]
) -> NDArray[Any]:
    dtype, shape = _DTYPES[place["dtype"]], tuple(place["shape"])
    first = begin + place["begin"]
    items = content[first : first + math.prod(shape) * dtype.itemsize]
    array: NDArray[Any] = np.asarray(items).view(dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _write(path: Path, header: bytes, arrays: Iterable[NDArray[Any]]) -> None:
    number, name = tempfile.mkstemp(_PART_SUFFIX, f".{path.stem}.", path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(_MAGIC + len(header).to_bytes(8, "little"))
            file.write(hashlib.sha256(header).digest() + header)
            file.write(bytes(_begin_of_arrays(len(header)) - file.tell()))
            for array in arrays:
                file.write(bytes(-file.tell() % _ALIGNMENT))
                kind = array.dtype.newbyteorder("<")
                file.write(
                    np.ascontiguousarray(array, kind).reshape(-1).view("u1").data
                )
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _begin_of_arrays(header_bytes: int) -> int:
    return -(-(_HEAD_BYTES + header_bytes) // _ALIGNMENT) * _ALIGNMENT


def _make_room(folder: Path, newest: Path) -> None:
    """Remove what broken writers left, and the copies that exceed the limit."""
    now = time.time()
    for path, used, _ in _list_files(folder, (_PART_SUFFIX,)):
        if used < now - _LEFTOVER_SECONDS:
            path.unlink(missing_ok=True)
    kept = _list_files(folder, (_SUFFIX,))
    total = sum(size for _, _, size in kept)
    for path, _, size in sorted(kept, key=lambda one: one[1]):
        if total <= MOST_BYTES:
            break
        if path != newest:
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size


def _list_files(
    folder: Path, suffixes: tuple[str, ...]
) -> list[tuple[Path, float, int]]:
    """Return paths, times of last use and sizes of a folder's files."""
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.suffix in suffixes:
                seen = path.stat()
                found.append((path, seen.st_mtime, seen.st_size))
    return found
