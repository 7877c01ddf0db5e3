"""The same trainings with other libraries, joined to the benchmark where installed.

Each function prepares a training of a `training_loops.Work` and returns what runs it:
the same model with the same initial weights as the loop by hand, its loss, optimiser,
batch size and epochs, a new order each epoch, validation after each where there is any.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from training_loops import Fit, Work, make_loaders, make_parts, to_tensors, validate

ADAM_BETAS = 0.9, 0.999
ADAM_EPSILON = 1e-8


def average_losses(losses: Any, counts: Any, average: str) -> float:
    """Return the mean over samples or over batches, as a task wants it."""
    weights = counts if average == "samples" else None
    return float(np.average(np.asarray(losses), weights=weights))


def count_samples(total: int, batch_size: int) -> list[int]:
    """Return the size of each batch of an epoch, the last one smaller."""
    return [min(batch_size, total - start) for start in range(0, total, batch_size)]


def prepare_lightning(work: Work) -> Fit:
    """Prepare Lightning without logger, checkpoints and progress bar."""
    lightning = importlib.import_module("lightning")
    off = ("logger", "enable_checkpointing", "enable_progress_bar")
    module = _make_lean_module(lightning, work)
    return _prepare_lightning(lightning, work, module, **dict.fromkeys(off, False))


def prepare_lightning_default(work: Work) -> Fit:
    """Prepare Lightning with every default; figures go through its `log`."""
    lightning = importlib.import_module("lightning")
    return _prepare_lightning(lightning, work, _make_logging_module(lightning, work))


def _prepare_lightning(lightning: Any, work: Work, module: Any, **options: Any) -> Fit:
    loader, valid = make_loaders(work)
    trainer = lightning.Trainer(
        max_epochs=work.epochs, default_root_dir=work.folder, **options
    )

    def fit() -> dict[str, Any]:
        trainer.fit(module, loader, valid)
        return {"accuracy": None, **module.outcome()}

    return fit


def _make_lean_module(lightning: Any, work: Work) -> Any:
    """Make a module that adds up loss and accuracy by itself."""
    model, criterion, optimizer = make_parts(work)
    counts = count_samples(len(work.train[1]), work.batch_size)
    losses: list[Tensor] = []
    correct: list[Tensor] = []

    class Lean(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def configure_optimizers(self) -> Any:
            return optimizer

        def on_train_epoch_start(self) -> None:
            losses.clear()

        def on_validation_epoch_start(self) -> None:
            correct.clear()

        def training_step(self, batch: Any, _index: int) -> Tensor:
            loss: Tensor = criterion(self.model(batch[0]), batch[1])
            losses.append(loss.detach())
            return loss

        def validation_step(self, batch: Any, _index: int) -> Tensor:
            outputs = self.model(batch[0])
            correct.append(outputs.argmax(1) == batch[1])
            loss: Tensor = criterion(outputs, batch[1])
            return loss

        def outcome(self) -> dict[str, Any]:
            loss = average_losses(torch.stack(losses), counts, work.task.average)
            if not correct:
                return {"loss": loss}
            return {"loss": loss, "accuracy": float(torch.cat(correct).float().mean())}

    return Lean()


def _make_logging_module(lightning: Any, work: Work) -> Any:
    """Make a module that hands its figures to Lightning's `log`."""
    model, criterion, optimizer = make_parts(work)

    class Logging(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def configure_optimizers(self) -> Any:
            return optimizer

        def training_step(self, batch: Any, _index: int) -> Tensor:
            loss: Tensor = criterion(self.model(batch[0]), batch[1])
            self.log("loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, _index: int) -> None:
            outputs = self.model(batch[0])
            self.log("valid_loss", criterion(outputs, batch[1]))
            correct = outputs.argmax(1) == batch[1]
            self.log("accuracy", correct.float().mean())

        def outcome(self) -> dict[str, Any]:
            logged = self.trainer.callback_metrics
            return {k: float(v) for k, v in logged.items() if k != "valid_loss"}

    return Logging()


def prepare_accelerate(work: Work) -> Fit:
    """Prepare the loop by hand with Accelerate's objects."""
    accelerate = importlib.import_module("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model, criterion, optimizer = make_parts(work)
    loader, valid = make_loaders(work)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if valid is not None:
        valid = accelerator.prepare(valid)
    counts = count_samples(len(work.train[1]), work.batch_size)

    def fit() -> dict[str, Any]:
        losses: list[float] = []
        accuracy = None
        for _ in range(work.epochs):
            model.train()
            losses = []
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = criterion(model(inputs), targets)
                accelerator.backward(loss)
                optimizer.step()
                losses.append(loss.item())
            if valid is not None:
                _, accuracy = validate(valid, model, criterion)
        loss = average_losses(losses, counts, work.task.average)
        return {"loss": loss, "accuracy": accuracy}

    return fit


def prepare_skorch(work: Work) -> Fit:
    """Prepare skorch's classifier, with its own callbacks but for printing."""
    skorch = importlib.import_module("skorch")
    helper = importlib.import_module("skorch.helper")
    model, criterion, _ = make_parts(work)
    split = None
    if work.valid is not None:
        split = helper.predefined_split(skorch.dataset.Dataset(*to_tensors(work.valid)))
    net = skorch.NeuralNetClassifier(
        model,
        criterion=type(criterion),
        optimizer=torch.optim.Adam,
        lr=work.task.lr,
        batch_size=work.batch_size,
        max_epochs=work.epochs,
        iterator_train__shuffle=True,
        train_split=split,
        verbose=0,
    )
    inputs, targets = to_tensors(work.train)

    def fit() -> dict[str, Any]:
        net.fit(inputs, targets)
        last = net.history[-1]
        return {"loss": last["train_loss"], "accuracy": last.get("valid_acc")}

    return fit


def prepare_ignite(work: Work) -> Fit:
    """Prepare Ignite's supervised engines."""
    engine = importlib.import_module("ignite.engine")
    metrics = importlib.import_module("ignite.metrics")
    model, criterion, optimizer = make_parts(work)
    loader, valid = make_loaders(work)
    trainer = engine.create_supervised_trainer(model, optimizer, criterion)
    losses: list[float] = []
    counts = count_samples(len(work.train[1]), work.batch_size)
    measured = {"loss": metrics.Loss(criterion), "accuracy": metrics.Accuracy()}
    evaluator = engine.create_supervised_evaluator(model, measured)
    events = engine.Events
    trainer.add_event_handler(events.EPOCH_STARTED, losses.clear)
    trainer.add_event_handler(
        events.ITERATION_COMPLETED, lambda: losses.append(trainer.state.output)
    )
    if valid is not None:
        trainer.add_event_handler(
            events.EPOCH_COMPLETED, lambda: evaluator.run(valid) and None
        )

    def fit() -> dict[str, Any]:
        trainer.run(loader, max_epochs=work.epochs)
        return {
            "loss": average_losses(losses, counts, work.task.average),
            "accuracy": evaluator.state.metrics.get("accuracy"),
        }

    return fit


def prepare_keras(work: Work) -> Fit:
    """Prepare Keras' `fit`, with the backend that the environment names."""
    keras = importlib.import_module("keras")
    keras.utils.set_random_seed(work.seed)
    train, valid = float_arrays(work.train), None
    if work.valid is not None:
        valid = float_arrays(work.valid)
    model = _make_keras_model(keras, work, train[0].shape[1:])
    betas = dict(zip(("beta_1", "beta_2"), ADAM_BETAS, strict=True))
    model.compile(
        optimizer=keras.optimizers.Adam(work.task.lr, epsilon=ADAM_EPSILON, **betas),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=None if valid is None else ["accuracy"],
    )

    def fit() -> dict[str, Any]:
        history = model.fit(
            *train,
            batch_size=work.batch_size,
            epochs=work.epochs,
            validation_data=valid,
            verbose=0,
        ).history
        accuracies = history.get("val_accuracy", [None])
        return {"loss": history["loss"][-1], "accuracy": accuracies[-1]}

    return fit


def _make_keras_model(keras: Any, work: Work, shape: tuple[int, ...]) -> Any:
    """Build the task's model layer by layer, with the same initial weights."""
    make: dict[type[nn.Module], Callable[[Any], Any]] = {
        nn.Flatten: lambda _: keras.layers.Flatten(),
        nn.ReLU: lambda _: keras.layers.ReLU(),
        nn.Linear: lambda layer: keras.layers.Dense(layer.out_features),
    }
    layers = work.task.make_model()
    made = [make[type(layer)](layer) for layer in layers]
    model = keras.Sequential([keras.Input(shape), *made])
    weights = [array for pair in linear_weights(layers) for array in pair]
    model.set_weights(weights)
    return model


def linear_weights(model: nn.Sequential) -> list[tuple[Any, Any]]:
    """Return the weight, inputs first, and the bias of each linear layer."""
    return [
        (layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy())
        for layer in model
        if isinstance(layer, nn.Linear)
    ]


def float_arrays(arrays: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return inputs as floats and targets, as arrays of NumPy."""
    inputs, targets = to_tensors(arrays)
    return inputs.numpy(), targets.numpy()
