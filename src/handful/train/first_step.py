"""The first step of a run: what is measured and checked before anything changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from handful.train.batches import BatchLayout, count_samples
from handful.train.checks import (
    check_finite_loss,
    check_last_batch,
    check_requires_grad,
    note_untrained,
    notes_on_accumulation,
)
from handful.train.labels import check_labels, find_targets
from handful.train.loss_fit import check_output_width
from handful.train.losses import Criterion
from handful.train.measuring import Fastest, measure_fastest
from handful.train.memory_format import align_state, lay_out
from handful.train.step import CriterionStep, Step, StepOutput

CLASS_LOSSES = ("cross_entropy", "nll")


def use_memory_format(model: nn.Module, step: Step, name: str) -> None:
    """Lay out a model's weights, and from now on its inputs."""
    lay_out(model, name)
    if isinstance(step, CriterionStep):
        step.memory_format = name


@dataclass(kw_only=True)
class FirstStep:
    """Measures threads and checks data, model and loss, with the first batch.

    Attributes:
        model: The model, in the modes of training.
        optimizer: Its optimiser, whose state has to lie as the weights do.
        step: Computes a batch's loss.
        layout: Which fields of a batch are which.
        loaders: The loaders by name: ``train``, ``valid``.
        device: Where the model is.
        threads: Whether the number of threads is still to be chosen.
        memory_format: A format, or ``"auto"`` if it is still to be chosen.
        replays: Whether the engine replays steps where it can.
        is_strict: Whether a first loss that is not finite ends the run.
        on_chosen: Takes what was chosen, before the first update.
        on_note: Takes a sentence that the user should read.
    """

    model: nn.Module
    optimizer: Optimizer
    step: Step
    layout: BatchLayout
    loaders: dict[str, Iterable[Any]]
    device: torch.device
    threads: bool
    memory_format: str
    replays: bool
    is_strict: bool
    on_chosen: Callable[[Fastest], None]
    on_note: Callable[[str], None]

    @property
    def criterion(self) -> Criterion | None:
        """The loss, None for a step of the user's."""
        return self.step.criterion if isinstance(self.step, CriterionStep) else None

    def prepare(self, batches: Sequence[Any]) -> None:
        """Act on the first step's micro-batches before any of them is used.

        Raises:
            TrainingError: A batch of one sample is to come that the model can't take.
        """
        self._check_last_batch(batches[0])
        if len(batches) > 1:
            note = notes_on_accumulation(self.model)
            if note is not None:
                self.on_note(note)
        note = note_untrained(self._modules(), self.optimizer)
        if note is not None:
            self.on_note(note)
        self._choose(batches[0])
        if isinstance(self.step, CriterionStep):
            self.step.inspect = self._check_output

    def _modules(self) -> dict[str, nn.Module]:
        """Return the model, and the loss where that is a module too."""
        loss = None if self.criterion is None else self.criterion.mean
        own = {"loss": loss} if isinstance(loss, nn.Module) else {}
        return {"model": self.model, **own}

    def _choose(self, batch: Any) -> None:
        """Measure what is open, on the CPU; set threads and format."""
        on_cpu, name = self.device.type == "cpu", self.memory_format
        fastest = Fastest(torch.get_num_threads(), "contiguous")
        is_open = self.threads or name == "auto"
        if on_cpu and is_open and self.criterion is not None:
            fastest = measure_fastest(
                self.model,
                self.step,
                batch,
                threads=self.threads,
                memory_format=name == "auto",
                replays=self.replays,
            )
        if name != "auto":
            fastest = replace(fastest, memory_format=name)
        torch.set_num_threads(fastest.threads)
        use_memory_format(self.model, self.step, fastest.memory_format)
        align_state(self.optimizer)
        self.on_chosen(fastest)

    def check_loss(self, batch: Any, made: StepOutput) -> None:
        """Check the first loss, before the update.

        Raises:
            TrainingError: It is not finite, or has no gradient.
        """
        check_requires_grad(made.loss)
        if self.layout.sample_weight is not None and float(made.weight) == 0:
            return  # no sample of the batch counts, so there is no mean
        if self.is_strict:
            check_finite_loss(made.loss, batch)

    def _check_output(self, output: Any, target: Any) -> None:
        """Check the first output and its target, before the loss is computed."""
        criterion = self.criterion
        assert criterion is not None
        ignored = criterion.ignore_index
        note = check_output_width(output, target, criterion.kind, ignore_index=ignored)
        if note is not None:
            self.on_note(note)
        if criterion.kind in CLASS_LOSSES and isinstance(output, Tensor):
            self._check_all_labels(output.shape[1], ignored)

    def _check_all_labels(self, num_classes: int, ignored: int) -> None:
        """Look at the labels of whole data sets, where they lie in arrays."""
        fields = self.layout.target, self.layout.sample_weight
        for where, loader in self.loaders.items():
            targets = find_targets(loader, fields[0], sample_weight=fields[1])
            if targets is None:
                continue
            check_labels(
                targets, num_classes=num_classes, where=where, ignore_index=ignored
            )
            has_all = targets.is_floating_point() or not (targets == ignored).any()
            if where == "train" and has_all and isinstance(self.step, CriterionStep):
                self.step.criterion = self.step.criterion.with_all_labels()

    def _check_last_batch(self, batch: Any) -> None:
        loader: Any = self.loaders["train"]
        size = getattr(loader, "batch_size", None)
        if not isinstance(size, int) or getattr(loader, "shard", None):
            return
        if not hasattr(loader, "dataset") or not hasattr(loader.dataset, "__len__"):
            return
        count = len(loader.dataset)

        def forward() -> Any:
            args, kwargs = self.layout.inputs(batch)
            return self.model(*args, **kwargs)

        if self.criterion is None or count_samples(batch) != min(size, count):
            return  # the user's step calls the model in a way of its own
        check_last_batch(
            self.model,
            forward,
            num_samples=count,
            batch_size=size,
            drop_last=bool(getattr(loader, "drop_last", False)),
        )
