"""The images that were classified wrongly with most confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from handful.errors import ArgumentError, DataError
from handful.report import images as sheet
from handful.report.arrays import read_array

__all__ = ["draw_wrongest"]


def draw_wrongest(
    images: NDArray[Any],
    labels: ArrayLike,
    predictions: ArrayLike,
    probabilities: ArrayLike,
    *,
    class_names: Sequence[str] | None = None,
    count: int = 16,
) -> Figure:
    """Draw the wrongly classified images, the most confident mistake first.

    Above each stands the true class, the predicted one and the predicted one's
    probability. Mistakes of the same probability stay in the order of the samples.

    Args:
        images: As for `draw_image_grid`, N of them.
        labels: Numbers of the true classes, shape ``(N,)``.
        predictions: Numbers of the predicted classes, shape ``(N,)``.
        probabilities: Probability of the predicted class, in [0, 1], shape ``(N,)``.
        class_names: The classes' names; None for their numbers.
        count: Most images to draw, 1 to 36.

    Returns:
        The figure.

    Raises:
        ArgumentError: A shape, a class's number, a probability or the count is wrong.
        DataError: No prediction is wrong, or an image has a value that is not finite.
    """
    pictures = sheet.to_channels_last(np.asarray(images))
    number = len(pictures)
    true = read_array("labels", labels, (number,)).astype(np.int64)
    predicted = read_array("predictions", predictions, (number,)).astype(np.int64)
    chances = read_array("probabilities", probabilities, (number,))
    _check_values(true, predicted, chances, class_names, count)
    wrong = np.flatnonzero(true != predicted)
    if not len(wrong):
        raise DataError(
            f"predictions must differ from labels somewhere; all {number} are right. "
            "There is no mistake to draw."
        )
    chosen = wrong[np.argsort(-chances[wrong], kind="stable")][:count]
    titles = [
        f"{_name(true[place], class_names)} → {_name(predicted[place], class_names)}, "
        f"{_format_chance(chances[place])}"
        for place in chosen
    ]
    pixels, told = sheet.to_pixels(pictures[chosen])
    note = (
        f"{len(chosen)} of {len(wrong)} mistakes among {number} images, "
        "true → predicted class and its probability"
    )
    # Three at least, so that the note below has room.
    columns = max(3, math.ceil(math.sqrt(len(chosen))))
    return sheet.draw_grid(pixels, titles, columns, "; ".join([note, *told]))


def _check_values(
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    chances: NDArray[np.float64],
    class_names: Sequence[str] | None,
    count: int,
) -> None:
    if not 1 <= count <= sheet.MOST_IMAGES:
        raise ArgumentError(
            f"count must be 1 to {sheet.MOST_IMAGES}; got {count}. "
            "One sheet has no room for more."
        )
    # Written so that NaN is refused as well.
    if not ((chances >= 0) & (chances <= 1)).all():
        raise ArgumentError(
            "probabilities must be between 0 and 1; got others. "
            "Give the softmax of the logits, not the logits."
        )
    classes = np.concatenate([true, predicted])
    most = np.iinfo(np.int64).max if class_names is None else len(class_names)
    if classes.min() < 0 or classes.max() >= most:
        raise ArgumentError(
            f"labels and predictions must be numbers of classes, from 0 to {most - 1}; "
            f"got {classes.min()} to {classes.max()}. Give a name for each class."
        )


def _name(number: int, class_names: Sequence[str] | None) -> str:
    return str(number) if class_names is None else class_names[number]


def _format_chance(chance: float) -> str:
    """Write a probability in percent; only certainty is 100 %."""
    percent = 100 * chance
    floored = math.floor(10 * percent + 1e-9) / 10 if percent < 100 else 100.0
    return f"{floored:g} %"
