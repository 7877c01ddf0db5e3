"""Labels of whole data sets: found where they lie in arrays, and checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.data.gather import TensorColumn
from handful.data.loader import DataLoader
from handful.data.sources import find_source
from handful.data.transforms import ColumnTransform
from handful.errors import TrainingError
from handful.train.batches import BatchLayout

IGNORED_LABEL = -100
"""The label that torch's losses of classes leave out by default."""

_CHUNK_ELEMENTS = 2**22
_MOST_GATHERED_BYTES = 64 * 2**20


def check_labels(
    targets: Tensor | NDArray[Any],
    *,
    num_classes: int,
    where: str,
    ignore_index: int = IGNORED_LABEL,
) -> None:
    """Check the labels of a whole data set; a memory map is read part by part.

    Args:
        targets: Integer labels, shape ``(N, …)``; those of another dtype pass.
        num_classes: Number of classes, the width of the model's output.
        where: Which data they are of, for the sentence: ``"train"``.
        ignore_index: The label that is left out of the loss.

    Raises:
        TrainingError: A label is neither in ``[0, num_classes)`` nor ignored. The
            sentence gives the first one, its position and how many there are.
    """
    if not _holds_integers(targets) or len(targets) == 0:
        return
    rows = max(_CHUNK_ELEMENTS // max(math.prod(targets.shape[1:]), 1), 1)
    lows, highs, num_wrong, first = [], [], 0, ""
    for start in range(0, len(targets), rows):
        part = _as_numpy(targets[start : start + rows])
        wrong = None
        if part.size and (part.min() < 0 or part.max() >= num_classes):
            wrong = ((part < 0) | (part >= num_classes)) & (part != ignore_index)
        if wrong is not None and wrong.any():
            first = first or _describe_first(part, wrong, start)
            num_wrong += int(wrong.sum())
        counted = part if wrong is None else part[part != ignore_index]
        if counted.size:
            lows.append(int(counted.min()))
            highs.append(int(counted.max()))
    if num_wrong:
        raise TrainingError(
            f"labels must lie in 0 … {num_classes - 1}, the classes of the model's "
            f"output; got {min(lows)} … {max(highs)} in {where}: {first} is the first "
            f"of {num_wrong:,} outside among {math.prod(targets.shape):,}. "
            "Number the classes from 0, or widen the last layer."
        )


def find_targets(
    loader: object,
    field: int | str | None = None,
    *,
    sample_weight: int | str | None = None,
) -> Tensor | None:
    """Return the targets of a whole data set, where they lie in an array.

    Args:
        loader: Any loader.
        field: Position or key of the target in a batch; None as in `BatchLayout`.
        sample_weight: Position or key of the weights in a batch, if there are any.

    Returns:
        Shape ``(N, …)``, sharing the data set's memory where that can be. None unless
        it is handful's DataLoader on its batched path, with targets that no transform
        changes, and that take at most 64 MiB if they must be copied.
    """
    if type(loader) is not DataLoader or not loader.path.startswith("batched"):
        return None
    source = find_source(loader.dataset)
    if isinstance(source, str):
        return None
    # A batch with a tensor of its own for each column shows where the target lies.
    marks = [torch.tensor(place) for place in range(len(source.columns))]
    batch = source.pack(marks)
    target = _find_mark(batch, field, sample_weight)
    if target is None or _is_transformed(loader.batch_transform, batch, target):
        return None
    column = source.columns[int(target)]
    if isinstance(column, TensorColumn):
        return column.values
    shape = (source.num_samples, *column.sample_shape)
    if math.prod(shape) * column.dtype.itemsize > _MOST_GATHERED_BYTES:
        return None
    values = torch.empty(shape, dtype=column.dtype, device=column.device)
    column.gather(range(source.num_samples), values)
    return values


def _holds_integers(targets: Tensor | NDArray[Any]) -> bool:
    if isinstance(targets, Tensor):
        is_number = not (targets.is_floating_point() or targets.is_complex())
        return is_number and targets.dtype is not torch.bool
    return targets.dtype.kind in "iu"


def _as_numpy(values: Tensor | NDArray[Any]) -> NDArray[Any]:
    if isinstance(values, Tensor):
        array: NDArray[Any] = values.cpu().numpy()
        return array
    return np.asarray(values)


def _describe_first(part: NDArray[Any], wrong: NDArray[Any], start: int) -> str:
    place = np.unravel_index(int(wrong.argmax()), part.shape)
    position = (start + int(place[0]), *map(int, place[1:]))
    at = position[0] if len(position) == 1 else position
    return f"{int(part[place])} at position {at}"


def _find_mark(
    batch: Any, field: int | str | None, sample_weight: int | str | None
) -> Tensor | None:
    try:
        target = BatchLayout(field, sample_weight).split(batch)[2]
    except TrainingError:  # The first step says it of a real batch.
        return None
    return target if isinstance(target, Tensor) else None


def _is_transformed(transform: object, batch: Any, target: Tensor) -> bool:
    if transform is None:
        return False
    if not isinstance(transform, ColumnTransform):
        return True
    try:
        return batch[transform.column] is target
    except (KeyError, IndexError, TypeError):
        return True
