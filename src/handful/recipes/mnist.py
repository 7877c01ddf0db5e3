"""MNIST: 70,000 handwritten digits of 28x28 pixels."""

from __future__ import annotations

from handful.data.transforms import ScaleBytes
from handful.datasets.images import MNIST_CLASSES, load_mnist
from handful.recipes.images import make_perceptron, split_images
from handful.train.recipe import Recipe, Splits


def make_data(seed: int) -> Splits:
    """Hold out a random sixth of the training images for validation."""
    return split_images(load_mnist(), seed)


recipe = Recipe(
    name="mnist",
    summary="28x28 handwritten digits",
    make_data=make_data,
    make_model=make_perceptron,
    lr=1e-3,
    batch_size=32,
    epochs=5,
    schedule="cosine",
    metrics=("accuracy",),
    batch_transform=ScaleBytes(),
    class_names=MNIST_CLASSES,
)
