"""Style and scales: numbers, line styles, ends of axes, marks beyond them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from handful.errors import ArgumentError
from handful.report.arrays import read_array
from handful.report.line_labels import spread_apart
from handful.report.scale import (
    apply_y_scale,
    choose_scale,
    linear_scale,
    mark_hidden,
)
from handful.report.style import darkening_colors, format_number, line_style

HEIGHTS = st.lists(st.floats(0, 1), min_size=1, max_size=10)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (0.001, "0.001"), (-2.5, "\N{MINUS SIGN}2.5"), (25000, "25000")),
        *((1e6, "10⁶"), (3e-7, "3·10⁻⁷"), (-1e6, "\N{MINUS SIGN}10⁶")),
        *((123456, "1.23·10⁵"), (float("inf"), "inf")),
    ],
)
def test_a_number_is_written_briefly(value: float, text: str) -> None:
    assert format_number(value) == text


def test_line_styles_differ_pairwise() -> None:
    styles = [str(line_style(index)) for index in range(252)]
    assert len(set(styles)) == 252
    for key in ("color", "linestyle", "marker"):
        assert len({str(line_style(index)[key]) for index in range(4)}) == 4


def test_darkening_colors_get_darker() -> None:
    reds = [int(color[1:3], 16) for color in darkening_colors(20)]
    assert reds == sorted(reds, reverse=True)
    assert len(set(reds)) == 20


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 100.0], "linear"),
        ([1.0, 101.0], "log"),
        ([0.0, 1.0, 1000.0], "log"),
        ([0.0, 0.0, 5.0], "linear"),
        ([-1.0, 0.001, 1.0], "linear"),
        ([-1.0, 1.0, 1.0, 1000.0], "symlog"),
        ([-1e-3, -1e-3, -1.0], "symlog"),
    ],
)
def test_the_scale_follows_the_span(values: list[float], kind: str) -> None:
    scale = choose_scale(np.array(values))
    assert scale.kind == kind
    shown = [value for value in values if kind != "log" or value > 0]
    assert scale.low < min(shown)
    assert scale.high > max(shown)


@pytest.mark.parametrize("value", [0.0, 2.0, -3.0, 1e-300, 1e300])
def test_a_constant_stands_in_the_middle(value: float) -> None:
    scale = choose_scale(np.full(3, value))
    assert scale.kind == "linear"
    assert scale.low < value < scale.high


def test_no_finite_value_gives_an_axis_all_the_same() -> None:
    empty = np.array([np.nan, np.inf])
    assert choose_scale(empty) == linear_scale(empty)
    assert linear_scale(empty).low < linear_scale(empty).high


def test_values_above_the_ceiling_or_below_the_floor_do_not_stretch_the_axis() -> None:
    scale = choose_scale(np.array([1.0, 2.0, 1e30]), ceiling=10.0)
    assert (scale.kind, scale.high < 3) == ("linear", True)
    scale = choose_scale(np.array([1e-30, 1.0, 1000.0]), floor=0.1)
    assert (scale.kind, scale.low > 0.1) == ("log", True)


def test_points_beyond_each_edge_are_marked_there_and_counted() -> None:
    axes = Figure().add_subplot()
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 1)
    x = np.array([5.0, 5.0, 5.0, -1.0, 11.0, np.nan, 5.0])
    y = np.array([0.5, 2.0, -2.0, 0.5, 0.5, 9.0, np.inf])
    assert mark_hidden(axes, x, y, "red", "a") == (
        "a: 5 points beyond the axes (triangles)"
    )
    marks = {line.get_marker(): line.get_xydata().tolist() for line in axes.lines}
    assert marks == {
        "^": [[5, 1], [5, 1]],
        "v": [[5, 0]],
        "<": [[0, 0.5]],
        ">": [[10, 0.5]],
    }


def test_points_inside_have_neither_mark_nor_note() -> None:
    axes = Figure().add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    assert (
        mark_hidden(axes, np.array([0.0, 1.0]), np.array([0, 1.0]), "red", "") is None
    )
    assert not axes.lines


def test_an_axis_that_is_not_linear_says_so() -> None:
    axes = Figure().add_subplot()
    apply_y_scale(axes, choose_scale(np.array([1.0, 1e4])), "loss")
    assert axes.get_ylabel() == "loss (log scale)"
    apply_y_scale(axes, choose_scale(np.array([-1.0, 1.0, 1.0, 1e4])), "loss")
    assert axes.get_yscale() == "symlog"
    assert axes.get_ylabel() == "loss (log scale, linear at 0)"


@given(heights=HEIGHTS)
def test_names_stand_apart_in_the_order_of_their_lines(heights: list[float]) -> None:
    wanted = np.array(heights)
    moved = spread_apart(wanted, 0.1)
    order = np.argsort(wanted, kind="stable")
    assert np.all(np.diff(moved[order]) >= 0.1 - 1e-9)
    assert moved.min() >= -1e-9
    assert moved.max() <= 1 + 1e-9


def test_names_that_stand_apart_stay_where_they_are() -> None:
    wanted = np.array([0.9, 0.1, 0.5])
    np.testing.assert_allclose(spread_apart(wanted, 0.1), wanted)


def test_two_equal_heights_move_by_half_a_gap_each() -> None:
    np.testing.assert_allclose(spread_apart(np.array([0.5, 0.5]), 0.2), [0.4, 0.6])


def test_an_array_of_another_shape_is_named() -> None:
    with pytest.raises(
        ArgumentError, match=r"f_x must be of shape \(≥1, 2\); got \(3,"
    ):
        read_array("f_x", [1, 2, 3], (None, 2))
    with pytest.raises(ArgumentError, match=r"f_x must be of shape \(≥1\); got \(0,\)"):
        read_array("f_x", [], (None,))


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ArgumentError, match="f_x must be numbers; got list"):
        read_array("f_x", ["a"], (None,))
