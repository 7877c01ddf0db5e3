"""What the experiments on one weight, and on PyTorch itself, mean for claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from handful.lessons.claims.claim import Finding, decide, spread

Found = Mapping[str, Any]


def _by_size(found: Found, key: str, scale: float = 1.0) -> str:
    parts = (
        f"{spread([scale * v for v in found[size][key]])} with {size}"
        for size in ("1", "10", "100")
    )
    return ", ".join(parts)


def full_is_smoothest(found: Found) -> Finding:
    """Compare the shares of steps in which the loss rises."""
    rises = [max(found[size]["rises"]) for size in ("1", "10", "100")]
    figures = f"steps in which the loss rises, in %: {_by_size(found, 'rises', 100)}"
    return decide(rises[2] == 0 < min(rises[:2]) and rises[0] > rises[1], figures)


def single_is_noisiest(found: Found) -> Finding:
    """Compare single samples with batches of 10."""
    least = min(found["1"]["rises"])
    figures = f"steps in which the loss rises, in %: {_by_size(found, 'rises', 100)}"
    return decide(least > max(found["10"]["rises"]), figures)


def few_are_slightly_noisy(found: Found) -> Finding:
    """Say whether batches of 10 lie between, nearer to all samples."""
    figures = (
        "last half of 50 epochs, loss above the least in % of it: "
        f"{spread([100 * v for v in found['10']['late']])} with 10, "
        f"{spread([100 * v for v in found['1']['late']])} with 1"
    )
    return decide(max(found["10"]["late"]) < min(found["1"]["late"]), figures)


def full_is_deterministic(found: Found) -> Finding:
    """Compare last weights over seeds, and a repetition."""
    spans = {size: np.ptp(found[size]["ends"]) for size in ("10", "100")}
    repeats = all(found[size]["repeats"] for size in ("1", "10", "100"))
    figures = (
        f"last weights of {len(found['100']['ends'])} orders differ by "
        f"{spans['100']:.2g} with all samples and {spans['10']:.2g} with 10; "
        "with the same seed, "
        + ("every batch size repeats to the last bit" if repeats else "not all repeat")
    )
    return decide(spans["100"] < 1e-9 < spans["10"], figures)


def larger_batches_are_fewer(found: Found) -> Finding:
    """Count steps an epoch."""
    counts = [found[size]["updates"] for size in ("1", "10", "100")]
    figures = f"steps an epoch with batches of 1, 10, 100: {counts}"
    return decide(counts[0] > counts[1] > counts[2], figures)


def loss_goes_down(found: Found) -> Finding:
    """Say whether all-sample descent falls in every step."""
    figures = (
        f"rate 0.02, all samples: {100 * max(found['100']['rises']):.0f} % of the "
        "steps raise the loss; from a rate of 1 on, every step does (1 / mean(x²) = 1)"
    )
    return decide(
        max(found["100"]["rises"]) == 0, figures, when="the rate is below a limit"
    )


def _useful(found: Found, size: str) -> dict[float, float]:
    """Return median epochs by rate, where all seeds got there and stayed."""
    rows = zip(found["rates"], found[size], strict=True)
    return {lr: float(np.median(row)) for lr, row in rows if np.isfinite(row).all()}


def small_rates_need_epochs(found: Found) -> Finding:
    """Compare the smallest useful rate with the best."""
    useful = _useful(found, "100") or {math.nan: math.nan}
    best = min(useful, key=lambda lr: useful[lr])
    least = min(useful)
    figures = (
        f"all samples: within 1 % of the least loss after {useful[least]:.3g} epochs "
        f"at {least:.2g}, {useful[best]:.3g} at {best:.2g}"
    )
    return decide(useful[least] > useful[best], figures)


def large_rates_need_few(found: Found) -> Finding:
    """Compare the largest rate that works, and the next, with the best."""
    useful = _useful(found, "100") or {math.nan: math.nan}
    best = min(useful, key=lambda lr: useful[lr])
    failed = [lr for lr in found["rates"] if lr > max(useful)]
    figures = (
        f"all samples: {useful[best]:.3g} epochs at {best:.2g}; "
        f"never within {found['epochs']} at {min(failed, default=math.nan):.2g}"
    )
    return decide(bool(failed), figures, when="the rate is below the fastest, 0.5")


def rates_are_careful(found: Found) -> Finding:
    """Say whether useful rates are less than half as wide with single samples."""
    widths = {size: _width(_useful(found, size)) for size in ("1", "10", "100")}
    figures = (
        "largest over smallest rate that comes within 1 % and stays: "
        + ", ".join(
            f"{width:.3g} with batches of {size}" for size, width in widths.items()
        )
    )
    return decide(widths["1"] < widths["100"] / 2, figures)


def _width(useful: Mapping[float, float]) -> float:
    return max(useful) / min(useful) if useful else 0.0


def rates_depend_on_size(found: Found) -> Finding:
    """Compare the best rates of batch sizes."""
    useful = {size: _useful(found, size) for size in ("1", "10", "100")}
    best = {
        size: min(one, key=lambda lr: one[lr]) for size, one in useful.items() if one
    }
    figures = "fastest rate: " + ", ".join(
        f"{lr:.2g} with batches of {size}" for size, lr in best.items()
    )
    return decide(len(set(best.values())) > 1, figures)


def full_is_better_for_convex(found: Found) -> Finding:
    """Compare the epochs that each batch size needs at its best rate."""
    useful = {size: _useful(found, size) for size in ("1", "100")}
    best = {s: min(one.values(), default=math.nan) for s, one in useful.items()}
    figures = (
        f"a parabola, best rate each: {best['1']:.3g} epochs to within 1 % of the "
        f"least loss with single samples, {best['100']:.3g} with all; both "
        "then stay within 10 %"
    )
    return decide(best["100"] < best["1"], figures)


def step_works(found: Found) -> Finding:
    """Read the error of a program as printed."""
    return decide(found["error"] is None, f"it raises {found['error']}")


def schedules_help(found: Found) -> Finding:
    """Compare each schedule with a constant rate, with noise and without."""
    names = found["names"]
    noisy = [np.median(found["noisy"][name]) for name in names]
    constant = float(np.median(found["noisy"]["constant"]))
    full = found["full"]
    figures = (
        "loss above the least, as a share of it: batches of 10 at 0.5: constant "
        f"{spread(found['noisy']['constant'])}, schedules at most {max(noisy):.2g}; "
        f"all samples at 0.1: constant {full['constant'][0]:.2g}, schedules at least "
        f"{min(full[name][0] for name in names):.2g}"
    )
    helps = max(noisy) < constant
    return decide(helps, figures, when="batches are noisy and the rate is large")


def single_escapes(found: Found) -> Finding:
    """Compare starts, visits and ends in the deep valley."""
    one = found["1"]
    figures = (
        f"{found['start']:.0%} of {found['num_starts']} starts lie in the deep valley; "
        f"with single samples {one['ever']:.0%} come there and {one['end']:.0%} end "
        f"there, and {one['left']:.0%} of those that began there leave it"
    )
    return decide(
        one["ever"] > found["start"], figures, when="leaving again is no harm"
    )


def full_gets_stuck(found: Found) -> Finding:
    """Say whether all-sample descents change valleys."""
    one = found["100"]
    figures = (
        f"all samples: {found['start']:.0%} of {found['num_starts']} starts lie in the "
        f"deep valley, {one['end']:.0%} end there"
    )
    return decide(abs(one["end"] - found["start"]) < 0.05 and one["end"] < 1, figures)


def finishing_helps(found: Found) -> Finding:
    """Compare going on with all samples and with single ones."""
    figures = (
        "loss above the least after five epochs of single samples and 20 more, as a "
        f"share: {spread(found['switched'])} with all samples, "
        f"{spread(found['stayed'])} with single ones"
    )
    return decide(max(found["switched"]) < min(found["stayed"]), figures)


def single_learns_online(found: Found) -> Finding:
    """Say how near one pass of single steps comes."""
    figures = (
        "2,000 points seen once, error of the slope 3: "
        f"{spread(found['single'])} by a step each, {spread(found['full'])} by one "
        "step with all at its best rate, after the last has come"
    )
    return decide(max(found["single"]) < 0.3, figures)


def momentum_helps(found: Found) -> Finding:
    """Compare steps with and without momentum."""
    figures = (
        "a valley 100 times as steep across as along: "
        f"{found['plain']} steps without and {found['momentum']} with momentum, best "
        "rates both"
    )
    return decide(found["momentum"] < found["plain"], figures)


def autograd_is_right(found: Found) -> Finding:
    """Compare gradients by formula and by autograd."""
    figures = (
        f"weights after a step differ by a share of {found['difference']:.1g} from "
        "those of the formula"
    )
    return decide(found["difference"] < 1e-9, figures)


def torch_memory_is_better(found: Found) -> Finding:
    """Say what autograd keeps beyond NumPy's arrays."""
    figures = (
        f"a step on 1,000 x 20 numbers keeps {found['kept']:,} bytes for the backward "
        f"pass, which the formula in NumPy need not; 200 steps take "
        f"{spread(found['torch'])} s, in NumPy {spread(found['numpy'])} s"
    )
    return decide(found["kept"] == 0, figures)


def graphs_are_dynamic(found: Found) -> Finding:
    """Compare gradients of loops whose length the data decide."""
    pairs: Sequence[Sequence[float]] = found["pairs"]
    figures = "gradient of a loop that the data end, by autograd and by hand: " + (
        ", ".join(f"{got:g} and {expected:g}" for got, expected in pairs)
    )
    return decide(all(got == expected for got, expected in pairs), figures)


def gradients_add_up(found: Found) -> Finding:
    """Say what a second backward leaves in `grad`."""
    figures = f"a second backward leaves {found['ratio']:g} times the gradient"
    return decide(found["ratio"] == 2, figures)


def by_hand_falls(found: Found) -> Finding:
    """Say in how many seeds the loss falls in each epoch."""
    figures = (
        f"falls in each of ten epochs in {found['falls']} of {found['seeds']} seeds"
    )
    return decide(found["falls"] == found["seeds"], figures)


def script_is_current(found: Found) -> Finding:
    """Say whether TorchScript is still advised."""
    if found["warning"] is None:
        return decide(True, "torch.jit.script compiles without a warning")
    return decide(False, f"torch.jit.script warns: {found['warning']}")
