"""The names that settings may take, and their arguments; no torch.

A choice is written ``name`` or ``name:key=value,key=value`` in a command or a
configuration, or as a mapping with the key ``name``. Here a wrong name, argument or
value is found before torch is imported.

In text a value is read as true, false, none, a whole number, a number, or else as it
stands; ``a;b;c`` is a list of such values: ``adam:betas=0.9;0.99``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from handful.errors import ArgumentError, unknown_choice

Setting: TypeAlias = "bool | int | float | str | list[Setting] | None"
ChoiceLike: TypeAlias = "str | Mapping[str, Any] | Choice"

LOSSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "cross_entropy": (
        "CrossEntropyLoss",
        ("weight", "ignore_index", "label_smoothing"),
    ),
    "nll": ("NLLLoss", ("weight", "ignore_index")),
    "bce_with_logits": ("BCEWithLogitsLoss", ("pos_weight",)),
    "mse": ("MSELoss", ()),
    "mae": ("L1Loss", ()),
    "huber": ("HuberLoss", ("delta",)),
    "smooth_l1": ("SmoothL1Loss", ("beta",)),
    "poisson_nll": ("PoissonNLLLoss", ("log_input", "full", "eps")),
}
"""Names of losses, the classes of `torch.nn` that compute them, their arguments."""

METRICS: tuple[str, ...] = (
    "accuracy",
    "top5_accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "mae",
    "mse",
    "rmse",
    "r2",
)
"""Names of metrics; `handful.train.metrics` says what each measures."""

_FALLING = ("loss", "mae", "mse", "rmse")

_ADAM = ("betas", "eps", "weight_decay", "amsgrad", "maximize")

OPTIMIZERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "adadelta": ("Adadelta", ("rho", "eps", "weight_decay", "maximize")),
    "adafactor": (
        "Adafactor",
        ("beta2_decay", "eps", "d", "weight_decay", "maximize"),
    ),
    "adagrad": (
        "Adagrad",
        ("lr_decay", "weight_decay", "initial_accumulator_value", "eps", "maximize"),
    ),
    "adam": ("Adam", _ADAM),
    "adamax": ("Adamax", ("betas", "eps", "weight_decay", "maximize")),
    "adamw": ("AdamW", _ADAM),
    "asgd": ("ASGD", ("lambd", "alpha", "t0", "weight_decay", "maximize")),
    "lbfgs": (
        "LBFGS",
        (
            "max_iter",
            "max_eval",
            "tolerance_grad",
            "tolerance_change",
            "history_size",
            "line_search_fn",
        ),
    ),
    "muon": (
        "Muon",
        (
            "weight_decay",
            "momentum",
            "nesterov",
            "ns_coefficients",
            "eps",
            "ns_steps",
            "adjust_lr_fn",
        ),
    ),
    "nadam": (
        "NAdam",
        (
            "betas",
            "eps",
            "weight_decay",
            "momentum_decay",
            "decoupled_weight_decay",
            "maximize",
        ),
    ),
    "radam": (
        "RAdam",
        ("betas", "eps", "weight_decay", "decoupled_weight_decay", "maximize"),
    ),
    "rmsprop": (
        "RMSprop",
        ("alpha", "eps", "weight_decay", "momentum", "centered", "maximize"),
    ),
    "rprop": ("Rprop", ("etas", "step_sizes", "maximize")),
    "sgd": ("SGD", ("momentum", "dampening", "weight_decay", "nesterov", "maximize")),
    "sparse_adam": ("SparseAdam", ("betas", "eps", "maximize")),
}
"""Names of optimisers, their classes in `torch.optim`, their arguments beside lr.

