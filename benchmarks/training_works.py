"""One training, in a process of its own: a loop written by hand, or handful's Trainer.

Both sides import torch, torch.optim and torch._dynamo before the clock starts: the
first optimiser of a process imports the last of these, which takes more than a second.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo
import torch.optim
from measure import answer
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

import handful
from handful.data.transforms import ScaleBytes
from handful.datasets.images import load_fashion_mnist, load_mnist
from handful.datasets.splits import split_indices
from handful.datasets.tables import load_regression, load_wine


class Work:
    """What both sides train: data, model, loss, rate.

    Attributes:
        train: Inputs and targets, as they are fed.
        valid: The same for validation, or None.
    """

    loss: nn.Module
    optimizer = "adam"
    lr = 0.001
    metrics: tuple[str, ...] = ()
    transform: Any = None

    def __init__(self, spec: dict[str, Any]) -> None:
        self.batch_size = int(spec["batch_size"])
        self.epochs = int(spec["epochs"])
        self.valid: tuple[Any, Any] | None = None
        self.load()

    def load(self) -> None:
        """Read the data."""
        raise NotImplementedError

    def make_model(self) -> nn.Module:
        """Make the model."""
        raise NotImplementedError

    def to_floats(self, inputs: Any) -> Tensor:
        """Return inputs as the loop by hand has them: floats in memory."""
        return torch.as_tensor(inputs)


class Wine(Work):
    """The lesson's program: 178 samples, 13-10-10-3."""

    loss = nn.CrossEntropyLoss()

    def load(self) -> None:
        """Read the data."""
        wine = load_wine()
        self.train = (wine.features, wine.target)

    def make_model(self) -> nn.Module:
        """Make the model."""
        return nn.Sequential(
            nn.Linear(13, 10),
            nn.ReLU(),
            nn.Linear(10, 10),
            nn.ReLU(),
            nn.Linear(10, 3),
        )


class Regression(Work):
    """One weight and a bias, 100 samples, plain SGD."""

    loss = nn.MSELoss()
    optimizer = "sgd"
    lr = 0.01

    def load(self) -> None:
        """Read the data."""
        points = load_regression()
        self.train = (
            points.features.astype(np.float32),
            points.target.astype(np.float32),
        )

    def make_model(self) -> nn.Module:
        """Make the model."""
        return nn.Linear(1, 1)


class Mnist(Work):
    """784-128-10 on the real MNIST, 50,000 / 10,000."""

    loss = nn.CrossEntropyLoss()
    metrics = ("accuracy",)
    transform = ScaleBytes()
    read = staticmethod(load_mnist)

    def load(self) -> None:
        """Read the data."""
        data = self.read()
        count = len(data.train_images)
        train, valid = split_indices(count, (count - count // 6, count // 6), 0)
        self.train = (data.train_images[train], data.train_labels[train])
        self.valid = (data.train_images[valid], data.train_labels[valid])

    def make_model(self) -> nn.Module:
        """Make the model."""
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    def to_floats(self, inputs: Any) -> Tensor:
        """Return inputs as the loop by hand has them: floats in memory."""
        return torch.from_numpy(inputs).float() / 255


class FashionCnn(Mnist):
    """A small convolutional network on the real Fashion-MNIST."""

    read = staticmethod(load_fashion_mnist)

    def make_model(self) -> nn.Module:
        """Make the model."""
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 10),
        )


WORKS: dict[str, type[Work]] = {
    "wine": Wine,
    "regression": Regression,
    "mnist": Mnist,
    "cnn": FashionCnn,
}


def train_by_hand(work: Work) -> dict[str, Any]:
    """Train as the tutorials do, over tensors in memory."""
    inputs, targets = work.to_floats(work.train[0]), torch.as_tensor(work.train[1])
    loader = TorchDataLoader(
        TensorDataset(inputs, targets), batch_size=work.batch_size, shuffle=True
    )
    valid_loader = None
    if work.valid is not None:
        held_out = TensorDataset(
            work.to_floats(work.valid[0]), torch.as_tensor(work.valid[1])
        )
        valid_loader = TorchDataLoader(held_out, batch_size=work.batch_size)
    started = time.perf_counter()
    model = work.make_model()
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[work.optimizer]
    optimizer = kind(model.parameters(), lr=work.lr)
    accuracy = None
    for _ in range(work.epochs):
        model.train()
        running_loss = 0.0
        for batch, labels in loader:
            optimizer.zero_grad()
            loss = work.loss(model(batch), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() * len(labels)
        if valid_loader is not None:
            accuracy = _validate_by_hand(work, model, valid_loader)
    return {
        "seconds": time.perf_counter() - started,
        "loss": running_loss / len(targets),
        "accuracy": accuracy,
    }


def _validate_by_hand(work: Work, model: nn.Module, loader: Any) -> float:
    model.eval()
    loss, correct, total = 0.0, 0, 0
    with torch.no_grad():
        for batch, labels in loader:
            outputs = model(batch)
            loss += work.loss(outputs, labels).item()
            correct += (outputs.argmax(1) == labels).sum().item()
            total += len(labels)
    return correct / total


def train_by_handful(work: Work, *, everything: bool) -> dict[str, Any]:
    """Train with handful's Trainer, its history and, if asked for, all it writes."""
    loader = handful.DataLoader(
        work.train, work.batch_size, shuffle=True, batch_transform=work.transform
    )
    valid_loader = None
    if work.valid is not None:
        # As large as the loop's own: a fair comparison of the same work.
        valid_loader = handful.DataLoader(
            work.valid, work.batch_size, batch_transform=work.transform
        )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        trainer = handful.Trainer(
            work.make_model(),
            loss=work.loss,
            optimizer=work.optimizer,
            lr=work.lr,
            metrics=work.metrics,
            progress="lines" if everything else "off",
        )
        run = trainer.fit(
            loader,
            valid_loader,
            epochs=work.epochs,
            run_dir=Path(folder) / "run" if everything else None,
        )
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "loss": run.history[-1]["train_loss"],
        "accuracy": run.history[-1].get("valid_accuracy"),
        "chosen_threads": run.identity["threads"],
    }


def do(spec: dict[str, Any]) -> dict[str, Any]:
    """Do one training."""
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(spec["seed"])
    work = WORKS[spec["work"]](spec)
    if spec["side"] == "by hand":
        return train_by_hand(work)
    return train_by_handful(work, everything=spec["side"] != "off")


if __name__ == "__main__":
    answer(do)
