"""Assembly: the parts of one training, put together from a Trainer's settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import LBFGS

from handful.errors import ArgumentError, TrainingError
from handful.runs.run import Run
from handful.train.averaging import AveragedWeights
from handful.train.callbacks import FitState, is_foreign, overrides
from handful.train.checks import check_monitor
from handful.train.choices import metric_improves_upward
from handful.train.data_identity import identify_data
from handful.train.engine import EagerEngine
from handful.train.environment import describe_environment, describe_identity
from handful.train.evaluation import evaluate_model
from handful.train.feed import Feed, validation_loader
from handful.train.first_step import FirstStep
from handful.train.loop import Loop
from handful.train.measuring import Fastest
from handful.train.monitor import Monitor
from handful.train.native_engine import NativeEngine
from handful.train.nonfinite import StepGuard
from handful.train.nonfinite_steps import NonfiniteSteps
from handful.train.optimizers import describe_optimizer, make_optimizer
from handful.train.out_of_memory import StepMemory
from handful.train.precision import Precision
from handful.train.rates import Rates
from handful.train.record import Recorder
from handful.train.save_times import Saving
from handful.train.schedules import describe_schedule
from handful.train.signals import StopRequest
from handful.train.step import CriterionStep, CustomStep, Step, StepOutput
from handful.train.step_log import StepLog
from handful.train.summary import has_lazy_layers
from handful.train.torch_schedule import TorchSchedule
from handful.train.train_metrics import TrainMetrics

if TYPE_CHECKING:
    from handful.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What one call of `Trainer.fit` is told; see there."""

    train: Iterable[Any]
    valid: Iterable[Any] | None
    epochs: int | None
    max_steps: int | None
    valid_every: int | None
    checkpoint_every: int | None
    saving: Saving = field(default_factory=Saving)
    extra: Mapping[str, Any]


