"""Which batch size reaches a target loss soonest, by the number of samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from handful.datasets.images import load_mnist
from handful.datasets.tables import load_digits
from handful.errors import FormatError, MissingDataError
from handful.lessons.claims.claim import Bench
from handful.train.threads import restored_threads

SIZES = (1, 16, 32, 64, 128, 256, 512, 1024, 4096)
RATES = (0.001, 0.003, 0.01, 0.03)
"""Of Adam; each batch size takes the best of them."""

SAMPLES = (500, 2_000, 10_000, 100_000, 1_000_000)
MOST_FULL = 100_000
"""Data up to which all samples a step are tried."""

NUM_CLASSES, NUM_FEATURES, HIDDEN = 10, 20, 64
LIMIT_SECONDS = 1.0
"""Training after which a batch size has not reached the target."""

LEAST_LOOK = 256
"""Samples trained on between two looks at the loss, at least."""


@dataclass(frozen=True)
class Task:
    """Data to be fitted.

    Attributes:
        name: What the table calls them.
        features: Float32 ``(N, p)``.
        target: Int64 ``(N,)``.
        goal: Training loss to reach, in nats.
    """

    name: str
    features: Tensor
    target: Tensor
    goal: float


def make_synthetic(count: int, seed: int) -> Task:
    """Draw points about ten centres, all with deviation 1 in 20 directions.

    Args:
        count: Points.
        seed: Their seed; the centres are always the same.
    """
    fixed = torch.Generator().manual_seed(0)
    centres = torch.randn(NUM_CLASSES, NUM_FEATURES, generator=fixed)
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(NUM_CLASSES, (count,), generator=generator)
    noise = torch.randn(count, NUM_FEATURES, generator=generator)
    return Task(f"synthetic, {count:,}", centres[target] + noise, target, 0.1)


def _make_digits() -> Task:
    data = load_digits()
    features = torch.as_tensor(data.features) / 16
    return Task(
        f"digits, {len(features):,}", features, torch.as_tensor(data.target), 0.2
    )


def _make_mnist() -> Task:
    data = load_mnist()
    features = torch.as_tensor(data.train_images).flatten(1).float() / 255
    target = torch.as_tensor(data.train_labels).long()
    return Task(f"MNIST, {len(features):,}", features, target, 0.2)


def measure_sizes(bench: Bench) -> dict[str, Any]:
    """Time trainings to the target by number of samples and batch size.

    Returns:
        By task ``count``, ``goal`` and ``times``: batch size -> ``lr`` and ``seconds``
        of training alone, a value a seed; NaN where the limit came first.
    """
    found: dict[str, Any] = {}
    with restored_threads():
        torch.set_num_threads(1)
        for make in _list_tasks(bench):
            task = make()
            if task is not None:
                found[task.name] = _measure_task(task, bench)
    return found


def _list_tasks(bench: Bench) -> Iterator[Callable[[], Task | None]]:
    for count in SAMPLES[:1] if bench.quick else SAMPLES:
        yield partial(make_synthetic, count, bench.seed)
    yield _make_digits
    if not bench.quick:
        yield _try_mnist


def _try_mnist() -> Task | None:
    """Return MNIST, or None where it is neither here nor to be had."""
    try:
        return _make_mnist()
    except (MissingDataError, FormatError):
        return None


def _measure_task(task: Task, bench: Bench) -> dict[str, Any]:
    count = len(task.features)
    sizes = [size for size in SIZES if size < count]
    sizes += [count] if count <= MOST_FULL else []
    if bench.quick:
        sizes = [1, 32, count]
    times = {str(s): _measure_size(task, s, bench) for s in sizes}
    return {"count": count, "goal": task.goal, "times": times}


def _measure_size(task: Task, size: int, bench: Bench) -> dict[str, Any]:
    """Choose the rate with one seed, time it with three others."""
    limit = 0.05 if bench.quick else LIMIT_SECONDS
    rates = RATES[2:3] if bench.quick else RATES
    tried: list[float] = []
    for lr in rates:
        known = [3 * seconds for seconds in tried if not math.isnan(seconds)]
        shorter = min([limit, *known])
        tried.append(time_to_goal(task, size, lr, bench.seed + 999, shorter))
    best = min(tried, key=lambda seconds: (math.isnan(seconds), seconds))
    lr = rates[tried.index(best)] if not math.isnan(best) else rates[0]
    if math.isnan(best):
        return {"lr": lr, "seconds": [best]}
    seconds = [time_to_goal(task, size, lr, s, limit) for s in bench.seeds[:3]]
    return {"lr": lr, "seconds": seconds}


def time_to_goal(task: Task, size: int, lr: float, seed: int, limit: float) -> float:
    """Train with Adam until the loss of up to 1,000 samples is at the goal.

    Args:
        task: The data.
        size: Samples a step, 1 to N.
        lr: Rate.
        seed: Seed of the weights and the orders.
        limit: Seconds of training after which it ends without the goal.

    Returns:
        Seconds of training alone; NaN where the limit came first.
    """
    model = _make_model(task.features.shape[1], seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    looked = task.features[:1000], task.target[:1000]
    every = max(1, LEAST_LOOK // size)
    seconds = 0.0
    for done, part in enumerate(_draw_batches(len(task.features), size, seed), start=1):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(task.features[part]), task.target[part])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seconds += time.perf_counter() - start
        if done % every == 0:
            with torch.no_grad():
                if functional.cross_entropy(model(looked[0]), looked[1]) <= task.goal:
                    return seconds
        if seconds > limit:
            break
    return math.nan


def _make_model(num_features: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(num_features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, NUM_CLASSES)
        )


def _draw_batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from torch.split(order, size)
