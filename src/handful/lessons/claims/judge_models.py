"""What the experiments on models mean for claims."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from handful.lessons.claims.claim import Finding, Judge, decide, spread
from handful.lessons.regimes import ALL, FEW, SINGLE
from handful.lessons.shuffling import ANEW, ONCE, SIGNIFICANT, SORTED, sign_test

Found = Mapping[str, Any]
NAMES = (SINGLE, FEW, ALL)


def noise_falls(found: Found) -> Finding:
    """Compare the noise of gradients with 1 / sqrt(batch size)."""
    figures = "deviation of a batch's gradient over its mean's norm: " + ", ".join(
        f"{spread(values)} with {size}" for size, values in found.items()
    )
    means = [float(np.median(values)) for values in found.values()]
    return decide(means == sorted(means, reverse=True), figures)


def _told(found: Found, optimizer: str, key: str) -> str:
    return ", ".join(
        f"{spread(found[optimizer][name][key])} with {name}" for name in NAMES
    )


def _median(found: Found, optimizer: str, key: str) -> list[float]:
    return [
        float(np.median(found[optimizer][name][key] or [math.nan])) for name in NAMES
    ]


def full_is_slow(found: Found) -> Finding:
    """Compare losses after the same epochs, with one rate and with own rates."""
    figures = (
        "Wine, validation loss after the same epochs, Adam 0.001 for all: "
        f"{_told(found, 'adam', 'valid_loss')}; plain descent, a rate each: "
        f"{_told(found, 'sgd', 'valid_loss')}"
    )
    losses = _median(found, "adam", "valid_loss")
    when = "all have one rate and epochs are counted, not seconds"
    return decide(losses[2] > max(losses[:2]), figures, when=when)


def few_balance(found: Found) -> Finding:
    """Say whether mini-batches lie between in noise and in steps."""
    noises = _median(found, "adam", "noise")
    steps = [found["adam"][name]["steps"] for name in NAMES]
    figures = (
        f"noise of a step's gradient {_told(found, 'adam', 'noise')}; steps {steps}"
    )
    return decide(noises[0] > noises[1] > noises[2], figures)


def all_end_alike(found: Found) -> Finding:
    """Compare validation accuracies at own rates and at one rate."""
    sgd, adam = _median(found, "sgd", "accuracy"), _median(found, "adam", "accuracy")
    figures = (
        f"Wine, validation accuracy, a rate each: {_told(found, 'sgd', 'accuracy')}; "
        f"Adam 0.001 for all: {_told(found, 'adam', 'accuracy')}"
    )
    is_always = np.ptp(adam) < 0.03
    when = "" if is_always else "each has a rate of its own, or steps enough"
    return decide(bool(np.ptp(sgd) < 0.03), figures, when=when)


def noise_regularises(found: Found) -> Finding:
    """Test the difference of validation losses at the same training loss."""
    helps = all(_is_lower(one["differences"]) for one in found.values())
    figures = "; ".join(
        f"{name}, single less all, at the same training loss: "
        f"{spread(one['differences'])}, lower in "
        f"{sum(d < 0 for d in one['differences'])} of {len(one['differences'])} seeds"
        for name, one in found.items()
    )
    return decide(helps, f"validation loss on few samples: {figures}")


def _is_lower(differences: list[float]) -> bool:
    lower = sum(d < 0 for d in differences)
    higher = sum(d > 0 for d in differences)
    return lower > higher and sign_test(lower, higher) <= SIGNIFICANT


def shuffling_helps(found: Found) -> Finding:
    """Compare shuffling each epoch with the order by class, and with one shuffle."""
    rows = [
        f"{name}: "
        + ", ".join(f"{spread(values)} {order}" for order, values in orders.items())
        for name, orders in found.items()
    ]
    over_sorted = [name for name in found if _gains(found[name], SORTED)]
    over_once = [name for name in found if _gains(found[name], ONCE)]
    figures = f"last validation loss; {'; '.join(rows)}"
    when = f"the data lie sorted by class, and for {', '.join(over_sorted)} alone"
    is_plain = len(over_once) == len(over_sorted) == len(found)
    return decide(bool(over_sorted), figures, when="" if is_plain else when)


def _gains(orders: Found, order: str) -> bool:
    return _is_lower(np.subtract(orders[ANEW], orders[order]).tolist())


def schedules_help_wine(found: Found) -> Finding:
    """Compare last validation losses with those of a constant rate."""
    names = [k for k, v in found.items() if isinstance(v, dict) and k != "constant"]
    constant = found["constant"]["valid_loss"]
    better = [
        name
        for name in names
        if _is_lower(np.subtract(found[name]["valid_loss"], constant).tolist())
    ]
    figures = (
        f"Wine, Adam at 0.1, validation loss: constant {spread(constant)}, "
        + ", ".join(f"{name} {spread(found[name]['valid_loss'])}" for name in names)
    )
    return decide(len(better) == len(names), figures)


def _times(found: Found, key: str, unit: float, name: str) -> str:
    return f"{name} with batches of " + ", ".join(
        f"{size}: {spread([t * unit for t in one[key]])}" for size, one in found.items()
    )


def _middle(found: Found, key: str) -> list[float]:
    return [float(np.median(one[key])) for one in found.values()]


def full_has_slow_epochs(found: Found) -> Finding:
    """Compare seconds of an epoch."""
    epochs = _middle(found, "epoch")
    figures = _times(found, "epoch", 1e3, "ms an epoch of 1,617 digits")
    return decide(epochs[-1] > min(epochs), figures)


def few_have_fast_epochs(found: Found) -> Finding:
    """Compare an epoch in batches of 32 with one of all samples."""
    one, few, _, full = _middle(found, "epoch")
    figures = _times(found, "epoch", 1e3, "ms an epoch of 1,617 digits")
    if few < full:
        return decide(True, figures)
    return decide(few < one, figures, when="compared with single samples")


def single_has_fast_steps(found: Found) -> Finding:
    """Compare seconds of a step."""
    steps = _middle(found, "step")
    figures = _times(found, "step", 1e6, "µs a step")
    return decide(steps[0] == min(steps), figures)


def larger_takes_longer(found: Found) -> Finding:
    """Compare steps, then epochs, of 32 and of all."""
    steps = _middle(found, "step")
    figures = (
        f"{_times(found, 'step', 1e6, 'µs a step')}; "
        f"{_times(found, 'epoch', 1e3, 'ms an epoch')}"
    )
    return decide(steps[-1] > steps[0], figures, when="a step is meant, not an epoch")


def samples_are_weighted(found: Found) -> Finding:
    """Say whether weighting by size changes the mean."""
    gaps = np.abs(np.subtract(found["batches"], found["samples"]))
    figures = (
        f"179 digits in batches of 32: unweighted and weighted means differ by "
        f"{spread(gaps)} nats"
    )
    return decide(bool(gaps.max() > 1e-6), figures)


def batch_mean_is_mean(found: Found) -> Finding:
    """Say whether the mean over batches is that over samples."""
    gaps = np.abs(np.subtract(found["batches"], found["samples"]))
    figures = (
        f"with a smaller last batch they differ by {spread(gaps)} nats "
        f"of {spread(found['samples'])}"
    )
    return decide(bool(gaps.max() < 1e-6), figures)


def running_mean_tells(found: Found) -> Finding:
    """Compare an epoch's running mean with the loss after it."""
    ratios = np.divide(found["samples"], found["after"])
    figures = f"running mean over the loss after the epoch: {spread(ratios)}"
    return decide(bool((abs(ratios - 1) < 0.02).all()), figures)


