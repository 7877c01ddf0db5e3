"""The global random generators: seeded for a run, saved with it, left as they were."""

from __future__ import annotations

import base64
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handful.data.order import mix_seed


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Put torch's global generators back on leaving."""
    before, on_cuda = torch.get_rng_state(), _cuda_states()
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if on_cuda:
            torch.cuda.set_rng_state_all(on_cuda)


@contextmanager
def all_generators_preserved() -> Iterator[None]:
    """Put torch's, NumPy's and Python's global generators back on leaving."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with preserved_generators():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def seeded_generators(seed: int, purpose: str) -> Iterator[None]:
    """Seed torch's global generators for a while, then put them back.

    Args:
        seed: Seed of the run.
        purpose: What for, so that weights, masks and orders don't share numbers.
    """
    with preserved_generators():
        torch.manual_seed(mix_seed(seed, purpose))
        yield


@dataclass(frozen=True)
class GeneratorStates:
    """States of torch's, NumPy's and Python's global generators, as they give them."""

    torch: Tensor
    cuda: list[Tensor]
    numpy: Any
    python: Any


def capture_generators() -> GeneratorStates:
    """Return the states of the global generators, for `pack_generators`."""
    return GeneratorStates(
        torch=torch.get_rng_state(),
        cuda=_cuda_states(),
        numpy=np.random.get_state(legacy=True),
        python=random.getstate(),
    )


def pack_generators(states: GeneratorStates) -> dict[str, Any]:
    """Return states of generators as plain values, for JSON."""
    version, words, gauss = states.python
    name, keys, position, has_gauss, cached = states.numpy
    return {
        "torch": _pack(states.torch.numpy().tobytes()),
        "cuda": [_pack(state.numpy().tobytes()) for state in states.cuda],
        "python": {
            "version": version,
            "words": _pack(np.array(words, "<u8").tobytes()),
            "gauss": gauss,
        },
        "numpy": {
            "name": str(name),
            "keys": _pack(np.asarray(keys, "<u4").tobytes()),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(cached),
        },
    }


def restore_generators(state: dict[str, Any]) -> None:
    """Put the global generators back to what `pack_generators` was given.

    Raises:
        KeyError, ValueError, TypeError: The state is damaged.
    """
    torch.set_rng_state(_tensor(state["torch"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([_tensor(item) for item in state["cuda"]])
    python = state["python"]
    words = tuple(int(w) for w in np.frombuffer(_unpack(python["words"]), "<u8"))
    random.setstate((python["version"], words, python["gauss"]))
    numpy = state["numpy"]
    keys = np.frombuffer(_unpack(numpy["keys"]), "<u4")
    np.random.set_state(
        (numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["gauss"])
    )


def _cuda_states() -> list[Tensor]:
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.get_rng_state_all()
    return []


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(_unpack(text)), dtype=torch.uint8)


def _pack(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def _unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
