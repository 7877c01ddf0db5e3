"""The global random generators: seeded for a run, saved with it, left as they were."""

from __future__ import annotations

import base64
import ctypes
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handful.data.order import mix_seed

_NUMPY_BYTES = 4 * 625
"""Size of the state of a Mersenne twister: 624 words and the position."""

_MOST_BYTES = 2**20
"""More than any generator's state has."""


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
    """States of torch's, NumPy's and Python's global generators, as they give them.

    Attributes:
        torch: The state of torch's generator on the CPU.
        cuda: Those on its accelerators, where they are in use.
        numpy: NumPy's.
        python: Python's.
        own: Those of further generators, such as a loader's own.
    """

    torch: Tensor
    cuda: list[Tensor]
    numpy: Any
    python: Any
    own: list[Tensor] = field(default_factory=list)


def capture_generators(own: Sequence[torch.Generator] = ()) -> GeneratorStates:
    """Return the states of the global generators, for `pack_generators`.

    Args:
        own: Further generators to take in.
    """
    return GeneratorStates(
        torch=torch.get_rng_state(),
        cuda=_cuda_states(),
        numpy=_numpy_state(),
        python=random.getstate(),
        own=[generator.get_state() for generator in own],
    )


def pack_generators(states: GeneratorStates) -> dict[str, Any]:
    """Return states of generators as plain values, for JSON."""
    version, words, gauss = states.python
    name, keys, position, has_gauss, cached = states.numpy
    own = [_pack(state.numpy().tobytes()) for state in states.own]
    return {
        **({"own": own} if own else {}),
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


def pack_within(value: Any) -> Any:
    """Return mappings with the `GeneratorStates` in them packed, at any depth."""
    if isinstance(value, GeneratorStates):
        return pack_generators(value)
    if isinstance(value, Mapping):
        return {key: pack_within(item) for key, item in value.items()}
    return value


def put_back_generators(states: GeneratorStates) -> None:
    """Put the global generators back to what `capture_generators` returned."""
    torch.set_rng_state(states.torch)
    if states.cuda:
        torch.cuda.set_rng_state_all(states.cuda)
    np.random.set_state(states.numpy)
    random.setstate(states.python)


def restore_generators(
    state: dict[str, Any], own: Sequence[torch.Generator] = ()
) -> None:
    """Put the global generators back to what `pack_generators` was given.

    Args:
        state: What it returned.
        own: The further generators that were captured, in the same order.

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
    restore_own_generators(state, own)


def restore_own_generators(
    state: dict[str, Any], own: Sequence[torch.Generator]
) -> None:
    """Put further generators alone back to what `pack_generators` was given.

    Args:
        state: What it returned.
        own: The generators, in the order in which they were captured; those that the
            state knows nothing of stay as they are.
    """
    for generator, packed in zip(own, state.get("own", ()), strict=False):
        generator.set_state(_tensor(packed))


_numpy_seen: dict[bytes, Any] = {}
"""The last state of NumPy's generator, by its memory; see `_numpy_state`."""


def _numpy_state() -> Any:
    """Return the state of NumPy's global generator, at once if it has not moved.

    NumPy takes 50 microseconds to put it into an array, and few trainings draw from
    it. Its memory, words and position, tells whether it has moved, but for the second
    of a pair of normal numbers: while that one waits, nothing is remembered.
    """
    source: Any = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if not isinstance(source, np.random.MT19937):
        return _read_numpy()
    memory = ctypes.string_at(source.ctypes.state_address, _NUMPY_BYTES)
    state = _numpy_seen.get(memory)
    if state is None:
        state = _read_numpy()
        _numpy_seen.clear()
        if not state[3]:  # has_gauss
            _numpy_seen[memory] = state
    return state


def _read_numpy() -> Any:
    return np.random.get_state(legacy=True)


def _cuda_states() -> list[Tensor]:
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.get_rng_state_all()
    return []


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(_unpack(text)), dtype=torch.uint8)


def _pack(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def _unpack(text: str) -> bytes:
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(base64.b64decode(text), _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"the state of a generator is damaged ({error})") from None
    if not inflate.eof:
        raise ValueError("the state of a generator is cut short, or too long")
    return content
