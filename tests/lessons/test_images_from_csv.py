from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from handful.data.loader import DataLoader
from handful.errors import ArgumentError, DataError, FormatError, MissingDataError
from handful.lessons import images_from_csv
from handful.lessons.csv_images import (
    TRANSFORM,
    CsvImages,
    read_image,
    write_images,
)
from handful.lessons.image_training import (
    Parts,
    make_model,
    prepare_images,
    train_by_sample,
    train_variant,
)
from handful.lessons.images_from_csv import (
    BY_SAMPLE,
    VARIANTS,
    make_csv_loader,
    read_source,
)
from handful.lessons.lesson import LessonOptions, LessonResult

TARGET_ERROR = "argument 'target' (position 2) must be Tensor, not int"


class RunHandful(Protocol):
    def __call__(self, *args: str | Path, timeout_seconds: float = 60): ...


SEED = 1


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)


@pytest.fixture
def listed(tmp_path: Path, images: np.ndarray) -> Path:
    return write_images(images, np.arange(20) % 2, tmp_path)


def _make_parts(seed: int = 0) -> Parts:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(150, 12, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    return Parts(x[:110], y[:110], x[110:], y[110:], 3)


def _descend(
    parts: Parts, batches: list[tuple], rates: tuple[float, float], seed: int
) -> tuple[float, float]:
    """Take SGD steps with momentum written out; return test loss and accuracy."""
    model = make_model(parts, seed)
    params = list(model.parameters())
    speeds = [torch.zeros_like(param) for param in params]
    for x, y in batches:
        loss = nn.functional.cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, params)
        with torch.no_grad():
            for place, param in enumerate(params):
                speeds[place] = 0.9 * speeds[place] + gradients[place]
                param -= rates[place // 2] * speeds[place]
    with torch.no_grad():
        logs = model(parts.test_x).log_softmax(1)
    loss = -logs[torch.arange(len(logs)), parts.test_y].mean().item()
    return loss, (logs.argmax(1) == parts.test_y).double().mean().item()


@pytest.mark.parametrize("rates", list(VARIANTS.values()))
def test_corrected_training_is_momentum_with_a_rate_per_layer(
    rates: tuple[float, float],
) -> None:
    parts = _make_parts()
    loader = DataLoader((parts.train_x, parts.train_y), 64, shuffle=True, seed=5)
    batches = [tuple(batch) for _ in range(2) for batch in loader]
    found = train_variant(parts, rates, epochs=2, seed=5)
    assert found == pytest.approx(_descend(parts, batches, rates, 5), rel=1e-4)


def test_training_as_printed_takes_a_step_for_every_sample_in_order() -> None:
    parts = _make_parts()
    batches = [
        (parts.train_x[at : at + 1], parts.train_y[at : at + 1]) for at in range(40)
    ]
    found = train_by_sample(parts, seed=5, limit=40)
    assert found == pytest.approx(_descend(parts, batches, (0.01, 0.01), 5), rel=1e-4)


def test_loop_over_the_data_set_raises_and_says_so(
    corrected: LessonResult, as_printed: LessonResult
) -> None:
    for result in (corrected, as_printed):
        assert TARGET_ERROR in result.numbers["error"]
        assert any(TARGET_ERROR in line for line in result.lines)


def test_each_program_trains_its_own_way(
    corrected: LessonResult, as_printed: LessonResult
) -> None:
    assert set(VARIANTS) <= set(corrected.numbers)
    assert BY_SAMPLE not in corrected.numbers
    assert BY_SAMPLE in as_printed.numbers
    assert not set(VARIANTS) & set(as_printed.numbers)


def test_files_come_back_as_they_were_written(listed: Path, images: np.ndarray) -> None:
    data = CsvImages(listed, listed.parent)
    assert len(data) == 20
    for at in range(20):
        image, label = data[at]
        assert np.array_equal(image, images[at])
        assert label == at % 2


def test_transform_makes_channels_first_from_minus_one_to_one(
    listed: Path, images: np.ndarray
) -> None:
    image, _ = CsvImages(listed, listed.parent, TRANSFORM)[3]
    assert image.dtype == torch.float32
    assert image.shape == (1, 6, 5)
    assert image[0].numpy() == pytest.approx(images[3] / 127.5 - 1, abs=1e-6)
    colour = np.zeros((2, 4, 3), np.uint8)
    colour[..., 1] = 255
    assert TRANSFORM(colour)[:, 0, 0].tolist() == [-1.0, 1.0, -1.0]


def test_prepared_rows_are_the_transformed_images(images: np.ndarray) -> None:
    rows = prepare_images(images)
    assert torch.allclose(rows[7], TRANSFORM(images[7]).flatten())


def test_workers_give_the_same_batches_as_none(listed: Path) -> None:
    alone, helped = (
        list(make_csv_loader(listed, num_workers=workers, seed=4)) for workers in (0, 2)
    )
    assert len(alone) == len(helped) == 5
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_images_are_read_only_when_asked_for(listed: Path) -> None:
    (listed.parent / "images" / "00002.png").unlink()
    data = CsvImages(listed, listed.parent)
    assert data[1][1] == 1
    with pytest.raises(
        DataError, match=r"00002\.png must exist; the CSV file lists it"
    ):
        data[2]


def test_colour_is_read_as_three_channels(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), colour)


