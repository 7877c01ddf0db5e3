"""Axes: the settings that a study may vary, and their values as plain ones; no torch.

A setting is a field of `Recipe`, one of `handful.train.options.OPTIONS`, or the backend
that trains. A value is
checked by the function that checks it for a single training, and kept as JSON has it: a
choice as its name, or as a mapping with ``name`` and its arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from handful.errors import ArgumentError, unknown_choice
from handful.runs.study_row import format_setting, settings_key
from handful.train.choices import (
    Choice,
    check_batch_size,
    check_epochs,
    check_lr,
    parse_loss,
    parse_optimizer,
    parse_schedule,
)
from handful.train.options import OPTIONS, check_metrics
from handful.train.recipe import check_last_batch
from handful.train.schedules import make_schedule
from handful.train.stopping import EarlyStopping

if TYPE_CHECKING:
    from handful.train.recipe import Recipe


def _choice(parse: Callable[[Any], Choice]) -> Callable[..., Choice]:
    def check(value: Any, *, name: str) -> Choice:  # noqa: ARG001
        return parse(value)

    return check


def _parse_schedule(value: Any) -> Choice:
    choice = parse_schedule(value)
    make_schedule(choice)  # finds wrong values of its arguments
    return choice


FIELDS: dict[str, Callable[..., Any]] = {
    "batch_size": check_batch_size,
    "lr": check_lr,
    "optimizer": _choice(parse_optimizer),
    "schedule": _choice(_parse_schedule),
    "epochs": check_epochs,
    "loss": _choice(parse_loss),
    "last_batch": check_last_batch,
    "metrics": check_metrics,
}
"""Fields of a recipe that may be varied, and the check of each."""

TRAINER = "trainer"
"""The backend that a trial has unless another is asked for."""

BACKENDS = (TRAINER, "numpy", "torch", "keras")
"""What may train: the `Trainer`, or a descent of `handful.reference`."""


def check_backend(value: object, *, name: str = "backend") -> str:
    """Return one of `BACKENDS`; whether Keras is installed is not asked.

    Raises:
        ArgumentError: There is none of that name.
    """
    if not isinstance(value, str) or value not in BACKENDS:
        raise unknown_choice(name, value, BACKENDS)
    return value


POPULATIONS = ("auto", "never", "always")
"""When trials train as one model: where it is faster, never, or wherever they can."""


def check_population(value: object, *, name: str = "population") -> str:
    """Return one of `POPULATIONS`.

    Raises:
        ArgumentError: There is none of that name.
    """
    if not isinstance(value, str) or value not in POPULATIONS:
        raise unknown_choice(name, value, POPULATIONS)
    return value


OF_STUDIES: dict[str, Callable[..., Any]] = {"backend": check_backend}
"""What only studies vary, no recipe having it."""

NEVER_VARIED = ("checkpoint_every", "save_every", "on_save_error", "step")
"""Options that a trial has no use for, or that have no plain value."""

AXES: dict[str, Callable[..., Any]] = {
    **FIELDS,
    **{name: o.check for name, o in OPTIONS.items() if name not in NEVER_VARIED},
    **OF_STUDIES,
}
"""Name -> check of each setting that may be varied."""

_LISTS = ("metrics", "train_metrics")
_WORDS: dict[str, Any] = {"none": None, "true": True, "false": False}


def check_vary(vary: Mapping[str, Iterable[Any]]) -> dict[str, list[Any]]:
    """Return the axes of a grid, each value checked and plain.

    Args:
        vary: Values by the names of settings; ``-`` and ``_`` mean the same. A value
            may be text as on the command line: ``"full"``, ``"sgd:momentum=0.9"``.

    Returns:
        Axis -> its values, as they are kept in ``study.json``.

    Raises:
        ArgumentError: There is no such setting, a value can't be used or comes twice,
            or nothing is varied.
    """
    if not isinstance(vary, Mapping) or not vary:
        raise ArgumentError(
            f"vary must map settings to lists of values; got {vary!r}. "
            'Write {"batch_size": [1, 10, "full"]}.'
        )
    axes: dict[str, list[Any]] = {}
    for given, values in vary.items():
        name = check_axis(given)
        if name in axes:
            raise ArgumentError(f"vary must name {name} once; got it twice.")
        axes[name] = _check_values(name, values)
    return axes


def check_axis(name: object) -> str:
    """Return the name of a setting that may be varied, with underscores.

    Raises:
        ArgumentError: There is none of that name.
    """
    spelled = str(name).strip().replace("-", "_")
    if spelled in ("seed", "seeds"):
        raise ArgumentError(
            "vary must not name the seed: each cell is run with all seeds. "
            "Give seeds (--seeds) in its place."
        )
    if spelled not in AXES:
        raise unknown_choice("vary", spelled, AXES)
    return spelled


def split_vary(text: str) -> tuple[str, list[str]]:
    """Split ``batch-size=1,10,full`` into its name and the texts of its values.

    A comma inside the arguments of a choice separates no values:
    ``optimizer=adam,sgd:momentum=0.9,nesterov=true`` has two.

    Raises:
        ArgumentError: The text has another form.
    """
    name, equals, rest = text.partition("=")
    values: list[str] = []
    for part in rest.split(","):
        is_argument = re.match(r"\s*\w+\s*=", part) is not None
        if values and is_argument and ":" in values[-1]:
            values[-1] += f",{part}"
        else:
            values.append(part.strip())
    if not (name.strip() and equals) or not all(values):
        raise ArgumentError(
            f"--vary must be written NAME=VALUE,VALUE,...; got {text!r}. "
            "An example: --vary batch-size=1,10,full."
        )
    return name.strip(), values


def apply_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """Return a recipe with other settings.

    ``epochs`` and ``max_steps`` belong together, and so do ``monitor`` and
    ``monitor_mode``: who gives one of a pair decides both.

    Args:
        recipe: The recipe.
        settings: Plain values by the names of `AXES`; those that no recipe has change
            nothing.
    """
    options = dict(recipe.options)
    settings = {k: v for k, v in settings.items() if k not in OF_STUDIES}
    given = {k: v for k, v in settings.items() if k in FIELDS}
    if "epochs" in settings or "max_steps" in settings:
        options.pop("max_steps", None)
        given["epochs"] = settings.get("epochs")
    if "monitor" in settings:
        options.pop("monitor_mode", None)
    options |= {k: v for k, v in settings.items() if k not in FIELDS}
    if "metrics" in given:
        given["metrics"] = tuple(given["metrics"])
    return replace(recipe, **given, options=options)


def to_plain(value: Any) -> Any:
    """Return a setting as JSON has it; code as its name."""
    if isinstance(value, Choice):
        args = {key: to_plain(item) for key, item in value.args.items()}
        return {"name": value.name, **args} if args else value.name
    if isinstance(value, EarlyStopping):
        return asdict(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _check_values(name: str, values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise ArgumentError(
            f"{name} must be varied over a list of values; got {values!r}. "
            f"Write {{{name!r}: [...]}}."
        )
    found: list[Any] = []
    for value in values:
        plain = _check_value(name, value)
        if settings_key({name: plain}) in [settings_key({name: v}) for v in found]:
            raise ArgumentError(
                f"{name} must be varied over values that differ; got "
                f"{format_setting(plain)} twice, which makes two equal rows."
            )
        found.append(plain)
    if not found:
        raise ArgumentError(f"{name} must be varied over one value or more; got none.")
    return found


def _check_value(name: str, value: Any) -> Any:
    if isinstance(value, str):
        value = _read_text(name, value)
    elif hasattr(value, "item") and not getattr(value, "shape", True):
        value = value.item()  # a number of NumPy's or torch's
    if callable(value) or (name in _LISTS and not _are_names(value)):
        raise ArgumentError(
            f"{name} must be varied over names and numbers; got {value!r}. "
            "Compare recipes that differ in code one by one."
        )
    return to_plain(AXES[name](value, name=name))


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)


def _read_text(name: str, text: str) -> Any:
    text = text.strip()
    if name in _LISTS:
        return [part.strip() for part in text.split(";")]
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    return int(text) if re.fullmatch(r"-?[0-9]{1,4000}", text) else text
