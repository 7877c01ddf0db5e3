"""The jobs of the image benchmark: each reads the same files by one side and times it.

A job is started by ``loading_images.py`` and times whole epochs: making the iterator,
drawing the order, every batch and its labels. The first epoch is not counted.
"""

from __future__ import annotations

import importlib
import io
import math
import platform
import random
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import answer, round_times
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SIZE, SIDE, BATCH_SIZE = 224, 256, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE, RATIO, STRENGTHS = (0.08, 1.0), (3 / 4, 4 / 3), (0.4, 0.4, 0.4, 0.1)
DETAILS = ((8, 54), (16, 30), (32, 24), (64, 13), (128, 6), (256, 3))


class PillowImages(Dataset[tuple[Tensor, int]]):
    """Image files as PyTorch's tutorials read them: by Pillow, one sample at a time.

    Args:
        paths: The files.
        is_changed: Whether crop, flip and colours are random.
    """

    def __init__(self, paths: list[str], is_changed: bool) -> None:
        self.paths = paths
        self.is_changed = is_changed
        self.mean = torch.tensor(MEAN).view(3, 1, 1)
        self.std = torch.tensor(STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        if self.is_changed:
            image = change_image(image)
        else:
            image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        floats = values.to(torch.float32).div(255)
        return floats.sub_(self.mean).div_(self.std), index % 10


def change_image(image: Image.Image) -> Image.Image:
    """Crop, mirror and recolour an image at random, step by step, by Pillow."""
    image = image.resize(
        (SIZE, SIZE), Image.Resampling.BILINEAR, box=draw_window(*image.size)
    )
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    brightness, contrast, saturation, hue = STRENGTHS
    for kind, strength in (
        (ImageEnhance.Brightness, brightness),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, saturation),
    ):
        image = kind(image).enhance(random.uniform(1 - strength, 1 + strength))
    hues, *others = image.convert("HSV").split()
    shift = np.uint8(round(random.uniform(-hue, hue) * 256) % 256)
    turned = Image.fromarray(np.asarray(hues) + shift)
    return Image.merge("HSV", (turned, *others)).convert("RGB")


def draw_window(width: int, height: int) -> tuple[int, int, int, int]:
    """Draw left, top, right and bottom of a part of random area and proportions."""
    for _ in range(10):
        area = width * height * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(*map(math.log, RATIO)))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left = random.randint(0, width - wide)
            top = random.randint(0, height - tall)
            return left, top, left + wide, top + tall
    return 0, 0, width, height


def list_files(spec: dict[str, Any]) -> list[str]:
    """Return the paths of the files."""
    return sorted(map(str, Path(spec["folder"]).glob("*.jpg")))


def make_loader(spec: dict[str, Any], paths: list[str], *, shuffle: bool = True) -> Any:
    """Build the side that a specification names."""
    is_changed = spec["work"] == "changed"
    options: dict[str, Any] = {
        "batch_size": BATCH_SIZE,
        "shuffle": shuffle,
        "num_workers": spec["workers"],
        "persistent_workers": spec["workers"] > 0,
    }
    if spec["side"] == "torch":
        return DataLoader(PillowImages(paths, is_changed), **options)
    data = importlib.import_module("handful.data.image_files")
    changes = importlib.import_module("handful.data.image_changes")
    colors = importlib.import_module("handful.data.color_jitter")
    transforms = importlib.import_module("handful.data.transforms")
    if is_changed:
        random_changes = {
            "crop": changes.RandomResizedCrop(SCALE, RATIO),
            "flip": 0.5,
            "jitter": colors.ColorJitter(*STRENGTHS),
        }
    files = data.ImageFiles(
        paths,
        [number % 10 for number in range(len(paths))],
        SIZE,
        **(random_changes if is_changed else {}),
    )
    scaled = transforms.Chain(transforms.ScaleBytes(), transforms.Normalize(MEAN, STD))
    return importlib.import_module("handful").DataLoader(
        files, **options, seed=0, batch_transform=scaled
    )


