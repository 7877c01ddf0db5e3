"""A recipe's training step, as its training would do it, for one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from handful.train.assembly import Assembly, FitSettings
from handful.train.batches import move_batch, split_samples
from handful.train.generators import seeded_generators
from handful.train.loop import Loop
from handful.train.recipe import Recipe
from handful.train.record import Recorder
from handful.train.run_recipe import make_initial_model, make_trainer
from handful.train.signals import StopRequest
from handful.train.threads import restored_threads

_NOT_OF_A_STEP = (
    *("monitor", "monitor_mode", "early_stopping", "valid_every"),
    *("checkpoint_every", "save_every", "on_save_error", "accumulate"),
    "train_metrics",
)
"""Options of a recipe that say nothing about one step on one batch."""


@contextmanager
def training_step(
    recipe: Recipe, loader: Any, *, seed: int, device: str
) -> Iterator[Callable[[Any], None]]:
    """Return what trains a fresh model of a recipe on the batch that it is given.

    Each call is one update, done by the engine and with the threads that a training
    would choose at its first batch. Torch's threads and generators are put back at the
    end.

    Args:
        recipe: The recipe. Batches that it accumulates are a step each.
        loader: The loader of its training data.
        seed: Seed of the initial weights and of random layers.
        device: ``"auto"`` or a device of torch.

    Raises:
        HandfulError: As `Trainer` and `Trainer.fit`; in a call, what the step raises.
    """
    options = {k: v for k, v in recipe.options.items() if k not in _NOT_OF_A_STEP}
    plain = replace(recipe, options=options, metrics=(), schedule=None)
    with restored_threads(), seeded_generators(seed, "doctor"):
        model = make_initial_model(plain, seed)
        trainer = make_trainer(plain, model, device=device, seed=seed, progress="off")
        threads = trainer.num_threads
        if isinstance(threads, int):
            torch.set_num_threads(threads)
        fit = FitSettings(
            train=loader,
            valid=None,
            epochs=plain.epochs,
            max_steps=options.get("max_steps"),
            valid_every=None,
            checkpoint_every=None,
            extra={},
        )
        parts = Assembly(trainer, fit)
        with Recorder.open(parts.run, None, resume=False) as recorder:
            loop = parts.make_loop(
                recorder,
                StopRequest(),
                threads=threads == "auto" and trainer.device.type == "cpu",
                memory_format=trainer.memory_format,
            )
            yield _make_step(loop, trainer.device, trainer.micro_batch_size)


def _make_step(
    loop: Loop, device: torch.device, micro_batch_size: int | None
) -> Callable[[Any], None]:
    loop.model.train()

    def step(batch: Any) -> None:
        moved = move_batch(batch, device)
        parts = [moved]
        if micro_batch_size is not None:
            parts = list(split_samples(moved, micro_batch_size))
        if loop.prepare is not None:
            loop.prepare(parts)
            loop.prepare = None
        loop.engine.step(parts)

    return step
