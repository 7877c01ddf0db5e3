"""A loader's state: what it holds, and whether it fits the loader that it is given to.

A state is made of plain values, for JSON, but for what the user's own objects return::

    format          "handful.DataLoader"
    version         1
    epoch           the pass that goes on, or the next one
    delivered       batches of it that were handed out
    order           what orders it: "sequential", "seed", "drawn" or "own"
    seed            the seed of the order, where one orders it
    fingerprint     of the seeded orders, so that a change of theirs is noticed
    draws           what PyTorch's generators gave for it; see `Draws`
    dataset         number of samples, and a fingerprint of the data
    batch_size      samples a batch
    drop_last       whether a smaller last batch is left out
    shard           rank and world size, or None
    user            state of the user's own data set, sampler and workers
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from handful.data.sources import Source
from handful.errors import ArgumentError, DataError

STATE_FORMAT = "handful.DataLoader"
STATE_VERSION = 1

FINGERPRINT_SAMPLES = 64
"""How many samples a fingerprint reads."""


def fingerprint_source(source: Source) -> str:
    """Return a hash of what can be told of a data set at a small, constant cost.

    It covers the number of samples, each column's shape and dtype, and the bits of up
    to `FINGERPRINT_SAMPLES` samples at evenly spaced positions, first and last among
    them. A change of other samples goes unnoticed.
    """
    digest = hashlib.sha256(str(source.num_samples).encode())
    count = min(FINGERPRINT_SAMPLES, source.num_samples)
    places = torch.linspace(0, source.num_samples - 1, count, dtype=torch.float64)
    indices = places.round().to(torch.int64)
    for column in source.columns:
        shape = (count, *column.sample_shape)
        digest.update(f"{column.sample_shape}{column.dtype}".encode())
        values = torch.empty(shape, dtype=column.dtype, device=column.device)
        if values.numel():
            column.gather(indices.to(column.device), values)
            digest.update(values.cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_state(state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that a state is one of handful's, and of a loader like this one.

    Args:
        state: What is to be loaded.
        expected: What this loader has for the keys that must be the same.

    Raises:
        ArgumentError: It is of another kind, a newer version, or another setting.
        DataError: It is of other data.
    """
    if not isinstance(state, Mapping) or state.get("format") != STATE_FORMAT:
        raise ArgumentError(
            "state must be what state_dict() of a handful.DataLoader returned; got "
            f"{_describe(state)}."
        )
    version = state.get("version")
    if not isinstance(version, int) or version > STATE_VERSION:
        raise ArgumentError(
            f"state must be of version {STATE_VERSION} or before; got {version!r}. "
            "Install a newer handful."
        )
    for key, value in expected.items():
        if key not in state:
            raise ArgumentError(f"state must have the key {key!r}; it is missing.")
        if state[key] == value:
            continue
        if key == "dataset":
            raise DataError(
                f"the data set is another one: the state is of {state[key]}, this "
                f"loader's is {value}. Load the state into a loader of the same data."
            )
        raise ArgumentError(
            f"state must be of a loader with the same {key}; got {state[key]!r} in the "
            f"state and {value!r} here."
        )


def _describe(state: object) -> str:
    if isinstance(state, Mapping):
        return f"a mapping with the keys {sorted(map(str, state))[:6]}"
    return type(state).__name__
