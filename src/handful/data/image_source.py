"""Image sources: the image files of a loader, behind data sets that choose some."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Subset

from handful.data.image_files import ImageFiles
from handful.data.sample_keys import SampleKeys

_FINGERPRINT_FILES = 64
_ANY_NAME = ("utf-8", "surrogateescape")
"""How the bytes of any file's name come back."""


@dataclass(frozen=True)
class ImageSource:
    """Image files, or some of them, behind the data set of a loader.

    Attributes:
        files: The files.
        index: Which of them, in the loader's order, shape ``(N,)``; None for all.
    """

    files: ImageFiles
    index: NDArray[np.int64] | None = None

    def locate(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """Return the indices of samples among the files, from 0 on."""
        wanted = np.asarray(indices, np.int64)
        size = len(self.files) if self.index is None else len(self.index)
        if len(wanted) and not (-size <= wanted.min() and wanted.max() < size):
            raise IndexError(f"index must be below {size}; got {indices}")
        wanted = wanted % max(size, 1)
        return wanted if self.index is None else self.index[wanted]


class KeyedImages(Dataset[Any]):
    """Image files whose samples are asked for by index and key, as workers do.

    Args:
        source: The files.
    """

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        index = self.source.index
        return len(self.source.files) if index is None else len(index)

    def __getitem__(self, key: tuple[int, int, int]) -> Any:
        seed, epoch, index = key
        keys = SampleKeys(seed, epoch, torch.tensor([index]))
        return self.source.files.sample(int(self.source.locate([index])[0]), keys)


def image_files_of(dataset: Any) -> ImageFiles | None:
    """Return the image files that a data set is made of; None if it is of others.

    Args:
        dataset: Exactly an `ImageFiles`, or a ``Subset`` of such, for a result: the
            ``__getitem__`` of other classes may do anything.
    """
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return dataset if type(dataset) is ImageFiles else None


def find_images(dataset: Any) -> ImageSource | None:
    """Return the image files of a data set, and which of them it has.

    Args:
        dataset: Any data set.

    Returns:
        The source; None where `image_files_of` gives none, or where the indices of a
        ``Subset`` are none of its data set.
    """
    if type(dataset) is ImageFiles:
        return ImageSource(dataset)
    if type(dataset) is not Subset:
        return None
    inner = find_images(dataset.dataset)
    try:
        return inner and ImageSource(inner.files, inner.locate(dataset.indices))
    except (IndexError, TypeError, ValueError):
        return None


def fingerprint_images(dataset: Any) -> str:
    """Return a hash of a data set of image files, at a small, constant cost.

    It covers the number of samples, and name and label of up to 64 of them, evenly
    spaced, first and last among them. A change of others goes unnoticed.

    Args:
        dataset: One for which `image_files_of` gives files.
    """
    count = len(dataset)
    digest = hashlib.sha256(str(count).encode())
    for place in np.linspace(0, count - 1, min(count, _FINGERPRINT_FILES)).round():
        inner: Any = dataset
        index = int(place)
        while type(inner) is Subset:
            index = int(inner.indices[index])
            inner = inner.dataset
        label = None if inner.labels is None else inner.labels[index].tolist()
        digest.update(f"{Path(inner.paths[index]).name} {label}\n".encode(*_ANY_NAME))
    return digest.hexdigest()[:16]
