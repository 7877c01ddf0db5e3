"""Experiments on one weight, where all is known in closed form.

The points are those of "The mathematics of optimization for Deep Learning". With
h = mean(x²), the loss is (w - w*)² h above the least.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from handful.lessons import local_minima
from handful.lessons.claims.claim import Bench
from handful.lessons.lesson import LessonOptions
from handful.lessons.one_weight import (
    Floats,
    draw_first_weight,
    find_error,
    load_points,
)
from handful.lessons.schedules import NAMES, choose_schedules
from handful.lessons.schedules import descend as descend_scheduled
from handful.reference.one_weight import best_weight, loss_at, minibatch_descent
from handful.reference.order import make_order
from handful.train.schedules import make_schedule

SIZES = (1, 10, 100)
LR = 0.02
"""The tutorial's rate for batches of 1, 10 and 100."""


def descend(size: int, lr: float, epochs: int, seed: int, start: float) -> Floats:
    """Return the weights of a descent, ``(S + 1,)``."""
    x, y = load_points()
    order = make_order(len(x), epochs=epochs, seed=seed)
    with np.errstate(over="ignore", invalid="ignore"):
        trace = minibatch_descent(
            x, y, batch_size=size, epochs=epochs, lr=lr, weight=start, order=order
        )
    assert trace.path is not None
    return trace.path[:, 0]


def find_excess(weights: Floats) -> Floats:
    """Return the loss above the least, as a share of the least, of the same shape."""
    x, y = load_points()
    least = loss_at(best_weight(x, y), x, y).item()
    return np.asarray(loss_at(weights, x, y) / least - 1)


