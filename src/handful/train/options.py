"""Further arguments of a training by name, and the check of each; no torch.

One table says what recipes, configuration files and flags may set beside what a
`Recipe` has fields for. The names are those of `Trainer` and of `Trainer.fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from handful.errors import ArgumentError, unknown_choice
from handful.train.choices import (
    METRICS,
    PRECISIONS,
    check_count,
    check_positive,
    check_share,
)
from handful.train.save_times import check_save_every
from handful.train.stopping import EarlyStopping

MEMORY_FORMATS = ("auto", "channels_last", "contiguous")
"""How images may lie in memory."""

ENGINES = ("auto", "captured", "eager")
"""How steps may be done."""

NONFINITE_POLICIES = ("skip", "stop")
"""What may become of a step whose loss or gradients are not finite."""

MEMORY_POLICIES = ("raise", "split")
"""What may become of a step that does not fit into memory."""

SAVE_ERRORS = ("stop", "continue")
"""What a run does when the disk refuses."""

MODES = ("min", "max")
"""Which way a monitored value improves."""


@dataclass(frozen=True)
class Option:
    """What is known of an argument.

    Attributes:
        check: ``check(value, name=...)`` returns the value as it is kept, or raises an
            `ArgumentError`.
        is_of_fit: Whether `Trainer.fit` takes it, rather than `Trainer`.
        is_number: Whether a configuration file must have a number there, or a mapping,
            and no text but ``word``.
        word: The text that stands in for a number.
        has_null: Whether null is a value of its own in a configuration file, rather
            than nothing said.
        is_code: Whether it is a function, which only a recipe can have.
    """

    check: Callable[..., Any]
    is_of_fit: bool = False
    is_number: bool = False
    word: str = ""
    has_null: bool = False
    is_code: bool = False


def check_flag(value: object, *, name: str) -> bool:
    """Return true or false.

    Raises:
        ArgumentError: The value is neither.
    """
    if not isinstance(value, bool):
        raise ArgumentError(f"{name} must be true or false; got {value!r}.")
    return value


def _one_of(choices: tuple[str, ...]) -> Callable[..., str]:
    def run(value: object, *, name: str) -> str:
        if not isinstance(value, str) or value not in choices:
            raise unknown_choice(name, value, choices)
        return value

    return run


def check_threads(value: object, *, name: str = "num_threads") -> int | str | None:
    """Return a number of threads, ``"auto"``, or None for torch's own, ``"torch"``.

    Raises:
        ArgumentError: The value is something else.
    """
    if value is None or value == "torch":
        return None
    if value == "auto":
        return "auto"
    try:
        return check_count(value, name=name)
    except ArgumentError:
        raise ArgumentError(
            f"{name} must be a whole number from 1 on, 'auto' or 'torch'; "
            f"got {value!r}."
        ) from None


def check_early_stopping(
    value: object, *, name: str = "early_stopping"
) -> EarlyStopping | None:
    """Return when a training stops early.

    Args:
        value: Validations without improvement, 1 or more; a mapping with the arguments
            of `EarlyStopping`; one of these; or None for never.
        name: How its user spells it.

    Raises:
        ArgumentError: The value is none of these.
    """
    if value is None or isinstance(value, EarlyStopping):
        return value
    if not isinstance(value, Mapping):
        return EarlyStopping(patience=check_count(value, name=name))
    known = [field.name for field in fields(EarlyStopping)]
    for key in value:
        if key not in known:
            raise unknown_choice(f"a key of {name}", key, known)
    return EarlyStopping(**value)


def check_monitor(value: object, *, name: str = "monitor") -> str | None:
    """Return the name of a value of the history; whether it is measured is not asked.

    Raises:
        ArgumentError: The value is no name, or lacks ``train_`` or ``valid_``.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise ArgumentError(
            f"{name} must be a value of the history, such as valid_loss; got {value!r}."
        )
    if value in ("loss", *METRICS):
        raise ArgumentError(
            f"{name} must be a value of the history; got {value!r}. "
            f"Did you mean 'valid_{value}'?"
        )
    return value


def check_metrics(value: object, *, name: str = "metrics") -> Any:
    """Return metrics: names, and objects of the user's, which pass unchecked.

    Args:
        value: A list, a tuple, or a mapping of objects.
        name: How its user spells it.

    Returns:
        A tuple, or the mapping.

    Raises:
        ArgumentError: The value is none of these, or there is no metric of a name.
    """
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, list | tuple):
        raise ArgumentError(f"{name} must be a list of names; got {value!r}.")
    plain = (str, int, float, list, tuple, dict, type(None))
    for metric in value:
        if isinstance(metric, plain) and metric not in METRICS:
            raise unknown_choice(f"an entry of {name}", metric, METRICS)
    return tuple(value)


