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
from torch import nn

from handful.errors import ArgumentError
from handful.train.batches import split_batch
from handful.train.generators import preserved_generators
from handful.train.losses import Loss

BUDGET_SECONDS = 0.05
"""About how long a measurement may take, the first steps aside."""

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
        can't be copied or fails.
    """
    most = torch.get_num_threads()
    if most == 1:
        return 1
    inputs, target = split_batch(batch)
    try:
        twin = copy.deepcopy(model).train()
        with preserved_generators(), restored_threads():
            seconds = _time_by_turns(
                lambda: torch.autograd.backward(loss(twin(*inputs), target)), [1, most]
            )
    except Exception:  # The first real step says what is wrong, and better.
        return most
    return most if seconds[most] <= WORTHWHILE * seconds[1] else 1


def _time_by_turns(step: Callable[[], None], counts: list[int]) -> dict[int, float]:
    """Return the median seconds of a step with each number of threads."""
    times: dict[int, list[float]] = {count: [] for count in counts}
    deadline = time.perf_counter() + BUDGET_SECONDS
    for count in counts:  # not counted: the first steps allocate memory
        torch.set_num_threads(count)
        step()
    while len(times[counts[-1]]) < 3 or time.perf_counter() < deadline:
        for count in counts:
            torch.set_num_threads(count)
            step()
            started = time.perf_counter()
            step()
            times[count].append(time.perf_counter() - started)
    return {count: sorted(t)[len(t) // 2] for count, t in times.items()}
