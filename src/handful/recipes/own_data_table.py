"""A table of own data in memory: numbers, codes of categories, and what is predicted.

CSV files, Parquet files that fit into memory, and the arrays X and y of a file of
NumPy's come to the same. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.data.csv_arrays import (
    are_classes,
    encode_texts,
    encode_whole,
    join_numbers,
    join_values,
)
from handful.data.csv_schema import ColumnSchema, TableSchema, TargetSchema
from handful.data.kept_copy import Kept
from handful.errors import DataError
from handful.recipes.own_data import OwnData

LEAST_ROWS = 10
"""Fewer rows can't be divided into parts that say anything."""

MOST_CATEGORIES = 1000
"""A text column with more different texts is left out: it is a name, not a kind."""

MOST_CLASSES = 1000

Numbers = NDArray[np.float32]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """A table of N rows.

    Attributes:
        numbers: Shape ``(N, C)``, float32; a missing one is NaN.
        codes: Codes of categories, shape ``(N, K)``, int64.
        target: Codes of classes, int64, or values, float32; shape ``(N,)``.
        schema: What the columns are; its means are those of all rows.
        left_out: Columns that are not used, and why.
    """

    numbers: Numbers
    codes: Codes
    target: NDArray[Any]
    schema: TableSchema
    left_out: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.target)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none for a target of values."""
        assert self.schema.target is not None
        return tuple(map(str, self.schema.target.classes))

    @property
    def target_name(self) -> str:
        """Name of the target's column."""
        assert self.schema.target is not None
        return self.schema.target.name


@dataclass(frozen=True)
class RawTable:
    """Columns as a reader gives them.

    Attributes:
        data: Where they come from.
        numbers: Shape ``(N, C)``, float32; a missing one is NaN.
        names: Names of the C columns.
        booleans: Those of them that hold true and false.
        texts: Codes, shape ``(N,)``, and sorted texts of each text column.
        target: Values, shape ``(N,)``, float64, or codes and sorted texts.
        target_name: Name of the target's column.
        left_out: Columns that were not read, and why.
    """

    data: OwnData
    numbers: Numbers
    names: Sequence[str]
    booleans: frozenset[str]
    texts: Mapping[str, tuple[Codes, tuple[str, ...]]]
    target: NDArray[np.float64] | tuple[Codes, tuple[str, ...]]
    target_name: str
    left_out: Mapping[str, str]


def from_arrow(
    data: OwnData, table: Any, kinds: Mapping[str, str], left_out: Mapping[str, str]
) -> RawTable:
    """Return the columns of an Arrow table.

    Args:
        data: Where it comes from, with its target.
        table: A ``pyarrow.Table``: numbers and booleans, and dictionaries of texts
            without nulls.
        kinds: For each column ``"number"``, ``"boolean"`` or ``"category"``.
        left_out: Columns of the file that it lacks, and why.
    """
    name = data.target
    assert name is not None
    inputs = {n: kind for n, kind in kinds.items() if n != name}
    numbers = [n for n, kind in inputs.items() if kind != "category"]
    target: Any = (
        encode_texts(table.column(name))
        if kinds[name] == "category"
        else join_values(table.column(name))
    )
    return RawTable(
        data=data,
        numbers=join_numbers(table.select(numbers).to_batches(), 1)[0]
        if numbers
        else np.empty((table.num_rows, 0), np.float32),
        names=numbers,
        booleans=frozenset(n for n in numbers if inputs[n] == "boolean"),
        texts={
            n: encode_texts(table.column(n)) for n in inputs if inputs[n] == "category"
        },
        target=target,
        target_name=name,
        left_out=left_out,
    )


def pack_table(raw: RawTable) -> Kept:
    """Return columns as a copy of them is kept; `unpack_table` makes them again."""
    has_texts = isinstance(raw.target, tuple)
    said = {
        "names": list(raw.names),
        "booleans": sorted(raw.booleans),
        "texts": [[name, list(known)] for name, (_, known) in raw.texts.items()],
        "target": list(raw.target[1]) if has_texts else None,
        "target_name": raw.target_name,
        "left_out": dict(raw.left_out),
    }
    arrays: dict[str, NDArray[Any]] = {
        "numbers": raw.numbers,
        "target": raw.target[0] if isinstance(raw.target, tuple) else raw.target,
    }
    for place, (codes, _) in enumerate(raw.texts.values()):
        arrays[f"codes {place}"] = codes
    return said, arrays


