"""The log of the preloaded library, and the states that a crash may leave of it.

The model of a file system is the one that holds for ext4, XFS, Btrfs and POSIX alike,
and no kinder: what was written to a file is safe once that file was flushed, and may
until then be there or not, or in part. A name in a folder (made, renamed, deleted) is
safe once that folder was flushed, and may until then be there or not, whatever became
of other names.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Call:
    """A call that changed a file, or a mark.

    Attributes:
        name: ``create``, ``write``, ``fsync``, ``rename``, ``mkdir``, ``unlink``,
            ``rmdir``, ``truncate`` or ``mark``.
        inode: The number of the file.
        path: Its path; of a mark, its text.
        other: Of a rename, the new path.
        place: Where it wrote, or the size after truncating.
        content: What it wrote.
    """

    name: str
    inode: int
    path: str
    other: str
    place: int
    content: bytes


def read_log(path: Path) -> list[Call]:
    """Read the log of the preloaded library."""
    content, calls, at = path.read_bytes(), [], 0
    while at < len(content):
        end = content.index(b"\n", at)
        name, inode, one, other, place, size = content[at:end].decode().split("\t")
        at = end + 1 + int(size)
        data = content[end + 1 : at]
        calls.append(Call(name, int(inode), one, other, int(place), data))
    return calls


@dataclass
class _File:
    """A file or a folder, by whatever name.

    Attributes:
        writes: Of a file, all writes: where, and what.
        num_safe: How many of them the disk has.
    """

    is_folder: bool
    writes: list[tuple[int, bytes | None]] = field(default_factory=list)
    num_safe: int = 0


@dataclass(frozen=True)
class _Naming:
    """What a call did to names: (folder, name) to a file, or to nothing."""

    changes: tuple[tuple[_Key, str, _Key | None], ...]


_Key = int
"""A file's own number; numbers of deleted files are not used again."""


class Disk:
    """A disk that remembers what it has been told, and what it has been made to keep.

    Args:
        root: The folder below which all happens; at first it is empty.
    """

    def __init__(self, root: Path) -> None:
        self._root = PurePosixPath(root)
        self._files: dict[_Key, _File] = {0: _File(is_folder=True)}
        self._names: dict[tuple[_Key, str], _Key] = {}
        self._namings: list[_Naming] = []
        self._safe: set[int] = set()

    def do(self, call: Call) -> None:
        """Take a call."""
        if call.name == "mark":
            return
        getattr(self, f"_{call.name}")(call)

    def states(self, rng: random.Random, number: int) -> Iterator[_State]:
        """Return states that a crash now may leave: the plainest, and random ones."""
        unsafe = [i for i in range(len(self._namings)) if i not in self._safe]
        yield self._state(set(unsafe), rng, "all")
        yield self._state(set(), rng, "none")
        for _ in range(number):
            share = rng.random()
            kept = {i for i in unsafe if rng.random() < share}
            yield self._state(kept, rng, rng.choice(("all", "none", "some")))

    def _state(self, kept: set[int], rng: random.Random, data: str) -> _State:
        names: dict[tuple[_Key, str], _Key] = {}
        for index, naming in enumerate(self._namings):
            if index in self._safe or index in kept:
                for folder, name, key in naming.changes:
                    if key is None:
                        names.pop((folder, name), None)
                    else:
                        names[folder, name] = key
        contents = {
            key: self._content(file, rng, data)
            for key, file in self._files.items()
            if not file.is_folder
        }
        folders = {key for key, file in self._files.items() if file.is_folder}
        return _State(names, contents, folders)

    def _content(self, file: _File, rng: random.Random, data: str) -> bytes:
        content = bytearray()
        for index, (place, written) in enumerate(file.writes):
            if index >= file.num_safe:
                if data == "none" or (data == "some" and rng.random() < 0.5):
                    continue
                if data == "some" and written:
                    written = written[: rng.randint(0, len(written))]
            if written is None:
                del content[place:]
                continue
            content.extend(bytes(max(0, place - len(content))))
            content[place : place + len(written)] = written
        return bytes(content)

    def _find(self, path: str) -> tuple[_Key, str]:
        """Return the folder that a path lies in, and the name there."""
        parts = PurePosixPath(path).relative_to(self._root).parts
        folder = 0
        for part in parts[:-1]:
            folder = self._names[folder, part]
        return folder, parts[-1] if parts else ""

    def _key(self, path: str) -> _Key:
        folder, name = self._find(path)
        return self._names[folder, name] if name else folder

    def _name(self, *changes: tuple[_Key, str, _Key | None]) -> None:
        self._namings.append(_Naming(changes))
        for folder, name, key in changes:
            if key is None:
                self._names.pop((folder, name), None)
            else:
                self._names[folder, name] = key

    def _add(self, path: str, *, is_folder: bool) -> None:
        folder, name = self._find(path)
        if not name:
            return
        key = len(self._files)
        self._files[key] = _File(is_folder)
        self._name((folder, name, key))

    def _create(self, call: Call) -> None:
        self._add(call.path, is_folder=False)

    def _mkdir(self, call: Call) -> None:
        self._add(call.path, is_folder=True)

    def _write(self, call: Call) -> None:
        file = self._files[self._key(call.path.removesuffix(" (deleted)"))]
        file.writes.append((call.place, call.content))

    def _truncate(self, call: Call) -> None:
        self._files[self._key(call.path)].writes.append((call.place, None))

    def _fsync(self, call: Call) -> None:
        key = self._key(call.path)
        file = self._files[key]
        if not file.is_folder:
            file.num_safe = len(file.writes)
            return
        for index, naming in enumerate(self._namings):
            if all(folder == key for folder, _, _ in naming.changes):
                self._safe.add(index)

    def _rename(self, call: Call) -> None:
        (folder, name), (other, new) = self._find(call.path), self._find(call.other)
        key = self._names[folder, name]
        self._name((folder, name, None), (other, new, key))

    def _unlink(self, call: Call) -> None:
        self._name((*self._find(call.path), None))

    _rmdir = _unlink


@dataclass(frozen=True)
class _State:
    """A state that a crash may leave."""

    names: dict[tuple[_Key, str], _Key]
    contents: dict[_Key, bytes]
    folders: set[_Key]

    def write(self, root: Path) -> None:
        """Write it below a folder that is new."""
        self._write_folder(0, root)

    def _write_folder(self, key: _Key, path: Path) -> None:
        path.mkdir()
        for (folder, name), child in self.names.items():
            if folder != key:
                continue
            if child in self.folders:
                self._write_folder(child, path / name)
            else:
                (path / name).write_bytes(self.contents[child])


def marks(calls: Sequence[Call]) -> list[str]:
    """Return the texts of all marks in a log."""
    return [call.path for call in calls if call.name == "mark"]
