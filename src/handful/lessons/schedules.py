"""Schedules of the learning rate side by side, where they help and where they don't.

"The mathematics of optimization for Deep Learning" names four schedules beside a
descent with all samples in each step. Here each descends on its 100 points in batches
of 10 at a rate on purpose too large, and trains the model of "Model Training with
Mini-Batches in PyTorch" in the same way. On the points all is known: with h = mean(x²),
the loss is (w - w*)² h above the least, and a rate that stays keeps a noisy weight at a
distance that grows with the rate (Bottou, Curtis and Nocedal 2018, "Optimization
Methods for Large-Scale Machine Learning", theorem 4.6), while one that falls lets it
settle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from handful.lessons.lesson import LessonOptions, LessonResult
from handful.lessons.one_weight import Floats, draw_first_weight, load_points
from handful.lessons.over_seeds import format_spread, judge_pairs
from handful.recipes import wine
from handful.reference.one_weight import (
    best_weight,
    gradient_step_one_feature,
    loss_at,
)
from handful.reference.order import split_batches
from handful.report.bands import SeedCurves, draw_bands
from handful.report.schedule_curves import RateCurve, draw_schedules
from handful.runs.study import Study
from handful.runs.study_row import Row
from handful.studies.compare import compare
from handful.train.choices import Choice, parse_schedule
from handful.train.schedules import Schedule, make_schedule

CONSTANT = "constant"
NAMES = ("StepLR", "ExponentialLR", "CosineAnnealingLR", "ReduceLROnPlateau")

LR, BATCH_SIZE, EPOCHS = 0.5, 10, 100
"""On the points: full batches would diverge from a rate of 1 on."""

PRINTED_LR = 0.1
WINE_LR, WINE_EPOCHS = 0.1, 60
"""On Wine, with Adam: ten times the rate of its recipe."""

NUM_SEEDS = 8
LEAST_SHOWN = 1e-9
"""Losses above the least that are smaller are rounding, and not drawn."""

CORRECTION = (
    "It names the schedules beside a descent with all samples in each step, where a "
    "constant rate walks to the minimum by itself and every decay only slows it; a "
    "schedule is of use where small batches are noisy, since there a constant rate "
    "keeps the weight moving about the minimum, the farther the larger it is."
)


@dataclass(frozen=True)
class Descents:
    """Descents with one schedule, a row a seed.

    Attributes:
        rates: Rate of each epoch, ``(S, E)``.
        weights: Weight before the first and after each epoch, ``(S, E + 1)``.
        losses: Loss on all samples at those weights, ``(S, E + 1)``.
    """

    rates: Floats
    weights: Floats
    losses: Floats


def choose_schedules(epochs: int) -> dict[str, Choice]:
    """Return a constant rate and PyTorch's four schedules, fit for a length.

    Args:
        epochs: Passes over the data, 4 or more.

    Returns:
        Name -> schedule: a tenth every third of the run, a hundredth in even steps,
        down to 0 along a cosine, and half after three epochs without improvement.
    """
    texts = {
        CONSTANT: "constant",
        "StepLR": f"step:step_size={-(-epochs // 3)},gamma=0.1",
        "ExponentialLR": f"exponential:gamma={0.01 ** (1 / epochs):.6g}",
        "CosineAnnealingLR": f"cosine:t_max={epochs}",
        "ReduceLROnPlateau": "plateau:factor=0.5,patience=3",
    }
    return {name: parse_schedule(text) for name, text in texts.items()}


def run(options: LessonOptions) -> LessonResult:
    """Descend with each schedule, and corrected train Wine's model with each.

    Args:
        options: ``seed`` is the first of eight seeds of the orders; ``quick`` takes two
            and fewer epochs; ``as_printed`` takes all samples a step, at a rate of 0.1,
            where nothing is left to chance.

    Returns:
        ``points``: by schedule the ``rates`` of the first seed's epochs, the last
        ``weights`` and the losses above the least, ``excess``, a value a seed;
        corrected also ``wine``: the rates and the last ``train_loss``, ``valid_loss``
        and ``valid_accuracy``, a value a seed.
    """
    result = LessonResult(correction=CORRECTION)
    _run_points(result, options)
    if not options.as_printed:
        _run_wine(result, options)
    return result


def _choose_seeds(options: LessonOptions) -> list[int]:
    count = 1 if options.as_printed else 2 if options.quick else NUM_SEEDS
    return list(range(options.seed, options.seed + count))


def _run_points(result: LessonResult, options: LessonOptions) -> None:
    epochs = 20 if options.quick else EPOCHS
    size, lr = (100, PRINTED_LR) if options.as_printed else (BATCH_SIZE, LR)
    seeds = _choose_seeds(options)
    found = {
        name: descend(make_schedule(choice), seeds, lr=lr, epochs=epochs, size=size)
        for name, choice in choose_schedules(epochs).items()
    }
    x, y = load_points()
    least = loss_at(best_weight(x, y), x, y).item()
    result.numbers["points"] = {
        "lr": lr,
        "batch_size": size,
        "epochs": epochs,
        "least_loss": least,
        **{name: _measure(one, least) for name, one in found.items()},
    }
    how = f"batches of {size}, rate {lr:g} at the start, {epochs} epochs"
    _tell_points(result, how)
    result.figures["points-rate"] = _draw_rates(
        {name: one.rates[0] for name, one in found.items()}, f"On the points: {how}"
    )
    result.figures["points-loss"] = draw_bands(
        [_as_excess(name, one.losses - least) for name, one in found.items()],
        x_label="epoch",
        y_label="loss above the least",
        title=f"One weight, {how}",
    )


def descend(
    schedule: Schedule, seeds: Sequence[int], *, lr: float, epochs: int, size: int
) -> Descents:
    """Descend on the points with a schedule, once for each seed.

    Args:
        schedule: Gives the rate of an epoch; its monitored value is the loss on all
            samples after each epoch.
        seeds: Seeds of the orders.
        lr: The rate at the start.
        epochs: Passes over the points.
        size: Points a step.
    """
    rates, weights = np.empty((len(seeds), epochs)), np.empty((len(seeds), epochs + 1))
    for row, seed in enumerate(seeds):
        rates[row], weights[row] = _descend_once(schedule, seed, lr, epochs, size)
    return Descents(rates, weights, loss_at(weights, *load_points()))


def _descend_once(
    schedule: Schedule, seed: int, lr: float, epochs: int, size: int
) -> tuple[list[float], list[float]]:
    x, y = load_points()
    orders = np.random.default_rng(seed)
    rates: list[float] = []
    losses: list[float] = []
    weights = [draw_first_weight()]
    for epoch in range(epochs):
        rate = schedule.lr_at(epoch, lr=lr, total=epochs, losses=losses)
        weight = weights[-1]
        for part in split_batches(orders.permutation(len(x)), size):
            weight, _ = gradient_step_one_feature(x[part], y[part], weight, rate)
        rates.append(rate)
        weights.append(weight)
        losses.append(loss_at(weight, x, y).item())
    return rates, weights


def _measure(one: Descents, least: float) -> dict[str, Any]:
    return {
        "rates": one.rates[0].tolist(),
        "weights": one.weights[:, -1].tolist(),
        "excess": (one.losses[:, -1] - least).tolist(),
    }


def _tell_points(result: LessonResult, how: str) -> None:
    found = result.numbers["points"]
    result.lines.append(f"One weight, {how}:")
    for name in (CONSTANT, *NAMES):
        row = found[name]
        result.lines.append(
            f"  {name:<18} last rate {row['rates'][-1]:<9.3g} loss above the least "
            f"{format_spread(row['excess'], 3)}"
        )
    _compare_with_constant(result, {n: found[n]["excess"] for n in (CONSTANT, *NAMES)})


def _compare_with_constant(
    result: LessonResult, values: Mapping[str, Sequence[float]]
) -> None:
    result.lines += [
        "  " + judge_pairs(f"{name} less constant", values[name], values[CONSTANT])
        for name in NAMES
    ]


def _as_excess(name: str, values: Floats) -> SeedCurves:
    shown = np.where(values > LEAST_SHOWN, values, np.nan)
    epochs = np.arange(shown.shape[1], dtype=np.float64)
    return SeedCurves(name, epochs, shown, diverged=())


def _draw_rates(rates: Mapping[str, Any], title: str) -> Figure:
    figure = draw_schedules(
        [RateCurve(name, np.asarray(values)) for name, values in rates.items()],
        x_label="epoch",
        is_log=True,
        title=title,
    )
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def _run_wine(result: LessonResult, options: LessonOptions) -> None:
    epochs = 4 if options.quick else WINE_EPOCHS
    choices = choose_schedules(epochs)
    study = compare(
        wine.recipe.override(lr=WINE_LR),
        {"schedule": list(choices.values())},
        seeds=_choose_seeds(options),
        epochs=epochs,
        progress="off",
    )
    cells = dict(zip(choices, study.cells, strict=True))
    rows = {name: _rows_of(study, cell) for name, cell in cells.items()}
    result.numbers["wine"] = {
        "lr": WINE_LR,
        "epochs": epochs,
        **{name: _measure_rows(found) for name, found in rows.items()},
    }
    _tell_wine(result, epochs)
    first = {name: result.numbers["wine"][name]["rates"] for name in rows}
    result.figures["wine-rate"] = _draw_rates(first, f"On Wine, rate {WINE_LR:g}")
    for key, label in (
        ("train_loss", "training loss"),
        ("valid_loss", "validation loss"),
    ):
        result.figures[f"wine-{key.replace('_', '-')}"] = draw_bands(
            [_read_curve(name, key, found) for name, found in rows.items()],
            x_label="epoch",
            y_label=label,
            title=f"Wine, Adam at a rate of {WINE_LR:g}: {label} by schedule",
        )


def _rows_of(study: Study, cell: Mapping[str, Any]) -> list[Row]:
    return [row for row in study.rows if row.settings == cell]


def _measure_rows(rows: Sequence[Row]) -> dict[str, Any]:
    keys = ("train_loss", "valid_loss", "valid_accuracy")
    return {
        "rates": [record["lr"] for record in rows[0].history],
        **{key: [row.final[key] for row in rows] for key in keys},
    }


def _tell_wine(result: LessonResult, epochs: int) -> None:
    found = result.numbers["wine"]
    result.lines.append(f"Wine, Adam at a rate of {WINE_LR:g}, {epochs} epochs:")
    for name in (CONSTANT, *NAMES):
        row = found[name]
        result.lines.append(
            f"  {name:<18} training loss {format_spread(row['train_loss'], 3)}, "
            f"validation loss {format_spread(row['valid_loss'], 3)}, "
            f"accuracy {format_spread(row['valid_accuracy'], 3)}"
        )
    names = (CONSTANT, *NAMES)
    _compare_with_constant(result, {n: found[n]["valid_loss"] for n in names})


def _read_curve(name: str, key: str, rows: Sequence[Row]) -> SeedCurves:
    values = np.array([[record[key] for record in row.history] for row in rows])
    return SeedCurves(name, np.arange(1.0, values.shape[1] + 1), values)
