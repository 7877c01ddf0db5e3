"""Five small trainings with much state: each goes on to the same bits, or is wrong.

All take about a second, and save often.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset

from handful import (
    Columns,
    DataLoader,
    ImageFiles,
    JsonLines,
    LengthBuckets,
    PadCollate,
    Trainer,
)
from handful.data.augment import RandomCrop, RandomHorizontalFlip
from handful.data.image_changes import RandomResizedCrop
from handful.data.transforms import Chain, ScaleBytes


@dataclass
class Training:
    """What is trained, and how.

    Attributes:
        model: The model, with the weights of seed 0.
        train: The loader.
        options: The Trainer's.
        fit: Further arguments of `fit`.
    """

    model: nn.Module
    train: Any
    options: dict[str, Any]
    fit: dict[str, Any] = field(default_factory=dict)

    def trainer(self, **more: Any) -> Trainer:
        """Return a new trainer."""
        fixed = {"loss": "cross_entropy", "progress": "off", "num_threads": 1}
        return Trainer(self.model, **{**fixed, **self.options, **more})


def make_mlp(folder: Path, workers: int = 0, changed: str = "") -> Training:
    """Dropout, Adam, a schedule by steps, captured steps, arrays in memory."""
    X = torch.randn(192, 8)
    y = X[:, :4].argmax(1)
    if changed == "value":
        X[6, 3] += 1  # one of the samples that are looked at
    if changed == "label":
        y[6] = (y[6] + 1) % 4
    if changed == "length":
        X, y = X[:-1], y[:-1]
    if changed.startswith(("nan", "inf")):
        value, sample = changed.split()
        X[int(sample), 0] = float(value)
    layers = nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4)
    schedule = "cosine:warmup=10,unit=step"
    return Training(
        nn.Sequential(*layers),
        DataLoader(Columns(X, y), batch_size=16, shuffle=True, seed=1),
        {
            "lr": 0.01,
            "schedule": schedule,
            "engine": "captured",
            "metrics": ["accuracy"],
        },
        {
            "epochs": 10,
            "valid": DataLoader((X, y), batch_size=64),
            "checkpoint_every": 1,
        },
    )


def make_cnn(folder: Path, workers: int = 0) -> Training:
    """BatchNorm, momentum, images that are cropped and flipped at random."""
    images = torch.randint(256, (96, 3, 12, 12), dtype=torch.uint8)
    y = (images.float().mean((1, 2, 3)) > 127.5).long()
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 2)),
    )
    changes = Chain(RandomCrop(12, padding=2), RandomHorizontalFlip(), ScaleBytes())
    loader = DataLoader(
        (images, y), batch_size=16, shuffle=True, seed=2, batch_transform=changes
    )
    return Training(
        model,
        loader,
        {
            "lr": 0.05,
            "optimizer": "sgd:momentum=0.9",
            "schedule": "step:step_size=3",
            # Else it is measured, and two runs may not have the same identity.
            "memory_format": "channels_last",
        },
        {"epochs": 8, "checkpoint_every": 1},
    )


def make_averaged(folder: Path, workers: int = 0) -> Training:
    """Averaged weights, two batches a step, gradients clipped, NumPy's data."""
    X = torch.randn(150, 6).numpy()
    y = X[:, :3].argmax(1)
    model = nn.Sequential(
        nn.Linear(6, 24), nn.Tanh(), nn.Dropout(0.1), nn.Linear(24, 3)
    )
    options = {"ema": 0.9, "accumulate": 2, "clip_norm": 0.5, "optimizer": "adamw"}
    return Training(
        model,
        DataLoader((X, y), batch_size=10, shuffle=True, seed=3),
        {**options, "lr": 0.02, "log_norms": True},
        {"epochs": 10, "checkpoint_every": 1},
    )


class Noisy(Dataset[Any]):
    """Samples with noise that the worker draws."""

    def __init__(self) -> None:
        self.X = torch.randn(48, 5)

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: int) -> Any:
        x = self.X[index]
        return x + 0.1 * torch.randn(5), int(x.sum() > 0)


