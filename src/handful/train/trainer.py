"""Trainer: loader + step + schedule + validation + checkpoints -> Run."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from handful.data.loader import DataLoader
from handful.errors import ArgumentError, TrainingError
from handful.runs.folder import holds_run
from handful.runs.run import STEP_DTYPE, Run
from handful.train.batches import choose_device, count_samples, move_batch
from handful.train.callbacks import Callback, FitState
from handful.train.choices import ChoiceLike, check_epochs, check_lr, check_seed
from handful.train.engine import EagerEngine
from handful.train.environment import describe_environment, describe_identity
from handful.train.evaluation import average_losses, evaluate_model, predict_model
from handful.train.generators import seeded_generators
from handful.train.losses import Loss, check_output, describe_loss, make_loss
from handful.train.metrics import Metric, make_metrics
from handful.train.optimizers import (
    OptimizerLike,
    describe_optimizer,
    make_optimizer,
)
from handful.train.progress import make_progress
from handful.train.record import Recorder
from handful.train.schedules import Schedule, describe_schedule, make_schedule
from handful.train.threads import check_threads, measure_threads, restored_threads


class Trainer:
    """Trains a model: batches in, a `Run` out.

    Each call of `fit` is one run: the optimiser, the schedule and the generators start
    afresh, while the model goes on from the weights that it has.

    Args:
        model: A module that maps a batch's inputs to an output.
        loss: A name (``"cross_entropy"``, ``"mse"``, ``"mae"``, ``"huber"``,
            ``"bce_with_logits"``), or a callable of (output, target) that returns the
            batch's mean loss.
        optimizer: A name with arguments where wanted (``"sgd:momentum=0.9"``), a
            function that makes one of parameters, or an optimiser of torch.
        lr: Learning rate at the start, above 0; None for 0.001, or for an optimiser
            object's own.
        schedule: Name of a schedule with arguments where wanted
            (``"step:step_size=10"``), or an object with ``lr_at``; None is constant.
        metrics: Names (``"accuracy"``, ``"mae"``, ``"mse"``) or metrics, measured on
            validation data.
        device: ``"auto"`` for the accelerator if there is one, else the CPU; or a
            device of torch.
        seed: Seed of the order of samples and of random layers, in ``[0, 2**63)``; the
            torch's global generators are put back when `fit` returns. None leaves them
            alone. A run that is resumed also sets Python's and NumPy's.
        loss_average: ``"samples"`` to weigh each batch by its samples in the epoch's
            loss, ``"batches"`` for the plain mean of batch losses.
        num_threads: Threads of torch while `fit` runs: a number, None for torch's own
            setting, or ``"auto"`` to measure on the first batch, before the first
            update, whether one thread is faster. A resumed run keeps its number.
        callbacks: Called at the named moments of `Callback`.
        progress: ``"auto"``, ``"bar"``, ``"lines"`` or ``"off"``.

    Raises:
        ArgumentError: A name is unknown or a value out of range.

    Example:
        >>> X = torch.randn(60, 4); y = (X.sum(1) > 0).long()
        >>> trainer = Trainer(
        ...     nn.Linear(4, 2), loss="cross_entropy", lr=0.1, progress="off"
        ... )
        >>> run = trainer.fit(DataLoader((X, y), batch_size=10, shuffle=True), epochs=3)
        >>> run.status, len(run.history), len(run.steps)
        ('finished', 3, 18)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: str | Loss,
        optimizer: OptimizerLike = "adam",
        lr: float | None = None,
        schedule: ChoiceLike | Schedule | None = None,
        metrics: Sequence[str | Metric] = (),
        device: str | torch.device = "auto",
        seed: int | None = 0,
        loss_average: str = "samples",
        num_threads: int | str | None = "auto",
        callbacks: Sequence[Callback] = (),
        progress: str = "auto",
    ) -> None:
        if loss_average not in ("samples", "batches"):
            raise ArgumentError(
                f"loss_average must be 'samples' or 'batches'; got {loss_average!r}."
            )
        self.device = choose_device(device)
        self.model = model.to(self.device)
        self.loss = make_loss(loss)
        self.lr = None if lr is None else check_lr(lr)
        self.schedule = make_schedule(schedule)
        self.metrics = make_metrics(metrics)
        self.seed = None if seed is None else check_seed(seed)
        self.loss_average = loss_average
        self.num_threads = check_threads(num_threads)
        self.callbacks = (*callbacks, make_progress(progress))
        self._loss_setting = loss
        self._optimizer_setting = optimizer
        describe_optimizer(optimizer)  # finds a wrong name now

    def fit(
        self,
        train: Iterable[Any],
        valid: Iterable[Any] | None = None,
        *,
        epochs: int,
        run_dir: str | Path | None = None,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> Run:
        """Train, and validate after every epoch.

        Args:
            train: Gives batches of inputs and a target: handful's DataLoader, any of
                PyTorch's, or another iterable that can be gone through once an epoch.
            valid: The same, for validation.
            epochs: Passes over ``train``, 1 or more, those of a resumed run included.
            run_dir: The run's folder, where history, steps and checkpoints are kept;
                None keeps the run in memory.
            resume: Go on from the newest checkpoint in ``run_dir``.
            settings: Plain values to keep in the run's configuration beside the
                Trainer's own.

        Returns:
            The run, also kept in ``run_dir``.

        Raises:
            ArgumentError: ``epochs`` is no such number, or ``resume`` has no folder.
            RunError: The folder holds a run and ``resume`` is false, or none and it is
                true.
            TrainingError: The data or the loss can't be trained on.
        """
        epochs = check_epochs(epochs)
        with ExitStack() as stack:
            stack.enter_context(restored_threads())
            is_measured = self._set_threads(run_dir if resume else None)
            if self.seed is not None:
                stack.enter_context(seeded_generators(self.seed, "fit"))
            stack.enter_context(_ordered_by(train, self.seed))
            optimizer = make_optimizer(self._optimizer_setting, self.model, self.lr)
            identity = describe_identity(
                engine=EagerEngine.name, optimizer=optimizer, device=self.device
            )
            run = Run(
                config=self._describe(train, epochs, optimizer, settings or {}),
                environment=describe_environment(),
                identity=identity,
            )
            recorder = stack.enter_context(Recorder.open(run, run_dir, resume=resume))
            probe = self._measure if is_measured else None
            return self._train(recorder, train, valid, optimizer, epochs, probe)

    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Measure the model on a loader's batches, in `eval` mode without gradients.

        Args:
            loader: Gives batches of inputs and a target.

        Returns:
            ``loss`` and every metric by its name.

        Raises:
            TrainingError: The loader gives no batch.
        """
        return evaluate_model(
            self.model,
            loader,
            loss=self.loss,
            metrics=self.metrics,
            device=self.device,
            average=self.loss_average,
        )

    def predict(self, loader: Iterable[Any]) -> Tensor:
        """Return the model's outputs, in `eval` mode without gradients.

        Args:
            loader: Gives batches of inputs and a target, or of one input alone.

        Returns:
            The outputs, shape ``(N, …)``, on the CPU.

        Raises:
            TrainingError: The loader gives no batch.
        """
        return predict_model(self.model, loader, device=self.device)

    def _set_threads(self, resumed: str | Path | None) -> bool:
        """Set torch's threads; return whether they are still to be measured."""
        threads = self.num_threads
        if resumed is not None and holds_run(Path(resumed)):
            threads = Run.load(resumed).identity.get("threads", threads)
        if isinstance(threads, int):
            torch.set_num_threads(threads)
        return threads == "auto" and self.device.type == "cpu"

    def _measure(self, batch: Any, recorder: Recorder) -> None:
        """Choose the number of threads, before the first update."""
        threads = measure_threads(self.model, self.loss, move_batch(batch, self.device))
        torch.set_num_threads(threads)
        recorder.record_identity({**recorder.run.identity, "threads": threads})

    def _train(
        self,
        recorder: Recorder,
        train: Iterable[Any],
        valid: Iterable[Any] | None,
        optimizer: Optimizer,
        epochs: int,
        probe: Callable[..., None] | None,
    ) -> Run:
        run = recorder.run
        base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        state = FitState(run=run, epochs=epochs, steps_per_epoch=_length(train))
        recorder.restore(state, self.model, optimizer)
        loader = train
        if probe is not None:
            train = _Probed(train, functools.partial(probe, recorder=recorder))
        engine = EagerEngine(
            self.model,
            self.loss,
            optimizer,
            lambda output, target: check_output(self._loss_setting, output, target),
        )
        try:
            self._call("on_run_start", state)
            while state.epoch < epochs:
                started = time.perf_counter()
                if isinstance(loader, DataLoader):
                    loader.epoch = state.epoch
                factor = self._lr_factor(state, base_lrs[0])
                # Groups that a callback added have rates of their own.
                for group, base in zip(optimizer.param_groups, base_lrs, strict=False):
                    group["lr"] = base * factor
                state.epoch, state.lr = state.epoch + 1, base_lrs[0] * factor

                steps, train_loss = self._train_epoch(state, engine, train)
                record = {
                    "epoch": state.epoch,
                    "step": state.step,
                    "samples": state.samples,
                    "train_loss": train_loss,
                }
                if valid is not None:
                    measured = self.evaluate(valid)
                    record |= {f"valid_{name}": v for name, v in measured.items()}
                record |= {"lr": state.lr, "seconds": time.perf_counter() - started}
                recorder.record_epoch(record, steps)
                try:
                    self._call("on_epoch_end", state, record)
                finally:  # after the callbacks, which may change what is saved
                    if math.isfinite(train_loss):
                        recorder.save(state, self.model, optimizer)
                _check_finite(record)
        finally:
            self._call("on_run_end", state)
        return run

    def _train_epoch(
        self, state: FitState, engine: EagerEngine, train: Iterable[Any]
    ) -> tuple[NDArray[np.void], float]:
        losses: list[Tensor] = []
        counts: list[int] = []
        on_step = [c for c in self.callbacks if _overrides(c, "on_step")]
        self.model.train()
        for batch in train:
            loss = engine.step(move_batch(batch, self.device))
            losses.append(loss)
            counts.append(count_samples(batch))
            state.step += 1
            state.samples += counts[-1]
            state.loss = loss
            for callback in on_step:
                callback.on_step(state)
        if not losses:
            raise TrainingError(
                "train must give at least one batch an epoch; it gave none. "
                "With drop_last, batch_size must not exceed the number of samples."
            )
        steps = np.empty(len(losses), STEP_DTYPE)
        steps["loss"] = torch.stack(losses).float().cpu().numpy()
        steps["lr"] = state.lr
        return steps, average_losses(losses, counts, self.loss_average)

    def _lr_factor(self, state: FitState, base_lr: float) -> float:
        """Return the epoch's rate as a multiple of the rate at the start."""
        monitor = state.run.monitor
        watched = [r[monitor] for r in state.run.history if monitor in r]
        rate = self.schedule.lr_at(
            state.epoch, lr=base_lr, epochs=state.epochs, losses=watched
        )
        return rate / base_lr if base_lr else 1.0

    def _call(self, moment: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, moment)(*args)

    def _describe(
        self,
        train: Iterable[Any],
        epochs: int,
        optimizer: Optimizer,
        settings: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return every setting, as plain values."""
        own = {
            "format": 1,
            "recipe": None,
            "variant": None,
            "epochs": epochs,
            "batch_size": getattr(train, "batch_size", None),
            "lr": optimizer.param_groups[0]["lr"],
            "optimizer": describe_optimizer(self._optimizer_setting),
            "schedule": describe_schedule(self.schedule),
            "seed": self.seed,
            "device": str(self.device),
            "loss": describe_loss(self._loss_setting),
            "metrics": [metric.name for metric in self.metrics],
            "loss_average": self.loss_average,
        }
        return {**own, **settings}


class _Probed:
    """A loader whose first batch is shown to a function before it is handed out."""

    def __init__(self, loader: Iterable[Any], probe: Callable[[Any], None]) -> None:
        self._loader = loader
        self._probe: Callable[[Any], None] | None = probe

    def __iter__(self) -> Iterator[Any]:
        if self._probe is None:
            return iter(self._loader)
        return self._iterate()

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def _iterate(self) -> Iterator[Any]:
        for batch in self._loader:
            if self._probe is not None:
                self._probe(batch)
                self._probe = None
            yield batch


@contextmanager
def _ordered_by(loader: Iterable[Any], seed: int | None) -> Iterator[None]:
    """Give a loader of ours without a seed the Trainer's for a while."""
    if not isinstance(loader, DataLoader):
        yield
        return
    before = loader.seed, loader.epoch
    is_drawn_here = loader.path.startswith("batched")  # elsewhere PyTorch draws
    if loader.seed is None and loader.generator is None and is_drawn_here:
        loader.seed = seed
    try:
        yield
    finally:
        loader.seed, loader.epoch = before


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


def _overrides(callback: Callback, moment: str) -> bool:
    return getattr(type(callback), moment) is not getattr(Callback, moment)


def _check_finite(record: Mapping[str, Any]) -> None:
    if not math.isfinite(record["train_loss"]):
        raise TrainingError(
            f"train_loss is {record['train_loss']} after epoch {record['epoch']}; the "
            "training diverged. Lower lr, or look for NaN in the data."
        )
