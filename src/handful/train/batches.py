"""What a batch is to the Trainer: inputs, a target, weights, samples, a device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from handful.errors import ArgumentError, TrainingError

TARGET_KEYS = ("target", "targets", "label", "labels", "y")
"""Keys of a dictionary batch that hold its target, unless one is named."""


@dataclass(frozen=True)
class BatchLayout:
    """Which fields of a batch are the target and the weights; the rest are inputs.

    Attributes:
        target: Position or key of the target, or its name in a named tuple; None for
            the last of a list that isn't ``sample_weight``, or for the one key of
            `TARGET_KEYS` that a dictionary has.
        sample_weight: Position, key or name of the weights of the samples, shape
            ``(N,)``; None where every sample counts the same.
    """

    target: int | str | None = None
    sample_weight: int | str | None = None

    def split(self, batch: Any) -> tuple[list[Any], dict[str, Any], Any, Tensor | None]:
        """Split a batch.

        Args:
            batch: A list or tuple of inputs and a target, or a dictionary.

        Returns:
            Positional and keyword arguments for the model, the target, and the weights
            or None. A dictionary's only input is positional; several go by their keys.

        Raises:
            TrainingError: The batch has no such fields.
        """
        if isinstance(batch, (list, tuple)):
            return self._split_list(batch)
        if isinstance(batch, Mapping):
            return self._split_mapping(batch)
        raise TrainingError(
            "a batch must be a list or tuple of inputs and a target, or a dictionary; "
            f"got {type(batch).__name__}. Let the data set return (input, target)."
        )

    def inputs(self, batch: Any) -> tuple[list[Any], dict[str, Any]]:
        """Return the model's arguments of a batch that may have no target.

        Args:
            batch: A batch as for `split`, or one input alone: a tensor, a list of one,
                a dictionary without a target.
        """
        if isinstance(batch, Tensor):
            return [batch], {}
        if isinstance(batch, (list, tuple)) and len(batch) == 1:
            return list(batch), {}
        if isinstance(batch, Mapping) and not self._find_targets(batch):
            return _arguments(batch, (self.sample_weight,))
        args, kwargs, _, _ = self.split(batch)
        return args, kwargs

    def _split_list(
        self, batch: list[Any] | tuple[Any, ...]
    ) -> tuple[list[Any], dict[str, Any], Any, Tensor | None]:
        if self.target is None and self.sample_weight is None and len(batch) >= 2:
            *inputs, target = batch
            return inputs, {}, target, None
        has_weights = self.sample_weight is not None
        count = len(batch)
        if count < 2 + has_weights:
            raise TrainingError(
                f"a batch must be a list or tuple of inputs, {_FIELDS[has_weights]}; "
                f"got {type(batch).__name__} of length {count}. "
                f"Let the data set return ({_FIELDS_SHORT[has_weights]})."
            )
        at = count  # nowhere
        if self.sample_weight is not None:
            at = _place("sample_weight", self.sample_weight, batch)
        if self.target is None:  # the last that isn't the weights
            place = count - 2 if at == count - 1 else count - 1
        else:
            place = _place("target", self.target, batch)
        if place == at:
            raise TrainingError(
                f"target and sample_weight must be different fields of the batch; got "
                f"{self.target!r} and {self.sample_weight!r}, of {count}."
            )
        inputs = [value for i, value in enumerate(batch) if i not in (place, at)]
        return inputs, {}, batch[place], batch[at] if has_weights else None

    def _split_mapping(
        self, batch: Mapping[Any, Any]
    ) -> tuple[list[Any], dict[str, Any], Any, Tensor | None]:
        found = self._find_targets(batch)
        keys = ", ".join(map(str, batch))
        if len(found) != 1:
            wanted = " or ".join(TARGET_KEYS)
            if self.target is not None:
                wanted = repr(self.target)
            several = f", of which {' and '.join(found)} could be it" if found else ""
            raise TrainingError(
                f"a dictionary batch must have its target under {wanted}; got the keys "
                f"{keys}{several}. Name it with target=."
            )
        key = found[0]
        if self.sample_weight is not None and self.sample_weight not in batch:
            raise TrainingError(
                f"sample_weight must be a key of the batch; got "
                f"{self.sample_weight!r}, and the batch has {keys}."
            )
        if key == self.sample_weight:
            raise TrainingError(
                f"target and sample_weight must be different fields of the batch; got "
                f"{key!r} for both."
            )
        args, kwargs = _arguments(batch, (key, self.sample_weight))
        if not args and not kwargs:
            raise TrainingError(
                f"a dictionary batch must have an input beside its target; got the "
                f"keys {keys}."
            )
        weights = None if self.sample_weight is None else batch[self.sample_weight]
        return args, kwargs, batch[key], weights

    def _find_targets(self, batch: Mapping[Any, Any]) -> list[Any]:
        """Return the keys that could be the target's."""
        if self.target is not None:
            return [self.target] if self.target in batch else []
        return [k for k in TARGET_KEYS if k in batch and k != self.sample_weight]


