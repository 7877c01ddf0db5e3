"""Does the noise of small batches prevent overfitting?

"Model Training with Mini-Batches in PyTorch" says so. To see it, few samples are
trained on and many held out, with batches of 1 to all of them and one rate for plain
descent, so that nothing but the batches differs. After as many epochs as another, a
small batch has taken many more steps and fits its data far better, and the gap between
training and validation loss grows with the fit; so trainings are also compared where
each has just reached the same training loss (the question of Keskar et al. 2017, "On
Large-Batch Training for Deep Learning", and of Hoffer et al. 2017, "Train longer,
generalize better").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from handful.datasets.splits import standardize, stratified_split
from handful.datasets.tables import load_digits, load_wine
from handful.lessons.lesson import LessonOptions, LessonResult, Printed
from handful.lessons.over_seeds import format_spread, judge_pairs
from handful.recipes import digits, wine
from handful.report.style import (
    BLUE,
    LABEL_SIZE,
    ORANGE,
    TICK_SIZE,
    finish_figure,
    make_figure,
    prepare_axes,
)
from handful.train.threads import restored_threads

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZES: tuple[int | str, ...] = (1, 4, 16, "full")
NUM_SEEDS = 8
MOST_STEPS = 20_000
"""Steps after which a training gives up the target."""

SAME_LOSS, SAME_EPOCHS = "at the same training loss", "after the same epochs"

CORRECTION = (
    "It says that the noise of small batches helps against overfitting and shows no "
    "data held out; after the same number of epochs, which is what its program would "
    "compare, small batches have taken more steps and fit better, so that the gap "
    "tells how far a training is and not what the noise does."
)


@dataclass(frozen=True)
class Case:
    """Data of which few are trained on.

    Attributes:
        name: The data's.
        load: Returns float32 features ``(N, p)`` and int64 labels ``(N,)``.
        make_model: Makes the model.
        held_out: Share of the samples that is held out, below 1.
        scales: Whether features are standardised by the training samples.
        lr: Rate of plain descent.
        target: Training loss that all are to reach, in nats.
        epochs: Passes in which all are compared.
    """

    name: str
    load: Callable[[], tuple[Any, Any]]
    make_model: Callable[[], nn.Module]
    held_out: float
    scales: bool
    lr: float
    target: float
    epochs: int


@dataclass(frozen=True)
class Split:
    """Training and validation data, features ``(N, p)`` and labels ``(N,)`` each."""

    train_x: Tensor
    train_y: Tensor
    valid_x: Tensor
    valid_y: Tensor


def _load_wine() -> tuple[Any, Any]:
    data = load_wine()
    return data.features, data.target


def _load_digits() -> tuple[Any, Any]:
    data = load_digits()
    return data.features / np.float32(16), data.target


WINE = Case("wine", _load_wine, wine.make_model, 0.8, True, 0.05, 0.05, 100)
DIGITS = Case("digits", _load_digits, digits.make_model, 0.9, False, 0.1, 0.1, 50)
CASES = (WINE, DIGITS)


def run(options: LessonOptions) -> LessonResult:
    """Train on few samples with batches of several sizes.

    Args:
        options: ``seed`` is the first of eight; ``quick`` takes two, five epochs and a
            higher target; ``as_printed`` compares after the same epochs only.

    Returns:
        By case ``same_loss`` (unless as printed) and ``same_epochs``: by batch size
        ``train`` and ``valid`` losses (nats) and ``steps``, a value a seed; NaN where
        the target was not reached.
    """
    result = LessonResult(correction=CORRECTION)
    seeds = choose_seeds(options)
    for case in CASES:
        own = _shorten(case) if options.quick else case
        found: dict[str, Any] = {"same_epochs": measure_epochs(own, SIZES, seeds)}
        if not options.as_printed:
            found["same_loss"] = measure_target(own, SIZES, seeds)
        result.numbers[case.name] = found
        _tell(result, own, found)
        result.figures[f"{case.name}-losses"] = draw_losses(own, found)
    return result


def choose_seeds(options: LessonOptions) -> list[int]:
    """Return two seeds of a quick run, else eight."""
    count = 2 if options.quick else NUM_SEEDS
    return list(range(options.seed, options.seed + count))


def _shorten(case: Case) -> Case:
    return Case(**{**vars(case), "target": 0.9, "epochs": 3})


def split_case(case: Case, seed: int) -> Split:
    """Hold out a stratified part; standardise with the statistics of the rest."""
    features, target = case.load()
    rest, held_out = stratified_split(target, case.held_out, seed)
    train, valid = features[rest], features[held_out]
    if case.scales:
        train, valid = standardize(train, valid)
    arrays = train, target[rest], valid, target[held_out]
    return Split(*map(torch.as_tensor, arrays))


def make_model(case: Case, seed: int) -> nn.Module:
    """Make a case's model; one seed has the same weights for all batch sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return case.make_model()


