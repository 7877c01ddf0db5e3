"""Whether a replay does what the step does: both are done, and their bits compared."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handful.train.program import Program
from handful.train.replay import Replay

TIMED_RUNS, LEAST_RUNS, TIMED_SECONDS = 5, 2, 0.02
"""A replay is timed so often, while no more than this is used up; twice in any case,
since the first one finds memory that was never written."""


class State:
    """What a step changes beside gradients: buffers and torch's generator.

    Args:
        buffers: The buffers that it writes into.
    """

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self._buffers = buffers
        self._saved = [buffer.clone() for buffer in buffers]
        self._generator = torch.get_rng_state()

    def now(self) -> list[Tensor]:
        """Return it as it is."""
        return [*self._buffers, torch.get_rng_state()]

    def put_back(self) -> None:
        """Make it what it was."""
        torch.set_rng_state(self._generator)
        with torch.no_grad():
            for buffer, saved in zip(self._buffers, self._saved, strict=True):
                buffer.copy_(saved)


@dataclass(frozen=True)
class Trial:
    """What a replay gave.

    Attributes:
        digests: Of the results, and of the state after it.
        seconds: The least time that it took.
    """

    digests: list[Any]
    seconds: float


def try_replay(replay: Replay, inputs: Sequence[Tensor], state: State) -> Trial:
    """Run a replay without effect on the state.

    Args:
        replay: The replay; its results lose their numbers.
        inputs: What to run it on.
        state: What it changes, as it is now.

    Returns:
        What it gave.
    """
    least, deadline = float("inf"), time.perf_counter() + TIMED_SECONDS
    try:
        for count in range(1, TIMED_RUNS + 1):
            started = time.perf_counter()
            results = replay.run(inputs)
            now = time.perf_counter()
            least = min(least, now - started)
            if count == TIMED_RUNS or (count >= LEAST_RUNS and now > deadline):
                break
            state.put_back()
        return Trial([digest(value) for value in [*results, *state.now()]], least)
    finally:
        state.put_back()
        replay.release()


def find_written(program: Program, buffers: Sequence[Tensor]) -> list[Tensor] | None:
    """Return the buffers that a program writes into; None if it writes elsewhere too.

    Args:
        program: What was recorded.
        buffers: The model's buffers.
    """
    whole = {buffer.data_ptr(): buffer for buffer in find_own(buffers)}
    found: dict[int, Tensor] = {}
    for operation in program.operations:
        for index in operation.written:
            memory = program.memories[index]
            if memory.kind == "made":
                continue
            where = memory.tensor.data_ptr() if memory.tensor is not None else 0
            if memory.kind == "input" or where not in whole:
                return None
            found[where] = whole[where]
    return list(found.values())


def find_own(buffers: Iterable[Tensor]) -> list[Tensor]:
    """Return the buffers that share their memory with no other tensor of a model."""
    return [buffer for buffer in buffers if _fills_memory(buffer)]


def digest(value: Any) -> Any:
    """Return what tells a tensor's bits and layout from any other's.

    Args:
        value: A tensor on the CPU, or what is none, which is returned as it is.
    """
    if not isinstance(value, Tensor):
        return value
    # Memory that NumPy has seen could not be given back: what it sees is a copy.
    if value.layout != torch.strided:
        return id(value)
    flat = value.detach().flatten().clone().view(torch.uint8)
    bits = hashlib.blake2b(flat.numpy().data).digest()
    return value.dtype, tuple(value.shape), bits


def _fills_memory(tensor: Tensor) -> bool:
    """Say whether a tensor's memory is all its own."""
    if tensor.layout != torch.strided or not tensor.numel():
        return False
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
