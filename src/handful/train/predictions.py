"""Predictions as a table, and the files that it is written to."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.errors import ArgumentError, unknown_choice
from handful.extras import import_extra
from handful.train.choices import PREDICTION_SUFFIXES


def write_predictions(
    to: Path,
    outputs: Any,
    targets: Tensor | None = None,
    class_names: Sequence[str] = (),
) -> None:
    """Write a model's outputs to a file.

    Args:
        to: The file; see `write_table`.
        outputs: What the model returned, shape ``(N, …)``.
        targets: What it should have; None where that is not known.
        class_names: What the labels 0, 1, … mean; none where they have no names.

    Raises:
        ArgumentError: The ending is unknown, or the model returned several tensors.
        MissingExtraError: pyarrow is needed and not installed.
    """
    if not isinstance(outputs, Tensor):
        raise ArgumentError(
            "to must be None for a model that returns several tensors; got "
            f"{str(to)!r}. Save the ones that you want yourself."
        )
    write_table(to, outputs, prediction_table(outputs, targets, class_names))


def prediction_table(
    outputs: Tensor, targets: Tensor | None, class_names: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """Return predictions by column.

    Args:
        outputs: What the model returned, shape ``(N, …)``.
        targets: What it should have, shape ``(N, …)``; None where that is not known:
            then outputs of shape ``(N, C)`` are numbers.
        class_names: What the labels 0 … C - 1 mean; others than C names are not used.

    Returns:
        ``sample`` (0 … N - 1), ``target``, ``prediction``; for class labels also
        ``probability``, the softmax of the predicted class, and with names ``expected``
        and ``predicted``, the names of the two labels, and for each class its
        probability, ``probability_NAME``. Targets of several numbers have a column
        each: ``target_0`` and so on.
    """
    table: dict[str, NDArray[Any]] = {"sample": np.arange(len(outputs))}
    if targets is None:
        return table | _number_columns("prediction", outputs)
    if outputs.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point():
        chances = outputs.float().softmax(dim=1)
        best = chances.max(dim=1)
        table["target"] = targets.numpy()
        table["prediction"] = best.indices.numpy()
        table["probability"] = best.values.numpy()
        if class_names and len(set(class_names)) == outputs.shape[1]:
            table |= _name_columns(table, chances.numpy(), class_names)
        return table
    table |= _number_columns("target", targets)
    return table | _number_columns("prediction", outputs)


def write_table(to: Path, outputs: Tensor, table: dict[str, NDArray[Any]]) -> None:
    """Write predictions to a file of the kind that its ending names.

    Args:
        to: The file, ``.csv``, ``.parquet`` or ``.npy``; replaced where it exists.
        outputs: The model's outputs, what ``.npy`` holds; bfloat16 as float32.
        table: What the others hold; see `prediction_table`.

    Raises:
        ArgumentError: The ending is another.
        MissingExtraError: pyarrow is needed and not installed.
    """
    suffix = to.suffix.lower()
    if suffix not in PREDICTION_SUFFIXES:
        raise unknown_choice("the ending of the file", to.suffix, PREDICTION_SUFFIXES)
    temporary = to.with_name(f".{to.name}.tmp{suffix}")
    if suffix == ".npy":
        half = outputs.dtype is torch.bfloat16  # a dtype that NumPy doesn't have
        np.save(temporary, (outputs.float() if half else outputs).numpy())
    elif suffix == ".csv":
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table)
            writer.writerows(zip(*(c.tolist() for c in table.values()), strict=True))
    else:
        purpose = "Writing Parquet"
        arrow = import_extra("pyarrow", extra="arrow", purpose=purpose)
        parquet = import_extra("pyarrow.parquet", extra="arrow", purpose=purpose)
        parquet.write_table(arrow.table(table), temporary)
    temporary.replace(to)


def _name_columns(
    table: dict[str, NDArray[Any]], chances: NDArray[Any], names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Return the names of labels, and a column of probabilities for each class."""
    known = np.array(
        [*names, ""]
    )  # The last for labels that are none, as ignored ones.
    places = {
        name: np.where((codes >= 0) & (codes < len(names)), codes, -1)
        for name, codes in (
            ("expected", table["target"]),
            ("predicted", table["prediction"]),
        )
    }
    columns = {name: known[place] for name, place in places.items()}
    chance = {f"probability_{n}": c for n, c in zip(names, chances.T, strict=True)}
    return columns | chance


def _number_columns(name: str, values: Tensor) -> dict[str, NDArray[Any]]:
    flat = values.flatten(1) if values.ndim > 1 else values[:, None]
    columns = flat.float().numpy().T
    if len(columns) == 1:
        return {name: columns[0]}
    return {f"{name}_{i}": column for i, column in enumerate(columns)}
