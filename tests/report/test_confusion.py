"""Confusion matrices and the most confident mistakes."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

from handful.errors import ArgumentError, DataError
from handful.report.confusion import draw_confusion
from handful.report.wrongest import draw_wrongest


def note(figure: Figure) -> str:
    """Return the note below a figure on one line."""
    return figure.get_supxlabel().replace("\n", " ")


def cells(figure: Figure) -> dict[tuple[float, float], str]:
    """Return the texts of the cells by (row, column)."""
    return {
        (text.get_position()[1], text.get_position()[0]): text.get_text()
        for text in figure.axes[0].texts
    }


def test_a_cell_holds_its_count_and_its_share_of_the_true_class() -> None:
    figure = draw_confusion([[999, 1], [3, 1]], ["$a$", "b"])
    axes = figure.axes[0]
    assert cells(figure) == {
        (0, 0): "999\n99.9 %",
        (0, 1): "1\n0.1 %",
        (1, 0): "3\n75 %",
        (1, 1): "1\n25 %",
    }
    assert_allclose(axes.images[0].get_array(), [[0.999, 0.001], [0.75, 0.25]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["$a$", "b"]
    assert axes.get_ylabel() == "true class"
    assert axes.get_xlabel() == "predicted class"


def test_the_note_gives_the_accuracy_and_the_worst_confusions() -> None:
    figure = draw_confusion([[8, 2, 0], [0, 9, 1], [5, 0, 5]], ["a", "b", "c"])
    assert note(figure) == (
        "Note: 22 of 30 right, accuracy 0.7333; most frequent confusions: "
        "c → a 5, a → b 2, b → c 1."
    )


def test_a_perfect_matrix_has_no_confusions() -> None:
    figure = draw_confusion(np.eye(2), ["a", "b"])
    assert "confusions" not in note(figure)
    assert cells(figure) == {(0, 0): "1\n100 %", (1, 1): "1\n100 %"}


def test_a_class_without_a_sample_is_a_grey_row() -> None:
    figure = draw_confusion([[1, 1], [0, 0]], ["a", "b"])
    shares = figure.axes[0].images[0].get_array()
    assert_array_equal(np.ma.getmaskarray(shares), [[False] * 2, [True] * 2])
    assert "grey rows: classes without a sample (1)" in note(figure)


@pytest.mark.parametrize("number", [2, 12, 13, 30, 31, 100])
def test_names_are_all_there_and_no_smaller_than_six_points(number: int) -> None:
    names = [f"class {index}" for index in range(number)]
    figure = draw_confusion(np.full((number, number), 7), names)
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == names
    assert min(label.get_fontsize() for label in labels) >= 6
    boxes = sorted(
        (box.y0, box.y1) for box in (la.get_window_extent() for la in labels)
    )
    assert all(below[1] <= above[0] + 1 for below, above in pairwise(boxes))
    assert len(cells(figure)) == (number**2 if number <= 30 else 0)


def test_wrong_matrices_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"of 2 to 100 classes; got \(2, 3\)"):
        draw_confusion(np.ones((2, 3)), ["a", "b"])
    with pytest.raises(ArgumentError, match=r"of 2 to 100 classes; got \(1, 1\)"):
        draw_confusion(np.ones((1, 1)), ["a"])
    for wrong in (-1, 0.5, np.nan):
        with pytest.raises(ArgumentError, match="whole counts from 0 on"):
            draw_confusion([[1, wrong], [1, 1]], ["a", "b"])
    with pytest.raises(ArgumentError, match="as many as classes, 2; got 1"):
        draw_confusion(np.ones((2, 2)), ["a"])
    with pytest.raises(DataError, match="all counts are 0"):
        draw_confusion(np.zeros((2, 2)), ["a", "b"])


IMAGES = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((4, 4), np.uint8)
LABELS, PREDICTIONS = [0, 1, 2, 0, 1], [1, 1, 0, 2, 2]
CHANCES = [0.6, 1.0, 0.9996, 0.6, 1.0]


def draw(**options: Any) -> Figure:
    values = {"predictions": PREDICTIONS, "probabilities": CHANCES, **options}
    return draw_wrongest(IMAGES, LABELS, **values)


def titles(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_most_confident_mistakes_come_first() -> None:
    figure = draw()
    *found, last = titles(figure)
    assert found == ["1 → 2, 100 %", "2 → 0, 99.9 %", "0 → 1, 60 %", "0 → 2, 60 %"]
    shown = [
        int(np.asarray(image.get_array()).max()) for image in figure.axes[0].images
    ]
    assert shown == [4, 2, 0, 3]
    assert last.startswith("Shown: 4 of 4 mistakes among 5 images")


def test_names_of_classes_and_the_count_are_used() -> None:
    figure = draw(class_names=["ant", "$bee$", "cat"], count=2)
    assert titles(figure)[:2] == ["$bee$ → cat, 100 %", "cat → ant, 99.9 %"]
    assert "2 of 4 mistakes" in titles(figure)[2]


def test_no_mistake_cannot_be_drawn() -> None:
    with pytest.raises(DataError, match="all 5 are right"):
        draw(predictions=LABELS)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ArgumentError, match="count must be 1 to 36; got 0"):
        draw(count=0)
    for wrong in (1.5, -0.1, np.nan):
        with pytest.raises(
            ArgumentError, match="probabilities must be between 0 and 1"
        ):
            draw(probabilities=[0.5, 0.5, 0.5, 0.5, wrong])
    with pytest.raises(ArgumentError, match="from 0 to 1; got 0 to 2"):
        draw(class_names=["a", "b"])
    with pytest.raises(ArgumentError, match=r"predictions must be of shape \(5\)"):
        draw(predictions=[0, 1])


def test_figures_load_neither_pyplot_nor_torch() -> None:
    names = (
        *("saving", "landscape", "descent_paths", "bands", "study_curves", "batches"),
        *("schedule_curves", "scaling", "confusion", "wrongest"),
    )
    code = (
        f"import sys; import {', '.join(f'handful.report.{name}' for name in names)}; "
        "sys.exit(bool({'matplotlib.pyplot', 'torch'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
