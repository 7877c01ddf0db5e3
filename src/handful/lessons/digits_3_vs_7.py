"""Threes against sevens: a linear model whose weights and bias are updated by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.data.columns import Columns
from handful.data.first_batch import first
from handful.data.loader import DataLoader
from handful.datasets.images import load_mnist
from handful.datasets.splits import stratified_split
from handful.datasets.tables import load_digits
from handful.errors import FormatError, MissingDataError
from handful.lessons.lesson import LessonOptions, LessonResult, Printed
from handful.report.bands import SeedCurves, draw_bands
from handful.report.style import LABEL_SIZE, finish_figure, make_figure
from handful.report.wrongest import draw_wrongest
from handful.train.threads import restored_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORRECTION = (
    "Its update assigns in place to parameters that record gradients, which PyTorch "
    "refuses; with that repaired alone the gradients, never set to zero, add up over "
    "all steps so far, and since its loader does not shuffle either, threes before "
    "sevens, the model ends up guessing."
)

BATCH_SIZE, LR, NUM_TEST = 256, 1.0, 4
INITIAL_STD = 0.1
"""Of the initial parameters; the tutorial leaves it open."""
THREE, SEVEN = 3, 7
MNIST_SIDE, SMALL_SIDE = 28, 8
KEPT, KEPT_RESHUFFLED = "kept, in order", "kept, reshuffled"
ZEROED, ZEROED_RESHUFFLED = "zeroed, in order", "zeroed, reshuffled"
VARIANTS = (KEPT, KEPT_RESHUFFLED, ZEROED, ZEROED_RESHUFFLED)
"""What becomes of the gradients after a step, and of the threes before the sevens."""

THEIR_SHAPES = "[256, 784], [256, 1]"
NAMES = ("7", "3")
"""Classes 0 and 1."""


@dataclass(frozen=True)
class Digits:
    """Threes, then sevens, for training; the same for validation.

    Attributes:
        train_x: Float32 in [0, 1], shape ``(N, p)`` for p pixels.
        train_y: 1.0 for a three, 0.0 for a seven, shape ``(N, 1)``.
        valid_x: Shape ``(M, p)``.
        valid_y: Shape ``(M, 1)``.
        side: Pixels of an image's edge.
        source: A line that says where they come from.
    """

    train_x: Tensor
    train_y: Tensor
    valid_x: Tensor
    valid_y: Tensor
    side: int
    source: str


@dataclass(frozen=True)
class Trained:
    """What one training came to.

    Attributes:
        weights: Shape ``(p, 1)``.
        bias: Shape ``(1,)``.
        accuracies: Validation accuracy after each epoch.
        losses: Validation loss after each epoch: mean probability of the wrong class.
    """

    weights: Tensor
    bias: Tensor
    accuracies: list[float]
    losses: list[float]


def run(options: LessonOptions) -> LessonResult:
    """Tell threes from sevens, with the update written out."""
    result = LessonResult(correction=CORRECTION)
    digits = load_threes_and_sevens(is_small=options.quick)
    result.lines.append(digits.source)
    _show_shapes(result, digits)
    _show_error(result, digits, options.seed)
    with restored_threads():
        torch.set_num_threads(1)
        found = _train_variants(digits, options)
    shown = KEPT if options.as_printed else ZEROED_RESHUFFLED
    _tell(result, found, shown)
    result.figures["accuracy"] = draw_accuracies(found)
    result.figures["weights"] = draw_weights(found, digits.side)
    _add_wrongest(result, digits, found[shown][0])
    return result


def load_threes_and_sevens(*, is_small: bool) -> Digits:
    """Load the threes and sevens of MNIST: its training and its test images.

    Args:
        is_small: Take scikit-learn's digits of 8x8 pixels instead, as where MNIST is
            neither on this machine nor to be downloaded.
    """
    if is_small:
        return _load_small("as the small part of the work")
    try:
        data = load_mnist()
    except (MissingDataError, FormatError):
        return _load_small("since MNIST is not on this machine")
    train_x, train_y = _pick(data.train_images / np.float32(255), data.train_labels)
    valid_x, valid_y = _pick(data.test_images / np.float32(255), data.test_labels)
    source = (
        f"MNIST, 28x28 pixels: {len(train_x)} threes and sevens for training, "
        f"{len(valid_x)} of the test images for validation."
    )
    return Digits(train_x, train_y, valid_x, valid_y, MNIST_SIDE, source)


def _load_small(why: str) -> Digits:
    data = load_digits()
    rest, held_out = stratified_split(data.target, 0.2, seed=0)
    pixels = data.features / np.float32(16)
    train_x, train_y = _pick(pixels[rest], data.target[rest])
    valid_x, valid_y = _pick(pixels[held_out], data.target[held_out])
    source = (
        f"scikit-learn's digits, 8x8 pixels, {why}: {len(train_x)} threes and sevens "
        f"for training, {len(valid_x)} for validation."
    )
    return Digits(train_x, train_y, valid_x, valid_y, SMALL_SIDE, source)


def _pick(images: NDArray[Any], labels: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Return the threes, then the sevens, a row each, and their targets."""
    threes, sevens = images[labels == THREE], images[labels == SEVEN]
    pixels = np.concatenate([threes, sevens]).reshape(len(threes) + len(sevens), -1)
    target = torch.cat([torch.ones(len(threes), 1), torch.zeros(len(sevens), 1)])
    return torch.from_numpy(pixels.astype(np.float32)), target


