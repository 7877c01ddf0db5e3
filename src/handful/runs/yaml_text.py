"""Reading YAML that somebody else may have written: no objects, no bombs, no depths."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import Node

MOST_BYTES = 2**16
"""Far above any settings; larger files would take long to parse."""

_MOST_OPEN = 500
"""Brackets that may be open at once; more can't be closed again by any settings."""

_MOST_VALUES = 100_000
"""Values in all, those that an alias repeats counted each time."""

_MOST_BITS = 4096
"""Of a whole number."""


def load_yaml(text: str) -> tuple[Any, Node | None]:
    """Return what a YAML 1.2 document holds, as plain values, and its tree.

    Args:
        text: The document, at most `MOST_BYTES` of it.

    Raises:
        YAMLError: It is not YAML; mostly a `MarkedYAMLError`, which knows the line.
        ValueError: A value is none that exists, such as the thirteenth month; or
            aliases repeat one another without end.
        RecursionError: It is nested too deeply.
    """
    _check_depth(text)
    yaml = YAML(typ="safe", pure=True)
    node = yaml.compose(text)
    if node is None:
        return None, None
    try:
        value = yaml.constructor.construct_document(node)
    except TypeError:  # A mapping or a set as a key.
        raise ValueError("a key must be a text; one is a mapping") from None
    _check_values(value)
    return value, node


def _check_depth(text: str) -> None:
    """Refuse brackets upon brackets, for which a parser takes the square of the time.

    Brackets inside texts count as well; closed again they do no harm.
    """
    depth = 0
    for letter in text:
        if letter in "[{":
            depth += 1
            if depth > _MOST_OPEN:
                raise RecursionError
        elif letter in "]}":
            depth = max(depth - 1, 0)


def _check_values(value: Any) -> None:
    """Refuse what would not end, or not be printed."""
    waiting, count = [value], 0
    while waiting:
        found = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ValueError("its aliases repeat more values than any settings have")
        if isinstance(found, dict):
            waiting += found.keys()
            waiting += found.values()
        elif isinstance(found, list | tuple | set):
            waiting += found
        elif isinstance(found, int) and found.bit_length() > _MOST_BITS:
            raise ValueError(f"a whole number has more than {_MOST_BITS} bits")
