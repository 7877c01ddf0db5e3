"""The recipe of a table: its parts, its network, and how it is trained.

The settings were chosen on the tables that come with scikit-learn; docs/own_data.md has
the figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from handful.data.columns import Columns
from handful.recipes.own_data import OwnData
from handful.recipes.own_data_baseline import class_baseline, value_baseline
from handful.recipes.own_data_facts import Baseline, Facts, OwnDataRecipe
from handful.recipes.own_data_model import ShareOfVariance, TableNet, TableShape
from handful.recipes.own_data_split import Parts, divide
from handful.recipes.own_data_table import Table
from handful.train.recipe import Splits

STEPS = 3000
"""About how many steps a training has, unless it stops before."""

WARMUP_STEPS = 50
"""In how many steps the rate grows to its full size; at most those of an epoch."""

FEWEST_EPOCHS, MOST_EPOCHS = 10, 200

CLASS_LOSS = "cross_entropy:label_smoothing=0.05"


@dataclass(frozen=True)
class TableParts:
    """Makes the three parts of a table, and the network for them.

    Attributes:
        table: All rows.
        seed: Decides which rows are in which part, whatever a study varies.
        rows: Those of each part.
    """

    table: Table
    seed: int
    rows: Parts = field(init=False)

    def __post_init__(self) -> None:
        rows = divide(
            self.table.target, by_class=bool(self.table.classes), seed=self.seed
        )
        object.__setattr__(self, "rows", rows)

    def make_data(self, seed: int) -> Splits:  # noqa: ARG002
        """Return the parts: numbers and codes, where there are such, and the target."""
        train, valid, test = (self._columns(rows) for rows in self.rows)
        return train, valid, test

    def make_model(self) -> nn.Module:
        """Return the network, which standardises by the training part alone."""
        return TableNet(self.shape)

    @property
    def shape(self) -> TableShape:
        """What the network is made for."""
        table, rows = self.table, self.rows.train
        means, scales = measure_columns(table.numbers[rows])
        center, scale = (0.0, 1.0) if table.classes else self.measure_target()
        gaps = np.isnan(table.numbers).any(0).nonzero()[0]
        sizes = tuple(len(c.categories) for c in table.schema.categories)
        units = choose_width(len(rows))
        return TableShape(
            means=means,
            scales=scales,
            gaps=tuple(gaps.tolist()),
            categories=sizes,
            unseen=find_unseen(table.codes[rows], sizes),
            num_classes=len(table.classes),
            target_mean=center,
            target_scale=scale,
            widths=(units, units),
        )

    def measure_target(self) -> tuple[float, float]:
        """Return mean and standard deviation of the training part's values."""
        values = self.table.target[self.rows.train].astype(np.float64)
        return float(values.mean()), _scale(values.std())

    @property
    def baseline(self) -> Baseline:
        """What a model must beat, on the test part."""
        classes = self.table.classes
        train, test = (self.table.target[part] for part in self.rows[::2])
        if classes:
            least = len(classes)
            return class_baseline(
                np.bincount(train, minlength=least),
                np.bincount(test, minlength=least),
                classes,
            )
        values = test.astype(np.float64)
        mean = self.measure_target()[0]
        return value_baseline(mean, float(values.mean()), float(values.var()))

    def _columns(self, rows: NDArray[np.int64]) -> Columns:
        table = self.table
        inputs = [array[rows] for array in (table.numbers, table.codes) if array.size]
        return Columns(*inputs, table.target[rows])


