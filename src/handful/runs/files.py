"""Writing files so that a reader finds the old content or the new, never a part."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from io import RawIOBase
from pathlib import Path
from typing import Any

from handful.errors import RunError

NONFINITE_KEY = "$float"
"""JSON has no NaN or infinity: they are written ``{"$float": "nan"}``."""


_ENCODER = json.JSONEncoder(allow_nan=False)


def write_atomic(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file under a temporary name, flush it to the disk, then rename it.

    Args:
        path: Where the content shall lie; its folder exists.
        content: The whole content.
        sync: Whether to wait until the disk has it. Without, a loss of power may leave
            the file empty; see `sync_file`.

    Raises:
        OSError: It could not be written; ``path`` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_synced(path: Path, content: bytes) -> None:
    """Write a file in a folder that nobody reads yet; wait until the disk has it.

    Raises:
        OSError: It could not be written; a part of it may be left.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


class GrowingFile:
    """A file that whole entries are added to, and never a part of one.

    What the disk refuses, for want of room perhaps, waits in memory and is written
    with the next entry.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: RawIOBase | None = None
        self._size = 0
        self._pending = b""

    def add(self, entry: bytes) -> None:
        """Add an entry, after those that wait.

        Raises:
            OSError: It could not be written; it waits, and the file is as it was.
        """
        self._pending += entry
        file = self._open()
        try:
            file.seek(self._size)
            _write_whole(file, self._pending)
        except OSError:
            with suppress(OSError):
                file.truncate(self._size)
            raise
        self._size += len(self._pending)
        self._pending = b""

    def replace_start(self, content: bytes) -> None:
        """Write over the first bytes of the file.

        Raises:
            OSError: They could not be written.
        """
        file = self._open()
        file.seek(0)
        _write_whole(file, content)

    def close(self) -> None:
        """Close the file; the next entry opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> RawIOBase:
        if self._file is None:
            self._path.touch()
            self._file = self._path.open("r+b", buffering=0)
            self._size = self._file.seek(0, os.SEEK_END)
        return self._file


def _write_whole(file: RawIOBase, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def sync_file(path: Path) -> None:
    """Wait until the disk has a file's content."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder's entries (names, renames) to the disk, where systems allow it."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return strict JSON; numbers that are not finite become ``{"$float": …}``."""
    try:
        if indent is None:
            return _ENCODER.encode(value)
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:  # a number that is not finite
        return json.dumps(_encode(value), indent=indent, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """Read what `to_json` wrote.

    Raises:
        ValueError: The text is not JSON.
    """
    return json.loads(text, object_hook=_decode)


def read_json(path: Path) -> Any:
    """Read a JSON file of a run's folder.

    Raises:
        RunError: It is missing, unreadable or not JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    return parse_json(path, content)


def parse_json(path: Path, content: bytes) -> Any:
    """Read what stands in a JSON file of a run's folder.

    Raises:
        RunError: It is not JSON; the error names the file.
    """
    try:
        return from_json(content)
    except (ValueError, RecursionError):
        raise RunError(f"{path} is not JSON; the file is damaged.") from None


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {NONFINITE_KEY: str(value)}
    if isinstance(value, dict):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return value


def _decode(mapping: dict[str, Any]) -> Any:
    if mapping.keys() == {NONFINITE_KEY} and mapping[NONFINITE_KEY] in (
        "nan",
        "inf",
        "-inf",
    ):
        return float(mapping[NONFINITE_KEY])
    return mapping
