"""The same descent with batches of 1, 10 and 100 samples.

The program of "The mathematics of optimization for Deep Learning": two epochs with
batches of 50, then 100 epochs with three batch sizes. Its generator of batches seeds
NumPy whenever an epoch begins, so that all epochs have the same order. The step that it
calls, ``gradient_step_onefeature``, is not on its page;
`handful.reference.one_weight.gradient_step_one_feature` stands in for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from handful.lessons.lesson import LessonOptions, LessonResult, Printed
from handful.lessons.one_weight import (
    Floats,
    draw_batch_losses,
    draw_paths,
    load_points,
    pair_with_losses,
)
from handful.reference.one_weight import best_weight, loss_at, minibatch_descent
from handful.reference.order import make_order, reseeded_order
from handful.report.batches import draw_first_batches
from handful.report.descent_paths import DescentPath

SIZES = 1, 10, 100
LR = 0.02
TUTORIAL_SEED = 42
FIRST = 100
"""Batches of each size in the figure of the first ones."""

AXIS_END = 10_000
"""Where the axis of losses ends in the tutorial's figure of the first batches."""

NUM_ORDERS = 1000
"""Orders whose cycles are compared."""

CORRECTION = (
    "The generator of batches calls np.random.seed(42) whenever an epoch begins, so "
    "every epoch has the same order and ends at the same weight: that looks like "
    "convergence, but it is a cycle that this one order decides, and the errors of its "
    "batches never average out; the figures put the loss of a batch before its step "
    "over the weight after it, and end at a loss of 10,000, which hides a batch."
)


@dataclass(frozen=True)
class Descent:
    """One descent with batches.

    Attributes:
        weights: Before the first step and after each, ``(S + 1,)``.
        losses: Of each batch, before its step, ``(S,)``.
        epoch_ends: Weights at the ends of the epochs, ``(epochs,)``.
    """

    weights: Floats
    losses: Floats
    epoch_ends: Floats


def run(options: LessonOptions) -> LessonResult:
    """Descend with batches of 50, and compare three batch sizes.

    Args:
        options: ``seed`` decides the order of the samples where it is corrected;
            ``quick`` takes 20 epochs instead of 100.

    Returns:
        ``reseeded``, with the tutorial's order, and, where it is corrected, ``anew``,
        with a new order each epoch: for each batch size the ``final_weight`` and its
        loss on all samples, the mean and the range of the weights at the ends of the
        second half's epochs, and the greatest of the first 100 losses with the number
        that the tutorial's axis hides. ``short`` has the four steps with batches of 50;
        ``cycle_sds``, by batch size, the standard deviation over 1000 orders of the
        weight at which every epoch would end, were it repeated for ever.
    """
    x, y = load_points()
    epochs = 20 if options.quick else 100
    short = _descend(x, y, 50, 0.1, _choose_order(options, 2))
    reseeded = _descend_all(x, y, reseeded_order(len(x), epochs, TUTORIAL_SEED))
    shown = reseeded
    numbers: dict[str, Any] = {
        "epochs": epochs,
        "best_weight": best_weight(x, y),
        "least_loss": loss_at(best_weight(x, y), x, y).item(),
        "short": {"weights": short.weights.tolist(), "losses": short.losses.tolist()},
        "reseeded": _measure(reseeded, x, y),
        "cycle_sds": _spread_cycles(x, y, options),
    }
    if not options.as_printed:
        shown = _descend_all(x, y, _choose_order(options, epochs))
        numbers["anew"] = _measure(shown, x, y)
    return LessonResult(
        lines=_tell(short, numbers),
        numbers=numbers,
        printed=[_compare_axis(reseeded[1])],
        figures=_draw(shown, reseeded, x, y, as_printed=options.as_printed),
        correction=CORRECTION,
    )


def _choose_order(options: LessonOptions, epochs: int) -> npt.NDArray[np.int64]:
    if options.as_printed:
        return reseeded_order(100, epochs, TUTORIAL_SEED)
    return make_order(100, epochs, options.seed)


def _descend_all(
    x: Floats, y: Floats, order: npt.NDArray[np.int64]
) -> dict[int, Descent]:
    return {size: _descend(x, y, size, LR, order) for size in SIZES}


def _descend(
    x: Floats, y: Floats, size: int, lr: float, order: npt.NDArray[np.int64]
) -> Descent:
    # The weight that the program draws after np.random.seed(42).
    start = float(np.random.RandomState(TUTORIAL_SEED).rand())
    epochs = len(order)
    trace = minibatch_descent(
        x, y, batch_size=size, epochs=epochs, lr=lr, weight=start, order=order
    )
    assert trace.path is not None
    weights = trace.path[:, 0]
    per_epoch = len(trace.losses) // epochs
    return Descent(weights, trace.losses, weights[per_epoch::per_epoch])