def make_workers(folder: Path, workers: int = 2) -> Training:
    """PyTorch's own loader, with worker processes that draw random numbers."""
    generator = torch.Generator().manual_seed(4)
    loader = TorchDataLoader(
        Noisy(), 6, shuffle=True, num_workers=workers, generator=generator
    )
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))
    return Training(
        model,
        loader,
        {"lr": 0.01, "optimizer": "rmsprop"},
        {"epochs": 6, "checkpoint_every": 1},
    )


class TokenModel(nn.Module):
    """The mean of embedded tokens, and a line through it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(20, 8, mode="mean", padding_idx=0)
        self.out = nn.Linear(8, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.embedding(tokens))


def first_token_is_odd(
    samples: list[dict[str, Any]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return padded tokens and labels."""
    batch = PadCollate()(samples)
    return batch["tokens"], batch["label"]


def make_buckets(folder: Path, workers: int = 0) -> Training:
    """Lines of JSON, of different lengths, in buckets."""
    path = folder / "lines.jsonl"
    numbers = torch.Generator().manual_seed(5)
    rows = []
    for _ in range(90):
        length = 1 + int(torch.randint(12, (), generator=numbers))
        tokens = torch.randint(1, 20, (length,), generator=numbers).tolist()
        rows.append({"tokens": tokens, "label": tokens[0] % 2})
    if not path.exists():
        path.write_text("\n".join(map(json.dumps, rows)))
    lengths = [len(row["tokens"]) for row in rows]
    loader = DataLoader(
        JsonLines(path),
        batch_sampler=LengthBuckets(lengths, batch_size=9, seed=5),
        collate_fn=first_token_is_odd,
    )
    return Training(
        TokenModel(),
        loader,
        {"lr": 0.05, "optimizer": "adagrad", "early_stopping": 50},
        {"epochs": 10, "checkpoint_every": 1},
    )


def make_images(folder: Path, workers: int = 0) -> Training:
    """Image files, decoded by threads, cropped and flipped at random."""
    numbers = torch.Generator().manual_seed(6)
    for number in range(40):
        path = folder / "images" / str(number % 2) / f"{number}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (20, 24, 3)
            pixels = torch.randint(256, size, dtype=torch.uint8, generator=numbers)
            Image.fromarray(pixels.numpy()).save(path)
    files = ImageFiles.from_folder(
        folder / "images", size=8, crop=RandomResizedCrop(), flip=0.5
    )
    loader = DataLoader(
        files,
        batch_size=4,
        shuffle=True,
        seed=6,
        num_workers=workers,
        batch_transform=ScaleBytes(),
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    return Training(model, loader, {"lr": 0.01}, {"epochs": 6, "checkpoint_every": 1})


class Hungry(nn.Module):
    """Takes 32 MiB for each sample for a moment, and does nothing with it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.empty(len(x), 2**25, dtype=torch.uint8)
        return x


def make_hungry(folder: Path, workers: int = 0) -> Training:
    """Batches of 16 samples that take half a gibibyte, in training and validation."""
    X = torch.randn(64, 8)
    y = X[:, :4].argmax(1)
    model = nn.Sequential(nn.Linear(8, 16), Hungry(), nn.ReLU(), nn.Linear(16, 4))
    return Training(
        model,
        DataLoader((X, y), batch_size=16, shuffle=True, seed=7),
        {"lr": 0.01, "engine": "eager"},
        {"epochs": 4, "valid": DataLoader((X, y), batch_size=16)},
    )


TRAININGS: dict[str, Callable[..., Training]] = {
    "mlp": make_mlp,
    "cnn": make_cnn,
    "averaged": make_averaged,
    "workers": make_workers,
    "buckets": make_buckets,
}
"""The trainings by name; each is a function of (folder for data, number of workers)."""


def make_training(name: str, folder: Path, **options: Any) -> Training:
    """Return a training, from the same weights and the same data each time."""
    torch.manual_seed(0)
    more = {"images": make_images, "hungry": make_hungry}
    training = {**TRAININGS, **more}[name](folder, **options)
    training.fit = {"save_every": "5steps", **training.fit}
    return training
