"""MNIST and Fashion-MNIST as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handful.data.idx import read_idx
from handful.datasets.files import find_or_download
from handful.datasets.remote import FASHION_MNIST, MNIST
from handful.errors import DataError, FormatError

__all__ = [
    "FASHION_MNIST_CLASSES",
    "MNIST_CLASSES",
    "ImageData",
    "load_fashion_mnist",
    "load_mnist",
]

MNIST_CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# The first test labels of each data set. Their files bear the same names, so that a
# folder can hold the wrong one; these labels tell.
_FIRST_TEST_LABELS = {
    "mnist": "72104149590690159734966540740131",
    "fashion-mnist": "92116146574573412480257914609388",
}


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class ImageData:
    """Images with one label each, split into a training and a test set."""

    train_images: npt.NDArray[np.uint8]
    """Shape ``(N, 1, 28, 28)``, 0 (background) to 255."""

    train_labels: npt.NDArray[np.int64]
    """Shape ``(N,)``, indices into ``classes``."""

    test_images: npt.NDArray[np.uint8]
    """Shape ``(M, 1, 28, 28)``."""

    test_labels: npt.NDArray[np.int64]
    """Shape ``(M,)``."""

    classes: tuple[str, ...]
    """Name of each class."""


def load_mnist() -> ImageData:
    """Load MNIST: 60,000 training and 10,000 test images of handwritten digits.

    The files are looked for in ``$HANDFUL_DATA/mnist``, ``$HANDFUL_DATA`` and the
    user's cache, and otherwise downloaded (12 MB). Smaller sets in the same format are
    accepted.

    Returns:
        The images and labels (LeCun, Cortes and Burges, 1998).

    Raises:
        MissingDataError: The files are neither here nor to be downloaded.
        FormatError: A file is damaged, or holds no 28 x 28 images or no labels.
        DataError: Images and labels do not belong together.
    """
    return _load_images("mnist", find_or_download(MNIST), MNIST_CLASSES)


def load_fashion_mnist() -> ImageData:
    """Load Fashion-MNIST: 60,000 training and 10,000 test images of clothing.

    The files are looked for in ``$HANDFUL_DATA/fashion-mnist``, ``$HANDFUL_DATA``, the
    user's cache and the folder of Debian's package ``dataset-fashion-mnist``, and
    otherwise downloaded (31 MB). Smaller sets in the same format are accepted.

    Returns:
        The images and labels (Xiao, Rasul and Vollgraf, 2017).

    Raises:
        MissingDataError: The files are neither here nor to be downloaded.
        FormatError: A file is damaged, or holds no 28 x 28 images or no labels.
        DataError: Images and labels do not belong together.
    """
    paths = find_or_download(FASHION_MNIST)
    return _load_images("fashion-mnist", paths, FASHION_MNIST_CLASSES)


def _load_images(
    name: str, paths: dict[str, Path], classes: tuple[str, ...]
) -> ImageData:
    # Labels first: they are small, and tell the wrong data set at once.
    test_labels = _read_labels(paths["t10k-labels-idx1-ubyte"], len(classes))
    _check_is(name, test_labels, paths["t10k-labels-idx1-ubyte"])
    train_labels = _read_labels(paths["train-labels-idx1-ubyte"], len(classes))
    data = ImageData(
        train_images=_read_images(paths["train-images-idx3-ubyte"]),
        train_labels=train_labels,
        test_images=_read_images(paths["t10k-images-idx3-ubyte"]),
        test_labels=test_labels,
        classes=classes,
    )
    for images, labels, part in (
        (data.train_images, data.train_labels, "train"),
        (data.test_images, data.test_labels, "t10k"),
    ):
        if len(images) != len(labels):
            raise DataError(
                "A data set must have as many labels as images; got "
                f"{len(images)} images in {paths[f'{part}-images-idx3-ubyte']} and "
                f"{len(labels)} labels in {paths[f'{part}-labels-idx1-ubyte']}."
            )
    return data


def _read_images(path: Path) -> npt.NDArray[np.uint8]:
    images = read_idx(path, expect_shape=(None, 28, 28), expect_dtype=np.uint8)
    return images.reshape(-1, 1, 28, 28)


def _read_labels(path: Path, num_classes: int) -> npt.NDArray[np.int64]:
    labels = read_idx(path, expect_shape=(None,), expect_dtype=np.uint8)
    if not len(labels):
        raise FormatError(f"{path} must hold at least one label; got none.")
    if labels.max() >= num_classes:
        raise FormatError(
            f"{path} must hold labels from 0 to {num_classes - 1}; got {labels.max()} "
            f"at position {labels.argmax()}."
        )
    return labels.astype(np.int64)


def _check_is(name: str, test_labels: npt.NDArray[np.int64], path: Path) -> None:
    for other, first in _FIRST_TEST_LABELS.items():
        found = "".join(map(str, test_labels[: len(first)]))
        if found == first and other != name:
            raise DataError(
                f"{path} must belong to {name}; got the labels of {other}. Keep each "
                f"data set in its own folder: $HANDFUL_DATA/{name}, "
                f"$HANDFUL_DATA/{other}."
            )
