"""Is the loader doctor right? Six loaders held up on purpose, and its word on each.

For each situation the doctor says what holds the loader up and what to set. Then all
settings that it could have chosen from are measured more carefully: copies of the
loader take turns, round by round, and the median of each is compared with the best.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from doctor_works import SITUATIONS, Situation, plant

from handful.data.loader_candidates import (
    Candidate,
    list_candidates,
    make_candidate,
)
from handful.data.loader_profile import LoaderProfile, profile_loader
from handful.data.loader_trials import AS_IT_IS, time_copy

WITHIN = 0.9
"""What the doctor chose must have this share of the best rate at least."""


@dataclass(frozen=True)
class Verdict:
    """What the doctor said of a situation, and what a careful measurement says.

    Attributes:
        name: The situation.
        cause: What holds it up.
        found: What the doctor found.
        advice: Its sentence.
        seconds: How long it took.
        chosen: The settings that it chose.
        best: Those that were best.
        rates: Median samples a second of all settings, by name.
        share: The rate of the chosen ones over the best.
        gain: The rate of the chosen ones over the loader's own.
    """

    name: str
    cause: str
    found: str
    advice: str
    seconds: float
    chosen: str
    best: str
    rates: dict[str, float]
    share: float
    gain: float

    @property
    def is_right(self) -> bool:
        """Whether the cause is the planted one and the settings nearly the best."""
        return self.cause == self.found and self.share >= WITHIN


def judge(
    name: str, folder: Path, *, seconds: float, rounds: int, window: float
) -> Verdict:
    """Let the doctor look at a situation, then measure all settings carefully.

    Args:
        name: The situation.
        folder: Where its files are written.
        seconds: What the doctor gets.
        rounds: How often each setting is measured afterwards.
        window: For how many seconds each time.
    """
    situation = plant(name, folder)
    profile = profile_loader(situation.loader, situation.step, seconds=seconds)
    rates = _measure_all(situation, profile, rounds, window)
    chosen = _name_of_choice(profile)
    best = max(rates, key=rates.__getitem__)
    return Verdict(
        name=name,
        cause=situation.cause,
        found=profile.cause,
        advice=profile.advice,
        seconds=profile.seconds,
        chosen=chosen,
        best=best,
        rates=rates,
        share=rates[chosen] / rates[best],
        gain=rates[chosen] / rates[AS_IT_IS],
    )


def _name_of_choice(profile: LoaderProfile) -> str:
    for trial in profile.trials:
        if (trial.settings, trial.needs) == (profile.settings, profile.needs):
            return trial.name
    raise AssertionError("what the doctor chose is among what it measured")


def _measure_all(
    situation: Situation, profile: LoaderProfile, rounds: int, window: float
) -> dict[str, float]:
    """Return the median rate of every setting that could have been chosen."""
    candidates = {AS_IT_IS: Candidate(AS_IT_IS)}
    if profile.parts is not None:
        cause = profile.cause if profile.cause != "slow model" else "tiny rows"
        for group in list_candidates(situation.loader, cause, profile.parts):
            candidates |= {one.name: one for one in group}
    twins = {
        name: make_candidate(situation.loader, one) for name, one in candidates.items()
    }
    found: dict[str, list[float]] = {name: [] for name in twins}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(rounds):
            for name, twin in twins.items():
                timing = time_copy(twin, seconds=window, step=situation.step)
                found[name].append(timing.samples_per_second)
    return {name: statistics.median(rates) for name, rates in found.items()}


def format_verdicts(verdicts: list[Verdict]) -> str:
    """Return the table of the documentation."""
    lines = [
        "| situation | found | took | chosen | gain | share of the best |",
        "| --- | --- | ---: | --- | ---: | ---: |",
    ]
    lines += [
        f"| {v.name} | {v.found} | {v.seconds:.0f} s | {v.chosen} | {v.gain:,.3g} | "
        f"{v.share:.0%} |"
        for v in verdicts
    ]
    return "\n".join(lines)


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> int:
    """Judge the situations; the exit status is 0 where the doctor was right on all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="situations, with commas between them")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(SITUATIONS)
    machine, verdicts = describe_machine(), []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            verdicts.append(
                judge(
                    name,
                    Path(folder),
                    seconds=args.seconds,
                    rounds=args.rounds,
                    window=args.window,
                )
            )
        rates = {k: round(rate) for k, rate in verdicts[-1].rates.items()}
        print(f"{name}: {verdicts[-1].advice}\n  {rates}", flush=True)
    print(f"\n{machine}\n\n{format_verdicts(verdicts)}")
    if args.out is not None:
        content = {"machine": machine, "verdicts": [asdict(v) for v in verdicts]}
        args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if all(verdict.is_right for verdict in verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
