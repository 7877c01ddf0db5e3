"""Saving: whole files, the same bytes each time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from handful.errors import ArgumentError
from handful.report.bands import AXES, SeedCurves, draw_bands, draw_four_axes
from handful.report.batches import draw_first_batches
from handful.report.confusion import draw_confusion
from handful.report.descent_paths import (
    DescentPath,
    draw_loss_against_weight,
    draw_surface_path,
)
from handful.report.landscape import draw_function, draw_losses
from handful.report.saving import save_figure
from handful.report.scaling import BatchScaling, draw_scaling
from handful.report.schedule_curves import RateCurve, draw_schedules
from handful.report.wrongest import draw_wrongest

X = np.linspace(-2.0, 2.0, 21)
# Its last two points lie beyond the drawn range.
PATH = np.column_stack([[-1.0, 1.0, -3.0, 9.0], [1.0, 1.0, 9.0, 81.0]])
CURVES = [SeedCurves("a", X + 3, np.stack([X**2, np.where(X > 1, np.nan, X**4)]))]

FIGURES: dict[str, Callable[[], Figure]] = {
    "function": lambda: draw_function(X, X**2, path=PATH),
    "losses": draw_losses,
    "weight": lambda: draw_loss_against_weight(X, X**2, [DescentPath("a", PATH)]),
    "surface": lambda: draw_surface_path(
        X, X, X[:, None] ** 2 + X**2, [DescentPath("a", PATH)], minimum=(0, 0)
    ),
    "bands": lambda: draw_bands(CURVES, x_label="epoch", y_label="loss"),
    "four axes": lambda: draw_four_axes(dict.fromkeys(AXES, CURVES)),
    "batches": lambda: draw_first_batches({1: np.geomspace(1e-4, 1, 30), "full": X}),
    "schedules": lambda: draw_schedules([RateCurve("a", X**2), RateCurve("b", X**4)]),
    "scaling": lambda: draw_scaling(BatchScaling(np.array([1, 10]), np.ones(2))),
    "confusion": lambda: draw_confusion([[5, 1], [2, 0]], ["a", "b"]),
    "wrongest": lambda: draw_wrongest(
        np.zeros((2, 4, 4), np.uint8), [0, 1], [1, 1], [0.9, 1.0]
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_drawn_and_saved_twice_has_the_same_bytes(
    name: str, tmp_path: Path
) -> None:
    figure = FIGURES[name]()
    first = [file.read_bytes() for file in save_figure(figure, tmp_path / "a")]
    saved_again = save_figure(figure, tmp_path / "b")
    drawn_again = save_figure(FIGURES[name](), tmp_path / "c")
    assert [file.read_bytes() for file in saved_again] == first
    assert [file.read_bytes() for file in drawn_again] == first


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_laid_out_on_its_page(name: str) -> None:
    figure = FIGURES[name]()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 > -0.02
    assert box.y0 > -0.02
    assert box.x1 < width + 0.02
    assert box.y1 < height + 0.02


def test_each_format_gets_its_file_and_no_other_is_left(tmp_path: Path) -> None:
    files = save_figure(draw_losses(), tmp_path / "a.png", formats=("svg", "pdf"))
    assert [file.name for file in files] == ["a.svg", "a.pdf"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert files[1].read_bytes().startswith(b"%PDF")


def test_no_file_holds_a_date(tmp_path: Path) -> None:
    files = save_figure(draw_losses(), tmp_path / "a", formats=("svg", "pdf", "png"))
    for file in files:
        assert not re.search(rb"<dc:date>|CreationDate", file.read_bytes())


def test_a_name_with_a_dot_keeps_it(tmp_path: Path) -> None:
    files = save_figure(draw_losses(), tmp_path / "v1.2", formats=("png",))
    assert files == [tmp_path / "v1.2.png"]


def test_an_unknown_format_lists_the_formats(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"pdf, png, svg; got 'pngg'.*'png'"):
        save_figure(draw_losses(), tmp_path / "a", formats=("pngg",))
    assert not any(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match=r"a\.png"):
        save_figure(draw_losses(), tmp_path / "a", formats=("png",))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
