"""When a training's state is saved between its records; no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from handful.errors import ArgumentError

_SECONDS = {
    **dict.fromkeys(("s", "second", "seconds"), 1),
    **dict.fromkeys(("min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
}
_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_MOST_STEPS = 2**53
_MOST_SECONDS = 1e9


@dataclass(frozen=True)
class SaveTimes:
    """When a state is to be saved.

    Attributes:
        steps: After so many steps since the last save; None for no such number.
        seconds: After so many seconds, likewise.
        is_free: Whether it is saved as often as it costs little, whatever the others.
    """

    steps: int | None = None
    seconds: float | None = None
    is_free: bool = False


def check_save_every(value: object, *, name: str = "save_every") -> str:
    """Return how often a state is saved, in the spelling that it was given in.

    Args:
        value: ``"auto"``, ``"records"``, or a number with a unit.
        name: How its user spells it.

    Raises:
        ArgumentError: The value is something else.
    """
    parse_save_every(value, name=name)
    return str(value)


def parse_save_every(value: object, *, name: str = "save_every") -> SaveTimes:
    """Return when a state is to be saved between records.

    Args:
        value: ``"auto"``, as often as it costs little; ``"records"``, never; or
            ``"500steps"``, ``"30s"``, ``"10minutes"``, ``"1h"``.
        name: How its user spells it.

    Raises:
        ArgumentError: The value is something else.

    Example:
        >>> parse_save_every("10minutes")
        SaveTimes(steps=None, seconds=600.0, is_free=False)
    """
    if value == "auto":
        return SaveTimes(is_free=True)
    if value == "records":
        return SaveTimes()
    found = _TEXT.fullmatch(value) if isinstance(value, str) else None
    if found is not None:
        number, unit = float(found[1]), found[2]
        is_whole = found[1].isdecimal() and 1 <= number <= _MOST_STEPS
        if unit in ("step", "steps") and is_whole:
            return SaveTimes(steps=int(found[1]))
        if unit in _SECONDS and 0 < number * _SECONDS[unit] <= _MOST_SECONDS:
            return SaveTimes(seconds=number * _SECONDS[unit])
    raise ArgumentError(
        f"{name} must be auto, records, or a number above 0 of steps, seconds, minutes "
        f"or hours, such as 500steps or 10minutes; got {value!r}."
    )


@dataclass(frozen=True)
class Saving:
    """How a run is saved.

    Attributes:
        every: When, between records; see `parse_save_every`.
        on_error: ``"stop"`` ends the run when the disk refuses, ``"continue"`` says so
            in its events and goes on.
    """

    every: str = "auto"
    on_error: str = "stop"

    @property
    def times(self) -> SaveTimes:
        """When, taken apart."""
        return parse_save_every(self.every)

    @property
    def stops(self) -> bool:
        """Whether the run ends when the disk refuses."""
        return self.on_error == "stop"
