"""Is the loader doctor right? Six loaders held up on purpose, and its word on each.

For each situation the doctor says what holds the loader up and what to set. Then all
settings that it could have chosen from are measured more carefully: copies of the
loader take turns, round by round, and the median of each is compared with the best.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from doctor_works import SITUATIONS, Situation, plant
from front import DOCS, Benchmark, choose, make_parser, parse, run_benchmark
from measure import (
    describe_machine,
    load_average,
    markdown_table,
    now,
    write_json,
)

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


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Judge the situations that were asked for."""
    results: dict[str, Any] = {
        "benchmark": "doctor",
        "format": 1,
        "quick": args.quick,
        "began": now(),
        "machine": describe_machine(),
        "repeats": args.repeats,
        "window": args.window,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "torch_threads": torch.get_num_threads(),
        "cases": [],
    }
    for name in args.only:
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="doctor-") as folder:
            verdict = judge(
                name,
                Path(folder),
                seconds=args.seconds,
                rounds=args.repeats,
                window=args.window,
            )
        case = {"title": name, "is_right": verdict.is_right, **asdict(verdict)}
        case["rates"] = {k: round(rate, 1) for k, rate in verdict.rates.items()}
        results["cases"].append(case)
        print(f"{name}: {verdict.advice}\n  {case['rates']}", flush=True)
        write_json(args.out, results)
    results["ended"], results["load_at_end"] = now(), load_average()
    return results


def render(results: dict[str, Any]) -> str:
    """Return the table of the documentation."""
    machine = results["machine"]
    packages = ", ".join(f"{n} {v}" for n, v in results["versions"].items())
    threads = results["torch_threads"]
    about = (
        f"Measured on {results['began'][:10]}: {machine['processor']}, "
        f"{machine['cores']} cores, {machine['system']}; {packages}, {threads} "
        f"thread{'s' * (threads > 1)} of torch; each setting for {results['window']:g} "
        f"s in {results['repeats']} rounds. Load before: {machine['load']}."
    )
    if results["quick"]:
        about += " **A quick run: its figures mean nothing.**"
    head = ["situation", "found", "took, s", "chosen", "gain", "share of the best"]
    rows = [
        [
            case["title"],
            case["found"],
            f"{case['seconds']:.0f}",
            case["chosen"],
            f"{case['gain']:,.3g}",
            f"{case['share']:.0%}",
        ]
        for case in results["cases"]
    ]
    return f"{about}\n\n{markdown_table(head, rows)}"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    quick = "a second for the doctor, one short round"
    parser = make_parser("doctor", __doc__, repeats=5, quick=quick)
    parser.add_argument(
        "--only",
        default=",".join(SITUATIONS),
        help=f"which of {', '.join(SITUATIONS)}; default: all",
    )
    parser.add_argument(
        "--seconds", type=float, default=30, help="what the doctor gets; default: 30"
    )
    parser.add_argument(
        "--window",
        type=float,
        default=1,
        help="seconds that a setting is measured for in each round; default: 1",
    )
    args = parse(parser, arguments)
    args.only = choose(parser, "--only", args.only, list(SITUATIONS))
    if args.quick:
        args.seconds, args.window = 1, 0.02
    return args


BENCHMARK = Benchmark("doctor", measure, render, page=DOCS / "doctor.md")


def main() -> int:
    """Judge the situations; the exit status is 0 where the doctor was right on all."""
    args = parse_arguments()
    results = run_benchmark(BENCHMARK, args)
    is_right = all(case["is_right"] for case in results["cases"])
    return 0 if is_right or args.quick else 1


if __name__ == "__main__":
    raise SystemExit(main())
