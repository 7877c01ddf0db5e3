"""An optimiser's state taken apart into tensors and plain values, and put together."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from handful.errors import CheckpointError
from handful.train.tensor_file import check_tensors

_TENSOR, _TUPLE = "$tensor", "$tuple"
"""Keys of what stands in an optimiser's plain values for a tensor and for a tuple."""


def flatten_optimizer(
    state: Mapping[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state_dict into tensors and plain values.

    Args:
        state: The state_dict.

    Returns:
        Its tensors, named ``state.<parameter>.<name>``, and the rest, for JSON.

    Raises:
        CheckpointError: It holds something other than tensors and plain values.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, values in state["state"].items():
        if not isinstance(index, int) or not isinstance(values, Mapping):
            raise _unstorable(repr(index), values)
        for name, value in values.items():
            key = f"state.{index}.{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
            else:
                encoded = _encode(value, key, tensors)
                plain.setdefault(str(index), {})[name] = encoded
    groups = [_encode_group(group) for group in state["param_groups"]]
    check_tensors(tensors, "the optimiser's state")
    return tensors, {"param_groups": groups, "state": plain}


def _encode_group(group: Mapping[str, Any]) -> dict[str, Any]:
    tensors: dict[str, Tensor] = {}
    encoded = {}
    for name, value in group.items():
        items = list(value) if isinstance(value, tuple) else value
        encoded[name] = _encode(items, name, tensors)
        if tensors:
            raise CheckpointError(
                f"the optimiser's {name!r} must be a plain number to be saved; "
                "got a tensor."
            )
    return encoded


def _encode(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON can hold it, with its tensors put aside by their keys."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        tensors[key] = value
        return {_TENSOR: key}
    if isinstance(value, (list, tuple)):
        items = [_encode(v, f"{key}.{i}", tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {_TUPLE: items}
    if isinstance(value, Mapping) and all(
        isinstance(k, str) and not k.startswith("$") for k in value
    ):
        return {k: _encode(v, f"{key}.{k}", tensors) for k, v in value.items()}
    if isinstance(value, numbers.Real):  # such as NumPy's
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    raise _unstorable(key, value)


def _unstorable(key: str, value: Any) -> CheckpointError:
    return CheckpointError(
        "the optimiser's state must be tensors, numbers, texts, and lists or mappings "
        f"of these to be saved; got an object of {type(value).__name__} for {key}. "
        "Train without run_dir, or keep it out of the optimiser's state_dict."
    )


def unflatten_optimizer(
    tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the state_dict that `flatten_optimizer` was given."""
    state: dict[int, dict[str, Any]] = {}
    listed: set[str] = set()
    for index, values in plain["state"].items():
        for name, value in values.items():
            decoded = _decode(value, tensors, listed)
            state.setdefault(int(index), {})[name] = decoded
    for key, tensor in tensors.items():
        if key not in listed:
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensor
    groups = [_decode_group(group) for group in plain["param_groups"]]
    return {"state": state, "param_groups": groups}


def _decode_group(group: Mapping[str, Any]) -> dict[str, Any]:
    lists = ("params", "param_names")
    return {
        name: tuple(value) if isinstance(value, list) and name not in lists else value
        for name, value in group.items()
    }


def _decode(value: Any, tensors: Mapping[str, Tensor], listed: set[str]) -> Any:
    """Return what `_encode` was given; add the keys of its tensors to ``listed``."""
    if isinstance(value, list):
        return [_decode(item, tensors, listed) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        listed.add(value[_TENSOR])
        return tensors[value[_TENSOR]]
    if value.keys() == {_TUPLE}:
        return tuple(_decode(value[_TUPLE], tensors, listed))
    return {key: _decode(item, tensors, listed) for key, item in value.items()}
