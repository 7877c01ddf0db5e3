"""Which trials train as one model: those that can, where a measurement says so.

::

    trials ──group──> alike but for seed, rate, numbers of the optimizer
                        ├── few steps, or with what stacked models don't do ──> alone
                        └── stacked, recorded, proved, timed
                              ├── one after the other they take longer ──> as one
                              └── else ──> alone
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from handful.runs.study_row import Row, settings_key
from handful.studies.axes import TRAINER
from handful.studies.peak_memory import PeakMemory
from handful.studies.population import Population
from handful.studies.population_model import ApartError
from handful.studies.population_noise import measure_noise_together
from handful.studies.trial import (
    Bench,
    Trial,
    TrialRunner,
    find_nonfinite,
    finish_row,
    make_row,
    make_watch,
)
from handful.train.callbacks import Callback, FitState
from handful.train.choices import parse_optimizer
from handful.train.generators import all_generators_preserved
from handful.train.threads import restored_threads
from handful.train.torch_schedule import TorchSchedule

WORTHWHILE_STEPS = 1_000
"""Steps of all trials but one together from which on a population may be tried."""

MOST_WEIGHTS = 2**23
"""Weights of all models of a population together; more trials make several."""

PROBE_STEPS, PROBE_SECONDS = 14, 0.3
"""A trial alone is timed for so many steps, or so long."""

LAST_STEPS = 6
"""Of the timed steps the last so many count: by then they are replayed."""


@dataclass(frozen=True)
class Choice:
    """Whether some trials trained as one, and why.

    Attributes:
        together: Whether they did.
        trials: Seed and settings of each.
        reason: A clause that says why not, or None.
        alone_seconds: Of a step of each of them, one after the other; None where it
            was not measured.
        together_seconds: Of a step of all of them as one, likewise.
        prepared_seconds: What preparing took.
    """

    together: bool
    trials: list[dict[str, Any]]
    reason: str | None = None
    alone_seconds: float | None = None
    together_seconds: float | None = None
    prepared_seconds: float | None = None

    def describe(self) -> dict[str, Any]:
        """Return it as ``study.json`` has it."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """What came of a group of trials: their rows, or None where they train alone."""

    choice: Choice
    rows: list[Row] | None = None


def group_trials(
    trials: Sequence[Trial], *, optimizer: Any, num_weights: int, parts: int = 1
) -> list[list[Trial]]:
    """Put trials that may train as one together, in the order of their first ones.

    Args:
        trials: The trials.
        optimizer: The recipe's optimiser, for trials that don't vary it.
        num_weights: Weights of a model.
        parts: Processes among which they are to be divided.

    Returns:
        Groups of one trial or more.
    """
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        found.setdefault(_likeness(trial, optimizer), []).append(trial)
    most = max(MOST_WEIGHTS // max(num_weights, 1), 1)
    groups = []
    for alike in found.values():
        size = max(min(most, -(-len(alike) // parts)), 1)
        groups += [alike[i : i + size] for i in range(0, len(alike), size)]
    return groups


def describe_trials(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return seed and settings of each trial."""
    return [{"seed": t.seed, "settings": dict(t.settings)} for t in trials]


def run_together(
    runner: TrialRunner, trials: Sequence[Trial], population: str
) -> Outcome:
    """Run a group of trials as one model, if they can and it is faster.

    Args:
        runner: Has the recipe.
        trials: Two trials or more, as `group_trials` put them together.
        population: ``"auto"`` or ``"always"``.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    choice = Choice(False, describe_trials(trials))
    with restored_threads(), all_generators_preserved():
        torch.set_num_threads(1)
        try:
            return _run(runner, trials, choice, must_be_faster=population == "auto")
        except ApartError as error:
            return Outcome(replace(choice, reason=str(error)))
        except Exception as error:  # alone, each of them says it by itself
            reason = f"{type(error).__name__}: {error}"
            return Outcome(replace(choice, reason=reason))


def _run(
    runner: TrialRunner,
    trials: Sequence[Trial],
    choice: Choice,
    *,
    must_be_faster: bool,
) -> Outcome:
    memory = PeakMemory()
    benches = [runner.prepare(trial, make_watch(trial)) for trial in trials]
    memory.pause()
    reason = why_apart(benches)
    if reason is None and must_be_faster and not _is_worthwhile(benches):
        reason = "they are too short"
    if reason is not None:
        raise ApartError(reason)
    starts = [
        runner.measure_start(trial, bench)
        for trial, bench in zip(trials, benches, strict=True)
    ]
    memory.go_on()
    began = time.perf_counter()
    found = Population(benches)
    step = found.time_step()
    choice = replace(
        choice, together_seconds=step, prepared_seconds=time.perf_counter() - began
    )
    if must_be_faster:
        alone = len(benches) * _time_alone(runner, trials[0])
        choice = replace(choice, alone_seconds=alone)
        if alone <= step:
            return Outcome(replace(choice, reason="one by one they are faster"))
    found.train()
    peak = memory.read()
    share = None if peak is None else peak // len(benches)
    noises = measure_noise_together(found)
    rows = []
    for index, (trial, member) in enumerate(zip(trials, found.members, strict=True)):
        if member.is_lost:
            rows.append(runner.run(trial))
            continue
        bench = member.bench
        status, why = find_nonfinite(bench.run) or ("finished", None)
        row = make_row(trial, bench.watch, status, why)
        row = replace(row, noise_start=starts[index], **bench.facts(share))
        if status == "finished":
            noise = bench.measure_noise() if noises is None else noises[index]
            row = finish_row(row, bench, noise)
        rows.append(row)
    return Outcome(replace(choice, together=True), rows)


def why_apart(benches: Sequence[Bench]) -> str | None:
    """Return a clause that says why trials can't train as one, or None."""
    first = benches[0]
    reasons = (reason for reason, holds in _LIMITS.items() if not holds(first))
    return next(reasons, None)


