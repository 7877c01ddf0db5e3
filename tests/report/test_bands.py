"""Bands over seeds: the numbers drawn, who diverged, and what lies beyond the axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

from handful.errors import ArgumentError
from handful.report.bands import AXES, draw_bands, draw_four_axes
from handful.report.seed_bands import SeedCurves, make_bands
from handful.report.study_curves import read_four_axes, read_study_curves
from handful.runs.study import Study
from handful.runs.study_row import Row

X = np.arange(4.0)
VALUES = np.array([[4.0, 3, 2, 1], [5, 4, 3, 2], [9, 8, 7, 6]])


def draw(*series: SeedCurves, **options: Any) -> Figure:
    return draw_bands(series, x_label="epoch", y_label="loss", **options)


def note(figure: Figure) -> str:
    """Return the note below a figure on one line."""
    return figure.get_supxlabel().replace("\n", " ")


def marks(axes: Axes, marker: str) -> list[list[float]]:
    """Return the points of the lines that consist of this marker alone."""
    lines = [
        line
        for line in axes.lines
        if line.get_marker() == marker and line.get_linestyle() == "None"
    ]
    return [point for line in lines for point in line.get_xydata().tolist()]


def test_the_line_is_the_median_and_the_band_the_quartiles() -> None:
    figure = draw(SeedCurves("a", X, VALUES))
    (axes,) = figure.axes
    assert_array_equal(axes.lines[0].get_xydata(), np.column_stack([X, VALUES[1]]))
    (band,) = axes.collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    low, high = np.quantile(VALUES, (0.25, 0.75), axis=0)
    assert set(zip(X, low, strict=True)) | set(zip(X, high, strict=True)) == corners
    assert note(figure) == (
        "Note: lines: median of 3 seeds; bands: first to third quartile."
    )


def test_the_mean_and_the_range_may_be_drawn_instead() -> None:
    (band,) = make_bands([SeedCurves("a", X, VALUES)], centre="mean", spread="range")
    assert_allclose(band.centre, VALUES.mean(0))
    assert_allclose([band.low, band.high], [VALUES.min(0), VALUES.max(0)])
    figure = draw(SeedCurves("a", X, VALUES), centre="mean", spread="range")
    assert "mean of 3 seeds; bands: least to greatest" in note(figure)


def test_names_stand_beside_the_ends_of_their_lines() -> None:
    names = ("_low $x", "high")
    low, high = (
        SeedCurves(name, X, VALUES + shift)
        for name, shift in zip(names, (0, 20), strict=True)
    )
    axes = draw(high, low).axes[0]
    assert axes.get_xlabel() == "epoch"
    assert axes.get_ylabel() == "loss"
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert set(heights) == set(names)
    assert heights["_low $x"] < heights["high"]


def test_one_seed_has_a_line_and_says_so() -> None:
    figure = draw(SeedCurves("a", X, VALUES[:1]))
    assert_array_equal(figure.axes[0].lines[0].get_ydata(), VALUES[0])
    assert note(figure) == "Note: one seed each."


@pytest.mark.parametrize("tail", [np.nan, np.inf])
def test_a_diverged_seed_ends_with_a_cross(tail: float) -> None:
    values = VALUES.copy()
    values[2, 2:] = tail
    figure = draw(SeedCurves("a", X, values))
    (axes,) = figure.axes
    assert marks(axes, "X") == [[1, 8]]
    assert_allclose(axes.lines[0].get_ydata(), [5, 4, 2.5, 1.5])
    assert "a: 1 of 3 diverged (crosses" in note(figure)


def test_a_run_that_only_was_shorter_gets_no_cross() -> None:
    values = VALUES.copy()
    values[2, 2:] = np.nan
    figure = draw(SeedCurves("a", X, values, diverged=()))
    assert marks(figure.axes[0], "X") == []
    assert "diverged" not in note(figure)


def test_all_seeds_diverged_end_the_line() -> None:
    values = np.where(X > 1, np.nan, VALUES)
    axes = draw(SeedCurves("a", X, values)).axes[0]
    assert_array_equal(axes.lines[0].get_ydata(), [5, 4, np.nan, np.nan])
    assert len(marks(axes, "X")) == 3


def test_a_setting_without_any_value_is_named() -> None:
    lost = SeedCurves("b", X, np.full((2, 4), np.nan))
    failed = SeedCurves("c", X, np.full((2, 4), np.nan), diverged=())
    figure = draw(SeedCurves("a", X, VALUES), lost, failed)
    names = [text.get_text() for text in figure.axes[0].texts]
    assert names == ["a", "b (no value)", "c (no value)"]
    assert "b: 2 of 2 diverged" in note(figure)
    assert "c: 2 seeds have no value" in note(figure)


def test_constant_losses_stand_inside_the_axes() -> None:
    axes = draw(SeedCurves("a", X, np.full((2, 4), 3.0))).axes[0]
    low, high = axes.get_ylim()
    assert low < 3 < high


def test_losses_of_zero_are_marked_at_the_foot_of_a_logarithmic_axis() -> None:
    figure = draw(SeedCurves("a", X, np.array([[10.0, 0.01, 0, 0]])))
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "loss (log scale)"
    assert marks(axes, "v") == [[2, axes.get_ylim()[0]], [3, axes.get_ylim()[0]]]
    assert "a: 2 points beyond the axes (triangles)" in note(figure)


def test_losses_far_above_the_start_are_marked_at_the_top() -> None:
    figure = draw(SeedCurves("a", X, np.array([[1.0, 2, 3, 1e30]])))
    (axes,) = figure.axes
    high = axes.get_ylim()[1]
    assert high < 10
    assert marks(axes, "^") == [[3, high]]
    assert "a: 1 point beyond" in note(figure)


def test_a_cross_beyond_the_axes_stands_at_the_edge() -> None:
    values = np.array([[1.0, 2, 1e30, np.nan], [1, 2, 3, 4]])
    axes = draw(SeedCurves("a", X, values)).axes[0]
    assert marks(axes, "X") == [[2, axes.get_ylim()[1]]]


def test_four_axes_show_the_same_values_over_different_positions() -> None:
    units = {"epoch": 1.0, "step": 100.0, "samples": 1000.0, "seconds": 0.5}
    series = {
        axis: [SeedCurves("a", X * unit, VALUES), SeedCurves("b", X * unit, VALUES)]
        for axis, unit in units.items()
    }
    figure = draw_four_axes(series)
    panels = figure.axes[:4]
    assert [axes.get_xlabel() for axes in panels] == list(AXES.values())
    for axes, unit in zip(panels, units.values(), strict=True):
        expected = np.column_stack([X * unit, VALUES[1]])
        assert_array_equal(axes.lines[0].get_xydata(), expected)
        assert axes.get_ylim() == panels[0].get_ylim()
    legend = figure.axes[4].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_ends_far_apart_make_the_axis_of_steps_logarithmic() -> None:
    near, far = SeedCurves("a", X, VALUES), SeedCurves("a", X * 100, VALUES)
    series = {axis: [near, near] for axis in AXES} | {"step": [near, far]}
    figure = draw_four_axes(series)
    scales = [axes.get_xscale() for axes in figure.axes[:4]]
    assert scales == ["linear", "symlog", "linear", "linear"]
    assert figure.axes[1].get_xlabel() == "steps (log scale)"


def test_a_note_that_holds_for_all_axes_is_said_once() -> None:
    jump = SeedCurves("a", X, np.array([[1.0, 2, 3, 1e30]]))
    calm = SeedCurves("a", X, VALUES[:1])
    text = note(draw_four_axes({key: [jump] for key in AXES}))
    assert text.count("a: 1 point beyond") == 1
    assert "against" not in text
    mixed = {axis: [calm] for axis in AXES} | {"step": [jump]}
    assert "against step, a: 1 point beyond" in note(draw_four_axes(mixed))


def test_a_missing_axis_and_other_names_are_refused() -> None:
    series = {axis: [SeedCurves("a", X, VALUES)] for axis in AXES}
    with pytest.raises(ArgumentError, match="epoch, step, samples, seconds; got epoch"):
        draw_four_axes({"epoch": series["epoch"]})
    series["step"] = [SeedCurves("b", X, VALUES)]
    with pytest.raises(ArgumentError, match=r"axis 'step' must be \['a'\].*\['b'\]"):
        draw_four_axes(series)


def test_wrong_choices_and_numbers_are_refused() -> None:
    curves = SeedCurves("a", X, VALUES)
    with pytest.raises(ArgumentError, match=r"centre must be.*'meen'.*'mean'"):
        draw(curves, centre="meen")
    with pytest.raises(ArgumentError, match="spread must be one of quartiles, range"):
        draw(curves, spread="all")
    with pytest.raises(ArgumentError, match="1 to 12 settings; got 13"):
        draw(*[curves] * 13)
    with pytest.raises(ArgumentError, match=r"from 0 to 2; got \[3\]"):
        draw(SeedCurves("a", X, VALUES, diverged=[3]))
    with pytest.raises(
        ArgumentError, match=r"values of 'a' must be of shape \(≥1, 4\)"
    ):
        draw(SeedCurves("a", X, VALUES[:, :3]))


def make_row(batch_size: int, seed: int, status: str, epochs: int) -> Row:
    history = [
        {
            "epoch": epoch,
            "step": epoch * 100 // batch_size,
            "samples": epoch * 100,
            "trained_seconds": 0.1 * epoch,
            "valid_loss": 4.0 - epoch,
        }
        for epoch in range(1, epochs + 1)
    ]
    final = {"valid_loss": history[-1]["valid_loss"]} if history else {}
    return Row(
        settings={"batch_size": batch_size},
        seed=seed,
        status=status,
        history=history,
        final=final,
    )


def make_study() -> Study:
    rows = [
        make_row(1, 0, "finished", 3),
        make_row(100, 0, "finished", 3),
        make_row(1, 1, "diverged", 2),
        make_row(100, 1, "failed", 0),
    ]
    return Study(recipe="wine", axes={"batch_size": [1, 100]}, seeds=[0, 1], rows=rows)


def test_each_setting_of_a_study_has_a_grid_up_to_its_own_end() -> None:
    small, full = read_study_curves(make_study(), "valid_loss", "step", points=3)
    assert (small.name, full.name) == ("batch size 1", "batch size 100")
    assert_array_equal(small.x, [100, 200, 300])
    assert_array_equal(full.x, [1, 2, 3])
    assert_array_equal(small.values, [[3, 2, 1], [3, 2, np.nan]])
    assert_array_equal(full.values, [[3, 2, 1], [np.nan] * 3])
    assert (small.diverged, full.diverged) == ([1], [])


def test_a_study_is_drawn_over_its_four_axes() -> None:
    series = read_four_axes(make_study(), "valid_loss", points=5)
    text = note(draw_four_axes(series))
    assert "batch size 1: 1 of 2 diverged" in text
    assert "batch size 100: 1 seeds have no value" in text


def test_some_cells_of_a_study_may_be_chosen() -> None:
    chosen = [{"batch_size": 100}]
    (curves,) = read_study_curves(make_study(), "valid_loss", cells=chosen)
    assert curves.name == "batch size 100"


def test_a_cell_that_measured_nothing_is_empty() -> None:
    study = make_study()
    study.rows[1] = make_row(100, 0, "diverged", 0)
    _, full = read_study_curves(study, "valid_loss", points=3)
    assert np.isnan(full.values).all()
    assert full.diverged == [0]
