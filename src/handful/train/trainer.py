"""Trainer: loader + step + schedule + validation + checkpoints -> Run."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from handful.data.first_batch import first
from handful.errors import ArgumentError
from handful.runs.folder import holds_run
from handful.runs.run import Run
from handful.runs.salvage import load_salvaged
from handful.train.assembly import Assembly, FitSettings, make_step
from handful.train.averaging import AveragedWeights
from handful.train.batches import (
    BatchLayout,
    choose_device,
    count_samples,
    move_batch,
)
from handful.train.callbacks import Callback
from handful.train.choices import (
    ChoiceLike,
    check_epochs,
    check_lr,
    check_seed,
)
from handful.train.continuing import find_origin
from handful.train.engine import StepSettings
from handful.train.evaluation import evaluate_model, predict_model
from handful.train.export import export_model
from handful.train.feed import ordered_by
from handful.train.generators import seeded_generators
from handful.train.losses import Loss, make_criterion
from handful.train.memory_format import (
    align_state,
    strides_restored,
)
from handful.train.metrics import make_metrics
from handful.train.optimizers import (
    OptimizerLike,
    check_optimizer_arguments,
    optimizer_states,
)
from handful.train.options import check_option
from handful.train.precision import Precision
from handful.train.predictions import write_predictions
from handful.train.progress import make_progress
from handful.train.record import Recorder
from handful.train.resuming import restore
from handful.train.save_times import Saving
from handful.train.schedules import Schedule, make_schedule
from handful.train.signals import stop_requests
from handful.train.step import StepFunction
from handful.train.stopping import EarlyStopping
from handful.train.summary import ModelSummary, summarize_model
from handful.train.threads import restored_threads
from handful.train.torch_schedule import TorchSchedule, is_torch_schedule
from handful.train.weights import LoadedWeights, load_weights, save_weights


class Trainer:
    """Trains a model: batches in, a `Run` out.

    Each call of `fit` is one run: the optimiser, the schedule and the generators start
    afresh, while the model goes on from the weights that it has.

    Args:
        model: A module that maps a batch's inputs to an output.
        loss: A name of `handful.train.choices.LOSSES`, with arguments where wanted
            (``"cross_entropy:label_smoothing=0.1"``), or a callable of (output, target)
            that returns the batch's mean loss.
        step: A function of (model, batch), in place of ``loss``, that returns the mean
            loss, weighed by the samples of the batch, or a mapping with ``loss_sum``
            and ``weight``; there also ``output`` and ``target`` for metrics, and
            totals named ``<name>_sum``, which become ``train_<name>`` and
            ``valid_<name>`` divided by ``weight``.
        optimizer: A name with arguments where wanted (``"sgd:momentum=0.9"``), a
            function that makes one of parameters, or an optimiser of torch.
        lr: Learning rate at the start, above 0; None for 0.001 (1 for lbfgs), or for an
            optimiser object's own.
        param_groups: Options by patterns of parameters' names, such as
            ``{"head.*": {"lr": 0.01}}``; ``lr_factor`` multiplies ``lr``. Of several
            patterns that match, later ones win.
        decay_biases_and_norms: Whether weight decay is for biases and normalisation
            layers too.
        schedule: Name of a schedule with arguments where wanted
            (``"step:step_size=10"``, ``"cosine:warmup=500,unit=step"``), an object with
            ``unit`` and ``lr_at``, or a scheduler of torch, best as a function of the
            optimiser; None is constant.
        metrics: Names (``"accuracy"``), `Metric` or torchmetrics objects, measured on
            validation data.
        train_metrics: The same, measured on the batches as they are trained on: while
            the weights change, so that they are not comparable with the others.
        monitor: The value of the history that says which state is best, and what
            schedules and early stopping look at; None for ``valid_loss``, or
            ``train_loss`` without validation.
        monitor_mode: ``"min"`` or ``"max"``, which way it improves; None to know it by
            its name.
        early_stopping: Validations without improvement after which a run ends, or an
            `EarlyStopping`; None for never.
        accumulate: Batches a step. Their gradients are those of one batch, exactly:
            sums are added up and divided once.
        micro_batch_size: Most samples that go through the model at once; larger
            batches are split, with the same gradients. None for any.
        clip_norm: Most that the norm of all gradients together may be, above 0.
        clip_value: Most that an entry of a gradient may be, above 0.
        log_norms: Whether the history has ``grad_norm``, the mean over an epoch's
            steps of the norm before any clipping, and ``weight_norm``.
        precision: ``"float32"``: as the model is; ``"bf16"`` or ``"fp16"``: the model
            runs under autocast, its weights stay as they are.
        on_nonfinite: What becomes of a step whose loss or gradients are NaN or
            infinite: ``"stop"`` ends the run with the state from before it, ``"skip"``
            leaves it out. Either names the step, its samples and a layer. In fp16 such
            steps are a part of the scaling; see ``precision``.
        on_out_of_memory: What becomes of a step that does not fit into memory:
            ``"raise"`` ends the run with what was asked for, ``"split"`` halves the
            micro-batch until it fits and goes on with that size. Not with lbfgs.
        ema: Decay of an exponential average of the weights, between 0 and 1, such as
            0.999; validation, `evaluate` and `predict` then use the average. None for
            none.
        target: Position or key of the target in a batch; None for the last, or for the
            one key of target, targets, label, labels, y.
        sample_weight: Position or key of the weights of samples in a batch, if it has
            them: 0 or more, shape ``(N,)``.
        device: ``"auto"`` for the accelerator if there is one, else the CPU; or a
            device of torch.
        seed: Seed of the order of samples and of random layers, in ``[0, 2**63)``; the
            torch's global generators are put back when `fit` returns. None leaves them
            alone. A run that is resumed also sets Python's and NumPy's.
        loss_average: ``"samples"`` to weigh each batch by its samples in the epoch's
            loss, ``"batches"`` for the plain mean of batch losses.
        num_threads: Threads of torch while `fit` runs: a number, None for torch's own
            setting, or ``"auto"`` to measure on the first batch, before the first
            update, whether one thread is faster; with ``step``, which might count its
            calls, torch's own. A resumed run keeps its number.
        memory_format: How images and kernels of convolutions lie in memory while `fit`
            runs: ``"contiguous"``, ``"channels_last"``, or ``"auto"`` to measure on
            the first batch which is faster on the CPU. It changes the last bits. A
            resumed run keeps it.
        engine: ``"eager"`` does each step as PyTorch does it; ``"captured"`` records
            steps and replays them with less work around the arithmetic, to the same
            bits, where the device is the CPU, the loss is ``loss`` and the model does
            the same in each step; ``"auto"`` does so where it is faster.
        callbacks: Called at the named moments of `Callback`.
        progress: ``"auto"``, ``"bar"``, ``"lines"``, ``"notebook"`` or ``"off"``.

    Raises:
        ArgumentError: A name is unknown or a value out of range.

    Example:
        >>> from handful import DataLoader
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
        loss: ChoiceLike | Loss | None = None,
        step: StepFunction | None = None,
        optimizer: OptimizerLike = "adam",
        lr: float | None = None,
        param_groups: Mapping[str, Mapping[str, Any]] | None = None,
        decay_biases_and_norms: bool = True,
        schedule: Any = None,
        metrics: Sequence[Any] | Mapping[str, Any] = (),
        train_metrics: Sequence[Any] | Mapping[str, Any] = (),
        monitor: str | None = None,
        monitor_mode: str | None = None,
        early_stopping: int | EarlyStopping | None = None,
        accumulate: int = 1,
        micro_batch_size: int | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        log_norms: bool = False,
        precision: str = "float32",
        on_nonfinite: str = "stop",
        on_out_of_memory: str = "raise",
        ema: float | None = None,
        target: int | str | None = None,
        sample_weight: int | str | None = None,
        device: str | torch.device = "auto",
        seed: int | None = 0,
        loss_average: str = "samples",
        num_threads: int | str | None = "auto",
        memory_format: str = "auto",
        engine: str = "auto",
        callbacks: Sequence[Callback] = (),
        progress: str = "auto",
    ) -> None:
        if (loss is None) == (step is None):
            raise ArgumentError(
                "loss or step must be given, and not both: step computes the loss by "
                f"itself; got loss={loss!r} and step={step!r}."
            )
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"model must be a torch.nn.Module; got {model!r}.")
        if step is not None and (target, sample_weight) != (None, None):
            raise ArgumentError(
                "target and sample_weight must be None with step, which takes the "
                f"whole batch; got {target!r} and {sample_weight!r}."
            )
        if loss_average not in ("samples", "batches"):
            raise ArgumentError(
                f"loss_average must be 'samples' or 'batches'; got {loss_average!r}."
            )
        self.device = choose_device(device)
        self.model = model.to(self.device)
        self.criterion = None if loss is None else make_criterion(loss)
        if self.criterion is not None and isinstance(self.criterion.mean, nn.Module):
            self.criterion.mean.to(self.device)  # weights of classes, if any
        self.step_function = step
        self.lr = None if lr is None else check_lr(lr)
        check_optimizer_arguments(optimizer, self.lr)
        self.optimizer = optimizer
        self.param_groups = param_groups
        self.decay_biases_and_norms = decay_biases_and_norms
        self.schedule = _make_schedule(schedule)
        self.metrics = make_metrics(metrics)
        self.train_metrics = make_metrics(train_metrics)
        self.monitor = monitor
        self.monitor_mode = check_option("monitor_mode", monitor_mode)
        self.early_stopping = check_option("early_stopping", early_stopping)
        self.accumulate = check_option("accumulate", accumulate)
        self.micro_batch_size = check_option("micro_batch_size", micro_batch_size)
        self.gradients = StepSettings(
            clip_norm=check_option("clip_norm", clip_norm),
            clip_value=check_option("clip_value", clip_value),
            wants_norm=check_option("log_norms", log_norms),
        )
        Precision(precision, self.device)  # finds a wrong name now
        self.precision = precision
        self.on_nonfinite = check_option("on_nonfinite", on_nonfinite)
        self.on_out_of_memory = check_option("on_out_of_memory", on_out_of_memory)
        self.ema = check_option("ema", ema)
        self.averages: AveragedWeights | None = None
        self._versions: list[int] = []
        self.layout = BatchLayout(target, sample_weight)
        self.seed = None if seed is None else check_seed(seed)
        self.loss_average = loss_average
        self.num_threads = check_option("num_threads", num_threads)
        self.memory_format = check_option("memory_format", memory_format)
        self.engine = check_option("engine", engine)
        self.callbacks = (*_check_callbacks(callbacks), make_progress(progress))

    def fit(
        self,
        train: Iterable[Any],
        valid: Iterable[Any] | None = None,
        *,
        epochs: int | None = None,
        max_steps: int | None = None,
        valid_every: int | None = None,
        checkpoint_every: int | None = None,
        save_every: str = "auto",
        on_save_error: str = "stop",
        run_dir: str | Path | None = None,
        resume: bool | str | Path = False,
        allow_changed: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> Run:
        """Train, and validate after every epoch or every few steps.

        The first Ctrl-C, or SIGTERM, ends the run after the current step: the state is
        saved, and on Ctrl-C the run returned with the status ``stopped``; SIGTERM ends
        the program (exit 143), and so does SIGHUP, when its terminal goes away (exit
        129). A second one ends at once.

        Args:
            train: Gives batches of inputs and a target: handful's DataLoader, any of
                PyTorch's, or another iterable that can be gone through once an epoch.
            valid: The same, for validation.
            epochs: Passes over ``train``, 1 or more, those of a resumed run included.
            max_steps: Optimisation steps after which the run ends, likewise. One of
                the two must be given; of both, the first reached counts.
            valid_every: Steps between validations; None for the end of each epoch.
                Then a validation is a line of the history too, with ``partial``.
            checkpoint_every: Epochs between checkpoints that are all kept. The last
                two and the best are kept in any case.
            save_every: When the state is saved between records: ``"auto"``, as often
                as saving takes at most about 5 % of the time, from the first second
                on; a number of steps or a time, such as ``"500steps"``, ``"30s"``,
                ``"10minutes"`` or ``"1h"``; ``"records"``, never.
            on_save_error: ``"stop"`` ends the run with an error when the disk refuses;
                ``"continue"`` says so in the run's events and goes on. Checkpoints of
                before stay in either case.
            run_dir: The run's folder, where history, steps and checkpoints are kept;
                None keeps the run in memory, or goes on in the folder of ``resume``.
            resume: Go on from the newest checkpoint in ``run_dir``, in mid-epoch
                where it was taken there. What was recorded only because the run ended
                is dropped; a run that stopped early stays stopped. The folder of a
                run, or of one of its checkpoints, goes on from there: in that run's
                folder, where later checkpoints are then deleted, or in a new one that
                ``run_dir`` names.
            allow_changed: Whether a run may go on with another numeric identity, such
                as another device, version of torch or data set. It then doesn't end in
                the bits of the run that was never stopped.
            settings: Plain values to keep in the run's configuration beside the
                Trainer's own.

        Returns:
            The run, also kept in ``run_dir``.

        Raises:
            ArgumentError: A number is out of range, ``monitor`` is not measured, or
                ``resume`` has no folder.
            RunError: The folder holds a run and ``resume`` is false, or none and it is
                true; or the run to go on with has another numeric identity.
            CheckpointError: The state can't be saved.
            TrainingError: The data or the loss can't be trained on.
            NonfiniteError: A loss, a gradient or a weight became NaN or infinite.
        """
        if epochs is None and max_steps is None:
            raise ArgumentError(
                "epochs or max_steps must be given; got neither. "
                "Both end the run, whichever comes first."
            )
        fit = FitSettings(
            train=train,
            valid=valid,
            epochs=None if epochs is None else check_epochs(epochs),
            max_steps=check_option("max_steps", max_steps),
            valid_every=check_option("valid_every", valid_every),
            checkpoint_every=check_option("checkpoint_every", checkpoint_every),
            saving=Saving(
                check_option("save_every", save_every),
                check_option("on_save_error", on_save_error),
            ),
            extra=settings or {},
        )
        origin = find_origin(resume, run_dir)
        with ExitStack() as stack:
            stack.enter_context(restored_threads())
            known = {} if origin is None else _known_identity(origin.run_dir)
            is_open = self._set_threads(known)
            memory_format = known.get("memory_format", self.memory_format)
            if self.seed is not None:
                stack.enter_context(seeded_generators(self.seed, "fit"))
            stack.enter_context(ordered_by(train, self.seed))
            request = stack.enter_context(stop_requests())
            parts = Assembly(self, fit)
            stack.callback(align_state, parts.optimizer)  # once the weights lie again
            stack.enter_context(strides_restored(self.model))
            recorder = stack.enter_context(
                Recorder.open(
                    parts.run,
                    run_dir,
                    resume=resume,
                    allow_changed=allow_changed,
                    saving=fit.saving,
                )
            )
            loop = parts.make_loop(
                recorder, request, threads=is_open, memory_format=memory_format
            )
            if recorder.resumed is not None:
                restore(loop, recorder.resumed)
                self.averages = loop.averages
            loop.run()
        self._versions = _versions(self.model)
        if request.signal not in (None, signal.SIGINT):
            raise SystemExit(128 + request.signal)
        return parts.run

    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Measure the model on a loader's batches, in `eval` mode without gradients.

        Args:
            loader: Gives batches of inputs and a target.

        Returns:
            ``loss`` and every metric by its name.

        Raises:
            TrainingError: The loader gives no batch.
        """
        with self._averaged():
            return evaluate_model(
                self.model,
                loader,
                step=make_step(self, Precision(self.precision, self.device)),
                metrics=self.metrics,
                device=self.device,
                average=self.loss_average,
                on_out_of_memory=self.on_out_of_memory,
            )

    def predict(self, loader: Iterable[Any], *, to: str | Path | None = None) -> Any:
        """Return the model's outputs, in `eval` mode without gradients.

        Args:
            loader: Gives batches of inputs and a target, or of one input alone.
            to: A file to write them to as well: ``.npy``, or ``.csv`` or ``.parquet``
                (extra ``arrow``) with a row for each sample; None for none.

        Returns:
            The outputs, shape ``(N, …)``, on the CPU; of a model that returns several,
            the same tuple or dictionary of such.

        Raises:
            TrainingError: The loader gives no batch.
        """
        with self._averaged():
            outputs = predict_model(
                self.model,
                loader,
                layout=self.layout,
                precision=Precision(self.precision, self.device),
                device=self.device,
            )
        if to is not None:
            write_predictions(Path(to), outputs)
        return outputs

    def summarize(self, loader: Iterable[Any]) -> ModelSummary:
        """Describe the model: layers, shapes, parameters, memory at this batch size.

        The model runs once on the loader's first batch; neither is changed by it.

        Args:
            loader: Gives batches of inputs and a target.

        Returns:
            The summary; ``print`` it.
        """
        batch = move_batch(first(loader), self.device)
        args, kwargs = self.layout.inputs(batch)
        states = optimizer_states(self.optimizer)
        return summarize_model(
            self.model,
            lambda: self.model(*args, **kwargs),
            batch_size=count_samples(batch),
            optimizer_states=states,
        )

    def export(self, path: str | Path, loader: Iterable[Any]) -> Path:
        """Write the model as a program of `torch.export`, for any batch size.

        Args:
            path: The file, ``.pt2``.
            loader: Gives batches; the first shows what goes in.

        Returns:
            The file.

        Raises:
            TrainingError: The model can't be exported; the sentence says why.
        """
        batch = move_batch(first(loader), self.device)
        args, kwargs = self.layout.inputs(batch)
        with self._averaged():
            return export_model(self.model, kwargs or args, path)

    def save_weights(self, path: str | Path) -> Path:
        """Write the weights, the averaged ones with ``ema``; see `save_weights`."""
        with self._averaged():
            return save_weights(self.model, path)

    def load_weights(self, path: str | Path, *, strict: bool = True) -> LoadedWeights:
        """Load weights into the model; see `handful.train.weights.load_weights`.

        Averages of an earlier `fit` are forgotten: what was loaded is what is used.
        """
        self.averages = None
        return load_weights(self.model, path, strict=strict)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Let the model hold its averaged weights for a while, where they are kept.

        They are forgotten once somebody has written other weights into the model.
        """
        if self.averages is not None and self._versions != _versions(self.model):
            self.averages = None
        if self.averages is None:
            yield
            return
        with self.averages.swapped_in():
            yield
        self._versions = _versions(self.model)

    def _set_threads(self, known: Mapping[str, Any]) -> bool:
        """Set torch's threads; return whether they are still to be measured."""
        threads = known.get("threads", self.num_threads)
        if isinstance(threads, int):
            torch.set_num_threads(threads)
        return threads == "auto" and self.device.type == "cpu"


def _known_identity(run_dir: Path) -> Mapping[str, Any]:
    """Return the numeric identity of the run that goes on, as far as it is known."""
    return load_salvaged(run_dir).identity if holds_run(run_dir) else {}


def _versions(model: nn.Module) -> list[int]:
    """Return how often each weight was written."""
    return [param._version for param in model.parameters()]


def _make_schedule(value: Any) -> Schedule | TorchSchedule:
    if isinstance(value, TorchSchedule):
        return value
    return TorchSchedule(value) if is_torch_schedule(value) else make_schedule(value)


def _check_callbacks(callbacks: Sequence[Callback]) -> Sequence[Callback]:
    if isinstance(callbacks, Callback):
        raise ArgumentError(f"callbacks must be a list; got {callbacks!r} alone.")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ArgumentError(
                f"callbacks must be objects of handful.Callback; got {callback!r}. "
                "Derive a class from it, and give an object of that."
            )
    return callbacks
