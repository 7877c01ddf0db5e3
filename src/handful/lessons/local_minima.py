"""A function with two valleys: where descents end, and what noise changes.

"The mathematics of optimization for Deep Learning" shows a function with a local and a
global minimum, says that descent leads towards the minimum loss, and that the noise of
single samples can escape local minima. Here the function is a mean over samples,

    f(x) = (x² - 1)² + x / 2 = mean over i of (x² - 1)² + c_i x,  mean of c_i = 1/2,

so that a batch has the slope of the mean of its own c_i: noise that is really a
mini-batch's. All minima are roots of f'(x) = 4x³ - 4x + 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from handful.lessons.lesson import LessonOptions, LessonResult
from handful.lessons.one_weight import Floats
from handful.report.bands import SeedCurves, draw_bands
from handful.report.descent_paths import DescentPath, draw_loss_against_weight
from handful.report.landscape import Minimum, draw_function, draw_losses

TILT, SPREAD = 0.5, 10.0
"""Mean and standard deviation of the samples' c_i."""

NUM_SAMPLES = 100
LR = 0.02
REACH = 2.0
"""Descents start in [-2, 2]."""

SHOWN_START = 1.5
"""Where the descents that are drawn start."""

CORRECTION = (
    "Descent leads to the bottom of the valley that it starts in and not to the least "
    "loss, and noise leads out of the deep valley as well as out of the shallow one: "
    "to have been in the deep valley, which is all that the printed sentence "
    "promises, is not to end in it, and little noise leaves neither valley."
)


@dataclass(frozen=True)
class Batches:
    """Descents with one batch size, from all starts, with all seeds.

    Attributes:
        inside: Share of the starts that are in the deep valley after each step, that
            before the first included, ``(seeds, S + 1)``.
        ever: Share that have been there at any time, ``(seeds,)``.
        left: Share of those that began there and end elsewhere, ``(seeds,)``.
        path: The way from the start nearest to 1.5 with the first seed, ``(S + 1,)``.
    """

    inside: Floats
    ever: Floats
    left: Floats
    path: Floats


def run(options: LessonOptions) -> LessonResult:
    """Descend from many starts with all samples and with small batches.

    Args:
        options: ``seed`` decides the samples and their orders; ``quick`` takes 9
            starts, 2 seeds and 100 steps instead of 41, 20 and 1000.

    Returns:
        By batch size the share of starts that end in the deep valley (``end``), that
        have ever been in it (``ever``), and that began in it and end elsewhere
        (``left``), at a constant rate as printed (full batch and single samples), else
        for five batch sizes at a constant rate and at one that falls to 0.
    """
    minima, barrier = find_extrema()
    num_starts, num_seeds, steps = (9, 2, 100) if options.quick else (41, 20, 1000)
    starts = np.linspace(-REACH, REACH, num_starts)
    sizes = (1, NUM_SAMPLES) if options.as_printed else (1, 2, 5, 10, NUM_SAMPLES)
    rates = {"constant": np.full(steps, LR)}
    if not options.as_printed:
        rates["falling"] = LR * (1 - np.arange(steps) / steps)
    seeds = range(options.seed, options.seed + num_seeds)
    tilts = make_tilts(options.seed)
    results = {
        name: {size: _descend(tilts, size, lrs, starts, seeds) for size in sizes}
        for name, lrs in rates.items()
    }
    shares = {
        name: {str(size): _average(one) for size, one in by_size.items()}
        for name, by_size in results.items()
    }
    numbers: dict[str, Any] = {
        "minima": [[minimum.x, minimum.y] for minimum in minima],
        "barrier": [barrier, value_at(barrier).item()],
        "starts_in_deep_valley": float(np.mean(starts < barrier)),
        "num_starts": num_starts,
        "num_seeds": num_seeds,
        "steps": steps,
        "shares": shares,
    }
    return LessonResult(
        lines=_tell(minima, numbers, as_printed=options.as_printed),
        numbers=numbers,
        figures=_draw(minima, results),
        correction=CORRECTION,
    )


def value_at(x: npt.ArrayLike) -> Floats:
    """Return f(x) = (x² - 1)² + x / 2, of any shape."""
    x = np.asarray(x, dtype=np.float64)
    return np.asarray((x**2 - 1) ** 2 + TILT * x)


def find_extrema() -> tuple[list[Minimum], float]:
    """Solve f'(x) = 4x³ - 4x + 1/2 = 0.

    Returns:
        The global and the local minimum, and the maximum between them, about 0.127:
        a descent with all samples and small steps ends on the side it starts on.
    """
    low, barrier, high = np.sort(np.roots([4, 0, -4, TILT]).real).tolist()
    deep, shallow = value_at([low, high]).tolist()
    return [Minimum(low, deep, is_global=True), Minimum(high, shallow)], barrier


def make_tilts(seed: int) -> Floats:
    """Draw the samples' c_i, ``(100,)``, with their exact mean and deviation."""
    drawn = np.random.default_rng(seed).normal(size=NUM_SAMPLES)
    scaled: Floats = (drawn - drawn.mean()) / drawn.std()
    return TILT + SPREAD * scaled


