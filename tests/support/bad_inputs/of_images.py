"""Bad images: in folders of classes, and of several sizes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bad_inputs.case import Case

IMAGES = "Images"

Broken = Callable[[Path], object]


def _encode(
    kind: str, mode: str = "RGB", shape: tuple[int, ...] = (24, 24, 3)
) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def _bomb() -> bytes:
    """Return a PNG of some bytes that says it has 30,000 x 30,000 pixels."""
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(90))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _fill(folder: Path) -> Path:
    """Make two classes of twelve sound images each; return a place for one more."""
    for name in ("cat", "dog"):
        place = folder / "photos" / name
        place.mkdir(parents=True)
        for number in range(12):
            (place / f"{number}.png").write_bytes(_encode("PNG"))
    return folder / "photos" / "cat"


def _image(
    title: str, broken: Broken, *says: str, code: int = 1, torch: bool = True
) -> Case:
    return Case(
        group=IMAGES,
        title=title,
        command="train --data photos --epochs 1 --max-steps 1 --threads 1 --out new",
        make=lambda folder: broken(_fill(folder)),  # type: ignore[arg-type,return-value]
        code=code,
        says=says,
        needs_torch=torch,
    )


def _put(name: str, content: bytes) -> Broken:
    return lambda place: (place / name).write_bytes(content)


def _put_odd_kinds(place: Path) -> None:
    """Put kinds that are no fault: CMYK, a palette, 16 bits, animated, misnamed."""
    (place / "cmyk.jpg").write_bytes(_encode("JPEG", "CMYK"))
    (place / "palette.png").write_bytes(_encode("PNG", "P"))
    (place / "misnamed.jpg").write_bytes(_encode("PNG"))
    deep = Image.fromarray(np.arange(576, dtype=np.uint16).reshape(24, 24) * 100)
    deep.save(place / "deep.png")
    frames = [Image.new("RGB", (24, 24), colour) for colour in ("red", "blue")]
    frames[0].save(place / "moving.gif", save_all=True, append_images=frames[1:])


def _remove_all(place: Path) -> None:
    for path in place.iterdir():
        path.unlink()


_MIXED = """
import torch
from handful import ImageFiles, Recipe

def make_data(seed):
    return ImageFiles.from_folder("photos", size=None), None, None

recipe = Recipe(
    name="mine", make_data=make_data, loss="cross_entropy", optimizer="sgd", lr=0.1,
    make_model=lambda: torch.nn.Linear(4, 2), batch_size=25, epochs=1,
)
"""


def _make_mixed(folder: Path) -> None:
    (_fill(folder) / "wide.png").write_bytes(_encode("PNG", shape=(24, 60, 3)))
    (folder / "mine.py").write_text(_MIXED)


def _of_recipe(**values: Any) -> Case:
    return Case(group=IMAGES, command="train mine.py:recipe --out new", **values)


CASES = (
    _image("zero bytes", _put("x.png", b""), "cat/x.png", "the file is empty"),
    _image("a JPEG cut short", _put("x.jpg", _encode("JPEG")[:-300]), "cat/x.jpg"),
    _image("a PNG cut short", _put("x.png", _encode("PNG")[:-300]), "cat/x.png"),
    _image("a text named .png", _put("x.png", b"no image"), "cat/x.png", "no image of"),
    _image("a decompression bomb", _put("x.png", _bomb()), "cat/x.png", "pixels"),
    _image(
        "CMYK, a palette, 16 bits, animated, a wrong extension",
        _put_odd_kinds,
        "no fault: trained",
        code=0,
    ),
    _image(
        "an empty folder", _remove_all, "photos/cat must hold at least", torch=False
    ),
    _image(
        "a link to nothing",
        lambda place: (place / "x.png").symlink_to("gone.png"),
        "cat/x.png must be an image; it is a link to gone.png",
        torch=False,
    ),
    _of_recipe(
        title="mixed sizes without a resize",
        make=_make_mixed,
        code=1,
        says=("wide.png", "24"),
        needs_torch=True,
    ),
)
"""Of images."""