_FIELDS = ("and a target", "a target and weights")
_FIELDS_SHORT = ("input, target", "input, target, weight")


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device to train on.

    Args:
        device: ``"auto"`` for the accelerator if there is one, else the CPU; or a
            device of torch.

    Raises:
        ArgumentError: torch knows no such device.
    """
    if device == "auto":
        # Asked for where there is none, older releases raise an error.
        available = torch.accelerator.is_available()
        accelerator = torch.accelerator.current_accelerator() if available else None
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(
            f"device must be 'auto' or one that torch can use; got {str(device)!r} "
            f"({reason})."
        ) from None
    return chosen


def move_batch(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device; those already there stay.

    Lists, tuples, named tuples and dictionaries stay what they are. An object that has
    a method ``to`` of its own moves itself, any other is left alone.
    """
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    kind = type(batch)
    if kind is list:
        return [move_batch(value, device) for value in batch]
    if kind is tuple:
        return tuple([move_batch(value, device) for value in batch])
    if kind is dict:
        return {key: move_batch(value, device) for key, value in batch.items()}
    if not isinstance(batch, type) and callable(getattr(batch, "to", None)):
        return batch.to(device)
    if isinstance(batch, (Mapping, list, tuple)):
        return _rebuild(batch, lambda value: move_batch(value, device))
    return batch


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return lists, tuples and dictionaries with a function applied to each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (Mapping, list, tuple)):
        return _rebuild(value, lambda item: map_tensors(function, item))
    return value


def count_samples(batch: Any) -> int:
    """Return a batch's number of samples: the first dimension of its last tensor.

    Tensors of the batch itself come before those of fields within fields; numbers
    without dimensions and whatever is no tensor or array are passed over.

    Raises:
        TrainingError: It holds no tensor with a dimension.
    """
    last = batch[-1] if type(batch) in (list, tuple) and batch else batch
    if isinstance(last, Tensor) and last.ndim:
        return last.shape[0]
    level = [batch]
    while level:
        for value in reversed(level):
            if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
                return int(value.shape[0])
        level = [item for value in level for item in _items(value)]
    raise TrainingError(
        "a batch must hold a tensor, whose first dimension counts the samples; "
        f"got {type(batch).__name__}{' without one' if _items(batch) else ''}."
    )


def split_samples(batch: Any, size: int) -> Iterator[Any]:
    """Yield a batch's parts of at most ``size`` samples, as views.

    Tensors and arrays whose first dimension is the number of samples are cut, and so
    are lists within the batch that hold one item a sample, such as texts. All else goes
    to every part whole.

    Raises:
        TrainingError: The batch's samples can't be counted, or a field is packed.
    """
    count = count_samples(batch)
    if count <= size:
        yield batch
        return
    for start in range(0, count, size):
        yield _cut(batch, slice(start, start + size), count, is_field=False)


def _cut(value: Any, part: slice, count: int, *, is_field: bool = True) -> Any:
    if isinstance(value, (Tensor, np.ndarray)):
        return value[part] if value.ndim and value.shape[0] == count else value
    if isinstance(value, PackedSequence):
        raise TrainingError(
            "micro_batch_size must be None for a batch with a PackedSequence, which "
            "can't be cut into samples. Pack the sequences in the model."
        )
    if is_field and isinstance(value, (list, tuple)) and _is_listed(value, count):
        return value[part]
    if isinstance(value, (Mapping, list, tuple)):
        return _rebuild(value, lambda item: _cut(item, part, count))
    return value


def _is_listed(value: Sequence[Any], count: int) -> bool:
    """Say whether a field lists one item a sample, rather than fields of all."""
    if len(value) != count or hasattr(value, "_fields"):
        return False
    return not all(_holds_all(item, count) for item in value)


def _holds_all(value: Any, count: int) -> bool:
    """Say whether a value is or holds a tensor of all samples."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.ndim > 0 and value.shape[0] == count
    return any(_holds_all(item, count) for item in _items(value))


def _items(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else []


def _rebuild(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return a container of the same kind with a function applied to its items."""
    if isinstance(value, Mapping):
        made = {key: function(item) for key, item in value.items()}
        if type(value) is dict or not isinstance(value, MutableMapping):
            return made
        kept = copy.copy(value)
        for key, item in made.items():  # update is forbidden in some
            kept[key] = item
        return kept
    items = [function(item) for item in value]
    if hasattr(value, "_make"):
        return value._make(items)
    return tuple(items) if isinstance(value, tuple) else items


def _place(name: str, place: int | str, batch: Sequence[Any]) -> int:
    """Return a position from 0 on."""
    count = len(batch)
    fields = getattr(batch, "_fields", ())
    if place in fields:
        return int(fields.index(place))
    if isinstance(place, str) or not -count <= place < count:
        what = f"one of {', '.join(fields)}, or " if fields else ""
        raise TrainingError(
            f"{name} must be {what}a position in the batch, which is a list of {count};"
            f" got {place!r}."
        )
    return place % count


def _arguments(
    batch: Mapping[Any, Any], taken: tuple[Any, ...]
) -> tuple[list[Any], dict[str, Any]]:
    fields = {key: value for key, value in batch.items() if key not in taken}
    if len(fields) == 1:
        return list(fields.values()), {}
    return [], {str(key): value for key, value in fields.items()}
