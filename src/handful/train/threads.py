"""Threads: how many to compute with, measured once on a copy of the model.

On a small model a second thread costs more than it brings, above all when other
programs want the processor as well: each operation waits for the slower thread.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from handful.errors import ArgumentError
from handful.train.batches import split_batch
from handful.train.generators import all_generators_preserved
from handful.train.losses import Loss

BUDGET_SECONDS = 0.05
"""About how long a measurement may take, the first steps aside."""

CLEAR, CLEAR_ROUNDS = 1.5, 5
"""A measurement ends early when it has so many rounds and medians so far apart."""

WORTHWHILE = 0.85
"""More threads are taken if they need at most this share of one thread's time."""


def check_threads(value: object, *, name: str = "num_threads") -> int | str | None:
    """Return a number of threads, ``"auto"``, or None for torch's own setting.

    Raises:
        ArgumentError: The value is something else.
    """
    if value is None or value == "auto":
        return "auto" if value == "auto" else None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ArgumentError(
        f"{name} must be 'auto', None or a whole number from 1 on; got {value!r}."
    )


@contextmanager
def restored_threads() -> Iterator[None]:
    """Put torch's number of threads back on leaving."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_threads(model: nn.Module, loss: Loss, batch: Any) -> int:
    """Return how many threads make a step on the CPU fastest: one, or torch's number.

    Forward and backward run on a copy of the model; the model, its gradients and the
    generators are left as they are.

    Args:
        model: The model, on the CPU.
        loss: A callable of (output, target) that returns the mean loss.
        batch: A batch of inputs and a target, on the CPU.

    Returns:
        1, or the number of threads that torch has now; the latter also where the model
        has hooks, can't be copied, or fails.
    """
    most = torch.get_num_threads()
    if most == 1:
        return 1
    tensors = list(batch) if isinstance(batch, (list, tuple)) else []
    if _has_hooks(model) or not all(isinstance(value, Tensor) for value in tensors):
        return most
    try:
        twin, twin_loss = copy.deepcopy(model).train(), copy.deepcopy(loss)

        def step() -> None:
            # Cloned, since a model may write into what it is given.
            inputs, target = split_batch([value.clone() for value in tensors])
            torch.autograd.backward(twin_loss(twin(*inputs), target))

        with all_generators_preserved(), restored_threads():
            seconds = _time_by_turns(step, [1, most])
    except Exception:  # The first real step says what is wrong, and better.
        return most
    return most if seconds[most] <= WORTHWHILE * seconds[1] else 1


def _has_hooks(model: nn.Module) -> bool:
    """Say whether calling a copy of the model would call functions of the user's."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return any(getattr(m, name, None) for m in model.modules() for name in names)


def _time_by_turns(step: Callable[[], None], counts: list[int]) -> dict[int, float]:
    """Return the median seconds of a step with each number of threads, in turn."""
    times: dict[int, list[float]] = {count: [] for count in counts}
    deadline = time.perf_counter() + BUDGET_SECONDS
    while True:
        for count in counts:
            torch.set_num_threads(count)
            step()  # not counted: it wakes threads, and at first allocates memory
            started = time.perf_counter()
            step()
            times[count].append(time.perf_counter() - started)
        medians = {count: sorted(t)[len(t) // 2] for count, t in times.items()}
        is_clear = max(medians.values()) > CLEAR * min(medians.values())
        enough = len(times[counts[0]]) >= CLEAR_ROUNDS and is_clear
        if enough or time.perf_counter() > deadline:
            return medians
