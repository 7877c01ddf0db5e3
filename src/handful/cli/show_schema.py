"""What ``handful show`` prints of a run's own data: the columns, or the classes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from handful.cli.tables import format_table

MOST_ROWS = 30
"""How many columns are listed, unless all are asked for."""

MOST_NAMES = 8
"""How many of a column's categories are named, unless all are asked for."""


def describe_schema(data: object, *, whole: bool) -> list[str]:
    """Return lines that say what a run's own data are; none where it has none.

    Args:
        data: The key ``data`` of the run's configuration.
        whole: Whether long lists are printed to their end.
    """
    schema = data.get("schema") if isinstance(data, Mapping) else None
    if not isinstance(schema, Mapping):
        return []
    columns = schema.get("columns")
    if not isinstance(columns, Sequence) or isinstance(columns, str):
        return _describe_plain(schema, whole=whole)
    target = schema.get("target")
    rows = [_row(column, "", whole) for column in columns]
    left_out = 0 if whole else max(len(rows) - MOST_ROWS, 0)
    rows = rows[: len(rows) - left_out]
    if isinstance(target, Mapping):
        rows.append(_row(target, "target: ", whole))
    table = format_table(("column", "holds", ""), rows, left=3)
    lines = [line.rstrip() for line in table.splitlines()]
    if left_out:
        lines.append(f"({left_out} columns left out; --all prints them)")
    return lines


def _row(column: Mapping[str, Any], role: str, whole: bool) -> tuple[str, str, str]:
    names = column.get("categories") or column.get("classes") or ()
    text = _list(names, whole=whole)
    mean = column.get("mean")
    if mean is not None:
        text = f"mean {mean:.6g}"
    count = f" ({len(names)})" if names else ""
    return str(column.get("name")), f"{role}{column.get('kind')}{count}", text


def _describe_plain(schema: Mapping[str, Any], *, whole: bool) -> list[str]:
    """Return a line for each value of another description."""
    rows = [
        (name, _list(value, whole=whole) if isinstance(value, list) else str(value))
        for name, value in schema.items()
    ]
    return list(_wrap(rows))


def _wrap(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    for line in format_table(("", ""), rows, left=2).splitlines():
        yield from textwrap.wrap(line, 100, subsequent_indent="    ") or [line]


def _list(names: Sequence[Any], *, whole: bool) -> str:
    shown = names if whole else names[:MOST_NAMES]
    rest = len(names) - len(shown)
    return ", ".join(map(str, shown)) + (f", … ({rest} more)" if rest else "")
