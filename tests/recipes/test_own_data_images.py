"""Own images: a folder with a folder for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from handful import load_recipe, run_recipe
from handful.data.image_files import ImageFiles
from handful.errors import DataError
from handful.recipes import own_data_images
from handful.recipes.own_data import OwnData
from handful.recipes.own_data_checks import fingerprint_own_data
from handful.recipes.own_data_facts import OwnDataRecipe
from handful.recipes.own_data_image_sizes import choose_shape
from handful.recipes.own_data_model import SmallCnn
from handful.train.run_recipe import evaluate_run

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def _write_images(
    root: Path, *, count: int = 30, size: tuple[int, int] = (12, 16), mode: str = "L"
) -> Path:
    """Write bright and dark images, ``count`` of each, of a height and a width."""
    rng = np.random.default_rng(0)
    for name, level in (("bright", 160), ("dark", 90)):
        (root / name).mkdir(parents=True)
        for place in range(count):
            shape = size if mode == "L" else (*size, 3)
            pixels = rng.normal(level, 20, shape).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{place}.png")
    return root


def _load(root: Path) -> OwnDataRecipe:
    recipe = load_recipe(OwnData(str(root)).recipe)
    assert isinstance(recipe, OwnDataRecipe)
    return recipe


def test_grey_images_keep_their_size_and_are_told_apart(tmp_path: Path) -> None:
    recipe = _load(_write_images(tmp_path / "photos"))
    assert recipe.facts.found.endswith("60 images in grey, of 16 x 12 pixels")
    assert recipe.facts.predicted.endswith("one of 2 classes (bright 30, dark 30)")
    assert recipe.name == "photos"
    quick = {"memory_format": "contiguous", "num_threads": 1}
    short = recipe.override(epochs=8, batch_size=6, options=quick)
    run_recipe(short, run_dir=tmp_path / "run")
    measured = evaluate_run(tmp_path / "run", recipe, split="test")
    assert measured["test_accuracy"] >= 0.9
    assert recipe.facts.baseline.value == 0.5
    (line, _) = recipe.facts.result_lines(measured)
    assert line.endswith("on 12 images never trained on")


def test_parts_have_every_image_once_under_its_class(tmp_path: Path) -> None:
    parts = _load(_write_images(tmp_path / "photos")).make_data(0)
    images, labels = (
        torch.cat([part.tensors[place] for part in parts])  # type: ignore[union-attr]
        for place in (0, 1)
    )
    assert [len(part) for part in parts] == [36, 12, 12]  # type: ignore[arg-type]
    assert images.dtype is torch.uint8
    assert len(images.unique(dim=0)) == 60
    is_bright = images.float().mean((1, 2, 3)) > 125
    assert torch.equal(is_bright, labels == 0)


def test_large_images_in_colour_are_made_small_and_square(tmp_path: Path) -> None:
    root = _write_images(tmp_path / "a", count=6, size=(80, 100), mode="RGB")
    recipe = _load(root)
    assert recipe.facts.found.endswith("in colour, resized to 64 x 64 pixels")
    assert recipe.make_data(0)[0].tensors[0].shape == (8, 3, 64, 64)  # type: ignore[attr-defined]


def test_images_of_several_sizes_get_the_median_of_their_shorter_sides(
    tmp_path: Path,
) -> None:
    sides = (10, 20, 21, 22, 40)
    paths = [str(tmp_path / f"{side}.png") for side in sides]
    for path, side in zip(paths, sides, strict=True):
        Image.new("L", (side + 5, side)).save(path)
    shape = choose_shape(paths)
    assert (shape.size, shape.channels, shape.is_own) == ((21, 21), 1, False)


def test_only_images_in_colour_are_mirrored(tmp_path: Path) -> None:
    grey = _load(_write_images(tmp_path / "a", count=5))
    colour = _load(_write_images(tmp_path / "b", count=5, mode="RGB"))
    assert "Flip" not in repr(grey.batch_transform)
    assert "Flip" in repr(colour.batch_transform)


def test_images_that_fill_memory_are_decoded_for_each_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_bits = {"memory_format": "contiguous", "num_threads": 1}
    recipe = _load(_write_images(tmp_path / "photos")).override(options=same_bits)
    kept = run_recipe(recipe.override(epochs=2))
    monkeypatch.setattr(own_data_images, "MOST_BYTES", 0)
    assert isinstance(recipe.make_data(0)[0], ImageFiles)
    decoded = run_recipe(recipe.override(epochs=2))
    assert np.array_equal(kept.steps, decoded.steps)


def test_the_network_takes_images_of_any_size() -> None:
    model = SmallCnn(1, 3).eval()
    for side in (1, 5, 28):
        assert model(torch.rand(2, 1, side, side)).shape == (2, 3)


def test_a_further_image_changes_the_fingerprint(tmp_path: Path) -> None:
    data = OwnData(str(_write_images(tmp_path / "photos", count=5)))
    before = fingerprint_own_data(data)
    assert fingerprint_own_data(data) == before
    Image.new("L", (9, 9)).save(tmp_path / "photos" / "dark" / "new.png")
    assert fingerprint_own_data(data) != before


def test_folders_without_two_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder of images for each class, or files"):
        _load(tmp_path)
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError, match="must hold at least one image"):
        _load(tmp_path)
    Image.new("L", (9, 9)).save(tmp_path / "cats" / "1.png")
    with pytest.raises(DataError, match="two classes or more; got 'cats' alone"):
        _load(tmp_path)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at least 10 images, .*; got 8"):
        _load(_write_images(tmp_path / "a", count=4))
    root = _write_images(tmp_path / "b", count=9)
    for place in range(1, 9):
        (root / "dark" / f"{place}.png").unlink()
    with pytest.raises(DataError, match="two images or more; 'dark' has one"):
        _load(root)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    root = _write_images(tmp_path / "a", count=5)
    (root / "dark" / "0.png").write_text("no")
    with pytest.raises(DataError, match=r"dark/0\.png must be an image; .* no image"):
        _load(root)
