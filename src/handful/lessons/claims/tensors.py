"""Experiments on what PyTorch does by itself: gradients, graphs, devices."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from handful.lessons.claims.claim import Bench
from handful.lessons.claims.models import count_kept
from handful.lessons.digits_3_vs_7 import update_as_printed
from handful.reference import one_weight, one_weight_torch


def gradients(bench: Bench) -> dict[str, Any]:
    """Compare a step by the formula in NumPy with one by autograd.

    Returns:
        ``difference``: the largest relative one of the weights of 20 features;
        ``numpy`` and ``torch``: seconds of 200 steps on 1,000 samples, a round each;
        ``kept``: bytes that autograd keeps for a step beyond the data.
    """
    generator = np.random.default_rng(bench.seed)
    x, weight = generator.normal(size=(1000, 20)), generator.normal(size=(20, 1))
    y = generator.normal(size=(1000, 1))
    ours, _ = one_weight.gradient_step(x, y, weight, 0.1)
    theirs, _ = one_weight_torch.gradient_step(x, y, weight, 0.1)
    found: dict[str, Any] = {"numpy": [], "torch": []}
    for _ in range(2 if bench.quick else 5):
        for name, module in (("numpy", one_weight), ("torch", one_weight_torch)):
            start = time.perf_counter()
            for _ in range(200):
                module.gradient_step(x, y, weight, 0.1)
            found[name].append(time.perf_counter() - start)
    inputs = torch.as_tensor(x)
    start_weight = torch.as_tensor(weight).requires_grad_()
    kept = count_kept(
        lambda: ((inputs @ start_weight - torch.as_tensor(y)) ** 2).mean(),
        leave_out=(inputs, start_weight),
    )
    return {
        **found,
        "difference": float(np.abs(np.asarray(theirs) / ours - 1).max()),
        "kept": kept,
    }


def dynamic(bench: Bench) -> dict[str, Any]:
    """Differentiate a loop whose length the data decide.

    Returns:
        ``gradient`` of 2 doubled until it is above 100, by autograd; ``expected``, 2 to
        the power of the rounds; ``large``: the same from 0.1.
    """
    del bench
    found = []
    for start in (2.0, 0.1):
        value = start_value = torch.tensor(start, requires_grad=True)
        rounds = 0
        while value < 100:
            value, rounds = value * 2, rounds + 1
        value.backward()  # type: ignore[no-untyped-call]
        assert start_value.grad is not None
        found.append((start_value.grad.item(), 2.0**rounds))
    return {"pairs": found}


def accumulate(bench: Bench) -> dict[str, Any]:
    """Call backward twice without setting gradients to zero; return the ``ratio``."""
    del bench
    weight = torch.tensor(3.0, requires_grad=True)
    (weight**2).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    once = weight.grad.item()
    (weight**2).backward()  # type: ignore[no-untyped-call]
    return {"ratio": weight.grad.item() / once}


def printed_update(bench: Bench) -> dict[str, Any]:
    """Take the step of the notes' loop as printed; return its ``error``."""
    x, y = torch.rand(4, 16), torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    return {"error": update_as_printed(x, y, bench.seed)}


def by_hand(bench: Bench) -> dict[str, Any]:
    """Train the linear model of "Training" for ten epochs.

    Returns:
        ``falls``: seeds in which the loss falls in each of its epochs; ``seeds``.
    """
    falls = 0
    for seed in bench.seeds:
        torch.manual_seed(seed)
        x = torch.rand(20, 5)
        y = x @ torch.tensor([0.3, 4.0, 0.2, 2.5, 18.0]) + 17.0
        model, losses = nn.Linear(5, 1), []
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(10):
            loss = nn.functional.mse_loss(model(x).squeeze(), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        falls += bool((np.diff(losses) < 0).all())
    return {"falls": falls, "seeds": len(bench.seeds)}


def script(bench: Bench) -> dict[str, Any]:
    """Compile a model by TorchScript; return the ``warning`` that it answers with."""
    del bench
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.jit.script(nn.Linear(2, 1))
    texts = [str(one.message).split("\n")[0] for one in caught]
    deprecated = [text for text in texts if "deprecated" in text]
    return {"warning": deprecated[0] if deprecated else None}


def device(bench: Bench) -> dict[str, Any]:
    """Say what ``device`` there is to measure on."""
    del bench
    return {"device": "needs a GPU; these figures are of a CPU"}
