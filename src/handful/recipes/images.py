"""What the recipes of 28x28 images share: the split and the perceptron."""

from __future__ import annotations

from torch import nn

from handful.data.columns import Columns
from handful.datasets.images import ImageData
from handful.datasets.splits import split_indices
from handful.train.recipe import Splits


def split_images(data: ImageData, seed: int) -> Splits:
    """Split off a random sixth of the training images: 10,000 of 60,000."""
    count = len(data.train_images)
    held_out = count // 6
    train, valid = split_indices(count, (count - held_out, held_out), seed)
    return (
        Columns(data.train_images[train], data.train_labels[train]),
        Columns(data.train_images[valid], data.train_labels[valid]),
        Columns(data.test_images, data.test_labels),
    )


def make_perceptron() -> nn.Module:
    """Make the perceptron 784-128-10."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(28 * 28, 128), nn.ReLU(), nn.Linear(128, 10)
    )
