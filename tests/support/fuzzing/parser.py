"""Parser: what is fuzzed, and what may come of an input."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from handful.errors import HandfulError

Mutate = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


@dataclass(frozen=True, kw_only=True)
class Parser:
    """A reader of ours, with what it is given.

    Attributes:
        name: What it is called, and its folder in the corpus.
        what: What it reads, for the page.
        make_seeds: Makes valid inputs; may write into the folder.
        read: Reads an input; the folder is its own, on a file system in memory.
        mutate: Changes a valid input.
    """

    name: str
    what: str
    make_seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path, bytes], object]
    mutate: Mutate


def answer(parser: Parser, folder: Path, data: bytes) -> str:
    """Return ``"read"``, or ``"refused"`` where one of our errors was raised.

    Raises:
        Exception: Anything else: what fuzzing looks for.
        AssertionError: The refusal is no line of text.
    """
    try:
        parser.read(folder, data)
    except HandfulError as error:
        message = str(error)
        assert message.strip(), "the error says nothing"
        assert len(message) < 20_000, "the error is a long text"
        return "refused"
    return "read"