All of PyTorch's are here, and all arguments that change what is computed; those that
choose a kernel (``foreach``, ``fused``) or serve graphs and autograd through a step
(``capturable``, ``differentiable``) are not settings.
"""

_ANY_SCHEDULE = ("unit", "warmup", "warmup_start")

SCHEDULES: dict[str, tuple[str, ...]] = {
    "constant": _ANY_SCHEDULE,
    "step": ("step_size", "gamma", *_ANY_SCHEDULE),
    "multistep": ("milestones", "gamma", *_ANY_SCHEDULE),
    "exponential": ("gamma", *_ANY_SCHEDULE),
    "cosine": ("t_max", "eta_min", *_ANY_SCHEDULE),
    "cosine_restarts": ("t_0", "t_mult", "eta_min", *_ANY_SCHEDULE),
    "plateau": (
        "factor",
        "patience",
        "threshold",
        "threshold_mode",
        "cooldown",
        "min_lr",
        *_ANY_SCHEDULE,
    ),
    "linear": ("start_factor", "end_factor", "total_iters", *_ANY_SCHEDULE),
    "polynomial": ("total_iters", "power", *_ANY_SCHEDULE),
    "one_cycle": (
        "pct_start",
        "anneal_strategy",
        "div_factor",
        "final_div_factor",
        "three_phase",
        *_ANY_SCHEDULE,
    ),
}
"""Names of schedules and their arguments, those of the warm-up included."""

PRECISIONS: tuple[str, ...] = ("float32", "bf16", "fp16")
"""What a model may compute in; its weights stay as they are."""

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
        written = (f"{k}={_write_setting(v)}" for k, v in self.args.items())
        return self.name + ":" + ",".join(written)


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


def parse_loss(value: ChoiceLike) -> Choice:
    """Read the choice of a loss; see `parse_choice`."""
    return parse_choice("loss", value, {k: v[1] for k, v in LOSSES.items()})


def parse_schedule(value: ChoiceLike | None) -> Choice:
    """Read the choice of a schedule, None being ``constant``; see `parse_choice`."""
    return parse_choice("schedule", "constant" if value is None else value, SCHEDULES)


def metric_improves_upward(name: str) -> bool:
    """Tell whether a larger value of a measured quantity is the better one.

    Args:
        name: The loss or a metric of `METRICS`, with or without ``train_`` or
            ``valid_`` before it: ``"valid_loss"``, ``"train_f1"``, ``"accuracy"``.

    Raises:
        ArgumentError: The name is neither; a metric of the user's own says itself
            which way it improves.
    """
    bare = re.sub("^(train|valid)_", "", name)
    if bare != "loss" and bare not in METRICS:
        prefix = name[: len(name) - len(bare)]
        known = [prefix + known for known in ("loss", *METRICS)]
        raise unknown_choice("monitor", name, known)
    return bare not in _FALLING


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
    return _whole(value, name, least=0)


def check_count(value: object, *, name: str) -> int:
    """Return a whole number from 1 on.

    Raises:
        ArgumentError: The value is no such number.
    """
    return _whole(value, name, least=1)


def check_num_workers(value: object, *, name: str = "num_workers") -> int:
    """Return a whole number from 0 on.

    Raises:
        ArgumentError: The value is no such number.
    """
    return _whole(value, name, least=0)


def check_positive(value: object, *, name: str) -> float:
    """Return a finite number above 0.

    Raises:
        ArgumentError: The value is no such number.
    """
    number = _number(value)
    if not (math.isfinite(number) and number > 0):
        raise ArgumentError(f"{name} must be a finite number above 0; got {value!r}.")
    return number


def check_share(value: object, *, name: str) -> float:
    """Return a number between 0 and 1, both left out.

    Raises:
        ArgumentError: The value is no such number.
    """
    number = _number(value)
    if not 0 < number < 1:
        raise ArgumentError(f"{name} must be between 0 and 1; got {value!r}.")
    return number


def check_lr(value: object, *, name: str = "lr") -> float:
    """Return a learning rate, a finite number above 0.

    Raises:
        ArgumentError: The value is no such number.
    """
    lr = _number(value)
    if not (math.isfinite(lr) and lr > 0):
        raise ArgumentError(
            f"{name} must be a finite number above 0; got {value!r}. "
            "Try 0.001 for adam or 0.01 for sgd."
        )
    return lr


def _number(value: object) -> float:
    """Return a number, or text that is one, as float; NaN for anything else."""
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _whole(value: object, name: str, *, least: int, also: str = "") -> int:
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,4000}", value):
        number = int(value)
    if number is None or number < least:
        raise ArgumentError(
            f"{name} must be a whole number from {least} on{also}; got {value!r}."
        )
    if number >= 2**63:
        raise ArgumentError(f"{name} must be below 2**63; got {number}.")
    return number


def _split_choice(setting: str, text: str) -> tuple[str, dict[str, Setting]]:
    name, colon, rest = text.partition(":")
    args: dict[str, Setting] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = part.partition("=")
        is_whole = all(piece.strip() for piece in (key, *value.split(";")))
        if not equals or not is_whole:
            raise ArgumentError(
                f"{setting} must be written name or name:key=value,key=value; "
                f"got {text!r}."
            )
        if key.strip() in args:
            raise ArgumentError(f"{setting} has {key.strip()!r} twice; got {text!r}.")
        args[key.strip()] = _parse_setting(value.strip())
    return name.strip(), args


def _write_setting(value: object) -> str:
    is_list = isinstance(value, list | tuple)
    return ";".join(map(str, value)) if is_list else str(value)  # type: ignore[call-overload]


def _parse_setting(text: str) -> Setting:
    if ";" in text:
        return [_parse_setting(part.strip()) for part in text.split(";")]
    if text.lower() == "none":
        return None
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
