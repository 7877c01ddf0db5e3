"""Trial: one training of a study, wherever it runs, and the row that comes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.data import Dataset

from handful.data.loader import DataLoader
from handful.errors import NonfiniteError, TrainingError
from handful.runs.run import Run
from handful.runs.study_row import Row
from handful.studies.axes import TRAINER, apply_settings
from handful.studies.backends import fit_written_out
from handful.studies.budget import (
    Budget,
    Limits,
    Target,
    epoch_samples,
    limit_trial,
)
from handful.studies.noise_meter import NoiseMeter, measure_noise
from handful.studies.peak_memory import PeakMemory
from handful.studies.stopwatch import Stopwatch
from handful.train.options import split_options
from handful.train.recipe import Recipe, Splits
from handful.train.run_recipe import (
    make_initial_model,
    make_split_loader,
    make_trainer,
)
from handful.train.threads import restored_threads
from handful.train.trainer import Trainer

KEPT_SPLITS = 2
"""Seeds whose data a process keeps; trials come seed by seed."""

Noise: TypeAlias = "dict[str, float | None] | None"
"""Values of the noise of gradients by name; None where they can't be had."""

UNLIMITED_STEPS = 2**62
"""Steps of a trial that only the clock ends."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one trial is told; plain values, so that it can be sent anywhere.

    Attributes:
        settings: The varied settings, as plain values.
        seed: Its seed.
        epochs: Epochs in place of the recipe's, or None.
        budget: What it may use, or None for what the recipe says.
        target: What it is to reach, or None.
        stop_at_target: Whether it ends there.
        upward: Losses and metrics of which more is better.
    """

    settings: Mapping[str, Any]
    seed: int
    epochs: int | None = None
    budget: Budget | None = None
    target: Target | None = None
    stop_at_target: bool = False
    upward: tuple[str, ...] = ()

    @property
    def backend(self) -> str:
        """What trains: one of `handful.studies.axes.BACKENDS`."""
        return str(self.settings.get("backend", TRAINER))


class TrialRunner:
    """Runs trials of one recipe, one after another.

    The data of a seed are made once for all of its trials, and the noise of gradients
    before the first step is measured once for those that begin alike.

    Args:
        recipe: The recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._splits: dict[int, Splits] = {}
        self._meter = NoiseMeter()

    def splits(self, seed: int) -> Splits:
        """Return the recipe's data of a seed."""
        if seed not in self._splits:
            while len(self._splits) >= KEPT_SPLITS:
                del self._splits[next(iter(self._splits))]
            self._splits[seed] = self.recipe.make_data(seed)
        return self._splits[seed]

    def run(self, trial: Trial) -> Row:
        """Run a trial; an error of its own becomes a row that says so.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        with restored_threads():
            # One thread wherever it runs, so that its numbers don't depend on that.
            torch.set_num_threads(1)
            return self._run(trial)

    def prepare(self, trial: Trial, watch: Stopwatch) -> Bench:
        """Make what a trial needs."""
        return Bench.prepare(self.recipe, trial, self.splits(trial.seed), watch)

    def measure_start(self, trial: Trial, bench: Bench) -> Noise:
        """Return the noise of a trial's gradients before its first step."""
        return self._meter.measure_start(
            *(bench.recipe, bench.trainer, bench.data),
            seed=trial.seed,
            settings=trial.settings,
        )

    def _run(self, trial: Trial) -> Row:
        watch = make_watch(trial)
        try:
            self.splits(trial.seed)
            memory = PeakMemory()
            bench = self.prepare(trial, watch)
            memory.pause()
            noise_start = self.measure_start(trial, bench)
            memory.go_on()
            status, reason = bench.train()
            peak = memory.read()
            row = make_row(trial, watch, status, reason)
            row = replace(row, noise_start=noise_start, **bench.facts(peak))
            if status != "finished":
                return row
            return finish_row(row, bench, bench.measure_noise())
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            return make_row(trial, watch, "failed", reason)


def make_watch(trial: Trial) -> Stopwatch:
    """Return what measures a trial's time, and ends it at its target."""
    return Stopwatch(target=trial.target, stop_at_target=trial.stop_at_target)


