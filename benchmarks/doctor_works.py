"""Loaders that are held up on purpose, each by something else."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SIDE = 1000
"""Height and width of the images, which are decoded whole and made small."""

RECORD_BYTES, BYTES_PER_SECOND = 4096, 1e6
"""What is read from the slow file for each sample, and how fast it comes."""


@dataclass(frozen=True)
class Situation:
    """A loader, what trains on its batches, and what holds them up.

    Attributes:
        cause: The name that `LoaderProfile.cause` has for it.
        loader: PyTorch's own.
        step: Trains on a batch; None for the loader alone.
    """

    cause: str
    loader: DataLoader[Any]
    step: Callable[[Any], Any] | None = None


class Photos(Dataset[Any]):
    """JPEG files of `SIDE` x `SIDE` pixels, decoded by Pillow, which gives up the lock.

    Args:
        folder: Where they are written.
        count: How many files; each is used again and again.
    """

    def __init__(self, folder: Path, count: int = 8) -> None:
        rng = np.random.default_rng(0)
        self._paths = [folder / f"{number}.jpg" for number in range(count)]
        for path in self._paths:
            coarse = rng.integers(0, 256, (60, 60, 3), np.uint8)
            Image.fromarray(coarse).resize((SIDE, SIDE)).save(path, quality=92)

    def __len__(self) -> int:
        return 2000

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self._paths[index % len(self._paths)]) as image:
            small = image.convert("RGB").resize((32, 32), Image.Resampling.BOX)
        return torch.from_numpy(np.array(small)), index % 10


class Words(Dataset[Any]):
    """Texts that Python code takes apart letter by letter, keeping the lock."""

    def __init__(self) -> None:
        self._text = "the batch that was asked for is not the batch that came " * 1500

    def __len__(self) -> int:
        return 2000

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        counts = [0.0] * 27
        for letter in self._text:
            place = ord(letter) - 97
            counts[place if 0 <= place < 26 else 26] += 1
        return torch.tensor(counts), index % 10


class Rows(Dataset[Any]):
    """Rows of eight numbers, asked for one by one."""

    def __init__(self, count: int = 20_000) -> None:
        self._values = torch.randn(count, 8)
        self._labels = torch.arange(count) % 10

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._values[index], self._labels[index]


class SlowFile(io.FileIO):
    """A file whose bytes come one after another, as from a network."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return some bytes after the time that they take to come."""
        content = super().read(-1 if size is None else size) or b""
        time.sleep(len(content) / BYTES_PER_SECOND)
        return content


class Records(Dataset[Any]):
    """Records of one file on a slow disk.

    Args:
        folder: Where the file is written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "records.bin"
        self._path.write_bytes(bytes(RECORD_BYTES * 64))

    def __len__(self) -> int:
        return 4000

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with SlowFile(self._path) as file:
            file.seek(RECORD_BYTES * (index % 64))
            content = bytearray(file.read(RECORD_BYTES))
        return torch.frombuffer(content, dtype=torch.uint8), index % 10


class Large(Dataset[Any]):
    """Arrays of half a million bytes that are there already."""

    def __init__(self) -> None:
        self._values = np.zeros((64, 500_000), np.uint8)

    def __len__(self) -> int:
        return 2000

    def __getitem__(self, index: int) -> Any:
        return self._values[index % 64]


def keep_as_list(samples: list[Any]) -> list[Any]:
    """Return a batch that is a list of arrays, which workers have to pickle."""
    return samples


def multiply(_: Any) -> None:
    """Do a step's work, some ten milliseconds: far more than loading rows takes."""
    matrix = torch.ones(700, 700)
    for _ in range(3):
        matrix = matrix @ matrix / 700


def plant(name: str, folder: Path) -> Situation:
    """Make a situation.

    Args:
        name: A name of `SITUATIONS`.
        folder: Where files are written, if any.
    """
    return SITUATIONS[name](folder)


SITUATIONS: dict[str, Callable[[Path], Situation]] = {
    "photos": lambda folder: Situation("slow decode", DataLoader(Photos(folder), 16)),
    "words": lambda _: Situation("slow transform", DataLoader(Words(), 16)),
    "rows": lambda _: Situation("tiny rows", DataLoader(Rows(), 64, shuffle=True)),
    "records": lambda folder: Situation("slow disk", DataLoader(Records(folder), 16)),
    "model": lambda _: Situation("slow model", DataLoader(Rows(), 64), multiply),
    "large": lambda _: Situation(
        "pickling cost",
        DataLoader(Large(), 16, num_workers=2, collate_fn=keep_as_list),
    ),
}
"""What holds a loader up, by a short name."""