def init_params(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw parameters from a normal distribution of standard deviation 0.1."""
    drawn = torch.randn(*shape, generator=generator) * INITIAL_STD
    return drawn.requires_grad_()


def mean_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean probability that the model gives the wrong class.

    Args:
        logits: Shape ``(m, 1)``.
        target: 1.0 or 0.0, shape ``(m, 1)``.
    """
    three = logits.sigmoid()
    return torch.where(target == 1, 1 - three, three).mean()


def _show_shapes(result: LessonResult, digits: Digits) -> None:
    loaders: dict[str, DataLoader[Any]] = {
        "train": DataLoader((digits.train_x, digits.train_y), BATCH_SIZE),
        "valid": DataLoader((digits.valid_x, digits.valid_y), BATCH_SIZE),
    }
    shapes = {
        name: [list(part.shape) for part in first(loader)]
        for name, loader in loaders.items()
    }
    shapes["test"] = [list(digits.train_x[:NUM_TEST].shape)]
    for name, found in shapes.items():
        text = ", ".join(map(str, found))
        result.lines.append(f"First batch, {name}: {text}")
    result.numbers["shapes"] = shapes
    ours = ", ".join(map(str, shapes["train"]))
    result.printed.append(Printed("shapes of the first batch", THEIR_SHAPES, ours))


def _show_error(result: LessonResult, digits: Digits, seed: int) -> None:
    text = update_as_printed(digits.train_x[:NUM_TEST], digits.train_y[:NUM_TEST], seed)
    result.lines.append(f"`parameters -= parameters.grad * lr` raises: {text}")
    result.numbers["error"] = text


def update_as_printed(features: Tensor, target: Tensor, seed: int) -> str:
    """Take a step as the tutorial writes it, and return the text of its error.

    Args:
        features: Shape ``(m, p)``.
        target: Shape ``(m, 1)``.
        seed: Seed of the parameters.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = init_params(features.shape[1], 1, generator=generator)
    mean_loss(features @ parameters, target).backward()  # type: ignore[no-untyped-call]
    assert parameters.grad is not None
    try:
        parameters -= parameters.grad * LR
    except RuntimeError as error:
        return str(error)
    return "nothing"


def train(digits: Digits, variant: str, *, epochs: int, seed: int) -> Trained:
    """Train with the update by hand.

    Args:
        digits: The data.
        variant: One of `VARIANTS`; `KEPT` is as printed but for ``no_grad``.
        epochs: Passes over the training data.
        seed: Seed of the initial parameters and of the orders.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = init_params(digits.train_x.shape[1], 1, generator=generator)
    bias = init_params(1, generator=generator)
    loader: DataLoader[Any] = DataLoader(
        Columns(digits.train_x, digits.train_y),
        BATCH_SIZE,
        shuffle=variant in (KEPT_RESHUFFLED, ZEROED_RESHUFFLED),
        seed=seed,
    )
    trained = Trained(weights, bias, [], [])
    for _ in range(epochs):
        for features, target in loader:
            loss = mean_loss(features @ weights + bias, target)
            loss.backward()  # type: ignore[no-untyped-call]
            _update((weights, bias), zeroes=variant in (ZEROED, ZEROED_RESHUFFLED))
        _validate(trained, digits)
    return trained


def _update(parameters: Sequence[Tensor], *, zeroes: bool) -> None:
    with torch.no_grad():
        for parameter in parameters:
            assert parameter.grad is not None
            parameter -= parameter.grad * LR
            if zeroes:
                parameter.grad.zero_()


@torch.no_grad()
def _validate(trained: Trained, digits: Digits) -> None:
    logits = digits.valid_x @ trained.weights + trained.bias
    is_right = (logits > 0) == (digits.valid_y == 1)
    trained.accuracies.append(is_right.float().mean().item())
    trained.losses.append(mean_loss(logits, digits.valid_y).item())


def _train_variants(digits: Digits, options: LessonOptions) -> dict[str, list[Trained]]:
    num_seeds = 2 if options.quick else 5
    # The small digits make two batches an epoch.
    epochs = 20 if options.quick else 30 if digits.side == MNIST_SIDE else 200
    seeds = range(options.seed, options.seed + num_seeds)
    return {
        variant: [train(digits, variant, epochs=epochs, seed=seed) for seed in seeds]
        for variant in VARIANTS
    }


def _tell(result: LessonResult, found: dict[str, list[Trained]], shown: str) -> None:
    told = found[shown][0]
    result.lines.append(f"Training, gradients {shown}:")
    for epoch, accuracy in enumerate(told.accuracies, start=1):
        loss = told.losses[epoch - 1]
        result.lines.append(
            f"  Epoch {epoch}: validation loss {loss:.4f}, accuracy {accuracy:.4f}"
        )
    epochs = len(told.accuracies)
    result.lines.append(f"Accuracy after {epochs} epochs, {len(found[shown])} seeds:")
    for variant, trainings in found.items():
        last = np.array([one.accuracies[-1] for one in trainings])
        span = f"from {last.min():.4f} to {last.max():.4f}"
        result.lines.append(f"  {variant:<20} median {np.median(last):.4f}, {span}")
        result.numbers[variant] = {
            "accuracy": [one.accuracies for one in trainings],
            "loss": [one.losses for one in trainings],
        }


def draw_accuracies(found: dict[str, list[Trained]]) -> Figure:
    """Draw the accuracy of each variant's seeds against the epoch."""
    series = [
        SeedCurves(
            variant,
            np.arange(1.0, len(trainings[0].accuracies) + 1),
            np.array([one.accuracies for one in trainings]),
        )
        for variant, trainings in found.items()
    ]
    return draw_bands(
        series,
        x_label="epoch",
        y_label="validation accuracy",
        spread="range",
        title="Threes against sevens: accuracy by what becomes of the gradients",
    )


def draw_weights(found: dict[str, list[Trained]], side: int) -> Figure:
    """Draw the first seed's weights as an image a variant, each on its own scale.

    Args:
        found: Trainings by variant.
        side: Pixels of an image's edge.
    """
    figure = make_figure(2.6)
    panels = figure.subplots(1, len(found))
    for axes, (name, trainings) in zip(panels, found.items(), strict=True):
        image = trainings[0].weights.detach().reshape(side, side).numpy()
        most = float(np.abs(image).max())
        axes.imshow(image, cmap="RdBu_r", vmin=-most, vmax=most)
        axes.set_title(f"{name}\nup to {most:.3g}", fontsize=LABEL_SIZE)
        axes.set_axis_off()
    note = "red pixels speak for a three, blue ones for a seven; each on its own scale"
    finish_figure(figure, "What the weights became", [note])
    return figure


@torch.no_grad()
def _add_wrongest(result: LessonResult, digits: Digits, trained: Trained) -> None:
    three = (digits.valid_x @ trained.weights + trained.bias).sigmoid()[:, 0]
    predicted = (three > 0.5).long()
    labels = digits.valid_y[:, 0].long()
    num_wrong = int((predicted != labels).sum())
    result.numbers["num_wrong"] = num_wrong
    result.lines.append(f"Wrong on {num_wrong} of {len(labels)} validation images.")
    if not num_wrong:
        return
    images = digits.valid_x.reshape(-1, digits.side, digits.side).numpy()
    result.figures["wrongest"] = draw_wrongest(
        images,
        labels.numpy(),
        predicted.numpy(),
        torch.where(predicted == 1, three, 1 - three).numpy(),
        class_names=NAMES,
    )
