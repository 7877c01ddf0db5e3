"""The recipe of a Parquet table that is larger than memory, read by the row group.

Whole row groups belong to one part: the files are never written anew, and each part is
read as they lie. Where neighbouring rows are alike, as in a time series, that is also
the more honest test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from handful.data.csv_schema import ColumnSchema, TableSchema, TargetSchema
from handful.recipes.own_data import OwnData
from handful.recipes.own_data_baseline import class_baseline, value_baseline
from handful.recipes.own_data_facts import Baseline, Facts, OwnDataRecipe
from handful.recipes.own_data_model import ShareOfVariance, TableNet, TableShape
from handful.recipes.own_data_row_groups import (
    RowGroupTable,
    open_row_groups,
)
from handful.recipes.own_data_split import Parts, divide
from handful.recipes.own_data_tables import CLASS_LOSS, measure_columns
from handful.train.recipe import Splits

BATCH_SIZE = 2048
STEPS = 20_000
"""About how many steps a training has, at least those of one epoch."""

MOST_EPOCHS = 10


@dataclass(frozen=True)
class ClassCodes:
    """Turns the classes of a batch into codes, as a ``batch_transform``.

    Attributes:
        classes: The whole numbers, sorted; the i-th becomes i.
    """

    classes: tuple[int, ...]

    def __call__(self, batch: Any) -> Any:
        """Return a batch whose last element, the target, holds codes."""
        *inputs, target = batch
        return [*inputs, torch.searchsorted(torch.tensor(self.classes), target)]


@dataclass(frozen=True)
class RowGroupParts:
    """Makes the three parts of such a table, and the network for them.

    Attributes:
        table: The table.
        groups: The row groups of each part.
        shape: What the network is made for.
    """

    table: RowGroupTable
    groups: Parts
    shape: TableShape

    def make_data(self, seed: int) -> Splits:  # noqa: ARG002
        """Return the parts."""
        files = self.table.files
        train, valid, test = (files.select(part) for part in self.groups)
        return train, valid, test

    def make_model(self) -> nn.Module:
        """Return the network, which standardises by the training part alone."""
        return TableNet(self.shape)


def make_rows_recipe(data: OwnData) -> OwnDataRecipe:
    """Return a recipe that trains on row groups, a window of them in memory.

    Args:
        data: Parquet or Arrow files, and the target.

    Returns:
        The recipe, its parts drawn with the seed 0.

    Raises:
        DataError: There are too few row groups, no numbers, or a target that does not
            vary or has gaps.
    """
    return _make_recipe(data, open_row_groups(data), 0)


def _make_recipe(data: OwnData, table: RowGroupTable, seed: int) -> OwnDataRecipe:
    groups = divide(np.zeros(len(table.files.counts)), by_class=False, seed=seed)
    parts = RowGroupParts(table, groups, _measure(table, groups))
    rows = sum(table.files.counts[group] for group in groups.train)
    epochs = math.ceil(STEPS / math.ceil(rows / BATCH_SIZE))
    classes = table.classes
    is_coded = bool(classes) and classes != tuple(range(len(classes)))
    return OwnDataRecipe(
        name=data.run_name,
        summary=f"{data.target} of {data.path}",
        make_data=parts.make_data,
        make_model=parts.make_model,
        loss=CLASS_LOSS if classes else ShareOfVariance(parts.shape.target_scale),
        optimizer="adamw:weight_decay=0.1",
        lr=3e-3,
        schedule="cosine:warmup=50,unit=step",
        batch_size=BATCH_SIZE,
        epochs=min(epochs, MOST_EPOCHS),
        metrics=("accuracy",) if classes else ("rmse", "mae"),
        options={"early_stopping": 3},
        batch_transform=ClassCodes(classes) if is_coded else None,
        class_names=tuple(map(str, classes)),
        facts=_describe(data, parts, seed),
        divide=partial(_make_recipe, data, table),
    )


def _measure(table: RowGroupTable, groups: Parts) -> TableShape:
    """Return a network's shape, means and deviations of some of the training part."""
    numbers = table.sample_inputs(groups.train)
    means, scales = measure_columns(numbers)
    target = table.summarize(groups.train)
    has_classes = bool(table.classes)
    return TableShape(
        means=means,
        scales=scales,
        gaps=tuple(np.isnan(numbers).any(0).nonzero()[0].tolist()),
        num_classes=len(table.classes),
        target_mean=0.0 if has_classes else target.mean,
        target_scale=1.0 if has_classes else math.sqrt(target.variance) or 1.0,
        widths=(256, 256),
    )


def _describe(data: OwnData, parts: RowGroupParts, seed: int) -> Facts:
    table = parts.table
    assert data.target is not None
    num_groups = len(table.files.counts)
    sizes = [sum(table.files.counts[g] for g in part) for part in parts.groups]
    names = ", ".join(map(repr, table.left_out))
    return Facts(
        found=f"{data.path}: {len(table.files):,} rows in {num_groups:,} row groups, "
        f"read as needed; {len(table.columns)} columns of numbers",
        left_out=(f"{names} (no numbers)",) if names else (),
        predicted=f"{data.target}: {_describe_target(table)}",
        sizes=(sizes[0], sizes[1], sizes[2]),
        seed=seed,
        unit="rows",
        baseline=_find_baseline(parts),
        schema=_make_schema(data.target, parts).to_dict(),
    )


def _describe_target(table: RowGroupTable) -> str:
    whole = table.summarize(range(len(table.targets)))
    if not table.classes:
        return f"a value from {whole.low:.6g} to {whole.high:.6g}"
    counts = sorted((whole.classes or {}).items())
    named = ", ".join(f"{name} {count:,}" for name, count in counts)
    return f"one of {len(counts)} classes ({named})"


def _find_baseline(parts: RowGroupParts) -> Baseline:
    table, classes = parts.table, parts.table.classes
    train, test = (
        table.summarize(parts.groups.train),
        table.summarize(parts.groups.test),
    )
    if not classes:
        return value_baseline(train.mean, test.mean, test.variance)
    counts = [
        np.array([(part.classes or {}).get(value, 0) for value in classes])
        for part in (train, test)
    ]
    return class_baseline(counts[0], counts[1], tuple(map(str, classes)))


def _make_schema(target: str, parts: RowGroupParts) -> TableSchema:
    classes = parts.table.classes
    kind = TargetSchema(target, "classes" if classes else "values", classes)
    columns = zip(parts.table.columns, parts.shape.means, strict=True)
    described = tuple(ColumnSchema(name, "number", mean=mean) for name, mean in columns)
    return TableSchema(described, kind, missing="mean")