def find_cycles(
    x: Floats, y: Floats, order: npt.NDArray[np.int64], size: int
) -> Floats:
    """Find the weight at which an epoch ends where it began.

    A step is affine in the weight, w <- (1 - 2 lr mean(x²)) w + 2 lr mean(x y) over its
    batch, and so is an epoch, w <- a w + b; repeated, it tends to b / (1 - a).

    Args:
        x: The feature, ``(N, 1)``.
        y: The values to predict, ``(N, 1)``.
        order: Orders of one epoch each, ``(K, N)``.
        size: Batch size, a divisor of N.

    Returns:
        The weights, ``(K,)``.
    """
    inputs, target = x[:, 0][order], y[:, 0][order]  # (K, N)
    a, b = np.ones(len(order)), np.zeros(len(order))
    for start in range(0, order.shape[1], size):
        rows = slice(start, start + size)
        keep = 1 - 2 * LR * np.mean(inputs[:, rows] ** 2, axis=1)
        push = 2 * LR * np.mean(inputs[:, rows] * target[:, rows], axis=1)
        a, b = keep * a, keep * b + push
    cycles: Floats = b / (1 - a)
    return cycles


def _spread_cycles(x: Floats, y: Floats, options: LessonOptions) -> dict[str, float]:
    orders = make_order(len(x), NUM_ORDERS, options.seed)
    return {str(size): find_cycles(x, y, orders, size).std().item() for size in SIZES}


def _measure(
    descents: dict[int, Descent], x: Floats, y: Floats
) -> dict[str, dict[str, float]]:
    return {str(size): _measure_one(one, x, y) for size, one in descents.items()}


def _measure_one(one: Descent, x: Floats, y: Floats) -> dict[str, float]:
    late = one.epoch_ends[len(one.epoch_ends) // 2 :]
    first = one.losses[:FIRST]
    return {
        "final_weight": one.weights[-1].item(),
        "final_loss": loss_at(one.weights[-1], x, y).item(),
        "late_mean": late.mean().item(),
        "late_range": np.ptp(late).item(),
        "greatest_loss": first.max().item(),
        "hidden_losses": int((first > AXIS_END).sum()),
    }


def _tell(short: Descent, numbers: dict[str, Any]) -> list[str]:
    lines = ["two epochs, batches of 50, lr 0.1:"]
    for weight, loss in zip(short.weights[1:], short.losses, strict=True):
        lines.append(f"  loss of the batch {loss:.4f}, weight after it {weight:.4f}")
    orders = {"reseeded": "the same order in every epoch, as printed"}
    if "anew" in numbers:
        orders["anew"] = "a new order in every epoch"
    for name, text in orders.items():
        lines.append(f"{numbers['epochs']} epochs, lr {LR}, {text}:")
        lines += [_tell_size(size, one) for size, one in numbers[name].items()]
    sds = ", ".join(f"{sd:.2f}" for sd in numbers["cycle_sds"].values())
    lines.append(
        f"the cycle's weight over {NUM_ORDERS} orders, batch sizes 1, 10, 100: "
        f"standard deviation {sds}"
    )
    lines.append(
        f"best weight {numbers['best_weight']:.4f}, "
        f"least loss {numbers['least_loss']:.4f}"
    )
    return lines


def _tell_size(size: str, one: dict[str, float]) -> str:
    return (
        f"  batch size {size:>3}: weight {one['final_weight']:.4f}, "
        f"loss {one['final_loss']:.4f}; ends of the later epochs: "
        f"mean {one['late_mean']:.4f}, range {one['late_range']:.4f}"
    )


def _compare_axis(one: Descent) -> Printed:
    first = one.losses[:FIRST]
    hidden = int((first > AXIS_END).sum())
    return Printed(
        "greatest of the first 100 losses, batch size 1, its order",
        theirs=f"axis ends at {AXIS_END:,}",
        ours=f"{first.max():,.0f} ({hidden} beyond that)",
    )


def _draw(
    shown: dict[int, Descent],
    reseeded: dict[int, Descent],
    x: Floats,
    y: Floats,
    *,
    as_printed: bool,
) -> dict[str, Figure]:
    panels = {str(size): one for size, one in shown.items()}
    if as_printed:
        paths = draw_batch_losses(
            {size: (one.weights[1:], one.losses) for size, one in shown.items()}, x, y
        )
    else:
        panels["1, one order"] = reseeded[1]
        drawn = [
            DescentPath(f"size {name}", pair_with_losses(one.weights, x, y))
            for name, one in panels.items()
        ]
        title = f"The loss on all samples along each descent, by batch size, lr {LR}"
        paths = draw_paths(drawn, x, y, title=title)
    losses: dict[int | str, Floats] = {name: one.losses for name, one in panels.items()}
    return {"paths": paths, "first-batches": draw_first_batches(losses, FIRST)}