def _transforms_samples(bench: Bench) -> bool:
    recipe = bench.recipe
    return recipe.batch_transform is not None or recipe.eval_transform is not None


_LIMITS: Mapping[str, Callable[[Bench], bool]] = {
    "they are not the trainer's": lambda b: b.backend == TRAINER,
    "they don't train on the CPU": lambda b: b.trainer.device.type == "cpu",
    "they have a step of their own": lambda b: b.trainer.criterion is not None,
    "they are limited in seconds": lambda b: b.watch.limit is None,
    "they have no number of epochs": lambda b: b.recipe.epochs is not None,
    "their batches are transformed": lambda b: not _transforms_samples(b),
    "they add up batches": lambda b: (
        (b.trainer.accumulate, b.trainer.micro_batch_size) == (1, None)
    ),
    "their gradients are clipped or measured": lambda b: (
        (b.trainer.gradients.clip_norm, b.trainer.gradients.clip_value) == (None, None)
        and not b.trainer.gradients.wants_norm
    ),
    "they are not in float32": lambda b: b.trainer.precision == "float32",
    "their weights are averaged": lambda b: b.trainer.ema is None,
    "they are validated within epochs": lambda b: (
        b.recipe.options.get("valid_every") is None
    ),
    "batches of the training are measured": lambda b: not b.trainer.train_metrics,
    "their metrics are objects": lambda b: all(
        isinstance(metric, str) for metric in b.recipe.metrics
    ),
    "their samples have weights": lambda b: b.trainer.layout.sample_weight is None,
    "their parameters are in groups": lambda b: not b.trainer.param_groups,
    "their schedule is PyTorch's": lambda b: (
        not isinstance(b.trainer.schedule, TorchSchedule)
    ),
    "an engine is chosen": lambda b: b.trainer.engine == "auto",
    "several threads are asked for": lambda b: b.trainer.num_threads == 1,
    "their memory format is another": lambda b: b.trainer.memory_format == "contiguous",
}
"""What a population does not do, and whether a trial does without."""


def _likeness(trial: Trial, optimizer: Any) -> str:
    """Return a text that is the same for trials that may train as one."""
    settings = {k: v for k, v in trial.settings.items() if k != "lr"}
    chosen = parse_optimizer(settings.pop("optimizer", optimizer))
    flags = {k: v for k, v in chosen.args.items() if isinstance(v, (bool, str))}
    return settings_key({**settings, "optimizer": {"name": chosen.name, **flags}})


def _is_worthwhile(benches: Sequence[Bench]) -> bool:
    first = benches[0]
    epochs, most = first.recipe.epochs, first.recipe.options.get("max_steps")
    steps = (epochs or 0) * len(first.train_loader)
    steps = steps if most is None else min(steps, most)
    return steps * (len(benches) - 1) >= WORTHWHILE_STEPS


class _Probe(Callback):
    """Notes when each step of a training ended, and ends it after a few."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, state: FitState) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())
        is_long = self.times[-1] - self.times[0] > PROBE_SECONDS
        if len(self.times) >= PROBE_STEPS or is_long:
            state.stop = "the time of a step is known"


def _time_alone(runner: TrialRunner, trial: Trial) -> float:
    """Return the seconds of a step of a trial that trains by itself."""
    probe = _Probe()
    bench = runner.prepare(trial, make_watch(trial))
    bench.trainer.callbacks = (probe,)
    if bench.fit_alone().status == "stopped":
        raise KeyboardInterrupt
    steps = [b - a for a, b in zip(probe.times, probe.times[1:], strict=False)]
    return statistics.median(steps[-LAST_STEPS:]) if steps else math.inf
