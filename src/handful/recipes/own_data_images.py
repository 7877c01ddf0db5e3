"""The recipe of a folder of images with one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handful.data.augment import RandomCrop, RandomHorizontalFlip
from handful.data.columns import Columns
from handful.data.image_files import ImageFiles
from handful.data.image_listing import ImageListing, list_folder
from handful.data.loader import DataLoader
from handful.data.transforms import Chain, ColumnTransform, ScaleBytes
from handful.errors import DataError
from handful.recipes.own_data import OwnData
from handful.recipes.own_data_baseline import class_baseline
from handful.recipes.own_data_facts import Facts, OwnDataRecipe
from handful.recipes.own_data_image_sizes import ImageShape, choose_shape
from handful.recipes.own_data_model import SmallCnn
from handful.recipes.own_data_split import Parts, divide
from handful.train.recipe import Splits

LEAST_IMAGES = 10
"""Fewer images can't be divided into parts that say anything."""

MOST_BYTES = 2**29
"""Decoded images of up to so many bytes are kept in memory; others are decoded for each
batch."""

_READ_AT_ONCE = 128


@dataclass(frozen=True)
class ImageParts:
    """Makes the three parts of a folder of images, and the network for them.

    Attributes:
        listing: The files and their classes.
        shape: What they are resized to.
        seed: Decides which images are in which part, whatever a study varies.
        rows: Those of each part.
    """

    listing: ImageListing
    shape: ImageShape
    seed: int
    rows: Parts = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "rows", divide(self.labels, by_class=True, seed=self.seed)
        )

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image, shape ``(N,)``."""
        return np.array(self.listing.labels, np.int64)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.listing.classes or ()

    def make_data(self, seed: int) -> Splits:  # noqa: ARG002
        """Return the parts: images, uint8, and the classes."""
        train, valid, test = (self._part(rows) for rows in self.rows)
        return train, valid, test

    def make_model(self) -> nn.Module:
        """Return the network."""
        return SmallCnn(self.shape.channels, len(self.classes))

    def _part(self, rows: NDArray[np.int64]) -> Any:
        if len(self.labels) * self.shape.num_bytes > MOST_BYTES:
            return self._files(rows)
        return Columns(self._images[torch.from_numpy(rows)], self.labels[rows])

    @cached_property
    def _images(self) -> Tensor:
        """All images, shape ``(N, C, H, W)``, uint8, decoded by several threads."""
        files = self._files(np.arange(len(self.labels)))
        threads = os.cpu_count() or 1
        loader: DataLoader[Any] = DataLoader(files, _READ_AT_ONCE, num_workers=threads)
        return torch.cat([images for images, _ in loader])

    def _files(self, rows: NDArray[np.int64]) -> ImageFiles:
        return ImageFiles(
            [self.listing.paths[row] for row in rows],
            self.labels[rows],
            self.shape.size,
            channels=self.shape.channels,
            classes=self.classes,
        )


def make_image_recipe(data: OwnData, seed: int = 0) -> OwnDataRecipe:
    """Return a recipe that trains on a folder of images.

    Args:
        data: The folder.
        seed: Decides the parts.

    Raises:
        DataError: There are too few images, or a class has one alone.
    """
    listing = list_folder(data.path)
    _check_counts(data, listing)
    shape = choose_shape(listing.paths)
    parts = ImageParts(listing, shape, seed)
    return OwnDataRecipe(
        name=data.run_name,
        summary=f"images of {data.path}",
        make_data=parts.make_data,
        make_model=parts.make_model,
        loss="cross_entropy:label_smoothing=0.05",
        optimizer="adamw:weight_decay=0.01",
        lr=3e-3,
        schedule="cosine:warmup=50,unit=step",
        batch_size=32 if len(parts.rows.train) < 5_000 else 64,
        epochs=30,
        metrics=("accuracy",),
        options={"early_stopping": 10},
        batch_transform=make_changes(shape),
        eval_transform=ScaleBytes(),
        class_names=parts.classes,
        facts=_describe(data, parts),
        divide=partial(make_image_recipe, data),
    )


def make_changes(shape: ImageShape) -> ColumnTransform:
    """Return the random changes of training images.

    Each is moved by up to a tenth of its sides, and one in colour is mirrored half of
    the time; a grey one may be writing, which a mirror changes.
    """
    margin = max(min(shape.size) // 10, 1)
    changes: list[ColumnTransform] = [RandomCrop(shape.size, padding=margin)]
    if shape.channels == 3:
        changes.append(RandomHorizontalFlip())
    return Chain(*changes, ScaleBytes())


def _check_counts(data: OwnData, listing: ImageListing) -> None:
    counts = np.bincount(listing.labels)
    if counts.sum() < LEAST_IMAGES:
        raise DataError(
            f"{data.path} must hold at least {LEAST_IMAGES} images, to learn from some "
            f"and test on others; got {counts.sum()}."
        )
    if counts.min() < 2:
        name = (listing.classes or ())[int(counts.argmin())]
        raise DataError(
            f"each class of {data.path} must have two images or more; {name!r} has "
            "one. Add some, or remove the folder."
        )


def _describe(data: OwnData, parts: ImageParts) -> Facts:
    shape, labels = parts.shape, parts.labels
    height, width = shape.size
    kind = "in colour" if shape.channels == 3 else "in grey"
    rows = parts.rows
    counts = [np.bincount(labels[p], minlength=len(parts.classes)) for p in rows]
    return Facts(
        found=f"{data.path}: {len(labels):,} images {kind}, {shape.describe()}",
        left_out=(),
        predicted=f"the folder: {_describe_classes(parts.classes, labels)}",
        sizes=(len(rows.train), len(rows.valid), len(rows.test)),
        seed=parts.seed,
        unit="images",
        baseline=class_baseline(counts[0], counts[2], parts.classes),
        schema={
            "classes": list(parts.classes),
            "height": height,
            "width": width,
            "channels": shape.channels,
        },
    )


def _describe_classes(classes: Sequence[str], labels: NDArray[np.int64]) -> str:
    counts = np.bincount(labels)
    named = [f"{name} {count:,}" for name, count in zip(classes, counts, strict=True)]
    more = [f"{len(named) - 8} more"] if len(named) > 8 else []
    return f"one of {len(named)} classes ({', '.join(named[:8] + more)})"
