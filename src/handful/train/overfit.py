"""Overfitting one batch: the shortest test of whether a training can work at all.

A model that is large enough learns a single batch by heart within a few hundred steps.
If its loss stays, something is wrong that no amount of data mends: the rate, the
labels, the output layer, the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from handful.data.first_batch import first
from handful.train.batches import count_samples
from handful.train.callbacks import Callback, FitState
from handful.train.choices import Choice, check_count, check_seed, parse_loss
from handful.train.generators import all_generators_preserved
from handful.train.recipe import Recipe
from handful.train.run_recipe import (
    make_initial_model,
    make_split_loader,
    make_trainer,
)

LEARNED_SHARE = 0.01
"""A loss at or below this share of the first counts as near zero."""

_KEPT = (
    *("step", "target", "sample_weight", "param_groups", "decay_biases_and_norms"),
    *("clip_norm", "clip_value", "micro_batch_size"),
    *("precision", "num_threads", "memory_format"),
)
"""The options of a recipe that say how a step is done."""


@dataclass(frozen=True)
class Overfit:
    """What came of training on one batch.

    Attributes:
        first_loss: Mean loss of the batch before the first update.
        last_loss: The same before the last update.
        steps: Updates done.
        lr: The rate that they were done with.
        samples: Samples in the batch.
        parameters: Numbers that the model could change.
    """

    first_loss: float
    last_loss: float
    steps: int
    lr: float
    samples: int
    parameters: int

    @property
    def has_learned(self) -> bool:
        """Whether the loss fell to `LEARNED_SHARE` of the first, or below 0."""
        return self.last_loss <= LEARNED_SHARE * max(self.first_loss, 0.0)

    @property
    def verdict(self) -> str:
        """What that says, and what to look at if the loss stayed."""
        if self.has_learned:
            return "The loss fell to near zero: model and loss can learn this data."
        start = f"The loss did not fall to near zero in {self.steps} steps"
        if self.parameters < self.samples:
            return (
                f"{start}: the model has fewer parameters ({self.parameters}) than the "
                f"batch has samples ({self.samples}), too few to learn them by heart. "
                "Take a smaller batch_size to see whether it learns at all."
            )
        if not self.last_loss < self.first_loss:
            return (
                f"{start}; it did not fall at all. Try a lower lr, then a higher one "
                f"(it is {self.lr:g}); see that the loss fits the output layer and "
                "that gradients reach the weights."
            )
        return (
            f"{start}, though it fell. Raise lr (it is {self.lr:g}) or the steps; then "
            "look at the labels (do equal inputs have different ones?), the output "
            "layer (its width, a softmax or sigmoid too many), the loss, and whether "
            "dropout holds the model back."
        )


def overfit_one_batch(
    recipe: Recipe, *, seed: int = 0, max_steps: int = 300, device: str = "auto"
) -> Overfit:
    """Train a fresh model of a recipe on its first batch alone.

    The rate stays what it is at the start, and label smoothing, under which no loss
    comes near zero, is left out. Nothing is written.

    Args:
        recipe: The recipe.
        seed: Seed of the split, the initial weights, the order and random layers.
        max_steps: Steps after which it ends, 1 or more; sooner where the loss has come
            near zero.
        device: ``"auto"`` or a device of torch.

    Returns:
        The losses, the steps and what they say.

    Raises:
        HandfulError: As `Trainer` and `Trainer.fit`: the data or the loss can't be
            trained on, or the training diverged.
        KeyboardInterrupt: Ctrl-C was pressed.

    Example:
        >>> from handful import load_recipe
        >>> overfit_one_batch(load_recipe("digits")).has_learned
        True
    """
    check_seed(seed)
    check_count(max_steps, name="max_steps")
    plain = _plainly(recipe)
    with all_generators_preserved():
        batch = first(make_split_loader(plain, "train", seed))
    watch = _Watch()
    trainer = make_trainer(
        plain,
        make_initial_model(plain, seed),
        device=device,
        seed=seed,
        callbacks=(watch,),
        progress="off",
    )
    run = trainer.fit([batch], max_steps=max_steps)
    if run.status == "stopped":
        raise KeyboardInterrupt
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    return Overfit(
        first_loss=watch.first_loss,
        last_loss=watch.last_loss,
        steps=len(run.steps),
        lr=plain.lr,
        samples=count_samples(batch),
        parameters=sum(p.numel() for p in trained),
    )


class _Watch(Callback):
    """Ends a training once its loss is near zero."""

    def __init__(self) -> None:
        self.first_loss = math.nan
        self.last_loss = math.nan

    def on_step(self, state: FitState) -> None:
        loss = float(state.loss)
        if state.step == 1:
            self.first_loss = loss
        self.last_loss = loss
        if loss <= LEARNED_SHARE * max(self.first_loss, 0.0):
            state.stop = "the loss is near zero"


def _plainly(recipe: Recipe) -> Recipe:
    """Return a recipe without what has no meaning for one batch."""
    options = {k: v for k, v in recipe.options.items() if k in _KEPT}
    return replace(
        recipe,
        loss=_without_smoothing(recipe.loss),
        metrics=(),
        schedule=None,
        last_batch="keep",
        options=options,
        epochs=recipe.epochs or 1,
    )


def _without_smoothing(loss: Any) -> Any:
    if not isinstance(loss, (str, dict, Choice)):
        return loss
    choice = parse_loss(loss)
    args = {k: v for k, v in choice.args.items() if k != "label_smoothing"}
    return Choice(choice.name, args)