def test_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DataError, match=r"a\.png must be an image"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("line", ["a.png", "a.png,cat", "a.png,-1", "a.png,1.5"])
def test_line_without_a_label_is_named(tmp_path: Path, line: str) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(f"file,label\nb.png,0\n{line}\n")
    with pytest.raises(FormatError, match=rf"labels\.csv, line 3 must be .*'{line}'"):
        CsvImages(table, tmp_path)


def test_table_without_lines_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,label\n")
    with pytest.raises(FormatError, match="must list at least one image"):
        CsvImages(table, tmp_path)


def test_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="must be a CSV file in UTF-8"):
        CsvImages(table, tmp_path)


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"labels\.csv cannot be read"):
        read_source(tmp_path)


def test_own_images_are_split_and_their_labels_numbered(
    tmp_path: Path, images: np.ndarray
) -> None:
    labels = np.where(np.arange(20) % 2, 1_000_000_000, 7)
    table = write_images(images, labels, tmp_path)
    source = read_source(table)
    assert source.classes == ["7", "1000000000"]
    assert (len(source.train_images), len(source.test_images)) == (16, 4)
    for image, label in zip(source.test_images, source.test_labels, strict=True):
        (at,) = np.flatnonzero((images == image).all((1, 2)))
        assert label == at % 2
    assert read_source(tmp_path).csv_file == table


def test_too_few_own_images_are_refused(tmp_path: Path, images: np.ndarray) -> None:
    table = write_images(images[:9], np.zeros(9, int), tmp_path)
    with pytest.raises(
        ArgumentError, match="--data must list 10 images or more; got 9"
    ):
        read_source(table)


def test_own_image_of_another_shape_is_named(listed: Path) -> None:
    odd = listed.parent / "images" / "00004.png"
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(odd)
    with pytest.raises(
        DataError, match=r"00004\.png must have the shape of .*\(3, 3\)"
    ):
        read_source(listed)


def test_grid_shows_25_images_with_their_labels(corrected: LessonResult) -> None:
    titles = [axes.get_title() for axes in corrected.figures["grid"].axes]
    assert len(titles) == 25
    assert set(titles) <= set("0123456789")


def test_fashion_mnist_is_read_from_its_files(
    real_fashion_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HANDFUL_DATA", str(real_fashion_dir))
    source = images_from_csv._write_source(tmp_path, LessonOptions())
    assert source.train_images.shape == (60_000, 28, 28)
    assert source.classes[9] == "Ankle boot"
    image, label = CsvImages(source.csv_file, tmp_path)[5]
    assert np.array_equal(image, source.train_images[5])
    assert label == source.train_labels[5]


def test_command_line_takes_own_images(
    run_handful: RunHandful, tmp_path: Path, listed: Path
) -> None:
    done = run_handful(
        *("study", "images-from-csv", "--quick", "--data", listed),
        *("--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    assert "16 images for training, 4 for testing." in done.stdout
    assert "[4, 1, 6, 5]" in done.stdout
    assert "corrected here: Its training loop runs over the data set" in done.stdout
    kept = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert set(VARIANTS) <= set(kept["numbers"])
    assert (tmp_path / "out" / "grid.png").stat().st_size > 1_000
