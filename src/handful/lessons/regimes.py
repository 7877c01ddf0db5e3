"""Full batch, mini-batches and single samples: the story of the ball, measured.

"Model Training with Mini-Batches in PyTorch" tells of throwing one ball, a few or all
of them before the aim is adjusted, and trains with a few. Here its model is trained all
three ways. Curves stand over epochs, steps, samples and seconds, since each axis tells
another story; and beside Adam with one rate for all, plain descent has a rate of its
own for each regime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from handful.lessons.lesson import LessonOptions, LessonResult, Printed
from handful.lessons.over_seeds import format_spread
from handful.recipes import wine
from handful.report.bands import AXES, SeedCurves, draw_four_axes
from handful.report.scaling import BatchScaling, draw_scaling
from handful.report.study_curves import read_study_curves
from handful.runs.study import Study
from handful.runs.study_row import Row
from handful.studies.compare import compare

SINGLE, FEW, ALL = "single samples", "batches of 32", "full batch"
SIZES: Mapping[str, int | str] = {SINGLE: 1, FEW: 32, ALL: "full"}
"""Regime -> batch size."""

ADAM_LR = 1e-3
RATES: Mapping[str, tuple[float, ...]] = {
    SINGLE: (0.0003, 0.001, 0.003, 0.01, 0.03),
    FEW: (0.01, 0.03, 0.1, 0.3, 1.0),
    ALL: (0.03, 0.1, 0.3, 1.0, 3.0),
}
"""Rates that plain descent is tried with."""

NUM_SEEDS, NUM_TUNING_SEEDS = 5, 3
PRINTED_EPOCHS, EPOCHS = 10, 50

CORRECTION = (
    "It trains on raw features, of which one is a thousand times as large as another, "
    "and holds nothing out, so that the scales decide how it goes and not the batches, "
    "and nobody knows how well it does on other wine; and with Adam's one rate for all "
    "three regimes, the full batch looks slow only because it has taken so few steps."
)


@dataclass(frozen=True)
class Regime:
    """The trials of one regime.

    Attributes:
        name: The regime.
        study: Where they were trained.
        cell: Their settings in it.
    """

    name: str
    study: Study
    cell: dict[str, Any]

    @property
    def rows(self) -> list[Row]:
        """Its trials that finished, in the order of the seeds."""
        return [
            row
            for row in self.study.rows
            if row.settings == self.cell and row.status == "finished"
        ]


def run(options: LessonOptions) -> LessonResult:
    """Train Wine's model in all three regimes.

    Args:
        options: ``seed`` is the first of five seeds; ``quick`` takes two, three epochs
            and two rates; ``as_printed`` trains on all 178 raw samples.

    Returns:
        For ``adam``, and corrected for ``sgd``, by regime: ``steps``, ``seconds``,
        ``noise`` (standard deviation of a step's gradient over its mean's norm, before
        the first step), ``peak_bytes``, ``train_loss`` and ``accuracy``, a value a
        seed; for ``sgd`` also ``lr``.
    """
    result = LessonResult(correction=CORRECTION)
    value = "train_loss" if options.as_printed else "valid_loss"
    adam = train_adam(options)
    _show(result, "adam", f"Adam, rate {ADAM_LR:g} for all", adam, value)
    if not options.as_printed:
        tuned = train_tuned(options)
        _show(result, "sgd", "Plain descent, a rate each", tuned, value)
    _tell_print(result, options.as_printed)
    result.figures["scaling"] = _draw_scaling(adam)
    return result


def train_adam(options: LessonOptions) -> list[Regime]:
    """Train with Adam, with the tutorial's rate."""
    recipe = wine.recipe.override(lr=ADAM_LR)
    if options.as_printed:
        recipe = wine.as_seed.override(metrics=("accuracy",))
    study = compare(
        recipe,
        {"batch_size": list(SIZES.values())},
        seeds=_choose_seeds(options),
        epochs=_choose_epochs(options),
        progress="off",
    )
    return [Regime(name, study, {"batch_size": size}) for name, size in SIZES.items()]


def train_tuned(options: LessonOptions) -> list[Regime]:
    """Train with plain descent, each regime with the best of a few rates.

    The rate is chosen by the mean of the last validation losses over seeds of its own,
    so that the seeds that are shown have not been chosen by.
    """
    return [_train_tuned(name, options) for name in SIZES]


def _train_tuned(name: str, options: LessonOptions) -> Regime:
    recipe = wine.recipe.override(optimizer="sgd", batch_size=SIZES[name])
    shown = _choose_seeds(options)
    count = 1 if options.quick else NUM_TUNING_SEEDS
    tuning = [shown[-1] + 1 + n for n in range(count)]
    rates = RATES[name][2:4] if options.quick else RATES[name]
    epochs = _choose_epochs(options)
    tried = compare(recipe, {"lr": rates}, seeds=tuning, epochs=epochs, progress="off")
    best = tried.best("valid_loss")
    lr = rates[0] if best is None else best.settings["lr"]
    study = compare(recipe, {"lr": [lr]}, seeds=shown, epochs=epochs, progress="off")
    return Regime(name, study, {"lr": lr})