@dataclass(kw_only=True)
class Bench:
    """A trial's trainer and loaders, made once."""

    recipe: Recipe
    backend: str
    seed: int
    data: Dataset[Any]
    valid: Dataset[Any] | None
    trainer: Trainer
    train_loader: DataLoader[Any]
    valid_loader: DataLoader[Any] | None
    watch: Stopwatch
    run: Run | None = field(default=None, init=False)

    @classmethod
    def prepare(
        cls, recipe: Recipe, trial: Trial, splits: Splits, watch: Stopwatch
    ) -> Bench:
        """Make what a trial needs."""
        data, valid, _ = splits
        own, limits = limit_recipe(recipe, trial, len(data))  # type: ignore[arg-type]
        watch.limit = limits.seconds
        own = own.override(make_data=lambda _: splits)
        trainer = make_trial_trainer(
            own,
            make_initial_model(own, trial.seed),
            seed=trial.seed,
            callbacks=(watch,),
        )
        return cls(
            recipe=own,
            backend=trial.backend,
            seed=trial.seed,
            data=data,
            valid=valid,
            trainer=trainer,
            train_loader=make_split_loader(own, "train", trial.seed),
            valid_loader=(
                None if valid is None else make_split_loader(own, "valid", trial.seed)
            ),
            watch=watch,
        )

    def train(self) -> tuple[str, str | None]:
        """Train; return the row's status, and why where it didn't finish."""
        try:
            self.run = self.fit_alone()
        except NonfiniteError as error:
            self.run = self.watch.run
            self.watch.marks.append(self.watch.seconds)
            return find_nonfinite(self.run) or ("diverged", str(error))
        except TrainingError as error:
            self.run = self.watch.run
            return find_nonfinite(self.run) or ("failed", str(error))
        if self.run.status == "stopped":
            raise KeyboardInterrupt
        return find_nonfinite(self.run) or ("finished", None)

    def fit_alone(self) -> Run:
        """Train by the backend, one step after another."""
        if self.backend != TRAINER:
            return fit_written_out(
                self.backend,
                self.recipe,
                self.trainer,
                self.data,
                self.valid_loader,
                seed=self.seed,
                watch=self.watch,
            )
        return self.trainer.fit(
            self.train_loader,
            self.valid_loader,
            epochs=self.recipe.epochs,
            **split_options(self.recipe.options)[1],
        )

    def compare_splits(self, final: Mapping[str, float]) -> dict[str, Any]:
        """Measure the training data in `eval` mode, and the gap to validation."""
        # Read as validation data are: in order, without what is drawn at random.
        plain = self.recipe.override(make_data=lambda _: (None, self.data, None))
        found = self.trainer.evaluate(make_split_loader(plain, "valid", self.seed))
        gap = final["valid_loss"] - found["loss"] if "valid_loss" in final else None
        return {"train_eval": found, "generalization_gap": gap}

    def measure_noise(self) -> Noise:
        """Return the noise of the gradients at the weights that there are."""
        return measure_noise(self.recipe, self.trainer, self.data, seed=self.seed)

    def read_weights(self) -> list[float]:
        """Return all weights, laid end to end in the order of the parameters."""
        flat = [p.detach().flatten().tolist() for p in self.trainer.model.parameters()]
        return [number for numbers in flat for number in numbers]

    def facts(self, peak: int | None) -> dict[str, Any]:
        """Return what is known of every trial that began."""
        return {
            "epoch_samples": epoch_samples(
                len(self.data),  # type: ignore[arg-type]
                self.recipe.batch_size,
                drop_last=self.recipe.last_batch == "drop",
            ),
            "peak_memory_bytes": peak,
            "identity": {} if self.run is None else self.run.identity,
        }


def limit_recipe(
    recipe: Recipe, trial: Trial, num_samples: int
) -> tuple[Recipe, Limits]:
    """Return a recipe with a trial's settings, and when it ends."""
    own = apply_settings(recipe, trial.settings)
    own = apply_settings(own, _untimed(own, trial.settings))
    if trial.epochs is not None:
        own = apply_settings(own, {"epochs": trial.epochs})
    if trial.budget is None:
        return own, Limits()
    limits = limit_trial(
        trial.budget,
        num_samples=num_samples,
        batch_size=own.batch_size,
        accumulate=int(own.options.get("accumulate", 1)),
        drop_last=own.last_batch == "drop",
    )
    steps = UNLIMITED_STEPS if limits.seconds is not None else limits.max_steps
    ends = {"epochs": limits.epochs, "max_steps": steps}
    return apply_settings(own, ends), limits


def make_trial_trainer(recipe: Recipe, model: nn.Module, **arguments: Any) -> Trainer:
    """Make a trial's trainer, on the device that there is.

    Raises:
        ArgumentError: As `Trainer`.
    """
    return make_trainer(recipe, model, progress="off", **arguments)


def _untimed(recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in place of those that a training would choose by measuring."""
    options: dict[str, Any] = {"num_threads": 1}
    if recipe.options.get("memory_format", "auto") == "auto":
        options["memory_format"] = "contiguous"
    return {name: value for name, value in options.items() if name not in settings}


def finish_row(row: Row, bench: Bench, noise_end: Noise) -> Row:
    """Return the row of a finished trial with what is measured at its end."""
    return replace(
        row,
        noise_end=noise_end,
        weights=bench.read_weights() if "backend" in row.settings else None,
        **bench.compare_splits(row.final),
    )


def make_row(trial: Trial, watch: Stopwatch, status: str, reason: str | None) -> Row:
    """Return the row of a trial that ended, as far as its watch knows it."""
    history = watch.history()
    names = _measured(history)
    values = {n: [float(r[n]) for r in history if n in r] for n in names}
    return Row(
        settings=dict(trial.settings),
        seed=trial.seed,
        status=status,
        reason=reason,
        history=history,
        seconds=watch.seconds,
        steps=0 if watch.state is None else watch.state.step,
        samples=0 if watch.state is None else watch.state.samples,
        final={name: found[-1] for name, found in values.items()},
        best={n: _best(v, n in trial.upward) for n, v in values.items()},
        target=watch.reached,
    )


def _measured(history: list[dict[str, Any]]) -> list[str]:
    """Return the losses and metrics that a history has, in its order."""
    names = dict.fromkeys(name for record in history for name in record)
    return [n for n in names if n.startswith(("train_", "valid_"))]


def _best(values: list[float], is_upward: bool) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return (max if is_upward else min)(numbers, default=math.nan)


def find_nonfinite(run: Run | None) -> tuple[str, str] | None:
    """Return that a run diverged, if its last losses say so."""
    last = run.history[-1] if run is not None and run.history else {}
    for name in ("train_loss", "valid_loss"):
        value = last.get(name, 0.0)
        if not math.isfinite(value):
            return "diverged", f"{name} is {value} after epoch {last['epoch']}."
    return None


def improves_upward(trainer: Trainer) -> tuple[str, ...]:
    """Return the names of what a trainer measures of which more is better."""
    named = {f"valid_{m.name}": m for m in trainer.metrics}
    named |= {f"train_{m.name}": m for m in trainer.train_metrics}
    return tuple(name for name, metric in named.items() if metric.higher_is_better)
