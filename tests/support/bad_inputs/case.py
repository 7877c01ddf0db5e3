"""Case: a bad input, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def make_nothing(_: Path) -> None:
    """Leave the folder as it is."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bad input.

    Attributes:
        group: The section of the page.
        title: What is wrong, in a few words.
        command: What is typed after ``handful``.
        make: Makes the files in the current folder.
        code: The exit status; 0 where the input is no fault.
        says: Parts of the answer: the field, the value and what to do.
        needs_torch: Whether the answer comes after torch is imported.
    """

    group: str
    title: str
    command: str
    make: Callable[[Path], None] = make_nothing
    code: int = 2
    says: tuple[str, ...] = ()
    needs_torch: bool = False


def writes(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Return what makes one file."""

    def make(folder: Path) -> None:
        raw = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(raw)

    return make
