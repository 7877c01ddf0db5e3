"""The lessons by name; no torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from handful.errors import unknown_choice

if TYPE_CHECKING:
    from handful.lessons.lesson import RunLesson

WINE = "Model Training with Mini-Batches in PyTorch"
NOTES = "SGD and Mini-Batches"
OPTIMIZATION = "The mathematics of optimization for Deep Learning"
TRAINING = "Training"
"""Titles of the four tutorials."""


@dataclass(frozen=True)
class Entry:
    """A lesson of the table.

    Attributes:
        tutorial: Title of the tutorial that it comes from.
        summary: One line for the list.
    """

    tutorial: str
    summary: str


LESSONS: dict[str, Entry] = {
    "gradient-descent": Entry(
        OPTIMIZATION, "one weight, all samples a step: loss against weight and epoch"
    ),
    "learning-rates": Entry(
        OPTIMIZATION, "the same descent at four rates, from too small to nearly too big"
    ),
    "sgd": Entry(
        OPTIMIZATION, "the same descent with batches of 1, 10 and 100 samples"
    ),
    "local-minima": Entry(
        OPTIMIZATION, "a function with two valleys, and which of them descents end in"
    ),
    "schedules": Entry(
        OPTIMIZATION, "four schedules of the learning rate side by side"
    ),
    "regimes": Entry(
        WINE, "full batch, mini-batches and single samples, compared over seeds"
    ),
    "feeding": Entry(
        OPTIMIZATION, "batches by hand, by loader and by a data set of one's own, timed"
    ),
    "shuffling": Entry(NOTES, "what a new order each epoch is worth"),
    "digits-3-vs-7": Entry(
        NOTES, "threes against sevens with weights and bias updated by hand"
    ),
    "linear-by-hand": Entry(
        TRAINING, "a linear model whose parameters are updated by hand"
    ),
    "images-from-csv": Entry(
        TRAINING, "images listed in a CSV file, with transforms and two workers"
    ),
    "generalisation": Entry(
        WINE, "whether the noise of small batches prevents overfitting"
    ),
    "claims": Entry("all four", "every claim of the tutorials, tested and judged"),
}
"""Name -> where it comes from and what it shows."""


def check_lesson_name(name: str) -> str:
    """Return the name of a lesson.

    Raises:
        ArgumentError: There is none of that name.
    """
    if name not in LESSONS:
        raise unknown_choice("NAME", name, LESSONS)
    return name


def load_lesson(name: str) -> RunLesson:
    """Return the function that runs a lesson.

    Raises:
        ArgumentError: There is none of that name.
    """
    module = check_lesson_name(name).replace("-", "_")
    run: RunLesson = importlib.import_module(f"handful.lessons.{module}").run
    return run
