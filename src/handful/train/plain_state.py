"""The state of schedulers and metrics as plain values.

What JSON lacks is written as a mapping with one key: ``$float`` (a number that is not
finite), ``$tuple``, ``$dict`` (pairs of key and value), ``$counter`` (the same, of a
`collections.Counter`) and ``$tensor`` (values and dtype).
"""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from handful.errors import ArgumentError
from handful.runs.files import NONFINITE_KEY


def encode_state(value: Any, name: str, entry: str = "") -> Any:
    """Return a state, or a value of it, as JSON can hold it.

    Args:
        value: The state, or a value at any depth of it.
        name: What it is the state of, for the error: ``"scheduler StepLR"``.
        entry: The way to the value, for the error: ``lr_lambdas[0].scale``.

    Returns:
        The same in new mappings and lists, which `decode_state` reads back.

    Raises:
        ArgumentError: It holds something that is not plain. The message names it.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Real):
        return _encode_number(value)
    if isinstance(value, list | tuple):
        items = [encode_state(v, name, f"{entry}[{i}]") for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        return _encode_mapping(value, name, entry)
    if isinstance(value, Tensor):
        return {"$tensor": [value.tolist(), str(value.dtype).removeprefix("torch.")]}
    raise ArgumentError(
        f"The state of {name} must be of plain numbers, texts, lists and "
        f"mappings, so that checkpoints can hold it; got {entry}, an object of "
        f"{type(value).__name__}. Keep it out of the state_dict, or give a plain "
        "function in its place."
    )


def _encode_number(value: numbers.Real) -> Any:
    if isinstance(value, numbers.Integral):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else {NONFINITE_KEY: str(number)}


def _encode_mapping(value: Mapping[Any, Any], name: str, entry: str) -> Any:
    pairs = [
        [
            encode_state(k, name, f"a key of {entry}"),
            encode_state(v, name, _join(entry, k)),
        ]
        for k, v in value.items()
    ]
    if isinstance(value, Counter):
        return {"$counter": pairs}
    is_plain = all(isinstance(k, str) and not k.startswith("$") for k in value)
    return dict(pairs) if is_plain else {"$dict": pairs}


def _join(entry: str, key: object) -> str:
    return f"{entry}.{key}" if entry else str(key)


def decode_state(value: Any) -> Any:
    """Return what `encode_state` was given, in new mappings and lists."""
    if isinstance(value, list):
        return [decode_state(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    decode = _DECODERS.get(next(iter(value))) if len(value) == 1 else None
    if decode is not None:
        return decode(next(iter(value.values())))
    return {key: decode_state(item) for key, item in value.items()}


def _decode_pairs(pairs: list[Any]) -> dict[Any, Any]:
    return {decode_state(key): decode_state(value) for key, value in pairs}


_DECODERS: dict[str, Callable[[Any], Any]] = {
    NONFINITE_KEY: float,
    "$tuple": lambda items: tuple(decode_state(items)),
    "$dict": _decode_pairs,
    "$counter": lambda pairs: Counter(_decode_pairs(pairs)),
    "$tensor": lambda stored: torch.tensor(stored[0], dtype=getattr(torch, stored[1])),
}