def _choose_seeds(options: LessonOptions) -> list[int]:
    count = 2 if options.quick else NUM_SEEDS
    return list(range(options.seed, options.seed + count))


def _choose_epochs(options: LessonOptions) -> int:
    if options.quick:
        return 3
    return PRINTED_EPOCHS if options.as_printed else EPOCHS


def measure_regime(regime: Regime) -> dict[str, Any]:
    """Return what was measured of a regime, a value a seed.

    Accuracy is that of the validation data, or of the training data where all are.
    """
    rows = regime.rows
    noises = [(row.noise_start or {}).get("relative_std") for row in rows]
    return {
        **regime.cell,
        "steps": rows[0].steps if rows else 0,
        "seconds": [row.seconds for row in rows],
        "noise": [noise for noise in noises if noise is not None],
        "peak_bytes": [row.peak_memory_bytes for row in rows],
        "train_loss": [row.train_eval["loss"] for row in rows],
        "valid_loss": [row.final["valid_loss"] for row in rows if _is_validated(row)],
        "accuracy": [
            row.final.get("valid_accuracy", row.train_eval["accuracy"]) for row in rows
        ],
    }


def _is_validated(row: Row) -> bool:
    return "valid_loss" in row.final


def _show(
    result: LessonResult, key: str, title: str, regimes: Sequence[Regime], value: str
) -> None:
    """Add numbers, lines and the figure of one optimiser."""
    result.numbers[key] = {one.name: measure_regime(one) for one in regimes}
    result.lines.append(f"{title}:")
    for name, found in result.numbers[key].items():
        result.lines.append(f"  {_format_regime(name, found)}")
    label = "validation loss" if value == "valid_loss" else "training loss"
    result.figures[f"{key}-four-axes"] = _draw(regimes, value, label, title)


def _format_regime(name: str, found: Mapping[str, Any]) -> str:
    rate = f"rate {found['lr']:g}, " if "lr" in found else ""
    if not found["seconds"]:
        return f"{name:<15} {rate}no training finished"
    valid = found["valid_loss"]
    told = [
        f"{rate}{found['steps']} steps",
        f"{format_spread(found['seconds'], 3)} s",
        f"{_format_memory(found['peak_bytes'])} of memory",
        f"training loss {format_spread(found['train_loss'], 3)}",
        *([f"validation loss {format_spread(valid, 3)}"] if valid else []),
        f"accuracy {format_spread(found['accuracy'], 3)}",
    ]
    return f"{name:<15} {', '.join(told)}"


def _format_memory(peaks: Sequence[int | None]) -> str:
    known = [peak for peak in peaks if peak is not None]
    return f"{np.median(known) / 1024:,.0f} KiB" if known else "unknown amount"


def _tell_print(result: LessonResult, as_printed: bool) -> None:
    adam = result.numbers["adam"]
    where = "training" if as_printed else "validation"
    rows = (
        ("noise of a step's gradient", "noisy / in between / clear", "noise"),
        ("seconds of training", "quick feedback / faster / slow", "seconds"),
        (f"{where} accuracy", None, "accuracy"),
    )
    for what, theirs, key in rows:
        found = (adam[name][key] for name in SIZES)
        ours = " / ".join(format_spread(v, 3) if v else "unknown" for v in found)
        title = f"{what}: single / 32 / all"
        result.printed.append(
            Printed(title, theirs if theirs != "none" else None, ours)
        )


def _draw(regimes: Sequence[Regime], value: str, label: str, title: str) -> Figure:
    series = {by: [_read(one, value, by) for one in regimes] for by in AXES}
    return draw_four_axes(series, y_label=label, title=f"Wine: {title}")


def _read(regime: Regime, value: str, by: str) -> SeedCurves:
    (curves,) = read_study_curves(regime.study, value, by, cells=[regime.cell])
    # Seeds take different times; outside of what all have, the median is of fewer.
    shared = np.isfinite(curves.values).all(axis=0)
    if by == "seconds" and shared.any():
        curves = replace(curves, x=curves.x[shared], values=curves.values[:, shared])
    lr = regime.cell.get("lr")
    name = regime.name if lr is None else f"{regime.name}, rate {lr:g}"
    return replace(curves, name=name)


def _draw_scaling(regimes: Sequence[Regime]) -> Figure:
    """Draw noise and time per sample; the memory of so few numbers can't be seen."""
    found = [measure_regime(one) for one in regimes]
    whole = regimes[-1].rows[0].epoch_samples
    samples = [one.rows[0].samples for one in regimes]
    noise = [np.mean(one["noise"]) if one["noise"] else np.nan for one in found[:-1]]
    seconds = [
        np.median(one["seconds"]) / number
        for one, number in zip(found, samples, strict=True)
    ]
    return draw_scaling(
        BatchScaling(
            np.array([1, 32, whole]),
            gradient_noise=np.array([*noise, np.nan]),  # 0 has no logarithm
            seconds_per_sample=np.array(seconds),
        ),
        title="Wine: what a larger batch changes (all samples have no noise)",
    )
