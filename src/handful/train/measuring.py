"""What makes a step fastest on this machine, measured once on a copy of the model.

On a small model a second thread costs more than it brings, above all when other
programs want the processor as well: each operation waits for the slower thread.
Convolutions may be faster with their channels last in memory.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from handful.train.batch_kinds import flatten_batch
from handful.train.batches import count_samples, map_tensors, split_samples
from handful.train.captured import FAILURES
from handful.train.generators import all_generators_preserved
from handful.train.kernel_calls import Ways
from handful.train.memory_format import MEMORY_FORMATS, lay_out, takes_images
from handful.train.model_guard import has_hooks, why_not_recordable
from handful.train.native import NativeReplay, PlayerError
from handful.train.player_library import load_library
from handful.train.recorded_step import run_step
from handful.train.recording import can_record, record
from handful.train.replay import Replay
from handful.train.step import CriterionStep, Step
from handful.train.summary import has_lazy_layers
from handful.train.threads import restored_threads

BUDGET_SECONDS = 0.05
"""About how long a measurement may take, unless it has fewer than `LEAST_ROUNDS`."""

LEAST_ROUNDS, MOST_SECONDS = 3, 0.5
"""Each candidate is timed so often, so that a moment's other work decides nothing,
while that takes no more than so long; once in any case."""

PROBED_SAMPLES = 4
"""Samples of a first look at how long a step takes."""

SLOW_SECONDS, PART_SECONDS = 0.03, 0.01
"""Of a step that takes longer, a part of the batch is measured that takes so long."""

SHORT_SECONDS = 0.001
"""Runs that are shorter are timed several in a row, as a training does them: a thread
that has been waiting is slow to begin."""

WORTHWHILE = 0.85
"""A candidate is taken if it needs at most this share of the first one's time."""

TINY = 1_000_000
"""Up to so many parameters times numbers of a batch a second thread can't help: the
arithmetic takes some microseconds, and waking a thread takes as long."""

CLEAR = ((2, 0.33, 3.0), (5, 0.7, 0.95))
"""A measurement ends early after so many rounds with a share below, or all above."""

T = TypeVar("T")


@dataclass(frozen=True)
class Fastest:
    """What a step is to run with.

    Attributes:
        threads: Threads of torch.
        memory_format: A name of `MEMORY_FORMATS`.
    """

    threads: int
    memory_format: str


