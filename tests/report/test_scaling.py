"""The figure of batch sizes: several trials, several settings, and values of 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

from handful.errors import ArgumentError
from handful.report.saving import save_figure
from handful.report.scaling import BatchScaling, draw_scaling
from handful.report.study_scaling import read_scaling
from handful.runs.study import Study
from handful.runs.study_row import Row

SIZES = np.array([1, 10, 100])
NOISE = np.array([[4.0, 6.0], [1.0, 2.0], [0.0, 0.0]])


def note(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def marked(axes: Axes, marker: str) -> list[list[float]]:
    return [
        [float(x), float(y)]
        for line in axes.lines
        if line.get_marker() == marker
        for x, y in line.get_xydata()
    ]


def test_a_full_batch_without_noise_is_a_triangle_at_the_edge_of_a_log_axis(
    tmp_path: Path,
) -> None:
    figure = draw_scaling(BatchScaling(SIZES, gradient_noise=NOISE))
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert marked(axes, "v") == [[100, axes.get_ylim()[0]]]
    assert marked(axes, "o") == [[1, 5], [10, 1.5]]
    assert "0" in [text.get_text() for text in axes.texts]
    assert "gradient noise is 0 at the triangle" in note(figure)
    save_figure(figure, tmp_path / "scaling")  # a warning would be an error


def test_a_0_on_a_linear_axis_is_a_point_like_the_others() -> None:
    figure = draw_scaling(BatchScaling(SIZES, peak_bytes=np.array([4.0, 2.0, 0.0])))
    (axes,) = figure.axes
    assert axes.get_yscale() == "linear"
    assert_array_equal(axes.lines[0].get_ydata(), [4, 2, 0])
    assert "triangle" not in note(figure)


def test_nothing_but_0_is_drawn() -> None:
    figure = draw_scaling(BatchScaling(SIZES, gradient_noise=np.zeros(3)))
    assert_array_equal(figure.axes[0].lines[-1].get_ydata(), [0, 0, 0])


def test_lines_join_medians_and_strokes_are_trials() -> None:
    seconds = np.array([[1.0, 2.0, 4.0], [3.0, np.nan, 5.0], [6.0, 6.0, 6.0]])
    figure = draw_scaling(BatchScaling(SIZES, seconds_per_sample=seconds))
    (axes,) = figure.axes
    assert marked(axes, "o") == [[1, 2], [10, 4], [100, 6]]
    assert sorted(marked(axes, "_"))[:3] == [[1, 1], [1, 2], [1, 4]]
    assert len(marked(axes, "_")) == 8
    assert note(figure) == "Note: lines join medians, strokes are single trials."


def test_a_trial_far_off_is_counted_and_does_not_press_the_others_together() -> None:
    peaks = np.array([[20.0, 20.0, 9e6], [30.0, 30.0, 30.0], [40.0, 40.0, 40.0]])
    figure = draw_scaling(BatchScaling(SIZES, peak_bytes=peaks))
    (axes,) = figure.axes
    assert axes.get_ylim()[1] < 100
    assert marked(axes, "^") == [[1, axes.get_ylim()[1]]]
    assert "peak memory: 1 point beyond the axes (triangles)" in note(figure)


def test_the_dashed_line_is_explained_where_the_noise_leaves_it() -> None:
    below = draw_scaling(BatchScaling(SIZES, gradient_noise=NOISE))
    on_it = draw_scaling(BatchScaling(SIZES, gradient_noise=4 / np.sqrt(SIZES)))
    assert "a small part of all samples" in note(below)
    assert note(on_it) == ""


def test_settings_have_a_line_each_and_a_legend() -> None:
    one = BatchScaling(SIZES, seconds_per_sample=np.array([4.0, 2.0, 1.0]))
    two = BatchScaling(SIZES[1:], seconds_per_sample=np.array([8.0, 3.0]))
    figure = draw_scaling({"backend numpy": one, "backend torch": two})
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["backend numpy", "backend torch"]
    assert_allclose(axes.lines[-1].get_xydata(), [[10, 8], [100, 3]])
    assert [float(tick) for tick in axes.get_xticks()] == [1, 10, 100]


def test_values_below_0_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"gradient_noise must be .* got -1\.0"):
        draw_scaling(BatchScaling(SIZES, gradient_noise=np.array([1.0, -1.0, 0.0])))


def make_row(size: Any, seed: int, **changes: Any) -> Row:
    row = Row(
        settings={"batch_size": size, "lr": 0.1},
        seed=seed,
        status="finished",
        seconds=2.0 + seed,
        steps=3,
        samples=100,
        epoch_samples=50,
        noise_start={"relative_std": 1.0 + seed},
        peak_memory_bytes=4096,
    )
    return replace(row, **changes)


def make_study(rows: list[Row], **axes: Any) -> Study:
    axes = {"batch_size": [4, "full"], "lr": [0.1, 0.2], **axes}
    return Study(recipe="r", axes=axes, seeds=[0, 1], rows=rows)


def test_trials_of_one_size_are_taken_together_whatever_their_rate() -> None:
    other_rate = {"settings": {"batch_size": 4, "lr": 0.2}}
    rows = [
        make_row("full", 0),
        make_row(4, 0),
        make_row(4, 1),
        make_row(4, 1, **other_rate, noise_start=None, peak_memory_bytes=None),
        make_row(4, 0, **other_rate, status="diverged"),
    ]
    (name, scaling), *rest = read_scaling(make_study(rows)).items()
    assert (name, rest) == ("", [])
    assert_array_equal(scaling.batch_sizes, [4, 50])
    nan = np.nan
    assert_allclose(scaling.gradient_noise, [[1, 2, nan], [1, nan, nan]])
    assert_allclose(scaling.seconds_per_sample, [[0.02, 0.03, 0.03], [0.02, nan, nan]])
    assert_allclose(scaling.peak_bytes, [[4096, 4096, nan], [4096, nan, nan]])


def test_a_size_beyond_the_epoch_counts_as_full_and_one_size_is_no_scaling() -> None:
    rows = [make_row("full", 0), make_row(60, 1)]
    assert read_scaling(make_study(rows)) == {}
    assert read_scaling(make_study([])) == {}
    (scaling,) = read_scaling(make_study([*rows, make_row(4, 0)])).values()
    assert_array_equal(scaling.batch_sizes, [4, 50])
    assert scaling.seconds_per_sample is not None
    assert scaling.seconds_per_sample.shape == (2, 2)


def test_settings_that_cost_something_have_a_scaling_each() -> None:
    rows = [
        make_row(size, 0, settings={"batch_size": size, "backend": backend, "lr": 0.1})
        for size in (4, "full")
        for backend in ("numpy", "torch")
    ]
    found = read_scaling(make_study(rows, backend=["numpy", "torch"]))
    assert list(found) == ["backend numpy", "backend torch"]


def test_a_study_without_batch_sizes_has_no_scaling() -> None:
    study = make_study([make_row(4, 0)])
    assert read_scaling(replace(study, axes={"lr": [0.1]})) == {}