def _descend(
    tilts: Floats, size: int, lrs: Floats, starts: Floats, seeds: range
) -> Batches:
    """Descend from each start with each seed, every descent with its own order."""
    shape = len(starts), len(lrs)
    slopes = np.stack([draw_slopes(tilts, size, shape, seed) for seed in seeds])
    paths = np.empty((len(seeds), len(starts), len(lrs) + 1))
    paths[..., 0] = starts
    for step, lr in enumerate(lrs):
        x = paths[..., step]  # (seeds, starts)
        # f_B'(x) = 4x(x² - 1) + mean of the batch's c_i.
        paths[..., step + 1] = x - lr * (4 * x * (x**2 - 1) + slopes[..., step])
    _, barrier = find_extrema()
    inside = paths < barrier
    began, ended = inside[..., 0], inside[..., -1]
    return Batches(
        inside=inside.mean(axis=1),
        ever=inside.any(axis=-1).mean(axis=1),
        left=(began & ~ended).sum(axis=1) / began.sum(axis=1),
        path=paths[0, np.argmin(np.abs(starts - SHOWN_START))],
    )


def draw_slopes(tilts: Floats, size: int, shape: tuple[int, int], seed: int) -> Floats:
    """Draw the mean c_i of every batch, all samples in a new order each epoch.

    Args:
        tilts: The samples' c_i, ``(N,)``.
        size: Samples in a batch, a divisor of N.
        shape: Numbers of starts K and of steps S.
        seed: Seed of the orders.

    Returns:
        The means, ``(K, S)``; with all samples in a batch, their mean.
    """
    if size == len(tilts):
        return np.full(shape, tilts.mean())
    num_starts, steps = shape
    epochs = -(-steps * size // len(tilts))
    rows = np.broadcast_to(tilts, (num_starts, epochs, len(tilts)))
    order = np.random.default_rng(seed).permuted(rows, axis=-1)
    means: Floats = order.reshape(num_starts, -1, size).mean(axis=-1)
    return means[:, :steps]


def _average(one: Batches) -> dict[str, float]:
    return {
        "end": one.inside[:, -1].mean().item(),
        "ever": one.ever.mean().item(),
        "left": one.left.mean().item(),
    }


def _tell(
    minima: list[Minimum], numbers: dict[str, Any], *, as_printed: bool
) -> list[str]:
    lines = [
        f"{minimum.name}: f({minimum.x:.4f}) = {minimum.y:.4f}" for minimum in minima
    ]
    lines += [
        "barrier between them: f({:.4f}) = {:.4f}".format(*numbers["barrier"]),
        f"{numbers['num_starts']} starts in [-2, 2], {numbers['num_seeds']} seeds, "
        f"{numbers['steps']} steps, lr {LR}; "
        f"{numbers['starts_in_deep_valley']:.0%} start in the deep valley",
    ]
    for name, by_size in numbers["shares"].items():
        lines.append(f"{name} rate:")
        lines += [_tell_size(*item, as_printed=as_printed) for item in by_size.items()]
    return lines


def _tell_size(size: str, share: dict[str, float], *, as_printed: bool) -> str:
    text = f"  batch size {size:>3}: {share['ever']:4.0%} reach the deep valley"
    if as_printed:
        return text
    return (
        f"{text}, {share['end']:4.0%} end in it; "
        f"{share['left']:4.0%} of those that began in it end elsewhere"
    )


def _draw(
    minima: list[Minimum], results: dict[str, dict[int, Batches]]
) -> dict[str, Figure]:
    grid = np.linspace(-1.7, 1.7, 401)
    full = results["constant"][NUM_SAMPLES].path
    figures = {
        "function": draw_function(
            grid,
            value_at(grid),
            minima=minima,
            path=np.column_stack([full, value_at(full)]),
            title="A local and a global minimum, and a descent that ends in the local",
        ),
        "losses": draw_losses(),
        "descents": draw_loss_against_weight(
            grid,
            value_at(grid),
            _read_paths(results),
            best=minima[0].x,
            x_label="weight x",
            y_label="loss f(x)",
            title=f"From x = {SHOWN_START} with single samples and with all of them",
        ),
    }
    for name, by_size in results.items():
        figures[f"share-{name}"] = draw_bands(
            [_read_share(size, one) for size, one in by_size.items()],
            x_label="step",
            y_label="share in the deep valley",
            centre="mean",
            title=f"Share of the starts that are in the deep valley, {name} rate",
        )
    return figures


def _read_paths(results: dict[str, dict[int, Batches]]) -> list[DescentPath]:
    return [
        DescentPath(
            f"{'full batch' if size == NUM_SAMPLES else 'single'}, {name}",
            np.column_stack([one.path, value_at(one.path)]),
        )
        for name, by_size in results.items()
        for size, one in by_size.items()
        if size in (1, NUM_SAMPLES)
    ]


def _read_share(size: int, one: Batches) -> SeedCurves:
    name = "full batch" if size == NUM_SAMPLES else f"batch size {size}"
    steps = np.arange(one.inside.shape[1], dtype=np.float64)
    return SeedCurves(name, steps, one.inside)
