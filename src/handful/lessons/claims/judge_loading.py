"""What the experiments on batches and batch sizes mean for claims."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from handful.lessons.claims.claim import Finding, Judge, decide, spread

Found = Mapping[str, Any]
MANUAL, LOADER, OWN = "manual, made each epoch", "PyTorch's loader", "own data set"
NEAR = 1.25
"""Times the least time that still counts as best."""


def _rates(found: Found, *names: str) -> str:
    return "; ".join(
        f"{int(count):,} samples: "
        + ", ".join(f"{spread(ways[name])} {name}" for name in names)
        for count, ways in found.items()
    )


def _compare(found: Found, name: str, other: str) -> list[bool]:
    return [np.median(w[name]) > np.median(w[other]) for w in found.values()]


def loader_is_faster(found: Found) -> Finding:
    """Compare PyTorch's loader with batches by hand."""
    figures = f"samples per second; {_rates(found, MANUAL, LOADER)}"
    return decide(all(_compare(found, LOADER, MANUAL)), figures)


def manual_is_fine_when_small(found: Found) -> Finding:
    """Say at how many samples batches by hand are faster."""
    wins = _compare(found, MANUAL, LOADER)
    largest = max(int(count) for count in found)
    figures = f"samples per second; {_rates(found, MANUAL, LOADER)}"
    limit = f"the data fit in memory (faster up to {largest:,} samples too)"
    return decide(wins[0], figures, when=limit if wins[-1] else "")


def own_data_set_costs(found: Found) -> Finding:
    """Compare a data set of one's own with batches by hand."""
    figures = f"samples per second; {_rates(found, MANUAL, OWN)}"
    return decide(all(_compare(found, MANUAL, OWN)), figures)


def manual_holds_a_copy(found: Found) -> Finding:
    """Compare the memory beyond the data of batches by hand."""
    extra = found["extra"]["manual, made once"]
    if extra is None:
        return decide(True, "the system does not tell a process's memory")
    figures = (
        f"{extra / 2**20:.1f} MiB beyond the data's "
        f"{found['data'] / 2**20:.1f}: a copy of them, which batches that are cut one "
        "by one need not"
    )
    return decide(extra > 0.8 * found["data"], figures)


def loader_loads_one_batch(found: Found) -> Finding:
    """Say what a loader over tensors holds."""
    extra = found["extra"]["PyTorch's loader"]
    told = "an unknown amount" if extra is None else f"{extra / 2**20:.1f} MiB"
    figures = (
        f"beyond {found['data'] / 2**20:.1f} MiB of data, all held by TensorDataset, "
        f"an epoch in batches of 1,000 takes {told}"
    )
    small = extra is None or extra < found["data"] / 2
    return decide(small, figures, when="the data set itself reads from a disk")


def loader_is_lean(found: Found) -> Finding:
    """Compare what a loader and batches by hand hold beyond the data."""
    extra = found["extra"]
    if None in extra.values():
        return decide(True, "the system does not tell a process's memory")
    figures = f"beyond {found['data'] / 2**20:.1f} MiB of data: " + ", ".join(
        f"{count / 2**20:.1f} MiB {name}" for name, count in extra.items()
    )
    lean = extra["PyTorch's loader"] < extra["manual, made once"] / 2
    return decide(lean, figures)


def streams_large_data(found: Found) -> Finding:
    """Compare what went by with what was held."""
    peak = found["peak"]
    told = "unknown" if peak is None else f"{peak / 2**20:.1f} MiB"
    figures = f"{found['bytes'] / 2**20:,.0f} MiB went by; held at most {told} of them"
    return decide(peak is None or peak < found["bytes"] / 4, figures)


def manual_reshuffles(found: Found) -> Finding:
    """Say whether the printed batches by hand change between epochs."""
    same = found["manual_same"]
    figures = "two epochs have " + ("the same order" if same else "two orders")
    return decide(not same, f"batches made once, before the epochs: {figures}")


def loader_reshuffles(found: Found) -> Finding:
    """Say whether a loader draws a new order each epoch."""
    is_new = not found["loader_same"] and found["complete"]
    told = "differ, and each has every sample once" if is_new else "do not both hold"
    return decide(is_new, f"178 samples, shuffle=True: the orders of two epochs {told}")


def batches_are_32(found: Found) -> Finding:
    """Say whether each batch of Wine has 32 samples."""
    sizes = found["sizes"]
    figures = f"178 samples: batches of {sizes}"
    return decide(len(set(sizes)) == 1, figures)


def last_is_handled(found: Found) -> Finding:
    """Say whether the smaller last batch is delivered."""
    sizes = found["sizes"]
    return decide(sum(sizes) == 178, f"178 samples: batches of {sizes}, none lost")


def drop_last_is_even(found: Found) -> Finding:
    """Say what `drop_last` leaves out."""
    figures = (
        f"178 samples: batches of {found['dropped']}; {found['lost']} samples of each "
        "epoch are not trained on"
    )
    return decide(len(set(found["dropped"])) == 1, figures)


