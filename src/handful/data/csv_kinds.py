"""Which columns of a CSV file are read, and as what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from handful.data.csv_arrow import ArrowCsv
from handful.data.csv_schema import COLUMN_KINDS, TARGET_KINDS, TableSchema
from handful.errors import ArgumentError, DataError, unknown_choice


def find_target(reader: ArrowCsv, target: str | int | None) -> str | None:
    """Return the name of the target's column.

    Args:
        reader: The file.
        target: The name, the place or None.

    Raises:
        ArgumentError: There is no such column.
    """
    names, path = reader.names, reader.file.path
    if target is None or target in names:
        return None if target is None else str(target)
    if isinstance(target, str):
        raise unknown_choice(f"target of {path}", target, names)
    if not -len(names) <= target < len(names):
        raise ArgumentError(
            f"target must be a place from {-len(names)} to {len(names) - 1}, as {path} "
            f"has {len(names)} columns; got {target}. Name the column instead."
        )
    return names[target]


def choose_kinds(
    reader: ArrowCsv, target: str | None, dtypes: Mapping[str, str]
) -> dict[str, str]:
    """Return what each column that is used is read as, in the file's order.

    Args:
        reader: The file.
        target: Name of the target's column; None for none.
        dtypes: What the caller says of columns.

    Returns:
        For an input ``"number"``, ``"boolean"`` or ``"category"``, for the target
        ``"value"`` or ``"texts"``: what is made of these is decided later.

    Raises:
        ArgumentError: `dtypes` names a column that is not there or a kind that is none,
            or no input is left.
        DataError: A column holds dates or times.
    """
    for name in dtypes:
        if name not in reader.names:
            raise unknown_choice("a name in dtypes", name, reader.names)
    found = reader.find_kinds()
    kinds = {}
    for name in reader.names:
        told = dtypes.get(name)
        if name == target:
            kinds[name] = _target_kind(reader.file.path, name, told, found[name])
        elif told != "ignore":
            _check_kind(name, told, (*COLUMN_KINDS, "ignore"))
            kinds[name] = told or _usable(reader.file.path, name, found[name])
    if not kinds.keys() - {target}:
        raise ArgumentError(
            f"columns of {reader.file.path} must be more than the target and those "
            f"that are ignored; got {', '.join(map(repr, reader.names))}."
        )
    return kinds


def kinds_of_schema(reader: ArrowCsv, schema: TableSchema) -> dict[str, str]:
    """Return what each column of a schema is read as; see `choose_kinds`.

    Raises:
        DataError: The file has not all of its columns.
    """
    listed = ", ".join(map(repr, reader.names))
    kinds = {column.name: column.kind for column in schema.columns}
    for name in kinds:
        if name not in reader.names:
            raise DataError(
                f"{reader.file.path} must have the column {name!r} of the schema; got "
                f"{listed}. Give a file with the columns of the first one."
            )
    target = schema.target
    if target is None:
        return kinds
    if target.name not in reader.names:
        raise DataError(
            f"{reader.file.path} must have the target {target.name!r} of the schema; "
            f"got {listed}. For a file without one pass schema.without_target()."
        )
    has_texts = any(isinstance(value, str) for value in target.classes)
    return {**kinds, target.name: "texts" if has_texts else "value"}


def _target_kind(path: Path, name: str, told: str | None, found: str) -> str:
    _check_kind(name, told, TARGET_KINDS)
    if told == "values":
        return "value"
    if told is None:
        found = _usable(path, name, found, "classes")
    return "value" if found == "number" else "texts"


def _usable(path: Path, name: str, found: str, other: str = "category") -> str:
    """Return the kind that a column was found to have, if it can be used."""
    if found in COLUMN_KINDS:
        return found
    raise DataError(
        f"{path}, column {name!r} must hold numbers, booleans or texts; got {found}. "
        f"Read it as texts, dtypes={{{name!r}: {other!r}}}, or ignore it."
    )


def _check_kind(name: str, kind: str | None, kinds: tuple[str, ...]) -> None:
    if kind is not None and kind not in kinds:
        raise unknown_choice(f"the kind of {name!r} in dtypes", kind, kinds)