def steps_of(
    case: Case, data: Split, model: nn.Module, size: int | str, seed: int
) -> Iterator[int]:
    """Train without end; yield the number of steps after each.

    Args:
        case: Has the rate.
        data: Its training data are cut anew each epoch, the last batch kept.
        model: The model.
        size: Samples a step, or ``"full"``.
        seed: Seed of the orders.
    """
    count = len(data.train_x)
    width = count if size == "full" else int(size)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=case.lr)
    done = 0
    while True:
        order = torch.randperm(count, generator=generator)
        for part in torch.split(order, width):
            optimizer.zero_grad()
            loss = functional.cross_entropy(
                model(data.train_x[part]), data.train_y[part]
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
            yield done


@torch.no_grad()
def measure_losses(model: nn.Module, data: Split) -> tuple[float, float]:
    """Return the mean losses of the training and the validation data, in nats."""
    return (
        functional.cross_entropy(model(data.train_x), data.train_y).item(),
        functional.cross_entropy(model(data.valid_x), data.valid_y).item(),
    )


Found = dict[str, dict[str, list[float]]]
"""Batch size -> ``train``, ``valid`` and ``steps`` -> a value a seed."""


def measure_epochs(
    case: Case, sizes: Sequence[int | str], seeds: Sequence[int]
) -> Found:
    """Train each batch size for the same epochs."""
    return _measure(case, sizes, seeds, _train_epochs)


def measure_target(
    case: Case, sizes: Sequence[int | str], seeds: Sequence[int]
) -> Found:
    """Train each batch size until the training loss is at the target."""
    return _measure(case, sizes, seeds, _train_to_target)


_Train = Callable[[Case, Split, "int | str", int], tuple[float, float, int]]


def _measure(
    case: Case, sizes: Sequence[int | str], seeds: Sequence[int], train: _Train
) -> Found:
    found: Found = {}
    with restored_threads():
        torch.set_num_threads(1)
        for size in sizes:
            rows = [train(case, split_case(case, s), size, s) for s in seeds]
            columns = zip(*rows, strict=True)
            names = ("train", "valid", "steps")
            found[str(size)] = {
                name: list(values) for name, values in zip(names, columns, strict=True)
            }
    return found


def _train_epochs(
    case: Case, data: Split, size: int | str, seed: int
) -> tuple[float, float, int]:
    model = make_model(case, seed)
    count = len(data.train_x)
    total = case.epochs * (1 if size == "full" else -(-count // int(size)))
    for done in steps_of(case, data, model, size, seed):
        if done == total:
            break
    return *measure_losses(model, data), total


def _train_to_target(
    case: Case, data: Split, size: int | str, seed: int
) -> tuple[float, float, int]:
    """Train until the training loss is at or below the target.

    A step may jump over it, the farther the noisier: the validation loss is that on the
    straight line between the last two looks, where the training loss is the target.
    """
    model = make_model(case, seed)
    every = 1 if size == "full" else max(1, 4 // int(size))
    before = measure_losses(model, data)
    for done in steps_of(case, data, model, size, seed):
        if done % every:
            continue
        after = measure_losses(model, data)
        if after[0] <= case.target:
            share = (before[0] - case.target) / (before[0] - after[0])
            valid = before[1] + share * (after[1] - before[1])
            return case.target, valid, done
        if done >= MOST_STEPS:
            break
        before = after
    return float("nan"), float("nan"), MOST_STEPS


def _tell(result: LessonResult, case: Case, found: Mapping[str, Found]) -> None:
    titles = {"same_epochs": SAME_EPOCHS, "same_loss": SAME_LOSS}
    for key, by_size in found.items():
        result.lines.append(f"{case.name}, {titles[key]}, rate {case.lr:g}:")
        for size, values in by_size.items():
            gap = np.subtract(values["valid"], values["train"])
            result.lines.append(
                f"  batch size {size:<5} {format_spread(values['steps'], 5)} steps, "
                f"training loss {format_spread(values['train'], 3)}, validation loss "
                f"{format_spread(values['valid'], 3)}, gap {format_spread(gap, 3)}"
            )
        verdict = judge_sizes(by_size)
        result.lines.append(f"  {verdict}")
        title = f"{case.name}, {titles[key]}"
        ours = (
            verdict.rpartition(", ")[0].rpartition(", ")[2].removesuffix(" (sign test")
        )
        result.printed.append(Printed(title, "noise helps", f"loss {ours}"))


def judge_sizes(by_size: Found) -> str:
    """Compare the validation losses of the smallest batches and the full batch."""
    return judge_pairs(
        "Validation loss with batch size 1 less that with the full batch",
        by_size["1"]["valid"],
        by_size["full"]["valid"],
    )


def draw_losses(case: Case, found: Mapping[str, Found]) -> Figure:
    """Draw training and validation losses by batch size, a panel a comparison."""
    titles = {"same_epochs": f"after {case.epochs} epochs", "same_loss": SAME_LOSS}
    figure = make_figure(3.4)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (key, by_size) in zip(panels, found.items(), strict=True):
        prepare_axes(axes)
        axes.set_yscale("log")
        axes.set_title(titles[key], fontsize=TICK_SIZE, loc="left")
        axes.set_xlabel("batch size", fontsize=LABEL_SIZE)
        axes.set_xticks(range(len(by_size)), list(by_size))
        axes.set_xlim(-0.5, len(by_size) - 0.5)
        _draw_dots(axes, [one["train"] for one in by_size.values()], -0.13, "training")
        _draw_dots(axes, [one["valid"] for one in by_size.values()], 0.13, "validation")
    panels[0].set_ylabel("loss (log scale)", fontsize=LABEL_SIZE)
    panels[0].legend(frameon=False, fontsize=TICK_SIZE)
    seeds = len(found["same_epochs"]["1"]["valid"])
    note = f"a dot is one of {seeds} seeds, a bar their median"
    title = f"{case.name.capitalize()}: losses by batch size"
    finish_figure(figure, title, [note])
    return figure


def _draw_dots(
    axes: Axes, values: Sequence[Sequence[float]], shift: float, name: str
) -> None:
    color, marker = (BLUE, "o") if name == "training" else (ORANGE, "s")
    for place, column in enumerate(values):
        x, label = place + shift, f"{name} loss" if place == 0 else None
        known = [value for value in column if np.isfinite(value)]
        axes.plot(
            [x] * len(known),
            known,
            marker,
            color=color,
            alpha=0.5,
            markersize=4,
            linestyle="none",
            label=label,
        )
        if known:
            median = float(np.median(known))
            axes.plot([x - 0.1, x + 0.1], [median] * 2, color=color, linewidth=2)
