"""Fashion-MNIST: 70,000 pictures of clothes of 28x28 pixels."""

from __future__ import annotations

from handful.data.transforms import ScaleBytes
from handful.datasets.images import FASHION_MNIST_CLASSES, load_fashion_mnist
from handful.recipes.images import make_perceptron, split_images
from handful.train.recipe import Recipe, Splits


def make_data(seed: int) -> Splits:
    """Hold out a random sixth of the training images for validation."""
    return split_images(load_fashion_mnist(), seed)


recipe = Recipe(
    name="fashion-mnist",
    summary="28x28 pictures of clothes",
    make_data=make_data,
    make_model=make_perceptron,
    lr=1e-3,
    batch_size=32,
    epochs=5,
    schedule="cosine",
    metrics=("accuracy",),
    batch_transform=ScaleBytes(),
    class_names=FASHION_MNIST_CLASSES,
)