def eval_matters(found: Found) -> Finding:
    """Compare models with and without dropout."""
    figures = (
        "largest change of an output between two passes in train mode: "
        f"{found['plain']:.2g} without dropout, {found['dropout']:.2g} with it"
    )
    return decide(found["plain"] == 0 < found["dropout"], figures)


def order_is_free(found: Found) -> Finding:
    """Say how far another order changes a validation loss."""
    figures = f"another order changes the loss by {found['ordered']:.1g} (rounding)"
    return decide(found["ordered"] < 1e-5, figures)


def no_grad_saves(found: Found) -> Finding:
    """Compare bytes and seconds with and without gradients."""
    figures = (
        f"a pass over 2,048 images keeps {found['kept'] / 2**20:.1f} MiB, and "
        f"{found['kept_without'] / 2**20:.1f} without gradients; "
        f"{spread(np.multiply(found['seconds'], 1e3))} ms against "
        f"{spread(np.multiply(found['seconds_without'], 1e3))} ms"
    )
    is_faster = np.median(found["seconds_without"]) < 0.95 * np.median(found["seconds"])
    when = "" if is_faster else "memory is meant, not time"
    return decide(found["kept_without"] == 0 < found["kept"], figures, when=when)


def memory_is_linear(found: Found) -> Finding:
    """Fit bytes against batch size."""
    sizes, held = list(found["batch"]), list(found["batch"].values())
    a_sample = [count / size for size, count in zip(sizes, held, strict=True)]
    figures = (
        f"{a_sample[-1]:,.0f} bytes a sample from 1 to {sizes[-1]:,} samples, beside "
        f"{found['weights']:,} bytes for weights and gradients"
    )
    return decide(
        max(a_sample) < 1.05 * min(a_sample), figures, when="weights are apart"
    )


def memory_by_size(text: str, when: str = "") -> Judge:
    """Return a judge of the bytes of single samples, batches and all samples.

    Args:
        text: What follows the figures.
        when: A condition, or none.
    """

    def judge(found: Found) -> Finding:
        held = found["batch"]
        figures = "bytes of a step beside the weights: " + ", ".join(
            f"{count:,} with {size:,}" for size, count in held.items()
        )
        counts = list(held.values())
        told = f"{figures}{'; ' if text else ''}{text}"
        return decide(counts == sorted(counts), told, when=when)

    return judge


def memory_is_independent(found: Found) -> Finding:
    """Compare the bytes of a step with data of two lengths."""
    held = found["data"]
    figures = "bytes of a step with batches of 32: " + ", ".join(
        f"{count:,} of {samples:,} samples" for samples, count in held.items()
    )
    return decide(
        len(set(held.values())) == 1, figures, when="the data themselves are not held"
    )


def few_train_deep(found: Found) -> Finding:
    """Compare training losses after the same epochs."""
    figures = (
        f"digits, a hidden layer of 64, after {found['epochs']} epochs at one rate: "
        f"training loss {spread(found['32'])} with 32, {spread(found['full'])} with all"
    )
    return decide(max(found["32"]) < min(found["full"]), figures)
