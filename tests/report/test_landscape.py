"""Functions, losses over the margin, and descents over one and two weights."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

from handful.errors import ArgumentError
from handful.report.descent_paths import (
    DescentPath,
    draw_loss_against_weight,
    draw_surface_path,
)
from handful.report.landscape import Minimum, draw_function, draw_losses

X = np.linspace(-2.0, 2.0, 41)
SURFACE = X[:, None] ** 2 + 3 * X**2


def note(figure: Figure) -> str:
    """Return the note below a figure on one line."""
    return figure.get_supxlabel().replace("\n", " ")


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def marks(axes: Axes, marker: str) -> list[list[float]]:
    """Return the points of the lines that have this marker."""
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return [point for line in lines for point in line.get_xydata().tolist()]


def make_path(*weights: float) -> np.ndarray:
    return np.column_stack([weights, np.square(weights)])


def test_a_function_is_drawn_through_its_points() -> None:
    axes = draw_function(X, X**2, x_label="w", y_label="loss").axes[0]
    assert_array_equal(axes.lines[0].get_xydata(), np.column_stack([X, X**2]))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("w", "loss")


def test_minima_are_marked_and_named() -> None:
    minima = [Minimum(-1.0, 1.0), Minimum(0.0, 0.0, is_global=True)]
    figure = draw_function(X, X**2, minima=minima)
    (axes,) = figure.axes
    assert marks(axes, "*") == [[0, 0]]
    assert marks(axes, "o") == [[-1, 1]]
    assert texts(axes) == [
        "local minimum\nf(\N{MINUS SIGN}1) = 1",
        "global minimum\nf(0) = 0",
    ]
    assert figure.get_suptitle() == "A function and its minima"


def test_a_function_stays_linear_whatever_its_span() -> None:
    axes = draw_function(X, np.exp(10 * X)).axes[0]
    assert axes.get_yscale() == "linear"


def test_a_descent_has_its_points_and_an_arrow_a_step() -> None:
    path = make_path(-1.5, 1.0, -0.5)
    figure = draw_function(X, X**2, path=path)
    (axes,) = figure.axes
    assert_array_equal(axes.collections[0].get_offsets(), path)
    arrows = [text for text in axes.texts if not text.get_text()]
    assert [arrow.xy for arrow in arrows] == [(1.0, 1.0), (-0.5, 0.25)]
    assert "start" in texts(axes)
    assert note(figure) == ""


def test_points_beyond_a_function_stand_at_its_edge_and_are_counted() -> None:
    figure = draw_function(X, X**2, path=make_path(1.0, -1.9, 3.0, -4.0))
    top = figure.axes[0].get_ylim()[1]
    assert marks(figure.axes[0], "^") == [[2, top], [-2, top]]
    assert note(figure) == "Note: descent: 2 points beyond the axes (triangles)."


def test_a_descent_to_infinity_ends_where_it_was_finite() -> None:
    figure = draw_function(X, X**2, path=make_path(1.0, -1.9, np.inf, np.nan))
    assert len(figure.axes[0].collections[0].get_offsets()) == 2
    assert note(figure) == "Note: descent: not finite from step 2 on."


def test_a_descent_without_any_finite_point_is_noted() -> None:
    figure = draw_function(X, X**2, path=make_path(np.nan))
    assert "not finite from step 0 on" in note(figure)


def test_three_losses_have_their_values_and_names() -> None:
    axes = draw_losses().axes[0]
    curves = [line.get_xydata() for line in axes.lines[:3]]
    margin = curves[0][:, 0]
    assert_allclose(curves[0][:, 1], (1 - margin) ** 2)
    assert_allclose(curves[1][:, 1], np.log1p(np.exp(-margin)))
    assert_array_equal(curves[2][:, 1], [1, 1, np.nan, 0, 0])
    for name in ("squared", "cross-entropy", "0/1"):
        assert any(text.startswith(name) for text in texts(axes))
    for curve in curves:
        assert np.nanmax(curve[:, 1]) < axes.get_ylim()[1]


def test_each_descent_has_a_panel_with_its_end() -> None:
    paths = [
        DescentPath("lr 0.1", make_path(-1.0, -0.5)),
        DescentPath("lr 1", make_path(-1.0, 1.0)),
        DescentPath("lr 2", make_path(-1.0, np.inf)),
    ]
    figure = draw_loss_against_weight(X, X**2, paths, best=0.0)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in shown] == [
        "lr 0.1 → weight \N{MINUS SIGN}0.5, loss 0.25",
        "lr 1 → weight 1, loss 1",
        "lr 2 → diverged within 1 steps",
    ]
    assert_array_equal(shown[0].lines[0].get_xydata(), np.column_stack([X, X**2]))
    assert marks(shown[1], "s") == [[-1, 1], [1, 1]]
    assert [axes.get_xlabel() for axes in shown] == ["", "weight", "weight"]
    assert "lr 2: not finite from step 1 on" in note(figure)
    assert "best weight, 0" in note(figure)


def test_paths_on_a_surface_have_their_points_and_names() -> None:
    path = np.array([[-1.0, 1.5], [0.5, 0.5], [0.0, 5.0]])
    figure = draw_surface_path(
        X, X, SURFACE, [DescentPath("_a $b", path)], minimum=(0.0, 0.0)
    )
    (axes,) = figure.axes
    assert_array_equal(axes.lines[0].get_xydata(), path)
    assert marks(axes, "*") == [[0, 0]]
    assert marks(axes, "^") == [[0, 2]]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["_a $b", "minimum"]
    assert "_a $b: 1 point beyond the axes (triangles)" in note(figure)


def test_gaps_of_a_path_on_a_surface_are_counted() -> None:
    path = np.array([[1.0, 1.0], [np.nan, 0.0], [np.inf, 0.0]])
    figure = draw_surface_path(X, X, SURFACE, [DescentPath("a", path)])
    assert "a: 2 of 3 points are not finite" in note(figure)
    assert marks(figure.axes[0], "s") == [[1, 1], [1, 1]]


def test_contour_lines_lie_between_the_least_and_the_greatest_loss() -> None:
    paths = [DescentPath("a", np.zeros((1, 2)))]
    levels = draw_surface_path(X, X, SURFACE, paths).axes[0].collections[0].levels
    assert len(levels) == 10
    assert levels[0] > SURFACE.min()
    assert_allclose(levels[-1], SURFACE.max())


def test_a_flat_surface_is_refused() -> None:
    with pytest.raises(ArgumentError, match="two different finite values; got 1"):
        draw_surface_path(X, X, 0 * SURFACE, [DescentPath("a", np.zeros((1, 2)))])


@pytest.mark.parametrize("number", [0, 9])
def test_no_path_or_too_many_are_refused(number: int) -> None:
    paths = [DescentPath("a", make_path(1.0))] * number
    with pytest.raises(ArgumentError, match=f"1 to 8 descents; got {number}"):
        draw_loss_against_weight(X, X**2, paths)


def test_values_of_another_length_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"f_y must be of shape \(41\); got \(3,\)"):
        draw_function(X, [1, 2, 3])