def collation_is_own(found: Found) -> Finding:
    """Say whether own collation gives the same batches."""
    return decide(found["collated"], "own collation by torch.stack: the same batches")


def workers_are_right(found: Found) -> Finding:
    """Say whether two workers deliver the same batches."""
    return decide(found["workers_same"], "two workers: the same batches, in order")


def _seconds(found: Found, name: str) -> str:
    return ", ".join(
        f"{spread(times)} s with {number} workers"
        for number, times in found[name].items()
    )


def _gains(found: Found, name: str) -> bool:
    times = {number: float(np.median(t)) for number, t in found[name].items()}
    best: str = min(times, key=lambda number: times[number])
    return best != "0"


def workers_help(found: Found) -> Finding:
    """Compare worker processes for slow and for fast samples."""
    figures = (
        f"samples of 2 ms: {_seconds(found, 'slow')}; in memory: "
        f"{_seconds(found, 'fast')}"
    )
    when = "" if _gains(found, "fast") else "reading a sample is slow"
    return decide(_gains(found, "slow"), figures, when=when)


def zero_is_a_start(found: Found) -> Finding:
    """Say whether no worker is best for samples in memory."""
    figures = f"in memory: {_seconds(found, 'fast')}; 2 ms: {_seconds(found, 'slow')}"
    return decide(not _gains(found, "fast"), figures)


def loading_is_no_bottleneck(found: Found) -> Finding:
    """Compare the seconds of loading with those of training."""
    part = np.divide(found["loading"], found["training"])
    figures = (
        f"PyTorch's loader takes {spread(100 * part)} % of an epoch of a perceptron "
        "64-64-10 in batches of 32, data in memory"
    )
    return decide(bool(np.median(part) < 0.5), figures)


def _middles(row: Found) -> dict[str, float]:
    """Return median seconds by batch size, of those all of whose seeds got there."""
    return {
        size: float(np.median(one["seconds"]))
        for size, one in row["times"].items()
        if np.isfinite(one["seconds"]).all()
    }


def size_is_best(low: int, high: int, least: int, most: float, full: bool) -> Judge:
    """Return a judge of recommended batch sizes.

    Args:
        low: Least recommended size.
        high: Greatest one.
        least: Least samples of the data that it is for.
        most: Greatest, excluded.
        full: Whether all samples are recommended as well.
    """

    def judge(found: Found) -> Finding:
        rows = {n: r for n, r in found.items() if least <= r["count"] < most}
        told, are_best = [], []
        for name, row in rows.items():
            middles = _middles(row)
            if not middles:
                told.append(f"{name}: none got there")
                continue
            best = min(middles, key=lambda size: middles[size])
            inside = [
                seconds
                for size, seconds in middles.items()
                if low <= int(size) <= high or (full and int(size) == row["count"])
            ]
            within = min(inside, default=math.inf)
            are_best.append(within <= NEAR * middles[best])
            told.append(
                f"{name}: {middles[best]:.3g} s at {best}, {_tell(within)} at the "
                "best of those recommended"
            )
        figures = "; ".join(told) or "no data of such a size here"
        return decide(bool(are_best) and all(are_best), figures)

    return judge


def _tell(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < math.inf else "not in the limit"


def few_beat_full(found: Found) -> Finding:
    """Say whether a batch below all samples reaches the target soonest."""
    told, wins = [], []
    for name, row in found.items():
        middles = _middles(row)
        full = middles.pop(str(row["count"]), math.inf)
        if middles:
            best = min(middles, key=lambda size: middles[size])
            wins.append(middles[best] < full)
            told.append(
                f"{name}: {middles[best]:.3g} s at {best}, {_tell(full)} with all"
            )
    lost = "" if all(wins) else "there are some thousands of samples or more"
    return decide(any(wins), "; ".join(told) or "none got there", when=lost)


def full_is_fine(found: Found) -> Finding:
    """Say how much longer than the best batch all samples take, where they fit."""
    ratios = {}
    for name, row in found.items():
        middles = _middles(row)
        if middles and row["count"] <= 100_000:
            full = middles.get(str(row["count"]), math.inf)
            ratios[name] = full / min(middles.values())
    figures = "time to the target with all samples, in times of the best batch: " + (
        ", ".join(
            f"{name}: {ratio:.3g}" if ratio < math.inf else f"{name}: not in the limit"
            for name, ratio in ratios.items()
        )
    )
    fine = [ratio <= NEAR for ratio in ratios.values()]
    when = "" if all(fine) else "there are a few hundred samples"
    return decide(any(fine), figures, when=when)


def memory_is_the_reason(found: Found) -> Finding:
    """Say whether mini-batches pay where everything fits in memory."""
    finding = few_beat_full(found)
    pays = finding.verdict != decide(False, "").verdict
    return decide(not pays, f"all data in memory; {finding.figures}")