def measure_fastest(
    model: nn.Module,
    step: Step,
    batch: Any,
    *,
    threads: bool,
    memory_format: bool,
    replays: bool = False,
) -> Fastest:
    """Measure what makes a step on the CPU fastest: one thread or all, which format.

    Forward and backward run on a copy of the model; the model, its gradients and the
    generators are left as they are. A step of the user's is called some times more.

    Args:
        model: The model, on the CPU.
        step: Computes a batch's loss.
        batch: A batch, on the CPU.
        threads: Whether the number of threads is open; else torch's is kept.
        memory_format: Whether the format is open; else it is ``contiguous``.
        replays: Whether steps are going to be replayed where that can be: then such
            replays are timed, in which arithmetic has a larger share.

    Returns:
        The fastest; one thread, unmeasured, for what is `TINY`; what torch has now
        where the model has hooks, is compiled, is lazy, can't be copied, or fails.
    """
    most = torch.get_num_threads()
    plain = Fastest(most, MEMORY_FORMATS[0])
    open_threads = threads and most > 1
    open_format = memory_format and takes_images(model, batch)
    is_open = open_threads or open_format
    if not is_open or has_hooks(model) or has_lazy_layers(model):
        return plain
    try:
        with all_generators_preserved(), restored_threads(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the real step gives them again
            is_tiny = open_threads and _is_tiny(model, batch)
            if is_tiny and not open_format:
                return Fastest(1, MEMORY_FORMATS[0])
            batch, is_slow = _take_part(model, step, batch)
            replays = replays and not is_slow
            runs = {
                name: _make_run(model, step, batch, name, replays=replays)
                for name in (MEMORY_FORMATS if open_format else MEMORY_FORMATS[:1])
            }
            first = runs[MEMORY_FORMATS[0]]
            chosen = 1 if is_tiny else most
            if open_threads and not is_tiny:

                def run_with(threads: int) -> None:
                    torch.set_num_threads(threads)
                    first()

                chosen = _pick([1, most], run_with)
            torch.set_num_threads(chosen)
            name = _pick(list(runs), lambda name: runs[name]())
    except Exception:  # The first real step says what is wrong, and better.
        return plain
    return Fastest(chosen, name)


def _take_part(model: nn.Module, step: Step, batch: Any) -> tuple[Any, bool]:
    """Return as much of a batch as need be measured, and whether its step is slow.

    A slow step's arithmetic is large enough in a part of the batch as well, and what
    else a step costs decides nothing.
    """
    count = count_samples(batch)
    if count <= PROBED_SAMPLES or not isinstance(step, CriterionStep):
        return batch, False
    try:
        run = _make_run(model, step, _cut(batch, PROBED_SAMPLES), MEMORY_FORMATS[0])
        run()
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
    except Exception:  # The model takes no batches of that size.
        return batch, False
    if seconds * count / PROBED_SAMPLES < SLOW_SECONDS:
        return batch, False
    needed = math.ceil(PART_SECONDS / seconds * PROBED_SAMPLES)
    return _cut(batch, min(max(needed, PROBED_SAMPLES), count)), True


def _cut(batch: Any, size: int) -> Any:
    return next(split_samples(batch, size))


def _make_run(
    model: nn.Module,
    step: Step,
    batch: Any,
    memory_format: str,
    *,
    replays: bool = False,
) -> Callable[[], object]:
    """Return a function that goes forward and backward once, on copies."""
    twin, twin_step = copy.deepcopy(model).train(), copy.deepcopy(step)
    lay_out(twin, memory_format)
    if isinstance(twin_step, CriterionStep):
        twin_step.memory_format = memory_format
        if replays:
            replay = _make_replay(twin, twin_step, copy.deepcopy(batch))
            if replay is not None:
                return replay

    def run() -> None:
        # Copied, since a model may write into what it is given.
        made = twin_step.mean(twin, copy.deepcopy(batch))
        torch.autograd.backward(made.loss)

    return run


def _make_replay(
    model: nn.Module, step: CriterionStep, batch: Any
) -> Callable[[], object] | None:
    """Return a replay of forward and backward, None where there can't be one."""
    inputs, key = flatten_batch(batch)
    params = [param for param in model.parameters() if param.requires_grad]
    if key is None or not can_record() or why_not_recordable(model) is not None:
        return None

    fixed = [*model.parameters(), *model.buffers()]
    try:
        _, program = record(
            lambda: run_step(model, step, params, [batch], is_shown=False),
            inputs,
            fixed,
            Ways(),
        )
        if isinstance(program, str):
            return None
        replay = Replay(program) if load_library() is None else NativeReplay(program)
        replay.run(inputs)
    except (PlayerError, *FAILURES):
        return None
    return lambda: replay.run(inputs)


def _is_tiny(model: nn.Module, batch: Any) -> bool:
    """Say whether there is too little to compute for a second thread."""
    numbers = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal numbers
        numbers += tensor.numel()
        return tensor

    map_tensors(count, batch)
    return numbers * sum(p.numel() for p in model.parameters()) <= TINY


def _pick(candidates: Sequence[T], run: Callable[[T], Any]) -> T:
    """Return the fastest candidate; the first unless another is worth it."""
    if len(candidates) == 1:
        return candidates[0]
    shares = _time_by_turns(candidates, run)
    best = min(range(len(candidates)), key=shares.__getitem__)
    return candidates[best if shares[best] <= WORTHWHILE else 0]


def _time_by_turns(candidates: Sequence[T], run: Callable[[T], Any]) -> list[float]:
    """Return each candidate's median time as a share of the first's, timed in turn."""
    times: list[list[float]] = [[] for _ in candidates]
    began = time.perf_counter()
    while True:
        for candidate, kept in zip(candidates, times, strict=True):
            run(candidate)  # not counted: it wakes threads, and at first allocates
            kept.append(_time(run, candidate))
            if all(times) and _is_over(times, began):
                break
        medians = [sorted(kept)[len(kept) // 2] for kept in times]
        shares = [median / medians[0] for median in medians]
        rounds, least = len(times[0]), min(shares[1:])
        is_clear = any(rounds >= n and not a <= least <= b for n, a, b in CLEAR)
        if is_clear or _is_over(times, began):
            return shares


def _time(run: Callable[[T], Any], candidate: T) -> float:
    """Return the seconds of a run, of several in a row where they are short."""
    started, count = time.perf_counter(), 0
    while True:
        run(candidate)
        count += 1
        seconds = time.perf_counter() - started
        if seconds >= SHORT_SECONDS:
            return seconds / count


def _is_over(times: Sequence[Sequence[float]], began: float) -> bool:
    """Say whether candidates were timed often, or long, enough."""
    seconds = time.perf_counter() - began
    has_enough = len(times[-1]) >= LEAST_ROUNDS
    return seconds > (BUDGET_SECONDS if has_enough else MOST_SECONDS)
