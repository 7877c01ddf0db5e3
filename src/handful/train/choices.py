"""The names that settings may take, and their arguments; no torch.

A choice is written ``name`` or ``name:key=value,key=value`` in a command or a
configuration, or as a mapping with the key ``name``. Here a wrong name, argument or
value is found before torch is imported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from handful.errors import ArgumentError, unknown_choice

Setting: TypeAlias = "bool | int | float | str"
ChoiceLike: TypeAlias = "str | Mapping[str, Any] | Choice"

LOSSES: dict[str, str] = {
    "cross_entropy": "CrossEntropyLoss",
    "mse": "MSELoss",
    "mae": "L1Loss",
    "huber": "HuberLoss",
    "bce_with_logits": "BCEWithLogitsLoss",
}
"""Names of losses and the classes of `torch.nn` that compute them."""

METRICS: tuple[str, ...] = ("accuracy", "mae", "mse")
"""Names of metrics."""

_ADAM = ("betas", "eps", "weight_decay", "amsgrad")

OPTIMIZERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "adadelta": ("Adadelta", ("rho", "eps", "weight_decay")),
    "adagrad": (
        "Adagrad",
        ("lr_decay", "weight_decay", "initial_accumulator_value", "eps"),
    ),
    "adam": ("Adam", _ADAM),
    "adamax": ("Adamax", ("betas", "eps", "weight_decay")),
    "adamw": ("AdamW", _ADAM),
    "asgd": ("ASGD", ("lambd", "alpha", "t0", "weight_decay")),
    "nadam": ("NAdam", ("betas", "eps", "weight_decay", "momentum_decay")),
    "radam": ("RAdam", ("betas", "eps", "weight_decay")),
    "rmsprop": ("RMSprop", ("alpha", "eps", "weight_decay", "momentum", "centered")),
    "rprop": ("Rprop", ("etas", "step_sizes")),
    "sgd": ("SGD", ("momentum", "dampening", "weight_decay", "nesterov")),
}
"""Names of optimisers, their classes in `torch.optim`, their arguments beside lr."""

SCHEDULES: dict[str, tuple[str, ...]] = {
    "constant": (),
    "step": ("step_size", "gamma"),
    "exponential": ("gamma",),
    "cosine": ("t_max", "eta_min"),
    "plateau": (
        "factor",
        "patience",
        "threshold",
        "threshold_mode",
        "cooldown",
        "min_lr",
    ),
}
"""Names of schedules and their arguments."""

PREDICTION_SUFFIXES: tuple[str, ...] = (".csv", ".npy", ".parquet")
"""Endings of the files that predictions are written to."""


@dataclass(frozen=True)
class Choice:
    """A name with arguments, such as ``sgd:momentum=0.9``.

    Attributes:
        name: One of the known names.
        args: Arguments by keyword.
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.args:
            return self.name
        return self.name + ":" + ",".join(f"{k}={v}" for k, v in self.args.items())


def parse_choice(
    setting: str, value: ChoiceLike, known: Mapping[str, tuple[str, ...]]
) -> Choice:
    """Read a choice and check its name and the names of its arguments.

    Args:
        setting: What is chosen, for the error: ``"optimizer"``.
        value: ``"sgd"``, ``"sgd:momentum=0.9"``, ``{"name": "sgd", "momentum": 0.9}``
            or a `Choice`.
        known: Names and, for each, the arguments that it takes.

    Returns:
        The choice.

    Raises:
        ArgumentError: The name or an argument is unknown, or a part has no ``=``.
    """
    if isinstance(value, Choice):
        name, args = value.name, value.args
    elif isinstance(value, str):
        name, args = _split_choice(setting, value)
    elif isinstance(value, Mapping) and isinstance(value.get("name"), str):
        name = value["name"]
        args = {k: v for k, v in value.items() if k != "name"}
    else:
        raise ArgumentError(
            f"{setting} must be a name, or a mapping with a name; got {value!r}."
        )
    if name not in known:
        raise unknown_choice(setting, name, known)
    for key in args:
        if key not in known[name]:
            raise _unknown_argument(setting, name, key, known[name])
    return Choice(name, dict(args))


def parse_optimizer(value: ChoiceLike) -> Choice:
    """Read the choice of an optimiser; see `parse_choice`."""
    return parse_choice("optimizer", value, {k: v[1] for k, v in OPTIMIZERS.items()})


def parse_schedule(value: ChoiceLike | None) -> Choice:
    """Read the choice of a schedule, None being ``constant``; see `parse_choice`."""
    return parse_choice("schedule", "constant" if value is None else value, SCHEDULES)


def check_batch_size(value: object, *, name: str = "batch_size") -> int | str:
    """Return a batch size: a whole number from 1 on, or ``"full"``.

    Raises:
        ArgumentError: The value is neither.
    """
    if value == "full":
        return "full"
    return _whole(value, name, least=1, also=" or 'full'")


def check_epochs(value: object, *, name: str = "epochs") -> int:
    """Return a number of epochs, a whole number from 1 on.

    Raises:
        ArgumentError: The value is no such number.
    """
    return _whole(value, name, least=1)


def check_seed(value: object, *, name: str = "seed") -> int:
    """Return a seed, a whole number in ``[0, 2**63)``.

    Raises:
        ArgumentError: The value is no such number.
    """
    seed = _whole(value, name, least=0)
    if seed >= 2**63:
        raise ArgumentError(f"{name} must be below 2**63; got {seed}.")
    return seed


def check_lr(value: object, *, name: str = "lr") -> float:
    """Return a learning rate, a finite number above 0.

    Raises:
        ArgumentError: The value is no such number.
    """
    try:
        lr = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        lr = math.nan
    if isinstance(value, bool) or not (math.isfinite(lr) and lr > 0):
        raise ArgumentError(
            f"{name} must be a finite number above 0; got {value!r}. "
            "Try 0.001 for adam or 0.01 for sgd."
        )
    return lr


def _whole(value: object, name: str, *, least: int, also: str = "") -> int:
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value):
        number = int(value)
    if number is None or number < least:
        raise ArgumentError(
            f"{name} must be a whole number from {least} on{also}; got {value!r}."
        )
    return number


def _split_choice(setting: str, text: str) -> tuple[str, dict[str, Setting]]:
    name, colon, rest = text.partition(":")
    args: dict[str, Setting] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ArgumentError(
                f"{setting} must be written name or name:key=value,key=value; "
                f"got {text!r}."
            )
        if key.strip() in args:
            raise ArgumentError(f"{setting} has {key.strip()!r} twice; got {text!r}.")
        args[key.strip()] = _parse_setting(value.strip())
    return name.strip(), args


def _parse_setting(text: str) -> Setting:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _unknown_argument(
    setting: str, name: str, key: str, known: tuple[str, ...]
) -> ArgumentError:
    if not known:
        return ArgumentError(f"{setting} {name!r} takes no arguments; got {key!r}.")
    return unknown_choice(f"an argument of {setting} {name!r}", key, known)
