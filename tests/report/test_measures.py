"""First batches, schedules and scaling: what is drawn, and the marks for the rest."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

from handful.errors import ArgumentError
from handful.report.batches import draw_first_batches
from handful.report.scaling import BatchScaling, draw_scaling
from handful.report.schedule_curves import RateCurve, draw_schedules


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


def test_each_batch_size_has_a_panel_with_its_first_losses() -> None:
    losses = {1: np.arange(1.0, 9.0), "full": [3.0, 2.0]}
    figure = draw_first_batches(losses, 4)
    first, full = figure.axes
    assert_array_equal(first.lines[0].get_xydata(), [[1, 1], [2, 2], [3, 3], [4, 4]])
    assert_array_equal(full.lines[0].get_ydata(), [3, 2])
    assert first.get_title("left") == "batch size 1"
    assert full.get_title("left") == "full batch (only 2 batches)"
    assert first.get_ylim() == full.get_ylim()
    assert note(figure) == ""


def test_a_wide_span_makes_the_losses_logarithmic_and_marks_zeros() -> None:
    figure = draw_first_batches({1: [100.0, 0.0, 0.1, 1e-9]}, 4)
    (axes,) = figure.axes
    assert axes.get_ylabel() == "loss (log scale)"
    low = axes.get_ylim()[0]
    assert marks(axes, "v") == [[2, low], [4, low]]
    assert note(figure) == "Note: batch size 1: 2 points beyond the axes (triangles)."


def test_negative_losses_far_apart_make_a_scale_linear_at_zero() -> None:
    axes = draw_first_batches({1: [-1.0, 1.0, 1.0, 1000.0]}, 4).axes[0]
    assert axes.get_yscale() == "symlog"
    assert axes.get_ylim()[0] < -1


def test_losses_that_are_not_finite_leave_a_cross_and_a_note() -> None:
    figure = draw_first_batches({1: [2.0, 1.0, np.nan, np.inf]}, 4)
    assert marks(figure.axes[0], "X") == [[2, 1]]
    assert "2 of 4 losses are not finite (cross" in note(figure)


def test_a_batch_size_that_was_never_finite_is_drawn() -> None:
    figure = draw_first_batches({1: [np.nan], 2: [1.0]})
    assert "1 of 1 losses are not finite" in note(figure)


def test_no_batch_and_no_size_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"count must be .* from 1 on; got 0"):
        draw_first_batches({1: [1.0]}, 0)
    with pytest.raises(ArgumentError, match="1 to 12 batch sizes; got 0"):
        draw_first_batches({})


def test_schedules_are_drawn_from_step_one_and_named() -> None:
    figure = draw_schedules(
        [RateCurve("down", np.array([3.0, 2, 1])), RateCurve("up", np.array([0.0, 9]))],
        x_label="epoch",
    )
    (axes,) = figure.axes
    assert_array_equal(axes.lines[0].get_xydata(), [[1, 3], [2, 2], [3, 1]])
    assert_array_equal(axes.lines[1].get_xydata(), [[1, 0], [2, 9]])
    assert [text.get_text() for text in axes.texts] == ["down", "up"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "learning rate")
    assert axes.get_ylim()[0] <= 0
    assert figure.get_suptitle() == "Learning rate by epoch"


def test_schedules_in_panels_share_their_axes() -> None:
    curves = [RateCurve(name, np.array([1.0, 2])) for name in "abcd"]
    curves[1] = RateCurve("b", np.array([5.0, 7, 8]))
    panels = draw_schedules(curves, layout="panels").axes
    assert [axes.get_title("left") for axes in panels] == list("abcd")
    assert len({axes.get_ylim() for axes in panels}) == 1
    assert len({axes.get_xlim() for axes in panels}) == 1
    assert_array_equal(panels[1].lines[0].get_ydata(), [5, 7, 8])


def test_rates_of_zero_are_marked_on_a_logarithmic_axis() -> None:
    rates = RateCurve("a", np.array([0.1, 0.05, 0.0]))
    figure = draw_schedules([rates], is_log=True)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert marks(axes, "v") == [[3, axes.get_ylim()[0]]]
    assert "a: 1 point beyond" in note(figure)


@pytest.mark.parametrize("rates", [[0.0, 0.0], [0.1]])
def test_constant_rates_are_drawn(rates: list[float]) -> None:
    axes = draw_schedules([RateCurve("a", np.array(rates))], is_log=True).axes[0]
    low, high = axes.get_ylim()
    assert low < rates[0] < high


def test_wrong_rates_and_layouts_are_refused() -> None:
    for wrong in (-0.1, np.nan, np.inf):
        with pytest.raises(ArgumentError, match=f"from 0 on; got {wrong}"):
            draw_schedules([RateCurve("a", np.array([0.1, wrong]))])
    with pytest.raises(ArgumentError, match=r"layout must be.*'panel'.*'panels'"):
        draw_schedules([RateCurve("a", np.ones(2))], layout="panel")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="1 to 12 schedules; got 0"):
        draw_schedules([])


SIZES = np.array([1, 10, 100])


def test_measurements_are_drawn_in_units_that_fit() -> None:
    figure = draw_scaling(
        BatchScaling(
            SIZES,
            gradient_noise=np.array([4.0, 2.0, 0.3]),
            seconds_per_sample=np.array([5e-5, 2e-5, 1e-5]),
            peak_bytes=np.array([2.0, 4.0, 8.0]) * 2**20,
        )
    )
    noise, time, memory = figure.axes
    assert_array_equal(noise.lines[1].get_xydata()[:, 1], [4, 2, 0.3])
    assert_allclose(noise.lines[0].get_ydata(), [4, 4 / 10**0.5, 0.4])
    assert_allclose(time.lines[0].get_ydata(), [50, 20, 10])
    assert time.get_ylabel() == "time per\nsample (µs)"
    assert_allclose(memory.lines[0].get_xydata(), [[1, 2], [10, 4], [100, 8]])
    assert memory.get_ylabel() == "peak memory\n(MiB)"
    assert memory.get_xscale() == "log"
    assert [float(tick) for tick in memory.get_xticks()] == [1, 10, 100]
    assert figure.get_suptitle() == (
        "Gradient noise, time per sample and peak memory against the batch size"
    )


def test_what_was_not_measured_is_left_out_or_counted() -> None:
    scaling = BatchScaling(SIZES, peak_bytes=np.array([np.nan, 100.0, 200.0]))
    figure = draw_scaling(scaling)
    assert len(figure.axes) == 1
    assert_array_equal(figure.axes[0].lines[0].get_xdata(), [10, 100])
    assert note(figure) == "Note: peak memory (B) is unknown at 1 batch size."


def test_one_batch_size_and_no_known_value_are_drawn() -> None:
    draw_scaling(BatchScaling(SIZES[:1], gradient_noise=np.ones(1)))
    figure = draw_scaling(BatchScaling(SIZES, gradient_noise=np.full(3, np.nan)))
    assert "unknown at 3 batch sizes" in note(figure)


def test_wrong_scalings_are_refused() -> None:
    with pytest.raises(ArgumentError, match="at least one measurement; got none"):
        draw_scaling(BatchScaling(SIZES))
    with pytest.raises(ArgumentError, match=r"increase, from 1 on; got \[100"):
        draw_scaling(BatchScaling(SIZES[::-1], np.ones(3)))
    with pytest.raises(ArgumentError, match="gradient_noise must be finite, or NaN"):
        draw_scaling(BatchScaling(SIZES, np.array([1, np.inf, 1])))
    with pytest.raises(ArgumentError, match=r"peak_bytes must be of shape \(3\)"):
        draw_scaling(BatchScaling(SIZES, peak_bytes=np.ones(2)))
