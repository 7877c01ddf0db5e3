"""Values of an optimiser's and a loss's arguments, as far as they show without torch.

What kind of value an argument takes is known here; ranges are torch's to check, which
is done before a run's folder is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from handful.errors import ArgumentError, unknown_choice
from handful.train.choices import Choice

WORDS: dict[str, tuple[str, ...]] = {
    "adjust_lr_fn": ("match_rms_adamw", "original"),
    "line_search_fn": ("strong_wolfe",),
}
"""Argument -> the words that it takes."""

FLAGS = (
    *("amsgrad", "centered", "decoupled_weight_decay", "full", "log_input"),
    *("maximize", "nesterov"),
)
"""Arguments that are true or false."""

COUNTS = ("history_size", "max_eval", "max_iter", "ns_steps")
"""Arguments that are whole numbers from 1 on."""

LISTS = {"betas": 2, "etas": 2, "step_sizes": 2, "ns_coefficients": 3}
"""Argument -> how many numbers it takes."""

MAY_BE_NONE = ("adjust_lr_fn", "line_search_fn", "max_eval")
"""Arguments that may be none."""


def check_argument_values(setting: str, choice: Choice) -> Choice:
    """Check that the values of a choice's arguments are of the kinds that they take.

    Args:
        setting: What is chosen, for the error: ``"optimizer"``.
        choice: An optimiser or a loss, whose names are known already.

    Returns:
        The choice.

    Raises:
        ArgumentError: A value is of another kind.
    """
    for key, value in choice.args.items():
        if value is None and key in MAY_BE_NONE:
            continue
        where = f"{key} of {setting} {choice.name!r}"
        if key in WORDS:
            if value not in WORDS[key]:
                raise unknown_choice(where, value, WORDS[key])
            continue
        kind, fits = _kind_of(choice.name, key)
        if not fits(value):
            raise ArgumentError(f"{where} must be {kind}; got {value!r}.")
    return choice


def _kind_of(name: str, key: str) -> tuple[str, Callable[[Any], bool]]:
    """Return what an argument takes, in words, and the test of a value."""
    if key in FLAGS:
        return "true or false", lambda value: isinstance(value, bool)
    if key in COUNTS:
        return "a whole number from 1 on", lambda value: _is_whole(value) and value > 0
    if key == "ignore_index":
        return "a whole number", _is_whole
    if key == "label_smoothing":
        return "a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1
    if key in ("weight", "pos_weight"):
        return "numbers", lambda value: _are_numbers(value, None)
    count = 2 if (name, key) == ("adafactor", "eps") else LISTS.get(key)
    if count is None:
        return "a finite number", _is_number
    may_be_none = name == "adafactor"
    text = f"{count} finite numbers, such as {';'.join(['0.9'] * count)}"
    return text, lambda value: _are_numbers(value, count, may_be_none=may_be_none)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _are_numbers(value: Any, count: int | None, *, may_be_none: bool = False) -> bool:
    if count is None and _is_number(value):
        return True
    if not isinstance(value, list | tuple) or count not in (None, len(value)):
        return False
    return all(_is_number(one) or (one is None and may_be_none) for one in value)