class Assembly:
    """Puts a training together, in two steps: what is described, then the loop.

    Args:
        trainer: Has the settings of all trainings.
        fit: Has those of this one.

    Attributes:
        run: The run, with its configuration, environment and identity.
        optimizer: The optimiser, made or the user's own.

    Raises:
        ArgumentError: The settings don't fit each other or the loaders.
        TrainingError: The model can't be trained as it is.
    """

    def __init__(self, trainer: Trainer, fit: FitSettings) -> None:
        self._trainer = trainer
        self._fit = fit
        if has_lazy_layers(trainer.model):
            raise TrainingError(
                "model must know the shapes of its layers; it has lazy ones. Run one "
                "batch through it first: model(inputs)."
            )
        self._monitor = make_monitor(trainer, is_validated=fit.valid is not None)
        self._feed = Feed(
            fit.train,
            device=trainer.device,
            accumulate=trainer.accumulate,
            micro_batch_size=trainer.micro_batch_size,
        )
        self.optimizer = make_optimizer(
            trainer.optimizer,
            trainer.model,
            trainer.lr,
            param_groups=trainer.param_groups,
            decay_biases_and_norms=trainer.decay_biases_and_norms,
        )
        if isinstance(self.optimizer, LBFGS) and trainer.on_out_of_memory == "split":
            raise ArgumentError(
                "on_out_of_memory must be 'raise' for lbfgs, whose update asks for "
                "gradients several times; got 'split'. Set micro_batch_size."
            )
        self._precision = Precision(trainer.precision, trainer.device)
        self.run = Run(
            config=self._describe(),
            environment=describe_environment(),
            identity=describe_identity(
                engine=EagerEngine.name,
                optimizer=self.optimizer,
                device=trainer.device,
                precision=trainer.precision,
                data=identify_data(fit.train),
            ),
        )
        self._state = FitState(
            run=self.run,
            epochs=fit.epochs,
            max_steps=fit.max_steps,
            steps_per_epoch=self._feed.steps_per_epoch,
            model=trainer.model,
            optimizer=self.optimizer,
        )
        self._rates = Rates(
            self.optimizer,
            trainer.schedule,
            epochs=fit.epochs,
            steps=_count_steps(self._state),
            steps_per_epoch=self._feed.steps_per_epoch,
            higher_is_better=self._monitor.higher_is_better,
        )

    def make_loop(
        self,
        recorder: Recorder,
        request: StopRequest,
        *,
        threads: bool,
        memory_format: str,
    ) -> Loop:
        """Return the loop, ready to run or to be restored.

        Args:
            recorder: Keeps the run.
            request: Says whether the process was asked to end.
            threads: Whether the number of threads is still to be chosen.
            memory_format: A format, or ``"auto"`` if it is still to be chosen.
        """
        trainer, fit = self._trainer, self._fit
        step = make_step(trainer, self._precision)
        observed = TrainMetrics(trainer.train_metrics)
        first = self._make_first(
            step, recorder, threads=threads, memory_format=memory_format
        )
        averages = None
        if trainer.ema is not None:
            averages = AveragedWeights(trainer.model, trainer.ema)

        def accept(batch: Any, made: StepOutput) -> None:
            first.check_loss(batch, made)
            trainer.averages = averages  # a refused training leaves the former ones

        nonfinite = self._make_nonfinite(step, recorder)
        observe = observed.add if nonfinite is None else _observe_finite(observed)
        engine = self._make_engine(
            step,
            recorder,
            averages,
            on_first=accept,
            observe=observe if trainer.train_metrics else None,
            guard=None if nonfinite is None else nonfinite.guard,
            on_gradients=self._gradient_callbacks(),
        )
        memory = StepMemory(
            trainer.on_out_of_memory,
            engine=engine,
            feed=self._feed,
            model=trainer.model,
            observed=observed if trainer.train_metrics else None,
            on_split=lambda said: recorder.record_event("out of memory", said),
        )
        return Loop(
            state=self._state,
            model=trainer.model,
            optimizer=self.optimizer,
            engine=engine,
            feed=self._feed,
            rates=self._rates,
            recorder=recorder,
            monitor=self._monitor,
            precision=self._precision,
            memory=memory,
            log=StepLog(trainer.loss_average),
            callbacks=trainer.callbacks,
            request=request,
            observed=observed,
            validate=self._make_validate(step),
            valid_every=fit.valid_every,
            checkpoint_every=fit.checkpoint_every,
            early_stopping=trainer.early_stopping,
            averages=averages,
            nonfinite=nonfinite,
            weight_norm=_measure_norm if trainer.gradients.wants_norm else None,
            prepare=first.prepare,
        )

    def _make_engine(
        self,
        step: Step,
        recorder: Recorder,
        averages: AveragedWeights | None,
        **functions: Any,
    ) -> EagerEngine:
        """Return what does the steps; by replaying them where that may be possible."""
        trainer = self._trainer
        options = {
            "precision": self._precision,
            "settings": trainer.gradients,
            **functions,
        }
        can_replay = (
            trainer.engine != "eager"
            and trainer.device.type == "cpu"
            and not self._precision.scales
        )
        if not can_replay or not isinstance(step, CriterionStep):
            return EagerEngine(trainer.model, step, self.optimizer, **options)
        return NativeEngine(
            trainer.model,
            step,
            self.optimizer,
            steps_to_come=self._count_steps_to_come,
            is_watched=any(map(is_foreign, self._list_objects())),
            on_note=lambda note: recorder.record_event("engine", note),
            must_be_faster=trainer.engine == "auto",
            averages=averages,
            **options,
        )

    def _make_nonfinite(self, step: Step, recorder: Recorder) -> NonfiniteSteps | None:
        """Return what becomes of steps that went wrong; None where none is left out.

        In fp16 the scaler leaves them out. On an accelerator each look waits for the
        device, so that only who asks for it pays for it.
        """
        trainer = self._trainer
        is_free = trainer.device.type == "cpu"
        if self._precision.scales or not (is_free or trainer.on_nonfinite == "skip"):
            return None
        return NonfiniteSteps(
            trainer.on_nonfinite,
            guard=StepGuard(trainer.model, self.optimizer),
            model=trainer.model,
            step=step,
            on_skip=lambda said: recorder.record_event("skipped step", said),
        )

    def _list_objects(self) -> list[Any]:
        """List what may be of the user's own and is called between steps."""
        trainer = self._trainer
        metrics = (*trainer.metrics, *trainer.train_metrics)
        schedule = [] if trainer.schedule is None else [trainer.schedule]
        return [self.optimizer, *schedule, *trainer.callbacks, *metrics]

    def _count_steps_to_come(self) -> int | None:
        total = _count_steps(self._state)
        return None if total is None else total - self._state.step

    def _make_first(
        self, step: Step, recorder: Recorder, *, threads: bool, memory_format: str
    ) -> FirstStep:
        trainer, fit = self._trainer, self._fit

        def record(fastest: Fastest) -> None:
            chosen = {
                "threads": fastest.threads,
                "memory_format": fastest.memory_format,
            }
            recorder.record_identity({**self.run.identity, **chosen})

        loaders = {"train": fit.train}
        if fit.valid is not None:
            loaders["valid"] = fit.valid
        return FirstStep(
            model=trainer.model,
            optimizer=self.optimizer,
            step=step,
            layout=trainer.layout,
            loaders=loaders,
            device=trainer.device,
            # A step of the user's is called for the training alone: it may count.
            threads=threads and trainer.step_function is None,
            memory_format=memory_format,
            replays=trainer.engine != "eager" and not self._precision.scales,
            is_strict=trainer.on_nonfinite == "stop",
            on_chosen=record,
            on_note=lambda note: recorder.record_event("note", note),
        )

    def _make_validate(self, step: Step) -> Any:
        trainer = self._trainer
        valid = validation_loader(self._fit.valid, self._fit.train)
        if valid is None:
            return None

        def validate() -> Mapping[str, float]:
            return evaluate_model(
                trainer.model,
                valid,
                step=step,
                metrics=trainer.metrics,
                device=trainer.device,
                average=trainer.loss_average,
                on_out_of_memory=trainer.on_out_of_memory,
            )

        return validate

    def _gradient_callbacks(self) -> Any:
        callbacks = [c for c in self._trainer.callbacks if overrides(c, "on_gradients")]
        if not callbacks:
            return None

        def on_gradients() -> None:
            for callback in callbacks:
                callback.on_gradients(self._state)

        return on_gradients

    def _describe(self) -> dict[str, Any]:
        """Return every setting, as plain values."""
        trainer, fit = self._trainer, self._fit
        group = self.optimizer.defaults if trainer.lr is None else {"lr": trainer.lr}
        schedule = trainer.schedule
        own = {
            "format": 1,
            "recipe": None,
            "variant": None,
            "epochs": fit.epochs,
            "max_steps": fit.max_steps,
            "batch_size": getattr(fit.train, "batch_size", None),
            "lr": group.get("lr"),
            "optimizer": describe_optimizer(trainer.optimizer),
            "param_groups": _plain(trainer.param_groups),
            "decay_biases_and_norms": trainer.decay_biases_and_norms,
            "schedule": (
                repr(schedule)
                if isinstance(schedule, TorchSchedule)
                else describe_schedule(schedule)
            ),
            "seed": trainer.seed,
            "device": str(trainer.device),
            "loss": None if trainer.criterion is None else trainer.criterion.setting,
            "loss_average": trainer.loss_average,
            "metrics": [metric.name for metric in trainer.metrics],
            "train_metrics": [metric.name for metric in trainer.train_metrics],
            "monitor": self._monitor.name,
            "monitor_mode": "max" if self._monitor.higher_is_better else "min",
            "early_stopping": _plain(trainer.early_stopping),
            "valid_every": fit.valid_every,
            "checkpoint_every": fit.checkpoint_every,
            "save_every": fit.saving.every,
            "on_save_error": fit.saving.on_error,
            "accumulate": trainer.accumulate,
            "micro_batch_size": trainer.micro_batch_size,
            "clip_norm": trainer.gradients.clip_norm,
            "clip_value": trainer.gradients.clip_value,
            "log_norms": trainer.gradients.wants_norm,
            "precision": trainer.precision,
            "on_nonfinite": trainer.on_nonfinite,
            "on_out_of_memory": trainer.on_out_of_memory,
            "ema": trainer.ema,
            "num_threads": trainer.num_threads,
            "memory_format": trainer.memory_format,
            "engine": trainer.engine,
        }
        return {**own, **fit.extra}


