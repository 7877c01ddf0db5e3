"""What the columns of a table are, so that another file can be read the same way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from handful.errors import ArgumentError, unknown_choice

COLUMN_KINDS = ("number", "boolean", "category")
"""What a column of the inputs can be."""

TARGET_KINDS = ("classes", "values")
"""What the target can be."""

MISSING_POLICIES = ("raise", "drop", "mean")
"""What can be done about cells without a value."""

LAYOUTS = ("matrix", "named")
"""How columns can be put together."""

SCHEMA_FORMAT = "handful.TableSchema"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ColumnSchema:
    """One column of the inputs.

    Attributes:
        name: Its name in the header.
        kind: ``"number"``, ``"boolean"`` (numbers 0 and 1), or ``"category"``.
        categories: The texts of a category column, sorted; text i has the code i.
        mean: Mean of a number or boolean column, with which missing cells are filled;
            None where they are not.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()
    mean: float | None = None


@dataclass(frozen=True)
class TargetSchema:
    """The target column.

    Attributes:
        name: Its name in the header.
        kind: ``"classes"`` or ``"values"``.
        classes: Texts or whole numbers, sorted; class i has the code i. Empty for
            values.
    """

    name: str
    kind: str
    classes: tuple[str, ...] | tuple[int, ...] = ()


@dataclass(frozen=True)
class TableSchema:
    """How a table's columns are read.

    Attributes:
        columns: The columns of the inputs, in their order.
        target: The target; None for none.
        missing: What is done about missing cells, one of `MISSING_POLICIES`.
        layout: How columns are put together, one of `LAYOUTS`.
    """

    columns: tuple[ColumnSchema, ...]
    target: TargetSchema | None = None
    missing: str = "raise"
    layout: str = "matrix"

    @property
    def numbers(self) -> tuple[ColumnSchema, ...]:
        """The columns whose values are numbers, booleans among them."""
        return tuple(c for c in self.columns if c.kind != "category")

    @property
    def categories(self) -> tuple[ColumnSchema, ...]:
        """The columns whose values are codes of categories."""
        return tuple(c for c in self.columns if c.kind == "category")

    def without_target(self) -> TableSchema:
        """Return the schema of a table that has the inputs alone."""
        return replace(self, target=None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; `from_dict` reads them."""
        target = self.target
        return {
            "format": SCHEMA_FORMAT,
            "version": SCHEMA_VERSION,
            "columns": [
                {
                    "name": column.name,
                    "kind": column.kind,
                    "categories": list(column.categories),
                    "mean": column.mean,
                }
                for column in self.columns
            ],
            "target": target
            and {
                "name": target.name,
                "kind": target.kind,
                "classes": list(target.classes),
            },
            "missing": self.missing,
            "layout": self.layout,
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> TableSchema:
        """Make a schema of what `to_dict` returned.

        Args:
            values: The plain values.

        Returns:
            The schema, equal to the one that they are of.

        Raises:
            ArgumentError: They are not those of a schema.

        Example:
            >>> schema = TableSchema((ColumnSchema("x", "number"),))
            >>> TableSchema.from_dict(schema.to_dict()) == schema
            True
        """
        if not isinstance(values, Mapping) or values.get("format") != SCHEMA_FORMAT:
            raise ArgumentError(
                "schema must be what TableSchema.to_dict() returned; got "
                f"{_shorten(values)}."
            )
        version = values.get("version")
        if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
            raise ArgumentError(
                f"schema must be of version {SCHEMA_VERSION} or before; got "
                f"{_shorten(version)}. Install a newer handful."
            )
        columns = _list_of(values, "columns", (Mapping,))
        target = values.get("target")
        schema = TableSchema(
            columns=tuple(_column(column) for column in columns),
            target=None if target is None else _target(target),
            missing=_choice(values, "missing", MISSING_POLICIES),
            layout=_choice(values, "layout", LAYOUTS),
        )
        _check_whole(schema)
        return schema


def _column(values: Mapping[str, Any]) -> ColumnSchema:
    kind = _choice(values, "kind", COLUMN_KINDS)
    mean = values.get("mean")
    if mean is not None and not _is_finite(mean):
        raise ArgumentError(
            f"mean of a schema's column must be a finite number; got {_shorten(mean)}."
        )
    categories = _list_of(values, "categories", (str,))
    _check_sorted("categories", categories)
    if (kind == "category") != bool(categories):
        raise ArgumentError(
            "categories of a schema's column must be given for a category column, and "
            f"only for it; got {len(categories)} for the kind {kind!r}."
        )
    return ColumnSchema(
        name=_text(values, "name"),
        kind=kind,
        categories=tuple(categories),
        mean=None if mean is None else float(mean),
    )


def _target(values: Any) -> TargetSchema:
    if not isinstance(values, Mapping):
        raise ArgumentError(
            f"target of a schema must be a mapping or None; got {_shorten(values)}."
        )
    kind = _choice(values, "kind", TARGET_KINDS)
    classes = _list_of(values, "classes", (str, int))
    if len({type(value) for value in classes}) > 1:
        raise ArgumentError(
            "classes of a schema must be all texts or all whole numbers; got "
            f"{_shorten(classes)}."
        )
    _check_sorted("classes", classes)
    if (kind == "classes") != bool(classes):
        raise ArgumentError(
            "classes of a schema's target must be given for classes, and only for "
            f"them; got {len(classes)} for the kind {kind!r}."
        )
    return TargetSchema(_text(values, "name"), kind, tuple(classes))


def _check_whole(schema: TableSchema) -> None:
    """Check what concerns several columns."""
    names = [column.name for column in schema.columns]
    if schema.target is not None:
        names.append(schema.target.name)
    if not schema.columns or len(set(names)) < len(names):
        raise ArgumentError(
            "columns of a schema must be one or more, each with a name of its own; got "
            f"{_shorten(names)}."
        )
    for column in schema.numbers:
        if (column.mean is None) == (schema.missing == "mean"):
            raise ArgumentError(
                "mean of a schema's number columns must be given where missing is "
                f"'mean', and only there; got {column.mean} for {column.name!r} and "
                f"missing={schema.missing!r}."
            )


def _check_sorted(name: str, values: list[Any]) -> None:
    if any(a >= b for a, b in itertools.pairwise(values)):
        raise ArgumentError(
            f"{name} of a schema must be sorted, each there once; got "
            f"{_shorten(values)}."
        )


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise ArgumentError(f"{key} in a schema must be a text; got {_shorten(value)}.")
    return value


def _choice(values: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    value = values.get(key)
    if not isinstance(value, str) or value not in choices:
        raise unknown_choice(f"{key} in a schema", value, choices)
    return value


def _list_of(values: Mapping[str, Any], key: str, kinds: tuple[type, ...]) -> list[Any]:
    found = values.get(key)
    is_right = isinstance(found, list) and all(
        isinstance(value, kinds) and not isinstance(value, bool) for value in found
    )
    if not is_right:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ArgumentError(
            f"{key} in a schema must be a list of {wanted}; got {_shorten(found)}."
        )
    return list(found or ())


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
