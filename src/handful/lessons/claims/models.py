"""Experiments on the models and data of the tutorials."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from handful.lessons import shuffling
from handful.lessons.claims.claim import Bench
from handful.lessons.generalisation import (
    CASES,
    DIGITS,
    Split,
    judge_sizes,
    make_model,
    measure_epochs,
    measure_target,
    split_case,
)
from handful.lessons.lesson import LessonOptions
from handful.lessons.regimes import Regime, measure_regime, train_adam, train_tuned
from handful.lessons.schedules import run as run_schedules

SIZES = (1, 8, 32, 128)


def noise(bench: Bench) -> dict[str, Any]:
    """Measure the noise of gradients of a fresh model on 179 digits.

    Returns:
        By batch size the standard deviation of a batch's gradient over the norm of the
        mean gradient, a value a seed; ``full`` for all samples.
    """
    draws = 20 if bench.quick else 100
    found: dict[str, Any] = {str(size): [] for size in (*SIZES, "full")}
    for seed in bench.seeds:
        data, model = split_case(DIGITS, seed), make_model(DIGITS, seed)
        mean = _find_gradient(model, data, torch.arange(len(data.train_x)))
        generator = torch.Generator().manual_seed(seed)
        for size in (*SIZES, "full"):
            width = len(data.train_x) if size == "full" else int(size)
            squares = [
                (_find_gradient(model, data, _draw(data, width, generator)) - mean)
                .square()
                .sum()
                .item()
                for _ in range(draws)
            ]
            found[str(size)].append(np.sqrt(np.mean(squares)) / mean.norm().item())
    return found


def _draw(data: Split, width: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(data.train_x), generator=generator)[:width]


def _find_gradient(model: nn.Module, data: Split, part: Tensor) -> Tensor:
    loss = functional.cross_entropy(model(data.train_x[part]), data.train_y[part])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


def regimes(bench: Bench) -> dict[str, Any]:
    """Train Wine's model in the three regimes; see the study ``regimes``.

    Returns:
        ``adam`` and ``sgd``: by regime what `measure_regime` returns.
    """
    options = LessonOptions(seed=bench.seed, quick=bench.quick)
    return {
        "adam": _by_name(train_adam(options)),
        "sgd": _by_name(train_tuned(options)),
    }


def _by_name(found: Sequence[Regime]) -> dict[str, Any]:
    return {one.name: measure_regime(one) for one in found}


def regularisation(bench: Bench) -> dict[str, Any]:
    """Compare losses of small and full batches; see the study ``generalisation``.

    Returns:
        By data set ``epochs`` and ``loss``: a sentence each; and ``differences`` of the
        validation losses at the same training loss, a value a seed.
    """
    found: dict[str, Any] = {}
    seeds = bench.seeds if bench.quick else range(bench.seed, bench.seed + 8)
    for case in CASES:
        own = case
        if bench.quick:
            own = type(case)(**{**vars(case), "target": 0.9, "epochs": 3})
        at_loss = measure_target(own, (1, "full"), list(seeds))
        at_epochs = measure_epochs(own, (1, "full"), list(seeds))
        found[case.name] = {
            "epochs": judge_sizes(at_epochs),
            "loss": judge_sizes(at_loss),
            "differences": np.subtract(
                at_loss["1"]["valid"], at_loss["full"]["valid"]
            ).tolist(),
            "full_losses": at_loss["full"]["valid"],
        }
    return found


def shuffle(bench: Bench) -> dict[str, Any]:
    """Train with orders that differ; see the study ``shuffling``.

    Returns:
        By data set and order the last validation losses, a value a seed.
    """
    seeds = bench.seeds if bench.quick else range(bench.seed, bench.seed + 8)
    found: dict[str, Any] = {}
    for name, recipe in shuffling.RECIPES.items():
        own = recipe.override(epochs=2) if bench.quick else recipe
        curves = shuffling.measure_orders(own, shuffling.ORDERS, list(seeds))
        found[name] = {
            order: [curve[-1] for curve in values["valid_loss"]]
            for order, values in curves.items()
        }
    return found


def wine_schedules(bench: Bench) -> dict[str, Any]:
    """Train Wine's model with each schedule; see the study ``schedules``."""
    options = LessonOptions(seed=bench.seed, quick=bench.quick)
    found: dict[str, Any] = run_schedules(options).numbers["wine"]
    return found


