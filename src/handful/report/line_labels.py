"""Names written beside the lines' ends, instead of a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from numpy.typing import NDArray

from handful.report.style import TICK_SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LineEnd", "label_line_ends", "spread_apart"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LineEnd:
    """Where a line ends, inside the axes, and what it is called."""

    x: float
    y: float
    text: str
    color: str


def label_line_ends(axes: Axes, ends: Sequence[LineEnd]) -> None:
    """Write the lines' names to the right of the axes, at the height of their ends.

    Names that would overlap are moved apart; a thin line leads to each.

    Args:
        axes: Axes whose limits are final.
        ends: The ends, in any order.
    """
    if not ends:
        return
    points = np.array([(end.x, end.y) for end in ends], np.float64)
    places = axes.transLimits.transform(axes.transScale.transform(points))
    figure = axes.get_figure(root=True)
    assert figure is not None
    # The layout is not known yet; axes are about seven tenths of the figure.
    points_high = 72 * 0.7 * figure.get_figheight()
    heights = spread_apart(places[:, 1], 1.3 * TICK_SIZE / points_high)
    for end, place, height in zip(ends, places, heights, strict=True):
        axes.plot(
            [place[0], 1.015],
            [place[1], height],
            transform=axes.transAxes,
            color=end.color,
            linewidth=0.5,
            alpha=0.6,
            clip_on=False,
        )
        axes.text(
            1.02,
            height,
            end.text,
            transform=axes.transAxes,
            color=_darken(end.color),
            fontsize=TICK_SIZE,
            va="center",
            parse_math=False,
        )


def _darken(color: str) -> str:
    """Return a colour in which small letters can be read on white."""
    red, green, blue = to_rgb(color)
    return to_hex((0.75 * red, 0.75 * green, 0.75 * blue))


def spread_apart(heights: Floats, gap: float) -> Floats:
    """Move heights as little as possible until they lie a gap apart.

    They stay in [0, 1] if there is room. The sum of squared moves is least: isotonic
    regression of the heights less their rank times the gap, by pooling adjacent
    violators (Barlow, Bartholomew, Bremner and Brunk 1972,
    "Statistical Inference under Order Restrictions", section 1.2).

    Args:
        heights: Wanted heights, parts of the axes' height, shape ``(N,)``.
        gap: Least distance between two.

    Returns:
        Heights in the same order, shape ``(N,)``.
    """
    order = np.argsort(heights, kind="stable")
    ranks = np.arange(len(heights))
    pools: list[tuple[float, int]] = []
    for value in heights[order] - gap * ranks:
        pools.append((float(value), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (last, few), (first, many) = pools.pop(), pools.pop()
            number = few + many
            pools.append(((first * many + last * few) / number, number))
    moved = np.repeat([mean for mean, _ in pools], [number for _, number in pools])
    # Cut to bounds, an isotonic fit is the best one within them.
    moved = np.clip(moved, 0, max(0.0, 1 - gap * (len(heights) - 1)))
    spread = np.empty(len(heights))
    spread[order] = moved + gap * ranks
    return spread