def make_step(trainer: Trainer, precision: Precision) -> Step:
    """Return what computes a batch's loss."""
    if trainer.criterion is None:
        assert trainer.step_function is not None
        return CustomStep(trainer.step_function, precision)
    return CriterionStep(trainer.criterion, trainer.layout, precision)


def make_monitor(trainer: Trainer, *, is_validated: bool) -> Monitor:
    """Return the monitor, once it is known that its value will be measured.

    Raises:
        ArgumentError: It will not be.
    """
    name = trainer.monitor or ("valid_loss" if is_validated else "train_loss")
    known = {f"train_{metric.name}": metric for metric in trainer.train_metrics}
    available = ["train_loss"]
    if is_validated:
        known |= {f"valid_{metric.name}": metric for metric in trainer.metrics}
        available.append("valid_loss")
    available += known
    if trainer.step_function is None:  # its totals have names that are not known yet
        check_monitor(name, available)
    if trainer.monitor_mode is not None:
        return Monitor(name, higher_is_better=trainer.monitor_mode == "max")
    metric = known.get(name)
    if metric is not None:
        return Monitor(name, higher_is_better=bool(metric.higher_is_better))
    return Monitor(name, higher_is_better=metric_improves_upward(name))


def _observe_finite(observed: TrainMetrics) -> Callable[[StepOutput], None]:
    """Return what takes in the outputs of steps that a guard may not leave out."""

    def observe(made: StepOutput) -> None:
        if math.isfinite(made.loss.item()) or float(made.weight) == 0:
            observed.add(made)

    return observe


def _count_steps(state: FitState) -> int | None:
    """Return the steps of the whole run, None where they are not known."""
    if state.epochs is None or state.steps_per_epoch is None:
        return state.max_steps
    steps = state.epochs * state.steps_per_epoch
    return steps if state.max_steps is None else min(steps, state.max_steps)


def _measure_norm(model: nn.Module) -> float:
    """Return the norm of all trained weights together."""
    weights = [p.detach() for p in model.parameters() if p.requires_grad]
    norms = [torch.linalg.vector_norm(w.float()) for w in weights]
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def _plain(value: Any) -> Any:
    """Return a setting as plain values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return vars(value) if hasattr(value, "__dict__") else str(value)
