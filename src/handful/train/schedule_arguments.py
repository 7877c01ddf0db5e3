"""Checks of the arguments that schedules take; no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from handful.errors import ArgumentError, unknown_choice

Unit: TypeAlias = Literal["epoch", "step"]
"""What a schedule counts: epochs, or optimisation steps."""

UNITS: tuple[Unit, ...] = ("epoch", "step")
"""Every unit."""

_LENGTH_ARGUMENTS: dict[Unit, tuple[str, ...]] = {
    "epoch": ("epochs", "unit=step with max_steps"),
    "step": ("max_steps",),
}


def check_number(
    name: str, value: object, holds: Callable[[float], bool], allowed: str
) -> None:
    """Check a finite number.

    Args:
        name: The argument, as its user spells it.
        value: What was given.
        holds: Tells whether a finite number may be used.
        allowed: The numbers for which it does, in words: ``"above 0"``.

    Raises:
        ArgumentError: The value is no such number.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and abs(value) < math.inf and holds(value)):  # type: ignore[arg-type]
        raise _wrong(name, value, allowed)


def check_whole(name: str, value: object, *, least: int) -> None:
    """Check a whole number from ``least`` on.

    Raises:
        ArgumentError: The value is no such number.
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < least:  # type: ignore[operator]
        raise _wrong(name, value, f"{least} or more, and whole")


def check_flag(name: str, value: object) -> None:
    """Check that a value is True or False.

    Raises:
        ArgumentError: It is neither.
    """
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")


def check_word(name: str, value: object, words: Iterable[str]) -> None:
    """Check that a value is one of some words.

    Raises:
        ArgumentError: It is none of them.
    """
    if not isinstance(value, str) or value not in words:
        raise unknown_choice(f"{name} of the schedule", value, words)


def check_milestones(value: object) -> tuple[int, ...]:
    """Return milestones, of which a single one may stand for itself, as a tuple.

    Raises:
        ArgumentError: They are not whole numbers from 1 on, each above the one before,
            or there are none.
    """
    found = tuple(value) if isinstance(value, list | tuple) else (value,)
    are_whole = all(isinstance(m, int) and not isinstance(m, bool) for m in found)
    if not (are_whole and found and found[0] >= 1 and list(found) == sorted({*found})):
        raise ArgumentError(
            "milestones of the schedule must be whole numbers from 1 on, each above "
            f"the one before; got {value!r}. Write them as milestones=30;80, "
            "or [30, 80] in a mapping."
        )
    return found


def choose_length(name: str, given: int | None, total: int | None, unit: Unit) -> int:
    """Return the length of a curve: the one given, or that of the whole run.

    Args:
        name: The argument that gives the length; "" where there is none.
        given: Its value, in units; None where it was left out.
        total: Units of the whole run; None where they are not known.
        unit: What is counted.

    Returns:
        The length, in units.

    Raises:
        ArgumentError: Both are None.
    """
    length = total if given is None else given
    if length is None:
        ways = [*([name] if name else []), *_LENGTH_ARGUMENTS[unit]]
        raise ArgumentError(
            f"The number of {unit}s of the run must be known to this schedule "
            f"before it starts; got None. Give {', or '.join(ways)}."
        )
    return length


def _wrong(name: str, value: object, allowed: str) -> ArgumentError:
    return ArgumentError(f"{name} of the schedule must be {allowed}; got {value!r}.")