def time_epochs(spec: dict[str, Any]) -> dict[str, Any]:
    """Time epochs, for at least as long as the specification says."""
    paths = list_files(spec)
    loader = make_loader(spec, paths)
    take(loader)  # not counted: workers start, and files come into the page cache
    times: list[float] = []
    while not times or sum(times) < spec["min_seconds"]:
        began = time.perf_counter()
        count = take(loader)
        times.append(time.perf_counter() - began)
        if count != len(paths):
            raise AssertionError(f"an epoch must have {len(paths)} images, not {count}")
    return {"samples": len(paths), "seconds": round_times(times)}


def take(batches: Iterable[Any]) -> int:
    """Take all batches, look at a number of each, and count the images."""
    count = 0
    for images, labels in batches:
        if not math.isfinite(float(images[-1, -1, -1, -1])):
            raise AssertionError("a batch must be of finite numbers")
        count += len(labels)
    return count


def compare_sides(spec: dict[str, Any]) -> dict[str, Any]:
    """Compare the first batches of both sides: levels of 256, from each other.

    Random changes are not the same, so of them the means and the spread are compared.
    """
    paths = list_files(spec)[: 4 * BATCH_SIZE]
    sides = []
    for side in ("torch", "handful"):
        loader = make_loader({**spec, "side": side, "workers": 0}, paths, shuffle=False)
        levels = torch.cat([images for images, _ in loader])
        levels = (levels * torch.tensor(STD).view(3, 1, 1)) * 255
        sides.append(levels)
    theirs, ours = sides
    if spec["work"] == "changed":
        return {
            "mean_levels": [round(float(side.mean()), 2) for side in sides],
            "spread_levels": [round(float(side.std()), 2) for side in sides],
        }
    difference = (ours - theirs).abs()
    most, mean = float(difference.max()), float(difference.mean())
    if most > 2.01 or mean > 0.01:
        return {"error": f"images differ by up to {most} levels of 256, mean {mean}"}
    return {"most_levels": round(most, 3), "mean_levels": round(mean, 5)}


def write_files(spec: dict[str, Any]) -> dict[str, Any]:
    """Write JPEG files of smooth pictures with detail, quality 90."""
    folder = Path(spec["folder"])
    rng = np.random.default_rng(0)
    sizes = []
    for number in range(spec["files"]):
        stream = io.BytesIO()
        draw_picture(rng).save(stream, "JPEG", quality=90)
        (folder / f"{number:05}.jpg").write_bytes(stream.getvalue())
        sizes.append(len(stream.getvalue()))
    return {"files": len(sizes), "mean_kb": round(sum(sizes) / len(sizes) / 1000, 1)}


def draw_picture(rng: np.random.Generator) -> Image.Image:
    """Draw a picture: noise of several sizes, the larger the stronger."""
    total = np.full((SIDE, SIDE, 3), 128.0, np.float32)
    for size, strength in DETAILS:
        coarse = rng.standard_normal((size, size, 3), np.float32) * 40 + 128
        image = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
        fine = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        total += (np.asarray(fine, np.float32) - 128) * (strength / 40)
    return Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))


def probe(_spec: dict[str, Any]) -> dict[str, Any]:
    """Say which versions there are."""
    versions = {"python": platform.python_version()}
    packages = ("torch", "numpy", "pillow", "simplejpeg", "opencv-python-headless")
    for package in (*packages, "handful"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    capability = torch.backends.cpu.get_cpu_capability()
    return {"versions": versions, "cpu_capability": capability}


TASKS = {
    "epochs": time_epochs,
    "compare": compare_sides,
    "write": write_files,
    "probe": probe,
}


def do_task(spec: dict[str, Any]) -> dict[str, Any]:
    """Do the task that a specification names, with as many threads as it says."""
    torch.set_num_threads(spec["threads"])
    return TASKS[spec["task"]](spec)


if __name__ == "__main__":
    answer(do_task)
