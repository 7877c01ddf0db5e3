"""The tutorials' loops print the same losses with only the import changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset, random_split

import handful
from handful.datasets.images import load_mnist
from handful.datasets.tables import load_wine

LOADERS: dict[str, Callable[..., Any]] = {
    "torch": TorchDataLoader,
    "handful": handful.DataLoader,
}


def train_wine(make_loader: Callable[..., Any], *, dropout: float) -> list[str]:
    """Train on Wine as the lesson does, and return the lines that it prints."""
    torch.manual_seed(0)
    wine = load_wine()
    dataset = TensorDataset(
        torch.from_numpy(wine.features), torch.from_numpy(wine.target)
    )
    data_loader = make_loader(dataset, batch_size=32, shuffle=True)
    model = nn.Sequential(
        nn.Linear(13, 10), nn.ReLU(), nn.Dropout(dropout), nn.Linear(10, 3)
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.001)
    lines = []
    for epoch in range(10):
        model.train()
        running_loss = 0.0
        for batch_X, batch_y in data_loader:
            optimizer.zero_grad()
            loss = criterion(model(batch_X), batch_y)
            loss.backward()
            optimizer.step()
            lines.append(f"Batch Loss: {loss.item()!r}")
            running_loss += loss.item() * batch_X.size(0)
        average = running_loss / len(data_loader.dataset)
        lines.append(f"Epoch [{epoch + 1}/10] Average Loss: {average!r}")
    return lines


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_wine_prints_the_same_to_the_last_digit(dropout: float) -> None:
    printed = [train_wine(make, dropout=dropout) for make in LOADERS.values()]
    assert len(printed[0]) == 70
    assert printed[0] == printed[1]


def train_mnist(make_loader: Callable[..., Any], dataset: Any) -> list[str]:
    """Train on MNIST as the fourth document does, with dropout, and validate."""
    torch.manual_seed(1)
    train_set, val_set = random_split(dataset, [5_000, 1_000])
    train_loader = make_loader(train_set, batch_size=32, shuffle=True)
    val_loader = make_loader(val_set, batch_size=32, shuffle=False)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 10)
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.001)
    lines = []
    for _ in range(2):
        model.train()
        running_loss = 0.0
        for inputs, labels in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        model.eval()
        val_loss, correct = 0.0, 0
        with torch.no_grad():
            for inputs, labels in val_loader:
                outputs = model(inputs)
                val_loss += criterion(outputs, labels).item()
                correct += int((outputs.argmax(1) == labels).sum())
        lines.append(f"{running_loss!r} {val_loss!r} {correct}")
    return lines


def test_mnist_prints_the_same_to_the_last_digit(
    real_mnist_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDFUL_DATA", str(real_mnist_dir))
    data = load_mnist()
    images = torch.from_numpy(data.test_images[:6_000]).float() / 255
    dataset = TensorDataset(images, torch.from_numpy(data.test_labels[:6_000]))
    torch.set_num_threads(1)
    printed = [train_mnist(make, dataset) for make in LOADERS.values()]
    assert printed[0] == printed[1]