def epoch_times(bench: Bench) -> dict[str, Any]:
    """Time a step and an epoch of the digits' model on 1,617 images.

    Returns:
        By batch size, a value a round: ``step`` and ``epoch``, seconds.
    """
    x, y = torch.rand(1617, 64), torch.randint(10, (1617,))
    model = make_model(DIGITS, bench.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    rounds = 2 if bench.quick else 5
    found: dict[str, Any] = {}
    for size in (1, 32, 256, 1617):
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            for part in torch.split(torch.randperm(1617), size):
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(x[part]), y[part])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            times.append(time.perf_counter() - start)
        steps = -(-1617 // size)
        found[str(size)] = {"epoch": times, "step": [t / steps for t in times]}
    return found


def running_mean(bench: Bench) -> dict[str, Any]:
    """Compare an epoch's means of losses with the loss of the model after it.

    Returns:
        Of the second epoch on digits in batches of 32, a value a seed: ``batches``
        (mean over batches), ``samples`` (weighted by their sizes), ``after`` (all
        samples, with the weights after the epoch).
    """
    found: dict[str, Any] = {"batches": [], "samples": [], "after": []}
    for seed in bench.seeds:
        data, model = split_case(DIGITS, seed), make_model(DIGITS, seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(2):
            rows = []
            for part in torch.split(torch.randperm(len(data.train_x)), 32):
                optimizer.zero_grad()
                output = model(data.train_x[part])
                loss = functional.cross_entropy(output, data.train_y[part])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                rows.append((loss.item(), len(part)))
        losses, sizes = zip(*rows, strict=True)
        with torch.no_grad():
            after = functional.cross_entropy(model(data.train_x), data.train_y)
        found["batches"].append(float(np.mean(losses)))
        found["samples"].append(float(np.average(losses, weights=sizes)))
        found["after"].append(after.item())
    return found


def evaluation(bench: Bench) -> dict[str, Any]:
    """Look at what `eval`, `no_grad`, batch sizes and orders change in validation.

    Returns:
        ``plain`` and ``dropout``: largest change of an output between two calls in
        `train` mode; ``ordered``: change of the loss by another order; ``kept`` and
        ``kept_without``: bytes kept for the backward pass, with and without gradients;
        ``seconds`` and ``seconds_without``, a value a round.
    """
    torch.manual_seed(bench.seed)
    x, y = torch.rand(2048, 784), torch.randint(10, (2048,))
    plain = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    dropout = nn.Sequential(plain[0], plain[1], nn.Dropout(0.5), plain[2])
    order = torch.randperm(2048)
    with torch.no_grad():
        moved = functional.cross_entropy(plain(x[order]), y[order])
        loss = functional.cross_entropy(plain(x), y)
        changes = [(m(x) - m(x)).abs().max().item() for m in (plain, dropout)]
        kept_without = count_kept(lambda: plain(x))
    rounds = 3 if bench.quick else 20
    return {
        "plain": changes[0],
        "dropout": changes[1],
        "ordered": abs(moved.item() - loss.item()),
        "kept": count_kept(lambda: plain(x)),
        "kept_without": kept_without,
        "seconds": [_time(lambda: plain(x)) for _ in range(rounds)],
        "seconds_without": [
            _time(torch.no_grad()(lambda: plain(x))) for _ in range(rounds)
        ],
    }


def memory(bench: Bench) -> dict[str, Any]:
    """Count the bytes of a step of a perceptron 784-128-10, by batch and data size.

    Returns:
        ``batch``: batch size -> bytes of the batch and of what is kept for the backward
        pass; ``weights``: bytes of weights and gradients; ``data``: samples of the data
        set -> those bytes at a batch size of 32.
    """
    torch.manual_seed(bench.seed)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    weights = 2 * sum(p.numel() * p.element_size() for p in model.parameters())
    data = torch.zeros(8192, 784)
    return {
        "batch": {
            size: _step_bytes(model, data[torch.arange(size)])
            for size in (1, 32, 256, 2048, 8192)
        },
        "weights": weights,
        "data": {
            count: _step_bytes(model, data[:count][torch.arange(32)])
            for count in (512, 8192)
        },
    }


def _step_bytes(model: nn.Module, batch: Tensor) -> int:
    return batch.numel() * batch.element_size() + count_kept(
        lambda: model(batch), leave_out=(batch, *model.parameters())
    )


def count_kept(forward: Callable[[], Tensor], leave_out: Sequence[Tensor] = ()) -> int:
    """Count the bytes that a forward pass keeps for the backward pass.

    Args:
        forward: The pass.
        leave_out: Tensors not to count, such as parameters.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in leave_out}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    del output
    return sum(sizes.values())


def _time(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def deep(bench: Bench) -> dict[str, Any]:
    """Train the digits' model in batches of 32 and with all samples, equal epochs.

    Returns:
        ``32`` and ``full``: training losses after them, a value a seed.
    """
    epochs = 3 if bench.quick else 30
    case = type(DIGITS)(**{**vars(DIGITS), "held_out": 0.2, "epochs": epochs})
    found = measure_epochs(case, (32, "full"), bench.seeds[:3])
    return {
        "epochs": epochs,
        "32": found["32"]["train"],
        "full": found["full"]["train"],
    }