def make_table_recipe(data: OwnData, table: Table, seed: int = 0) -> OwnDataRecipe:
    """Return a recipe that trains on a table.

    Args:
        data: Where the table lies.
        table: Its rows.
        seed: Decides the parts.
    """
    parts = TableParts(table, seed)
    count = len(parts.rows.train)
    batch_size = choose_batch_size(count)
    steps = math.ceil(count / batch_size)
    epochs = choose_epochs(steps)
    has_classes = bool(table.classes)
    return OwnDataRecipe(
        name=data.run_name,
        summary=f"{table.target_name} of {data.path}",
        make_data=parts.make_data,
        make_model=parts.make_model,
        loss=CLASS_LOSS if has_classes else _make_loss(parts),
        optimizer="adamw:weight_decay=0.1",
        lr=3e-3,
        schedule=f"cosine:warmup={min(WARMUP_STEPS, steps)},unit=step",
        batch_size=batch_size,
        epochs=epochs,
        metrics=("accuracy",) if has_classes else ("rmse", "mae"),
        options={"early_stopping": max(10, epochs // 5)},
        class_names=table.classes,
        facts=_describe(data, parts),
        divide=partial(make_table_recipe, data, table),
    )


def measure_columns(
    numbers: NDArray[np.float32],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each column, gaps left aside.

    A column without values has the mean 0; one without differences the deviation 1.
    """
    means, scales = [], []
    for column in numbers.T.astype(np.float64):
        values = column[~np.isnan(column)]
        means.append(float(values.mean()) if len(values) else 0.0)
        scales.append(_scale(values.std()) if len(values) else 1.0)
    return tuple(means), tuple(scales)


def find_unseen(
    codes: NDArray[np.int64], sizes: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Return the codes that do not occur in each column.

    Args:
        codes: Codes from 0 on, shape ``(N, K)``.
        sizes: How many there could be in each of the K columns.

    Example:
        >>> find_unseen(np.array([[0, 1], [2, 1]]), (3, 2))
        ((1,), (0,))
    """
    counts = [
        np.bincount(column, minlength=size)
        for column, size in zip(codes.T, sizes, strict=True)
    ]
    return tuple(tuple(np.flatnonzero(count == 0).tolist()) for count in counts)


def choose_batch_size(num_rows: int) -> int:
    """Return a batch size for so many rows to train on."""
    sizes = ((500, 16), (5_000, 32), (20_000, 64), (100_000, 256))
    return next((size for most, size in sizes if num_rows < most), 512)


def choose_epochs(steps_per_epoch: int) -> int:
    """Return how many epochs make about `STEPS` steps."""
    return min(max(math.ceil(STEPS / steps_per_epoch), FEWEST_EPOCHS), MOST_EPOCHS)


def choose_width(num_rows: int) -> int:
    """Return the units of a hidden layer for so many rows to train on."""
    widths = ((2_000, 64), (20_000, 128))
    return next((width for most, width in widths if num_rows < most), 256)


def _describe(data: OwnData, parts: TableParts) -> Facts:
    table = parts.table
    num_texts, num_numbers = table.codes.shape[1], table.numbers.shape[1]
    num_gaps = int(np.isnan(table.numbers).sum())
    what = [f"{len(table):,} rows"]
    what += [_count(num_numbers, "column", "of numbers")] if num_numbers else []
    what += [_count(num_texts, "column", "of categories")] if num_texts else []
    what += [f"{num_gaps:,} numbers missing"] if num_gaps else []
    return Facts(
        found=f"{data.path}: {', '.join(what)}",
        left_out=_group_reasons(table.left_out),
        predicted=_describe_target(table),
        sizes=(len(parts.rows.train), len(parts.rows.valid), len(parts.rows.test)),
        seed=parts.seed,
        unit="rows",
        baseline=parts.baseline,
        schema=table.schema.to_dict(),
    )


def _make_loss(parts: TableParts) -> nn.Module:
    return ShareOfVariance(parts.measure_target()[1])


def _scale(deviation: float) -> float:
    tiny = float(torch.finfo(torch.float32).tiny)
    return float(deviation) if deviation > tiny else 1.0


def _group_reasons(left_out: Mapping[str, str]) -> tuple[str, ...]:
    """Return texts such as ``'a', 'b' (the same in each row)``."""
    names: dict[str, list[str]] = {}
    for name, why in left_out.items():
        names.setdefault(why, []).append(repr(name))
    return tuple(f"{', '.join(group)} ({why})" for why, group in names.items())


def _describe_target(table: Table) -> str:
    if not table.classes:
        low, high = float(table.target.min()), float(table.target.max())
        return f"{table.target_name}: a value from {low:.6g} to {high:.6g}"
    counts = np.bincount(table.target, minlength=len(table.classes))
    named = [f"{n} {c:,}" for n, c in zip(table.classes, counts, strict=True)]
    more = [f"{len(named) - 8} more"] if len(named) > 8 else []
    listed = ", ".join(named[:8] + more)
    return f"{table.target_name}: one of {len(named)} classes ({listed})"


def _count(number: int, noun: str, rest: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'} {rest}"
