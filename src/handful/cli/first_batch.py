"""The first batch of a recipe, described in lines and drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from handful.cli.tables import format_table
from handful.data.first_batch import first
from handful.data.loader import DataLoader
from handful.report.images import draw_image_grid
from handful.train.recipe import Recipe

_MAX_CLASSES = 30
_FLAT_SIDES = {"digits": 8}
"""Recipes whose images come as rows of numbers, and the length of a side."""


def describe_first_batch(
    recipe: Recipe, *, seed: int, picture: Path | None
) -> Iterator[str]:
    """Yield lines about a recipe's data and the first batch of its training.

    Args:
        recipe: The recipe.
        seed: Decides splits and order, as in a training.
        picture: Where to draw the batch's images, if it has any; None for
            ``look-<recipe>.png`` in the current folder.
    """
    train, valid, test = recipe.make_data(seed)
    parts: dict[str, Any] = {"train": train, "valid": valid, "test": test}
    sizes = [
        f"{name} {len(part):,}" for name, part in parts.items() if part is not None
    ]
    yield f"recipe   {recipe.name}: {recipe.summary}".rstrip(": ")
    yield f"samples  {', '.join(sizes)}"
    batch_size = recipe.batch_size
    batch = first(DataLoader(train, batch_size, shuffle=recipe.shuffle, seed=seed))
    elements = _name_elements(batch)
    yield "\nfirst batch, as the data set gives it"
    yield describe_elements(elements)
    if recipe.batch_transform is not None:
        loader: DataLoader[Any] = DataLoader(
            train,
            batch_size,
            shuffle=recipe.shuffle,
            seed=seed,
            batch_transform=recipe.batch_transform,
        )
        yield "\nthe same, as the model gets it"
        yield describe_elements(_name_elements(first(loader)))
    labels = find_labels(elements)
    if labels is not None:
        yield "\nclasses in it"
        yield count_classes(labels, recipe.class_names)
    images = find_images(elements, flat_side=_FLAT_SIDES.get(recipe.name))
    if images is not None:
        path = Path(f"look-{recipe.name}.png") if picture is None else picture
        titles = _make_titles(labels, len(images), recipe.class_names)
        draw_image_grid(images.numpy(), titles, path)
        yield f"\nimages   drawn in {path}"
    elif picture is not None:
        yield f"\nimages   none in this batch; {picture} was not written"


def describe_elements(elements: Mapping[str, Tensor]) -> str:
    """Return a table of shapes, dtypes and ranges."""
    headers = ("name", "shape", "dtype", "min", "max", "mean")
    rows = [
        (
            name,
            " x ".join(map(str, value.shape)) or "()",
            str(value.dtype).removeprefix("torch."),
            *_figures(value),
        )
        for name, value in elements.items()
    ]
    return _indent(format_table(headers, rows, left=3))


def find_labels(elements: Mapping[str, Tensor]) -> Tensor | None:
    """Return the last element if it is one class number a sample, shape ``(B,)``."""
    last = list(elements.values())[-1] if elements else None
    if last is None or len(elements) < 2:
        return None
    is_classes = last.ndim == 1 and not (last.is_floating_point() or last.is_complex())
    return last if is_classes else None


def count_classes(labels: Tensor, class_names: tuple[str, ...]) -> str:
    """Return a table of how many samples each class has.

    Args:
        labels: Class of each sample, shape ``(B,)``, integer.
        class_names: What 0, 1, … mean; classes that they name are listed even if
            absent.
    """
    counts = dict.fromkeys(range(len(class_names)), 0)
    counts.update(Counter(labels.tolist()))
    rows = [
        (str(label), _class_name(label, class_names), str(count))
        for label, count in sorted(counts.items())
    ]
    table = format_table(("class", "name", "count"), rows[:_MAX_CLASSES], left=2)
    left_out = len(rows) - _MAX_CLASSES
    return _indent(table + (f"\n... and {left_out} more" if left_out > 0 else ""))


def find_images(
    elements: Mapping[str, Tensor], *, flat_side: int | None
) -> Tensor | None:
    """Return the first element's images, if it has any.

    Args:
        elements: The batch.
        flat_side: Side of square images that come as rows of numbers.

    Returns:
        Shape ``(B, 1, H, W)`` or ``(B, 3, H, W)``; None if the element is neither of
        that shape nor such rows.
    """
    first = next(iter(elements.values()), None)
    if first is None or first.is_complex():
        return None
    if first.ndim == 2 and flat_side is not None:
        return first.reshape(-1, 1, flat_side, flat_side)
    is_images = first.ndim == 4 and first.shape[1] in (1, 3)
    return first if is_images else None


def _name_elements(batch: Any) -> dict[str, Tensor]:
    """Return the tensors of a batch by name: X and y where it has two parts."""
    if isinstance(batch, Mapping):
        parts = {str(name): value for name, value in batch.items()}
    elif isinstance(batch, list | tuple):
        names = ["X", "y"] if len(batch) == 2 else map(str, range(len(batch)))
        parts = dict(zip(names, batch, strict=True))
    else:
        parts = {"X": batch}
    return {name: value for name, value in parts.items() if isinstance(value, Tensor)}


def _figures(value: Tensor) -> list[str]:
    if value.is_complex() or not value.numel():
        return ["-"] * 3
    numbers = value.double()
    figures = (numbers.min(), numbers.max(), numbers.mean())
    return [f"{float(figure):.4g}" for figure in figures]


def _make_titles(
    labels: Tensor | None, count: int, class_names: tuple[str, ...]
) -> list[str]:
    if labels is None:
        return [""] * count
    named = ((label, _class_name(label, class_names)) for label in labels.tolist())
    return [name or str(label) for label, name in named][:count]


def _class_name(label: int, class_names: tuple[str, ...]) -> str:
    return class_names[label] if 0 <= label < len(class_names) else ""


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
