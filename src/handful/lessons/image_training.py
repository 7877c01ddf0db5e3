"""Training on images with SGD: single samples as printed, or batches of a loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handful.data.columns import Columns
from handful.data.loader import DataLoader

MOMENTUM, LR, BATCH_SIZE, HIDDEN = 0.9, 0.01, 64, 128


@dataclass(frozen=True)
class Parts:
    """Images and labels for training and testing.

    Attributes:
        train_x: Float32 in [-1, 1], shape ``(N, p)``, p values an image.
        train_y: Int64, shape ``(N,)``.
        test_x: Shape ``(M, p)``.
        test_y: Shape ``(M,)``.
        num_classes: C; labels are 0 to C - 1.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    num_classes: int


def prepare_images(images: NDArray[np.uint8]) -> Tensor:
    """Return images as rows of float32 from -1 to 1.

    Args:
        images: Shape ``(N, H, W)`` or ``(N, H, W, C)``, 0 to 255.

    Returns:
        Shape ``(N, p)``: each image's values in the order of its own array.
    """
    values = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
    return values.div_(255).sub_(0.5).div_(0.5)


def make_model(parts: Parts, seed: int) -> nn.Sequential:
    """Make a perceptron with 128 hidden units, its weights drawn with a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(parts.train_x.shape[1], HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, parts.num_classes),
        )


def show_loop_error(parts: Parts, seed: int) -> str:
    """Run the first round of a loop over the data set, and return its error's text.

    Args:
        parts: The data; a sample is an image and a plain int.
        seed: Seed of the initial weights.
    """
    model = make_model(parts, seed)
    image, label = parts.train_x[0], int(parts.train_y[0])
    try:
        nn.CrossEntropyLoss()(model(image), label)
    except TypeError as error:
        return str(error).splitlines()[0]
    return "nothing"


def train_by_sample(parts: Parts, *, seed: int, limit: int) -> tuple[float, float]:
    """Train for one epoch on single samples, in the data's order.

    Args:
        parts: The data.
        seed: Seed of the initial weights.
        limit: Most samples to take.

    Returns:
        Loss and accuracy on the test set.
    """
    model = make_model(parts, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    for image, label in zip(parts.train_x[:limit], parts.train_y[:limit], strict=True):
        _take_step(model, optimizer, image, label)
    return evaluate(model, parts)


def train_variant(
    parts: Parts, rates: Sequence[float], *, epochs: int, seed: int
) -> tuple[float, float]:
    """Train on shuffled batches of 64 with SGD and momentum.

    Args:
        parts: The data.
        rates: Learning rates of the first and of the second layer.
        epochs: Passes over the training data.
        seed: Seed of the initial weights and of the orders.

    Returns:
        Loss and accuracy on the test set.
    """
    model = make_model(parts, seed)
    groups = [
        {"params": model[place].parameters(), "lr": rate}
        for place, rate in zip((0, 2), rates, strict=True)
    ]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM)
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        Columns(parts.train_x, parts.train_y), BATCH_SIZE, shuffle=True, seed=seed
    )
    for _ in range(epochs):
        for images, labels in loader:
            _take_step(model, optimizer, images, labels)
    return evaluate(model, parts)


def _take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def evaluate(model: nn.Module, parts: Parts) -> tuple[float, float]:
    """Return the mean loss, in nats, and the accuracy on the test set."""
    logits = model(parts.test_x)
    loss = nn.functional.cross_entropy(logits, parts.test_y).item()
    is_right = logits.argmax(dim=1) == parts.test_y
    return loss, is_right.float().mean().item()
