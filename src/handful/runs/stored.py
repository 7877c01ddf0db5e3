"""What files of runs and studies must hold: the kinds of their values, each checked.

A file that was damaged, or that somebody else wrote, may hold a text where a number
belongs. It is refused where it is read, so that nothing later fails for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from handful.errors import RunError

MOST_TRIALS = 1_000_000
"""Trials of the largest study that is read."""

_NUMBERS = ("epoch", "lr", "samples", "seconds", "step", "trained_seconds")
_OF_ROWS = ("epoch", "samples", "step", "trained_seconds")

Kind = tuple[str, Callable[[Any], bool]]


def is_number(value: object) -> bool:
    """Say whether a value is a number that a float holds, NaN and infinity included."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 2**1023
    return isinstance(value, float)


def check_record(record: Mapping[str, Any], where: str) -> None:
    """Check a record of a history.

    Args:
        record: What was read.
        where: The file and the line, for the error.

    Raises:
        RunError: It names no epoch, a validation in mid-epoch no step, or what is
            measured is no number.
    """
    for name in ("epoch", "step") if record.get("partial") else ("epoch",):
        if name not in record:
            raise RunError(f"{where} must have {name!r}; the file is damaged.")
    for name, value in record.items():
        is_measured = name in _NUMBERS or name.startswith(("train_", "valid_"))
        if is_measured and not is_number(value):
            raise _wrong(where, name, "a number", value)


def check_mapping(value: object, where: str, name: str) -> dict[str, Any]:
    """Return a mapping of names.

    Raises:
        RunError: The value is something else.
    """
    if not _is_mapping(value):
        raise _wrong(where, name, "a mapping", value)
    assert isinstance(value, dict)
    return value


def check_row(values: Mapping[str, Any], where: str) -> None:
    """Check a line of a study's rows, keys that are not known aside.

    Raises:
        RunError: A value is of another kind.
    """
    _check_kinds(values, _ROW, where)
    for record in values.get("history", ()):
        check_record(record, f"{where}, a record of its history,")
        for name in _OF_ROWS:
            if name not in record:
                raise RunError(
                    f"{where}, a record of its history, must have {name!r}; the file "
                    "is damaged."
                )


def check_study(values: Mapping[str, Any], where: str) -> None:
    """Check what a study's file says of it, keys that are not known aside.

    Raises:
        RunError: A value is of another kind, or the grid is larger than any study's.
    """
    _check_kinds(values, _STUDY, where)
    axes, seeds = values.get("axes", {}), values.get("seeds", [])
    count = len(seeds) * math.prod(len(found) for found in axes.values())
    if count > MOST_TRIALS:
        raise RunError(
            f"{where} must have at most {MOST_TRIALS:,} trials; its axes and seeds "
            f"make {count:,}. The file is damaged."
        )


def _check_kinds(
    values: Mapping[str, Any], kinds: Mapping[str, Kind], where: str
) -> None:
    for name, (kind, fits) in kinds.items():
        if name in values and not fits(values[name]):
            raise _wrong(where, name, kind, values[name])


def _wrong(where: str, name: str, kind: str, value: object) -> RunError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return RunError(
        f"{name} in {where} must be {kind}; got {shown}. The file is damaged."
    )


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and is_number(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _named(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: _is_mapping(value) and all(map(fits, value.values()))


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _is_target(value: object) -> bool:
    return _named(is_number)(value) and "seconds" in _keys(value)


def _keys(value: object) -> Iterable[str]:
    return value if isinstance(value, dict) else ()


_WHOLE: Kind = ("a whole number", _is_whole)
_NUMBER: Kind = ("a number", is_number)
_TEXT: Kind = ("a text", _is_text)
_MAPPING: Kind = ("a mapping", _is_mapping)
_MEASURED: Kind = ("numbers by name", _named(is_number))
_NOISE: Kind = ("numbers by name, or null", _or_none(_named(_or_none(is_number))))


def _optional(kind: Kind) -> Kind:
    return f"{kind[0]}, or null", _or_none(kind[1])


_ROW: dict[str, Kind] = {
    "settings": _MAPPING,
    "seed": _WHOLE,
    "status": _TEXT,
    "reason": _optional(_TEXT),
    "history": ("a list of records", _are(_is_mapping)),
    "seconds": _NUMBER,
    "steps": _WHOLE,
    "samples": _WHOLE,
    "epoch_samples": _optional(_WHOLE),
    "final": _MEASURED,
    "best": _MEASURED,
    "target": ("numbers by name, with seconds, or null", _or_none(_is_target)),
    "train_eval": _MEASURED,
    "generalization_gap": _optional(_NUMBER),
    "noise_start": _NOISE,
    "noise_end": _NOISE,
    "peak_memory_bytes": _optional(_WHOLE),
    "identity": _MAPPING,
    "weights": ("a list of numbers, or null", _or_none(_are(is_number))),
}

_STUDY: dict[str, Kind] = {
    "recipe": _TEXT,
    "axes": (
        "a list of values for each setting",
        _named(lambda values: isinstance(values, list) and len(values) > 0),
    ),
    "seeds": ("a list of whole numbers", _are(_is_whole)),
    "settings": _MAPPING,
    "epochs": _optional(_WHOLE),
    "budget": _optional(_TEXT),
    "target": _optional(_TEXT),
    "stop_at_target": ("true or false", lambda value: isinstance(value, bool)),
    "upward": ("a list of texts", _are(_is_text)),
    "environment": _MAPPING,
}
