"""Image files for the tests of what reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def _picture(height: int, width: int, seed: int) -> Image.Image:
    """Make a picture with shapes of several sizes."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for size, strength in ((2, 60), (4, 40), (8, 20), (16, 8)):
        coarse = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))
        fine = coarse.resize((width, height), Image.Resampling.BICUBIC)
        total += strength * (np.asarray(fine) / 127.5 - 1)
    return Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def make_picture() -> Callable[..., Image.Image]:
    """Return what makes a picture, for a height, a width and a seed."""
    return _picture


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[..., tuple[list[Path], list[int]]]:
    """Return what writes JPEG files and returns their paths and labels."""

    def write(count: int, height: int = 24, width: int = 32, **options: Any) -> Any:
        paths = [tmp_path / f"{number:04}.jpg" for number in range(count)]
        for number, path in enumerate(paths):
            _picture(height, width, number).save(path, quality=90, **options)
        return paths, [number % 3 for number in range(count)]

    return write
