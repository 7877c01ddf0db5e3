"""The figure of a loader's settings: rows, the step's line, the scale, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from handful.errors import ArgumentError
from handful.report.loader_profile import SettingRate, draw_loader_profile
from handful.report.saving import save_figure

RATES = [
    SettingRate("as it is", 100.0, 90.0, 120.0),
    SettingRate("2 $threads_", 180.0, 150.0, 200.0),
    SettingRate("in arrays", 250.0, 240.0, 260.0),
]


def points(axes: Axes) -> list[list[float]]:
    return sorted(
        [float(x), float(y)]
        for line in axes.lines
        if line.get_marker() == "o"
        for x, y in line.get_xydata()  # type: ignore[union-attr]
    )


def bars(axes: Axes) -> list[list[float]]:
    (collection,) = axes.collections
    return [[float(x) for x, _ in path] for path in collection.get_segments()]  # type: ignore[attr-defined]


def note(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_settings_are_rows_from_the_top_with_their_spread(tmp_path: Path) -> None:
    figure = draw_loader_profile(RATES)
    (axes,) = figure.axes
    assert points(axes) == [[100, 0], [180, 1], [250, 2]]
    assert bars(axes) == [[90, 120], [150, 200], [240, 260]]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["as it is", "2 $threads_", "in arrays"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert note(figure) == "Note: bars span the rates of parts of the time."
    save_figure(figure, tmp_path / "loader")  # a warning would be an error


def test_the_loader_as_it_is_has_a_hollow_point() -> None:
    (axes,) = draw_loader_profile(RATES).axes
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [[float(x) for x in line.get_xdata()] for line in hollow] == [[100]]


def test_what_the_step_takes_is_a_line_inside_the_axes() -> None:
    (axes,) = draw_loader_profile(RATES, need=400).axes
    assert axes.get_xlim()[0] == 0
    assert axes.get_xlim()[1] > 400
    assert [text.get_text() for text in axes.texts] == ["the step"]
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert {float(x) for x in line.get_xdata()} == {400}


def test_rates_over_more_than_a_decade_have_a_log_axis() -> None:
    (axes,) = draw_loader_profile(RATES, need=5000).axes
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "samples a second (log scale)"
    assert draw_loader_profile(RATES).axes[0].get_xscale() == "linear"


def test_one_setting_is_drawn() -> None:
    assert points(draw_loader_profile(RATES[:1]).axes[0]) == [[100, 0]]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_that_are_none_are_refused(rate: float) -> None:
    wrong: Any = [SettingRate("as it is", rate, 1.0, 2.0)]
    with pytest.raises(ArgumentError, match=r"must be finite and above 0; got"):
        draw_loader_profile(wrong)


def test_no_setting_is_refused() -> None:
    with pytest.raises(ArgumentError, match="settings must be one or more; got none"):
        draw_loader_profile([])