def check_param_groups(
    value: object, *, name: str = "param_groups"
) -> dict[str, dict[str, Any]] | None:
    """Return options by patterns of parameters' names; the options are not looked at.

    Raises:
        ArgumentError: The value is no mapping of patterns to mappings.
    """
    if value is None:
        return None
    remedy = "Write {'head.*': {'lr_factor': 10}}."
    if not isinstance(value, Mapping):
        raise ArgumentError(
            f"{name} must map patterns to options; got {value!r}. {remedy}"
        )
    for pattern, given in value.items():
        if not isinstance(pattern, str) or not isinstance(given, Mapping):
            raise ArgumentError(
                f"{name}[{pattern!r}] must map a pattern to options; got {given!r}. "
                f"{remedy}"
            )
    return {pattern: dict(given) for pattern, given in value.items()}


def check_field(value: object, *, name: str) -> int | str | None:
    """Return a position or key of a batch, or None.

    Raises:
        ArgumentError: The value is none of these.
    """
    is_place = isinstance(value, int | str) and not isinstance(value, bool)
    if value is not None and (not is_place or value == ""):
        raise ArgumentError(f"{name} must be a position or a key; got {value!r}.")
    return value  # type: ignore[return-value]


def check_step(value: object, *, name: str = "step") -> Any:
    """Return a step function, or None.

    Raises:
        ArgumentError: The value can't be called.
    """
    if value is not None and not callable(value):
        raise ArgumentError(
            f"{name} must be a function of (model, batch); got {value!r}."
        )
    return value


def _optional(check: Callable[..., Any]) -> Callable[..., Any]:
    def run(value: object, *, name: str) -> Any:
        return None if value is None else check(value, name=name)

    return run


_COUNT = _optional(check_count)
_LIMIT = _optional(check_positive)

OPTIONS: dict[str, Option] = {
    "max_steps": Option(_COUNT, is_of_fit=True, is_number=True),
    "valid_every": Option(_COUNT, is_of_fit=True, is_number=True),
    "checkpoint_every": Option(_COUNT, is_of_fit=True, is_number=True),
    "save_every": Option(check_save_every, is_of_fit=True),
    "on_save_error": Option(_one_of(SAVE_ERRORS), is_of_fit=True),
    "param_groups": Option(check_param_groups),
    "decay_biases_and_norms": Option(check_flag),
    "train_metrics": Option(check_metrics),
    "monitor": Option(check_monitor),
    "monitor_mode": Option(_optional(_one_of(MODES))),
    "early_stopping": Option(check_early_stopping, is_number=True),
    "accumulate": Option(check_count, is_number=True),
    "micro_batch_size": Option(_COUNT, is_number=True),
    "clip_norm": Option(_LIMIT, is_number=True),
    "clip_value": Option(_LIMIT, is_number=True),
    "log_norms": Option(check_flag),
    "precision": Option(_one_of(PRECISIONS)),
    "on_nonfinite": Option(_one_of(NONFINITE_POLICIES)),
    "on_out_of_memory": Option(_one_of(MEMORY_POLICIES)),
    "ema": Option(_optional(check_share), is_number=True),
    "target": Option(check_field),
    "sample_weight": Option(check_field),
    "num_threads": Option(check_threads, is_number=True, word="auto", has_null=True),
    "memory_format": Option(_one_of(MEMORY_FORMATS)),
    "engine": Option(_one_of(ENGINES)),
    "step": Option(check_step, is_code=True),
}
"""Name -> what is known of it, in the order in which commands tell of them."""


def check_option(name: str, value: object) -> Any:
    """Return the value of one of `OPTIONS` as it is kept.

    Raises:
        ArgumentError: It is out of range, or of a wrong kind.
    """
    return OPTIONS[name].check(value, name=name)


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as they are kept, each checked.

    Args:
        options: Values by names of `OPTIONS`.

    Raises:
        ArgumentError: A name is unknown, or a value can't be used.
    """
    if not isinstance(options, Mapping):
        raise ArgumentError(f"options must be a mapping; got {options!r}.")
    for name in options:
        if name not in OPTIONS:
            raise unknown_choice("an entry of options", name, OPTIONS)
    return {name: check_option(name, value) for name, value in options.items()}


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that `Trainer` takes, and those of `Trainer.fit`."""
    of_fit = {k: v for k, v in options.items() if OPTIONS[k].is_of_fit}
    return {k: v for k, v in options.items() if k not in of_fit}, of_fit