def unpack_table(
    data: OwnData, said: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> RawTable:
    """Return the columns that `pack_table` was given.

    Args:
        data: Where they come from.
        said: What is said of them.
        arrays: The arrays.
    """
    texts, target = said["target"], arrays["target"]
    return RawTable(
        data=data,
        numbers=arrays["numbers"],
        names=said["names"],
        booleans=frozenset(said["booleans"]),
        texts={
            name: (arrays[f"codes {place}"], tuple(known))
            for place, (name, known) in enumerate(said["texts"])
        },
        target=target if texts is None else (target, tuple(texts)),
        target_name=said["target_name"],
        left_out=said["left_out"],
    )


def make_table(raw: RawTable) -> Table:
    """Choose which columns are used, and make a table of them.

    Left out are columns without differences, numbers of rows, and texts of which nearly
    each is another.

    Raises:
        DataError: The target has gaps, does not vary or has a class of one row; there
            are too few rows, a number is infinite, or no column is left.
    """
    path = raw.data.path
    target, target_schema = _make_target(raw)
    left_out = {**raw.left_out, **_find_useless(raw)}
    kept = [place for place, name in enumerate(raw.names) if name not in left_out]
    texts = {n: found for n, found in raw.texts.items() if n not in left_out}
    if not kept and not texts:
        reasons = "; ".join(f"{name!r}: {why}" for name, why in left_out.items())
        raise DataError(
            f"{path} must have a column beside the target that can be learnt from; "
            f"got none ({reasons or 'the target alone'})."
        )
    numbers = np.ascontiguousarray(raw.numbers[:, kept])
    columns = [
        *_describe_numbers(numbers, [raw.names[i] for i in kept], raw.booleans),
        *(ColumnSchema(n, "category", known) for n, (_, known) in texts.items()),
    ]
    return Table(
        numbers,
        _put_side_by_side([codes for codes, _ in texts.values()], len(target)),
        target,
        TableSchema(tuple(columns), target_schema, missing="mean"),
        left_out,
    )


def _find_useless(raw: RawTable) -> dict[str, str]:
    """Return the columns that can't help, and why."""
    reasons = {
        name: _useless_numbers(raw.numbers[:, place], raw.data.path, name)
        for place, name in enumerate(raw.names)
    }
    for name, (codes, known) in raw.texts.items():
        reasons[name] = _useless_texts(len(known), len(codes))
    return {name: why for name, why in reasons.items() if why}


def _put_side_by_side(columns: Sequence[Codes], num_rows: int) -> Codes:
    if not columns:
        return np.empty((num_rows, 0), np.int64)
    return np.stack(columns, 1)


def _describe_numbers(
    numbers: Numbers, names: Sequence[str], booleans: frozenset[str]
) -> list[ColumnSchema]:
    means = [float(np.nanmean(column, dtype=np.float64)) for column in numbers.T]
    return [
        ColumnSchema(name, "boolean" if name in booleans else "number", mean=mean)
        for name, mean in zip(names, means, strict=True)
    ]


def _make_target(raw: RawTable) -> tuple[NDArray[Any], TargetSchema]:
    path, name = raw.data.path, raw.target_name
    count = len(raw.numbers)
    if count < LEAST_ROWS:
        raise DataError(
            f"{path} must have at least {LEAST_ROWS} rows, to learn from some and test "
            f"on others; got {count}."
        )
    if isinstance(raw.target, tuple):
        codes, texts = raw.target
        _check_gaps(raw, int((codes == texts.index("")).sum()) if "" in texts else 0)
        return _check_classes(raw, codes, texts)
    values = raw.target
    _check_gaps(raw, int(np.isnan(values).sum()))
    if are_classes(values):
        return _check_classes(raw, *encode_whole(values))
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    if not np.isfinite(found).all():
        raise DataError(
            f"target {name!r} of {path} must be numbers that float32 holds; "
            f"{int((~np.isfinite(found)).sum())} rows have others. Correct or scale it."
        )
    return found, TargetSchema(name, "values")


def _check_gaps(raw: RawTable, count: int) -> None:
    if count:
        raise DataError(
            f"target {raw.target_name!r} of {raw.data.path} must have a value in each "
            f"row; {count} {'row has' if count == 1 else 'rows have'} none. "
            "Fill it in, or remove such rows."
        )


def _check_classes(
    raw: RawTable, codes: Codes, known: tuple[Any, ...]
) -> tuple[Codes, TargetSchema]:
    path, name = raw.data.path, raw.target_name
    if len(known) < 2:
        raise DataError(
            f"target {name!r} of {path} must vary; each row has {known[0]!r}. "
            "Name another column with --target."
        )
    if len(known) > MOST_CLASSES or len(known) > max(len(codes) // 2, 1):
        raise DataError(
            f"target {name!r} of {path} must have few different texts, each in several "
            f"rows; got {len(known):,} in {len(codes):,} rows. If these are numbers, "
            "remove what makes them texts, such as units."
        )
    counts = np.bincount(codes, minlength=len(known))
    single = np.flatnonzero(counts == 1)
    if len(single):
        raise DataError(
            f"each class of the target {name!r} of {path} must have two rows or more; "
            f"{known[single[0]]!r} has one. Remove the row, or join classes."
        )
    return codes, TargetSchema(name, "classes", known)


def _useless_numbers(values: Numbers, path: str, name: str) -> str:
    """Return why a number column can't help; an empty text if it may."""
    if np.isinf(values).any():
        raise DataError(
            f"{path}, column {name!r}, must hold numbers that float32 holds; row "
            f"{int(np.argmax(np.isinf(values))) + 1} does not. Correct or scale it."
        )
    finite = values[~np.isnan(values)]
    if not len(finite):
        return "empty"
    if (finite == finite[0]).all() and len(finite) == len(values):
        return "the same in each row"
    if len(finite) == len(values) and (np.diff(values.astype(np.float64)) == 1).all():
        return "numbers of the rows"
    return ""


def _useless_texts(num_different: int, num_rows: int) -> str:
    """Return why a text column can't help; an empty text if it may."""
    if num_different < 2:
        return "the same in each row"
    if num_different > MOST_CATEGORIES or num_different > max(num_rows // 2, 20):
        return f"{num_different:,} different texts"
    return ""
