"""Image sheets: shapes, scaling, and what a sheet says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handful.errors import ArgumentError, DataError
from handful.report.images import draw_image_grid


def colors(path: Path) -> set[tuple[int, int, int]]:
    """Return the colours that fill more than a hundredth of a sheet."""
    with Image.open(path) as image:
        found = image.convert("RGB").getcolors(2**24) or []
        return {color for count, color in found if count > image.size[0] ** 2 / 100}


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 1, 4, 4)])
def test_bytes_are_shown_as_they_are(shape: tuple[int, ...], tmp_path: Path) -> None:
    images = np.full(shape, 100, np.uint8)
    images[1] = 200
    path = draw_image_grid(images, ["", ""], tmp_path / "sheet.png")
    assert path == tmp_path / "sheet.png"
    assert colors(path) == {(100,) * 3, (200,) * 3, (255,) * 3}


def test_channels_may_come_first_or_last(tmp_path: Path) -> None:
    channels = [np.full((2, 4, 5), value, np.uint8) for value in (10, 20, 30)]
    first = draw_image_grid(np.stack(channels, 1), ["a", "b"], tmp_path / "1.png")
    last = draw_image_grid(np.stack(channels, 3), ["a", "b"], tmp_path / "2.png")
    assert (10, 20, 30) in colors(last)
    assert first.read_bytes() == last.read_bytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_other_values_are_scaled_to_their_extremes(dtype: Any, tmp_path: Path) -> None:
    images = np.zeros((3, 4, 4), dtype)
    images[0], images[2] = -2, 2
    path = draw_image_grid(images, ["", "", ""], tmp_path / "sheet.png")
    assert colors(path) == {(0,) * 3, (128,) * 3, (255,) * 3}


def test_constant_and_boolean_images_are_drawn(tmp_path: Path) -> None:
    path = draw_image_grid(np.full((1, 4, 4), 0.5), [""], tmp_path / "a.png")
    assert (0, 0, 0) in colors(path)
    path = draw_image_grid(np.eye(4, dtype=bool)[None], [""], tmp_path / "b.png")
    assert colors(path) == {(0,) * 3, (255,) * 3}


def test_scaling_is_said_below_the_images(tmp_path: Path) -> None:
    as_bytes = draw_image_grid(np.zeros((1, 4, 4), np.uint8), [""], tmp_path / "a.png")
    scaled = draw_image_grid(np.zeros((1, 4, 4)), [""], tmp_path / "b.png")
    assert size(scaled)[1] == size(as_bytes)[1] + 50


def test_of_many_images_the_first_thirty_six_are_drawn(tmp_path: Path) -> None:
    images = np.zeros((40, 4, 4), np.uint8)
    images[36:] = 200
    titles = [str(number) for number in range(40)]
    path = draw_image_grid(images, titles, tmp_path / "many.png")
    assert (200, 200, 200) not in colors(path)
    width, height = size(draw_image_grid(images[:36], titles[:36], tmp_path / "6.png"))
    assert size(path) == (width, height + 50)


@pytest.mark.parametrize(("number", "columns"), [(25, 5), (26, 6), (4, 2)])
def test_a_sheet_is_square(number: int, columns: int, tmp_path: Path) -> None:
    images = np.zeros((number, 4, 4), np.uint8)
    free = draw_image_grid(images, [""] * number, tmp_path / "a.png")
    asked = draw_image_grid(images, [""] * number, tmp_path / "b.png", columns=columns)
    assert free.read_bytes() == asked.read_bytes()


def test_a_title_is_never_taken_for_a_formula(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 4), np.uint8)
    draw_image_grid(images, [r"$\wrong{$", "→ $"], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize(
    "shape", [(4, 4), (2, 4, 4, 4), (0, 4, 4), (2, 0, 4), (1, 1, 1, 4, 4)]
)
def test_another_shape_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"\(N, H, W, 3\).*got \("):
        draw_image_grid(np.zeros(shape), [""] * shape[0], tmp_path / "sheet.png")


def test_titles_must_be_as_many_as_images(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="as many as images, 2; got 1"):
        draw_image_grid(np.zeros((2, 4, 4)), ["one"], tmp_path / "sheet.png")


def test_no_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"columns must be .* from 1 on; got 0"):
        draw_image_grid(np.zeros((1, 4, 4)), [""], tmp_path / "sheet.png", columns=0)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="images must be finite"):
        draw_image_grid(np.full((1, 4, 4), np.nan), [""], tmp_path / "sheet.png")
    assert not any(tmp_path.iterdir())
