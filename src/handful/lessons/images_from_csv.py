"""Images from CSV: read when asked for, by two workers; then a model of all images."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from handful.data.loader import DataLoader
from handful.datasets.images import load_fashion_mnist
from handful.datasets.splits import stratified_split
from handful.datasets.tables import load_digits
from handful.errors import ArgumentError, DataError, FormatError, MissingDataError
from handful.lessons.csv_images import (
    LABELS_FILE,
    TRANSFORM,
    CsvImages,
    read_image,
    write_images,
)
from handful.lessons.image_training import (
    Parts,
    prepare_images,
    show_loop_error,
    train_by_sample,
    train_variant,
)
from handful.lessons.lesson import LessonOptions, LessonResult, Printed
from handful.report.style import finish_figure, make_figure
from handful.train.threads import restored_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORRECTION = (
    "Its training loop runs over the data set itself, which gives single samples whose "
    "label is a plain int, and the loss refuses that; with the label repaired alone, "
    "every sample is a step of its own, in the same order in each epoch: a loader "
    "makes shuffled batches."
)

BATCH_SIZE, NUM_WORKERS, SHOWN_BATCHES = 4, 2, 5
GRID = 5
THEIR_SHAPE = "[4, 1, 28, 28]"
BY_SAMPLE = "single samples, in order"
VARIANTS = {
    "one rate, 0.01": (0.01, 0.01),
    "rates per layer, 0.01 and 0.1": (0.01, 0.1),
}
"""Learning rates of the first and the second layer."""


@dataclass(frozen=True)
class Source:
    """Where the images come from.

    Attributes:
        csv_file: Lists the images that are read one by one.
        train_images: uint8, shape ``(N, H, W)`` or ``(N, H, W, 3)``.
        train_labels: Shape ``(N,)``.
        test_images: As the training images, M of them.
        test_labels: Shape ``(M,)``.
        classes: Names of the classes.
        line: What they are.
    """

    csv_file: Path
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: Sequence[str]
    line: str

    @property
    def parts(self) -> Parts:
        """The images and labels as tensors, the pixels from -1 to 1."""
        return Parts(
            prepare_images(self.train_images),
            torch.from_numpy(self.train_labels),
            prepare_images(self.test_images),
            torch.from_numpy(self.test_labels),
            len(self.classes),
        )


def run(options: LessonOptions) -> LessonResult:
    """Read images that a CSV file lists, and train on them."""
    result = LessonResult(correction=CORRECTION)
    with ExitStack() as stack:
        if options.data is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            source = _write_source(folder, options)
        else:
            source = read_source(options.data)
        result.lines.append(source.line)
        _show_batches(result, source, options)
        _measure_workers(result, source, options)
    result.figures["grid"] = draw_grid(source, options.seed)
    with restored_threads():
        torch.set_num_threads(1)
        _train(result, source.parts, options)
    return result


def _write_source(folder: Path, options: LessonOptions) -> Source:
    """Take Fashion-MNIST, or small digits, and write the first images as files."""
    count = 64 if options.quick else 1024
    train, train_labels, test, test_labels, classes, name = _load_images(options)
    csv_file = write_images(train[:count], train_labels[:count], folder)
    height, width = train.shape[1:]
    line = (
        f"{name}: {len(train)} images of {height}x{width} pixels for training, "
        f"{len(test)} for testing; the first {count} as PNG files listed in "
        f"{LABELS_FILE}."
    )
    return Source(csv_file, train, train_labels, test, test_labels, classes, line)


def _load_images(options: LessonOptions) -> tuple[Any, Any, Any, Any, Any, str]:
    why = "as the small part of the work"
    if not options.quick:
        try:
            data = load_fashion_mnist()
        except (MissingDataError, FormatError):
            why = "since Fashion-MNIST is not on this machine"
        else:
            return (
                *(data.train_images[:, 0], data.train_labels),
                *(data.test_images[:, 0], data.test_labels),
                data.classes,
                "Fashion-MNIST",
            )
    table = load_digits()
    images = np.minimum(table.features * 16, 255).astype(np.uint8).reshape(-1, 8, 8)
    rest, held_out = stratified_split(table.target, 0.2, seed=0)
    return (
        *(images[rest], table.target[rest]),
        *(images[held_out], table.target[held_out]),
        table.class_names,
        f"scikit-learn's digits, {why}",
    )


def read_source(path: Path) -> Source:
    """Read the user's own images; a fifth of them is held out for testing.

    Args:
        path: A CSV file whose images lie beside it, or a folder with ``labels.csv``.

    Raises:
        ArgumentError: There are too few images to hold some out.
        DataError: An image is missing, is none, or is of another shape than the first.
        FormatError: The CSV file is none.
        MissingDataError: There is no CSV file.
    """
    csv_file = path / LABELS_FILE if path.is_dir() else path
    listed = CsvImages(csv_file, csv_file.parent)
    if len(listed) < 10:
        raise ArgumentError(
            f"--data must list 10 images or more; got {len(listed)} in {csv_file}. "
            "A fifth of them is held out for testing."
        )
    images = _read_all(listed.paths)
    values, labels = np.unique(listed.labels, return_inverse=True)
    rest, held_out = stratified_split(labels, 0.2, seed=0)
    return Source(
        csv_file,
        *(images[rest], labels[rest], images[held_out], labels[held_out]),
        classes=[str(value) for value in values],
        line=f"{csv_file}: {len(rest)} images for training, "
        f"{len(held_out)} for testing.",
    )


def _read_all(paths: Sequence[Path]) -> NDArray[np.uint8]:
    images = [read_image(path) for path in paths]
    for image, path in zip(images, paths, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"{path} must have the shape of {paths[0]}, {images[0].shape}; got "
                f"{image.shape}. Bring all images to one size first."
            )
    return np.stack(images)


def make_csv_loader(
    csv_file: Path,
    *,
    num_workers: int,
    seed: int,
    batch_size: int = BATCH_SIZE,
) -> DataLoader[Any]:
    """Make a shuffling loader of the images that a CSV file lists.

    Args:
        csv_file: The images lie beside it.
        num_workers: Processes that read; each reads two batches ahead.
        seed: Seed of the orders.
        batch_size: Images a batch.
    """
    return DataLoader(
        CsvImages(csv_file, csv_file.parent, TRANSFORM),
        batch_size,
        shuffle=True,
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(seed),
    )


def _show_batches(result: LessonResult, source: Source, options: LessonOptions) -> None:
    loader = make_csv_loader(
        source.csv_file, num_workers=NUM_WORKERS, seed=options.seed
    )
    batches = list(loader)
    shown = [
        (list(images.shape), labels.tolist())
        for images, labels in batches[:SHOWN_BATCHES]
    ]
    result.lines.append(
        f"Batches of {BATCH_SIZE} from {NUM_WORKERS} workers that read "
        f"{loader.prefetch_factor} batches ahead each, the first of {len(batches)}:"
    )
    result.lines += [f"  {shape} {labels}" for shape, labels in shown]
    result.numbers["batches"] = shown
    result.printed.append(
        Printed("shape of a batch of images", THEIR_SHAPE, str(shown[0][0]))
    )


def _measure_workers(
    result: LessonResult, source: Source, options: LessonOptions
) -> None:
    """Time epochs with and without workers, in turn."""
    rounds = 1 if options.quick else 5
    loaders = {
        (size, workers): make_csv_loader(
            source.csv_file, num_workers=workers, seed=options.seed, batch_size=size
        )
        for size in (BATCH_SIZE, 64)
        for workers in (0, NUM_WORKERS)
    }
    seconds: dict[tuple[int, int], list[float]] = {key: [] for key in loaders}
    for _ in range(rounds):
        for key, loader in loaders.items():
            start = time.perf_counter()
            count = sum(len(labels) for _, labels in loader)
            seconds[key].append(time.perf_counter() - start)
    rates = {key: count / statistics.median(found) for key, found in seconds.items()}
    result.lines.append(
        f"Images per second ({rounds} in turn, workers' start included):"
    )
    for size in (BATCH_SIZE, 64):
        alone, helped = rates[size, 0], rates[size, NUM_WORKERS]
        result.lines.append(
            f"  batches of {size}: {alone:,.0f} without workers, {helped:,.0f} with "
            f"{NUM_WORKERS}, {helped / alone:.2f} times as many"
        )
    result.numbers["images_per_second"] = {
        f"batches of {size}, {workers} workers": rate
        for (size, workers), rate in rates.items()
    }


def _train(result: LessonResult, parts: Parts, options: LessonOptions) -> None:
    error = show_loop_error(parts, options.seed)
    result.lines.append(f"Training on a sample of the data set itself raises: {error}")
    result.numbers["error"] = error
    epochs, num_seeds = (1, 2) if options.quick else (3, 3)
    seeds = range(options.seed, options.seed + num_seeds)
    if options.as_printed:
        limit = 200 if options.quick else 10_000
        found = {
            BY_SAMPLE: [
                train_by_sample(parts, seed=seed, limit=limit) for seed in seeds
            ]
        }
        result.lines.append(f"{BY_SAMPLE}: one epoch of at most {limit:,} samples")
    else:
        found = {
            name: [
                train_variant(parts, rates, epochs=epochs, seed=seed) for seed in seeds
            ]
            for name, rates in VARIANTS.items()
        }
        result.lines.append(f"SGD, momentum 0.9, batches of 64, epochs: {epochs}")
    for name, tests in found.items():
        accuracies = np.array([accuracy for _, accuracy in tests])
        losses = np.array([loss for loss, _ in tests])
        result.lines.append(
            f"  {name}: test loss {losses.mean():.4f} (from {losses.min():.4f} to "
            f"{losses.max():.4f}), accuracy {accuracies.mean():.4f} (from "
            f"{accuracies.min():.4f} to {accuracies.max():.4f}), {num_seeds} seeds"
        )
        result.numbers[name] = {
            "test_loss": losses.tolist(),
            "test_accuracy": accuracies.tolist(),
        }


def draw_grid(source: Source, seed: int) -> Figure:
    """Draw up to 25 training images of the first shuffled batch under their labels.

    Args:
        source: The images.
        seed: Seed of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(source.train_images), generator=generator).numpy()
    order = order[: GRID * GRID]
    figure = make_figure(7.0)
    panels = figure.subplots(GRID, GRID)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, place in zip(panels.flat, order, strict=False):
        axes.imshow(source.train_images[place], cmap="gray", vmin=0, vmax=255)
        label = int(source.train_labels[place])
        axes.set_title(source.classes[label], fontsize=8, pad=3, parse_math=False)
    finish_figure(figure, "Training images and their labels")
    return figure