def walk(bench: Bench) -> dict[str, Any]:
    """Descend with 1, 10 and 100 points a step: rises, distance, spread, repeats.

    Returns:
        By batch size, a value a seed: ``rises``, share of the steps in which the loss
        on all points rises; ``late``, mean loss above the least of the last half, as a
        share; ``ends``, last weights; ``repeats``, whether a second run is the same to
        the last bit; ``updates``, steps an epoch.
    """
    epochs = 10 if bench.quick else 50
    found: dict[str, Any] = {}
    for size in SIZES:
        paths = [descend(size, LR, epochs, s, draw_first_weight()) for s in bench.seeds]
        again = descend(size, LR, epochs, bench.seed, draw_first_weight())
        excess = np.stack([find_excess(path) for path in paths])
        found[str(size)] = {
            "rises": (np.diff(excess, axis=1) > 1e-12).mean(axis=1).tolist(),
            "late": excess[:, excess.shape[1] // 2 :].mean(axis=1).tolist(),
            "ends": [float(path[-1]) for path in paths],
            "repeats": bool(np.array_equal(again, paths[0])),
            "updates": (len(paths[0]) - 1) // epochs,
        }
    return found


def count_by_rate(bench: Bench) -> dict[str, Any]:
    """Count epochs until the loss is within 1 % of the least, by rate and batch size.

    Returns:
        ``rates``, and by batch size a list a rate of lists a seed; NaN where it never
        was in 300 epochs, or did not stay within 10 % for the rest of them.
    """
    rates = np.geomspace(1e-4, 2, 5 if bench.quick else 18)
    epochs = 30 if bench.quick else 300
    found: dict[str, Any] = {"rates": rates.tolist(), "epochs": epochs}
    for size in SIZES:
        found[str(size)] = [
            [_count_epochs(size, lr, epochs, seed) for seed in bench.seeds[:3]]
            for lr in rates.tolist()
        ]
    return found


def _count_epochs(size: int, lr: float, epochs: int, seed: int) -> float:
    path = descend(size, lr, epochs, seed, draw_first_weight())
    with np.errstate(over="ignore", invalid="ignore"):
        excess = find_excess(path)
    near = np.flatnonzero(excess <= 0.01)
    if not len(near) or not excess[near[0] :].max() <= 0.1:
        return float("nan")
    return float(near[0]) * size / 100


def print_step(bench: Bench) -> dict[str, Any]:  # noqa: ARG001
    """Take the tutorial's first step as printed; return its ``error``, or None."""
    x, _ = load_points()
    return {"error": find_error(x, draw_first_weight())}


def schedule(bench: Bench) -> dict[str, Any]:
    """Descend with each schedule, with noise and without.

    Returns:
        ``noisy`` (batches of 10, rate 0.5) and ``full`` (all points, rate 0.1): by
        schedule the last loss above the least, as a share of it, a value a seed.
    """
    epochs = 30 if bench.quick else 100
    found: dict[str, Any] = {}
    for name, lr, size in (("noisy", 0.5, 10), ("full", 0.1, 100)):
        seeds = bench.seeds if size == 10 else bench.seeds[:1]
        found[name] = {
            key: find_excess(
                descend_scheduled(
                    make_schedule(choice), seeds, lr=lr, epochs=epochs, size=size
                ).weights[:, -1]
            ).tolist()
            for key, choice in choose_schedules(epochs).items()
        }
    return {**found, "names": list(NAMES)}


def escape(bench: Bench) -> dict[str, Any]:
    """Descend on a function with two valleys; see the study ``local-minima``.

    Returns:
        ``start``: share of the starts in the deep valley; by batch size ``ever`` and
        ``end``: shares that have been there, and that end there.
    """
    options = LessonOptions(seed=bench.seed, quick=bench.quick, as_printed=True)
    numbers = local_minima.run(options).numbers
    shares = numbers["shares"]["constant"]
    return {
        "start": numbers["starts_in_deep_valley"],
        "num_starts": numbers["num_starts"],
        **{size: shares[size] for size in ("1", "100")},
    }


def finish(bench: Bench) -> dict[str, Any]:
    """Descend in batches of 1, then go on with all points, or with batches of 1.

    Returns:
        Last loss above the least, as a share, a value a seed: ``switched``, ``stayed``.
    """
    found: dict[str, Any] = {"switched": [], "stayed": []}
    for seed in bench.seeds:
        start = float(descend(1, LR, 5, seed, draw_first_weight())[-1])
        for name, size, lr in (("switched", 100, 0.3), ("stayed", 1, LR)):
            path = descend(size, lr, 20, seed + 1000, start)
            found[name].append(float(find_excess(path[-1:])[0]))
    return found


def stream(bench: Bench) -> dict[str, Any]:
    """See each of many points once, as they come: a step each, or one at the end.

    The points are y = 3x + noise; the loss is that of their distribution.

    Returns:
        Error |w - 3| a seed: ``single`` (rate 0.01), ``full`` (one step, rate 0.5, the
        fastest there is).
    """
    found: dict[str, Any] = {"single": [], "full": []}
    for seed in bench.seeds:
        generator = np.random.default_rng(seed)
        x = generator.normal(size=2000)
        y = 3 * x + generator.normal(size=2000)
        weight = 0.0
        for a, b in zip(x.tolist(), y.tolist(), strict=True):
            weight -= 0.01 * 2 * a * (weight * a - b)
        found["single"].append(abs(weight - 3))
        found["full"].append(abs(-0.5 * 2 * np.mean(-x * y) - 3))
    return found


def push(bench: Bench) -> dict[str, Any]:
    """Count steps on a valley 100 times as steep across as along, with momentum.

    f(a, b) = (a² + 100 b²) / 2 from (1, 1), until it is below 1e-6. Plain descent has
    its best rate, 2 / (1 + 100); with momentum rate and weight are Polyak's (1964).

    Returns:
        ``plain`` and ``momentum``: steps.
    """
    del bench
    curvature = np.array([1.0, 100.0])
    lr = 4 / (1 + 10) ** 2
    beta = ((10 - 1) / (10 + 1)) ** 2
    return {
        "plain": _count_steps(curvature, 2 / 101, 0.0),
        "momentum": _count_steps(curvature, lr, beta),
    }


def _count_steps(curvature: Floats, lr: float, beta: float) -> int:
    at, before = np.ones(2), np.ones(2)
    for step in range(10_000):
        if curvature @ at**2 / 2 < 1e-6:
            return step
        at, before = at - lr * curvature * at + beta * (at - before), at
    return 10_000
