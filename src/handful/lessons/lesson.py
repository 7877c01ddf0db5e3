"""Lesson: one program of a tutorial, run with its numbers beside the printed ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handful.report.saving import save_figure
from handful.runs.files import to_json, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class LessonOptions:
    """How a lesson is run.

    Attributes:
        as_printed: The program as the tutorial has it, its mistakes included; else
            corrected.
        seed: Seed of what the tutorial leaves to chance.
        quick: A small part of the work, to see that everything runs.
        data: A folder with data of the user's own, for lessons that take one.
    """

    as_printed: bool = False
    seed: int = 0
    quick: bool = False
    data: Path | None = None


@dataclass(frozen=True)
class Printed:
    """A number that a tutorial prints, and ours.

    Attributes:
        what: What it is of.
        theirs: As the tutorial prints it; None where it prints nothing.
        ours: What the lesson computed.
        is_sample: Whether the tutorial's program draws random numbers without a seed,
            so that its number is one of many.
    """

    what: str
    theirs: str | None
    ours: str
    is_sample: bool = False


@dataclass(kw_only=True)
class LessonResult:
    """What a lesson did.

    Attributes:
        lines: What the program prints, line by line.
        numbers: What it computed, plain values, for tables and tests.
        printed: The tutorial's numbers beside ours.
        figures: Figures by the names of their files.
        correction: What the tutorial's program gets wrong, in one sentence; None if
            nothing.
    """

    lines: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    printed: list[Printed] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    correction: str | None = None

    def save(self, folder: Path) -> list[Path]:
        """Write figures, as PNG and SVG, and numbers.

        Args:
            folder: Where to; made where it is missing.

        Returns:
            The files.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / "numbers.json"]
        content = {
            "numbers": self.numbers,
            "printed": [vars(row) for row in self.printed],
            "correction": self.correction,
        }
        write_atomic(files[0], to_json(content, indent=2).encode() + b"\n")
        for name, figure in self.figures.items():
            files += save_figure(figure, folder / name)
        return files


RunLesson = Callable[[LessonOptions], LessonResult]
"""What a lesson's module has as ``run``."""
