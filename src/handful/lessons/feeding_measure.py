"""How fast each way makes batches, and how much memory it takes."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from matplotlib.ticker import LogFormatterMathtext, NullLocator

from handful.errors import TrainingError
from handful.lessons.feeding_ways import Epoch, Way
from handful.report.style import (
    BLUE,
    LABEL_SIZE,
    ORANGE,
    TICK_SIZE,
    finish_figure,
    make_figure,
    prepare_axes,
)
from handful.studies.peak_memory import read_peak, start_peak
from handful.train.threads import restored_threads

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Measured:
    """What one way was measured to do.

    Attributes:
        name: The way.
        rates: Samples per second of each round, shape ``(R,)``.
        peak_bytes: Most that this process held beyond what it held before, in one
            epoch with what it needs before; None where the system does not say.
    """

    name: str
    rates: tuple[float, ...]
    peak_bytes: int | None

    @property
    def rate(self) -> float:
        """Median of the rounds, in samples per second."""
        return statistics.median(self.rates)


def measure_ways(
    ways: Sequence[Way], num_samples: int, *, rounds: int
) -> list[Measured]:
    """Measure the ways with one thread, in turn, so that a busy moment hits them all.

    Args:
        ways: What to measure.
        num_samples: Samples that an epoch must deliver.
        rounds: Epochs of each way that are timed, after one that is not.

    Raises:
        TrainingError: A way lost samples or delivered some twice.
    """
    with restored_threads():
        torch.set_num_threads(1)
        peaks = [_measure_peak(way, num_samples) for way in ways]
        epochs = [way.prepare() for way in ways]
        rates: list[list[float]] = [[] for _ in ways]
        for _ in range(rounds):
            for epoch, found in zip(epochs, rates, strict=True):
                found.append(num_samples / _time_epoch(epoch, num_samples))
    return [
        Measured(way.name, tuple(found), peak)
        for way, found, peak in zip(ways, rates, peaks, strict=True)
    ]


def _time_epoch(epoch: Epoch, num_samples: int) -> float:
    start = time.perf_counter()
    count = sum(len(target) for _, target in epoch())
    seconds = time.perf_counter() - start
    if count != num_samples:
        raise TrainingError(
            f"an epoch must deliver {num_samples} samples; got {count}. "
            "Its time would be of something else."
        )
    return seconds


def _measure_peak(way: Way, num_samples: int) -> int | None:
    gc.collect()
    _give_free_memory_back()
    before = start_peak()
    _time_epoch(way.prepare(), num_samples)
    return read_peak(before)


def _give_free_memory_back() -> None:
    """Return freed memory to the system, so that its use anew is seen; glibc only."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def tell_measured(measured: Sequence[Measured]) -> list[str]:
    """Return the table of what was measured, a line a way."""
    width = max(len(one.name) for one in measured)
    head = f"  {'way':<{width}}  {'samples/s':>11}  {'least to greatest':>23}"
    lines = [f"{head}  peak memory"]
    for one in measured:
        span = f"{min(one.rates):,.0f} to {max(one.rates):,.0f}"
        lines.append(
            f"  {one.name:<{width}}  {one.rate:>11,.0f}  {span:>23}  "
            f"{_format_bytes(one.peak_bytes):>11}"
        )
    return lines


def _format_bytes(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 2**20:.1f} MiB"


def draw_ways(measured: Sequence[Measured], *, note: str) -> Figure:
    """Draw a bar a way: samples per second, and peak memory where it is known.

    Args:
        measured: The ways, the first at the top.
        note: How it was measured.
    """
    peaks = [one.peak_bytes for one in measured]
    is_known = None not in peaks
    figure = make_figure(0.8 + 0.32 * len(measured))
    panels = figure.subplots(1, 1 + is_known, sharey=True, squeeze=False)[0]
    _draw_rates(panels[0], measured)
    if is_known:
        _draw_peaks(panels[1], [(peak or 0) / 2**20 for peak in peaks])
    panels[0].set_yticks(range(len(measured)), [one.name for one in measured])
    panels[0].set_ylim(len(measured) - 0.4, -0.6)
    title = "How fast batches are made" + (", and what they take" if is_known else "")
    finish_figure(figure, title, [note])
    return figure


def _draw_rates(axes: Axes, measured: Sequence[Measured]) -> None:
    _prepare_bars(axes, "samples per second (log scale)")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatterMathtext())
    axes.xaxis.set_minor_locator(NullLocator())
    least = min(min(one.rates) for one in measured)
    greatest = max(max(one.rates) for one in measured)
    axes.set_xlim(least / 3, greatest * 30)
    for place, one in enumerate(measured):
        low, high = min(one.rates), max(one.rates)
        axes.barh(place, one.rate, color=BLUE, height=0.6, zorder=2)
        axes.plot([low, high], [place, place], color="black", linewidth=1.2, zorder=3)
        _write(axes, high * 1.15, place, _format_rate(one.rate))


def _draw_peaks(axes: Axes, sizes: Sequence[float]) -> None:
    _prepare_bars(axes, "peak memory (MiB)")
    axes.barh(range(len(sizes)), sizes, color=ORANGE, height=0.6, zorder=2)
    greatest = max(*sizes, 0.1)
    axes.set_xlim(0, greatest * 1.25)
    for place, size in enumerate(sizes):
        _write(axes, size + 0.02 * greatest, place, f"{size:.1f}")


def _prepare_bars(axes: Axes, label: str) -> None:
    prepare_axes(axes)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label, fontsize=LABEL_SIZE)


def _write(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(x, y, text, va="center", fontsize=TICK_SIZE)


def _format_rate(rate: float) -> str:
    if rate >= 1e6:
        return f"{rate / 1e6:.3g} million"
    return f"{float(f'{rate:.3g}'):,.0f}"
