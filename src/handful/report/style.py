"""What all figures share: size, fonts, colours, line styles, titles and notes.

Colours are those of Okabe and Ito (2008), "Color Universal Design". Lines differ by
dashes and markers too, so that they can be told apart in grey.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "LABEL_SIZE",
    "MINUS",
    "NOTE_SIZE",
    "ORANGE",
    "TICK_SIZE",
    "WIDTH",
    "add_legend",
    "begin_sentence",
    "darkening_colors",
    "finish_figure",
    "format_number",
    "label_outer_panels",
    "line_style",
    "make_figure",
    "marker_places",
    "prepare_axes",
]

WIDTH = 16 / 2.54
"""Width of a figure, in inches: 16 cm, the text of a page."""

TITLE_SIZE, LABEL_SIZE, TICK_SIZE, NOTE_SIZE = 10.0, 9.0, 8.0, 7.5
"""Sizes of fonts, in points, at that width."""

BLACK, BLUE, ORANGE, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
GREY, FAINT = "#6E6E6E", "#DDDDDD"
_COLORS = (BLUE, ORANGE, GREEN, BLACK, "#CC79A7", "#56B4E9", "#E69F00")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
_MARKERS = "os^DvPXp<"
MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def make_figure(height: float) -> Figure:
    """Make an empty figure, 16 cm wide.

    Args:
        height: Its height, in inches.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def prepare_axes(axes: Axes) -> None:
    """Give axes the common grid, ticks and open frame."""
    axes.grid(True, color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=TICK_SIZE)
    axes.spines[["top", "right"]].set_visible(False)


def finish_figure(figure: Figure, title: str, notes: Sequence[str | None] = ()) -> None:
    """Write the title above a figure and its notes below, and lay everything out.

    The layout is then fixed: matplotlib's constrained layout starts from where things
    are, and a second saving would move them by fractions of a pixel.

    Args:
        figure: The figure.
        title: What is shown.
        notes: Sentences without their full stop; those that are None are left out.
    """
    inches = figure.get_figwidth()
    figure.suptitle(
        textwrap.fill(title, int(12.5 * inches)),
        fontsize=TITLE_SIZE,
        fontweight="bold",
        parse_math=False,
    )
    told = [note for note in notes if note]
    if told:
        text = textwrap.fill("Note: " + "; ".join(told) + ".", int(17 * inches))
        figure.supxlabel(text, fontsize=NOTE_SIZE, color="#444444", parse_math=False)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        # The solver's last bits vary, and an SVG's names are hashed from them.
        bounds = axes.get_position(original=True).bounds
        left, bottom, width, height = (round(float(value), 6) for value in bounds)
        axes.set_position((left, bottom, width, height))


def label_outer_panels(panels: NDArray[Any], number: int) -> None:
    """Show the first panels, with the labels of the axes only at the outside.

    Args:
        panels: Axes, shape ``(R, C)``; all have the same limits.
        number: How many are shown, row by row; the others are hidden.
    """
    columns = panels.shape[1]
    for place, axes in enumerate(panels.flat):
        axes.set_visible(place < number)
        if place % columns:
            axes.tick_params(labelleft=False)
            axes.set_ylabel("")
        has_none_below = place + columns >= number
        axes.tick_params(labelbottom=has_none_below)
        if not has_none_below:
            axes.set_xlabel("")


def begin_sentence(text: str) -> str:
    """Return a text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def line_style(index: int) -> dict[str, Any]:
    """Return the colour, dashes and marker of a figure's line.

    The first 252 lines differ pairwise, the first four in all three.

    Args:
        index: The line's number, from 0.
    """
    return {
        "color": _COLORS[index % len(_COLORS)],
        "linestyle": _DASHES[index % len(_DASHES)],
        "marker": _MARKERS[index % len(_MARKERS)],
    }


def marker_places(number: int, index: int = 0) -> tuple[int, int]:
    """Return matplotlib's ``markevery`` for about ten markers a line.

    Args:
        number: The line's points.
        index: The line's number: lines that coincide have their markers side by side.
    """
    every = max(1, math.ceil(number / 10))
    return (index * max(1, every // 4)) % every, every


def darkening_colors(number: int) -> list[str]:
    """Return colours from a light blue to a dark one, as hexadecimal codes.

    The first ones differ most, as do the first steps of a descent.
    """
    light, dark = np.array(to_rgb("#8FBCE3")), np.array(to_rgb("#06224A"))
    return [
        to_hex(light + (dark - light) * part)
        for part in np.sqrt(np.linspace(0, 1, number))
    ]


def format_number(value: float, position: int | None = None) -> str:  # noqa: ARG001
    """Write a number as briefly as a tick needs: 0.001, 2500, 10⁶, 3·10⁻⁷.

    Args:
        value: The number.
        position: Its place among the ticks; not used.
    """
    if value == 0 or 1e-4 <= abs(value) < 1e5 or not math.isfinite(value):
        return f"{value:.6g}".replace("-", MINUS)
    mantissa, exponent = f"{value:.3g}".partition("e")[::2]
    if not exponent:
        mantissa, exponent = f"{value:.2e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    mantissa = f"{float(mantissa):g}".replace("-", MINUS)
    return {"1": power, f"{MINUS}1": f"{MINUS}{power}"}.get(
        mantissa, f"{mantissa}·{power}"
    )


def add_legend(
    axes: Axes, handles: Sequence[Artist], names: Sequence[str], **place: Any
) -> Legend:
    """Add a legend whose names are written as they are.

    Args:
        axes: Where it stands.
        handles: A line or marks for each name.
        names: Any text, also such as begins with an underscore or holds a dollar sign.
        place: Arguments of matplotlib's ``legend`` that say where it stands.

    Returns:
        The legend.
    """
    numbers = [str(number) for number in range(len(names))]
    legend = axes.legend(handles, numbers, frameon=False, fontsize=TICK_SIZE, **place)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
    return legend
