"""Own data as a recipe's name: ``data:table.csv:target``, ``data:photos``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from handful.errors import ArgumentError

PREFIX = "data:"
"""What such names begin with."""

_PARTS = re.compile(r"((?:[A-Za-z]:[\\/])?[^:]*)(?::(.*))?", re.DOTALL)


@dataclass(frozen=True)
class OwnData:
    """Where own data lie, and what is to be predicted.

    Attributes:
        path: A file, a folder or a pattern, as the user wrote it.
        target: Name of the target's column; None where the data have one target alone,
            or where it was not said.
    """

    path: str
    target: str | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise ArgumentError("--data must name a file or a folder; got ''.")
        if _PARTS.fullmatch(self.path) is None or _split(self.path)[1] is not None:
            raise ArgumentError(
                f"--data must be a path without a colon; got {self.path!r}. A colon "
                "divides path and target in a run's settings: rename the file."
            )
        object.__setattr__(self, "path", os.path.normpath(self.path))

    @property
    def recipe(self) -> str:
        """The name that stands for them where recipes are named."""
        target = "" if self.target is None else f":{self.target}"
        return f"{PREFIX}{self.path}{target}"

    @property
    def run_name(self) -> str:
        """What runs on them are called: letters, digits, ``-`` and ``_``."""
        stem = Path(self.path).resolve().stem
        return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "own-data"


def is_own_data(name: str) -> bool:
    """Say whether a recipe's name is that of own data."""
    return name.startswith(PREFIX)


def parse_own_data(name: str) -> OwnData:
    """Return what a name stands for.

    Args:
        name: ``data:PATH`` or ``data:PATH:TARGET``.

    Raises:
        ArgumentError: There is no path.

    Example:
        >>> parse_own_data("data:iris.csv:species")
        OwnData(path='iris.csv', target='species')
    """
    path, target = _split(name.removeprefix(PREFIX))
    return OwnData(path, target or None)


def _split(text: str) -> tuple[str, str | None]:
    found = _PARTS.fullmatch(text)
    assert found is not None
    return found[1], found[2]
