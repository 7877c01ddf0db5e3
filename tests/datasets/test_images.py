"""MNIST and Fashion-MNIST: small sets, wrong sets, and the real files."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from handful.datasets.images import (
    FASHION_MNIST_CLASSES,
    load_fashion_mnist,
    load_mnist,
)
from handful.errors import DataError, FormatError

# The first test labels of the two data sets, as published.
MNIST_LABELS = [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6, 9, 0, 1, 5]
MNIST_LABELS += [9, 7, 3, 4, 9, 6, 6, 5, 4, 0, 7, 4, 0, 1, 3, 1]
FASHION_LABELS = [9, 2, 1, 1, 6, 1, 4, 6, 5, 7, 4, 5, 7, 3, 4, 1]
FASHION_LABELS += [2, 4, 8, 0, 2, 5, 7, 9, 1, 4, 6, 0, 9, 3, 8, 8]


@pytest.fixture
def load(tmp_path, monkeypatch, image_files, save_files):
    """Load MNIST from the small files, some of them replaced."""

    def load_changed(changes=None):
        save_files(tmp_path / "mnist", image_files | (changes or {}))
        monkeypatch.setenv("HANDFUL_DATA", str(tmp_path))
        return load_mnist()

    return load_changed


def test_a_small_set_is_loaded_with_shapes_and_dtypes_as_promised(load, image_files):
    data = load()
    assert data.train_images.shape == (20, 1, 28, 28)
    assert data.test_images.shape == (10, 1, 28, 28)
    assert data.train_images.dtype == data.test_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int64
    assert data.train_labels.tolist() == [*range(10), *range(10)]
    assert data.test_labels.tolist() == list(range(10))
    assert data.train_images.tobytes() == image_files["train-images-idx3-ubyte"][16:]
    assert data.test_images.tobytes() == image_files["t10k-images-idx3-ubyte"][16:]
    assert data.classes == tuple("0123456789")


def test_the_arrays_are_writable_and_the_set_is_frozen(load):
    data = load()
    data.train_images[0] = 0
    data.train_labels[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError, match="train_labels"):
        data.train_labels = data.test_labels


def test_the_classes_of_fashion_mnist_are_named(
    tmp_path, monkeypatch, image_files, save_files
):
    save_files(tmp_path / "fashion-mnist", image_files)
    monkeypatch.setenv("HANDFUL_DATA", str(tmp_path))
    assert load_fashion_mnist().classes == FASHION_MNIST_CLASSES
    assert len(set(FASHION_MNIST_CLASSES)) == 10


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_different_counts_show_both_sides(load, idx_bytes, part):
    labels = {f"{part}-labels-idx1-ubyte": idx_bytes(np.zeros(7))}
    n = {"train": 20, "t10k": 10}[part]
    with pytest.raises(
        DataError, match=f"{n} images in .*{part}-images.* 7 labels in .*{part}-labels"
    ):
        load(labels)


def test_a_label_out_of_range_is_shown_with_its_position(load, idx_bytes):
    labels = np.arange(20) % 10
    labels[13] = 10
    with pytest.raises(
        FormatError, match=r"train-labels.* from 0 to 9; got 10 at position 13"
    ):
        load({"train-labels-idx1-ubyte": idx_bytes(labels)})


def test_an_empty_set_is_refused(load, idx_bytes):
    empty = {
        "train-images-idx3-ubyte": idx_bytes(np.zeros((0, 28, 28))),
        "train-labels-idx1-ubyte": idx_bytes(np.zeros(0)),
    }
    with pytest.raises(FormatError, match=r"train-labels.* at least one label"):
        load(empty)


def test_images_of_another_size_are_refused(load, idx_bytes):
    images = {"train-images-idx3-ubyte": idx_bytes(np.zeros((20, 32, 32)))}
    with pytest.raises(FormatError, match=r"train-images.*28\); got .*\(20, 32, 32\)"):
        load(images)


def test_images_in_place_of_labels_are_refused(load, image_files):
    swapped = {"train-labels-idx1-ubyte": image_files["train-images-idx3-ubyte"]}
    with pytest.raises(FormatError, match=r"train-labels.*\(any,\); got .*28, 28\)"):
        load(swapped)


@pytest.mark.parametrize(
    ("load_one", "labels", "other"),
    [
        (load_mnist, FASHION_LABELS, "fashion-mnist"),
        (load_fashion_mnist, MNIST_LABELS, "mnist"),
    ],
)
def test_one_data_set_is_never_taken_for_the_other(
    tmp_path, monkeypatch, image_files, save_files, idx_bytes, load_one, labels, other
):
    save_files(
        tmp_path,
        image_files
        | {
            "t10k-images-idx3-ubyte": idx_bytes(np.zeros((32, 28, 28))),
            "t10k-labels-idx1-ubyte": idx_bytes(np.array(labels)),
        },
    )
    monkeypatch.setenv("HANDFUL_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"got the labels of {other}. Keep each"):
        load_one()


def check_real(data, first_labels):
    assert data.train_images.shape == (60_000, 1, 28, 28)
    assert data.test_images.shape == (10_000, 1, 28, 28)
    assert np.bincount(data.train_labels).sum() == 60_000
    assert data.train_images.max() == 255
    assert data.test_labels[:32].tolist() == first_labels


def test_the_real_mnist_is_read_whole(monkeypatch, real_mnist_dir):
    monkeypatch.setenv("HANDFUL_DATA", str(real_mnist_dir))
    data = load_mnist()
    check_real(data, MNIST_LABELS)
    # The well-known mean and standard deviation of the training pixels.
    pixels = data.train_images / np.float32(255)
    assert pixels.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)


def test_the_real_fashion_mnist_is_read_whole(monkeypatch, real_fashion_dir):
    monkeypatch.setenv("HANDFUL_DATA", str(real_fashion_dir))
    data = load_fashion_mnist()
    check_real(data, FASHION_LABELS)
    assert np.bincount(data.train_labels).tolist() == [6_000] * 10
    pixels = data.train_images / np.float32(255)
    assert pixels.mean(dtype=np.float64) == pytest.approx(0.2860, abs=5e-5)
    assert pixels.std(dtype=np.float64) == pytest.approx(0.3530, abs=5e-5)
