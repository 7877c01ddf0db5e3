"""What is trained, the loops written by hand, and handful's Trainer.

The loops do what the programs of four PyTorch tutorials do, without their printing: a
classifier of wines, one of digits with validation, and a line through points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loading_peers import make_by_hand
from loading_works import TutorialMnist
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import handful
from handful import Columns
from handful.data.transforms import ScaleBytes
from handful.datasets.images import load_fashion_mnist, load_mnist
from handful.datasets.splits import split_indices
from handful.datasets.tables import load_regression, load_wine

Arrays = tuple[Any, Any]
Fit = Callable[[], dict[str, Any]]
LOSSES = {"cross_entropy": nn.CrossEntropyLoss, "mse": nn.MSELoss}
OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        make_model: Makes the model, in the modes of training.
        read: Reads the data, of a few made-up images if it is told True: arrays for
            training, and those for validation or None.
        loss: Key of `LOSSES`.
        optimizer: Key of `OPTIMIZERS`.
        lr: Learning rate.
        average: How the tutorial averages its losses: over ``"samples"`` or
            ``"batches"``.
    """

    make_model: Callable[[], nn.Module]
    read: Callable[[bool], tuple[Arrays, Arrays | None]]
    loss: str = "cross_entropy"
    optimizer: str = "adam"
    lr: float = 0.001
    average: str = "batches"


@dataclass(frozen=True)
class Work:
    """A task with its data and how it is to be trained.

    Attributes:
        task: What is trained.
        train: Inputs and targets.
        valid: The same for validation, or None.
        batch_size: Samples a step, and in each batch of validation.
        epochs: Passes.
        seed: Of whatever draws by itself; torch is seeded already.
        folder: Where files may be written.
    """

    task: Task
    train: Arrays
    valid: Arrays | None
    batch_size: int
    epochs: int
    seed: int
    folder: Path


def make_wine_model() -> nn.Sequential:
    """Make the wine lesson's model, 13-10-10-3."""
    return nn.Sequential(
        nn.Linear(13, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3)
    )


def make_line() -> nn.Sequential:
    """Make the model of one feature: a weight and a bias."""
    return nn.Sequential(nn.Linear(1, 1))


def make_digits_model() -> nn.Sequential:
    """Make the digits lesson's model, 784-128-10."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def make_convolutions() -> nn.Sequential:
    """Make a small convolutional network."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


class Characters(nn.Module):
    """A small transformer over 64 characters: four layers of width 128."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(64, 128), nn.Embedding(64, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 64)

    def forward(self, characters: Tensor) -> Tensor:
        """Return logits ``(N, 64, T)`` of characters ``(N, T)``."""
        places = torch.arange(characters.shape[1])
        values = self.layers(self.embed(characters) + self.place(places))
        return self.head(values).transpose(1, 2)


def read_characters(quick: bool) -> tuple[Arrays, None]:
    """Return 1,024 texts of 64 characters, and each text one character further."""
    rng = np.random.default_rng(0)
    steps = rng.integers(1, 5, size=(64 if quick else 1024, 65))
    texts = np.cumsum(steps, axis=1) % 64
    return (texts[:, :-1].copy(), texts[:, 1:].copy()), None


def read_wine(_quick: bool) -> tuple[Arrays, None]:
    """Return the 178 wines: float32 ``(178, 13)``, int64 ``(178,)``."""
    wine = load_wine()
    return (wine.features, wine.target), None


def read_points(_quick: bool) -> tuple[Arrays, None]:
    """Return 100 points of one feature: float32 ``(100, 1)`` both."""
    points = load_regression()
    as_floats = partial(np.asarray, dtype=np.float32)
    return (as_floats(points.features), as_floats(points.target)), None


def read_images(load: Callable[[], Any], quick: bool) -> tuple[Arrays, Arrays]:
    """Return images, uint8 ``(N, 1, 28, 28)``, and labels: five sixths and the rest."""
    if quick:
        images, labels = make_images(384)
    else:
        data = load()
        images, labels = data.train_images, data.train_labels
    held_out = len(labels) // 6
    train, valid = split_indices(len(labels), (len(labels) - held_out, held_out), 0)
    return (images[train], labels[train]), (images[valid], labels[valid])


def make_images(count: int) -> Arrays:
    """Make images that are easily told apart: a bright bar, and noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=count)
    images = rng.integers(64, size=(count, 1, 28, 28), dtype=np.uint8)
    images[np.arange(count), 0, 2 * labels] = 255
    return images, labels


STEADY_BATCHES = 500
"""Batches of an epoch of which steps alone are measured: the data are repeated."""

TASKS = {
    "wine": Task(make_wine_model, read_wine, average="samples"),
    "wine-rates": Task(make_wine_model, read_wine, average="samples"),
    "mnist": Task(make_digits_model, partial(read_images, load_mnist)),
    "regression": Task(make_line, read_points, "mse", "sgd", lr=0.01),
    "transformer": Task(Characters, read_characters),
    "cnn": Task(make_convolutions, partial(read_images, load_fashion_mnist)),
}


def read_work(spec: dict[str, Any], folder: Path) -> Work:
    """Read the data of the task that a specification names."""
    task = TASKS[spec["work"]]
    train, valid = task.read(spec["quick"])
    if spec.get("is_steady"):
        batches = STEADY_BATCHES // (25 if spec["quick"] else 1)
        times = -(-batches * spec["batch_size"] // len(train[1]))
        train = tuple(np.concatenate([array] * times) for array in train)
    sizes = spec["batch_size"], spec["epochs"], spec["seed"]
    return Work(task, train, valid, *sizes, folder)


def set_up_torch(threads: int, seed: int) -> None:
    """Set torch's threads and seed."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)


def to_tensors(arrays: Arrays) -> tuple[Tensor, Tensor]:
    """Return inputs as floats, bytes divided by 255, and targets."""
    inputs, targets = (torch.from_numpy(array) for array in arrays)
    return inputs.div(255) if inputs.dtype == torch.uint8 else inputs, targets


def make_loaders(work: Work) -> tuple[Any, Any]:
    """Make PyTorch's loaders over tensors in memory; None without validation."""
    train = TensorDataset(*to_tensors(work.train))
    loader = DataLoader(train, work.batch_size, shuffle=True)
    if work.valid is None:
        return loader, None
    return loader, DataLoader(TensorDataset(*to_tensors(work.valid)), work.batch_size)


def make_parts(work: Work) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """Make model, loss and optimiser, all with PyTorch's defaults."""
    model = work.task.make_model()
    make = OPTIMIZERS[work.task.optimizer]
    return model, LOSSES[work.task.loss](), make(model.parameters(), lr=work.task.lr)


def make_fit(work: Work, loader: Any, valid_loader: Iterable[Any] | None) -> Fit:
    """Make model, loss and optimiser, and return what trains by hand with them."""
    model, criterion, optimizer = make_parts(work)
    return partial(run_loop, work, loader, valid_loader, model, criterion, optimizer)


def prepare_by_hand(work: Work) -> Fit:
    """Prepare the tutorials' loop over PyTorch's loader."""
    return make_fit(work, *make_loaders(work))


def prepare_images(work: Work) -> Fit:
    """Prepare the loop as the digits lesson has it: a PIL image of each sample."""
    loaders: list[Any] = []
    for images, labels in filter(None, (work.train, work.valid)):
        shape = (len(labels), *images.shape[-2:])
        pixels = torch.from_numpy(images).reshape(shape)
        dataset = TutorialMnist(pixels, torch.from_numpy(labels))
        is_train = not loaders
        loaders.append(DataLoader(dataset, work.batch_size, shuffle=is_train))
    train, valid = (*loaders, None)[:2]
    return make_fit(work, train, valid)


class Slices:
    """Batches cut from tensors by slices of a permutation, anew each epoch."""

    def __init__(self, inputs: Tensor, targets: Tensor, batch_size: int) -> None:
        self.begin, self.num_samples, _ = make_by_hand(inputs, targets, batch_size, 1)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Any]:
        return iter(self.begin())

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)


def prepare_slices(work: Work) -> Fit:
    """Prepare the loop without a loader; validation goes over slices in order."""
    loader = Slices(*to_tensors(work.train), work.batch_size)
    valid = None
    if work.valid is not None:
        size, (inputs, targets) = work.batch_size, to_tensors(work.valid)
        starts = range(0, len(targets), size)
        valid = [(inputs[i : i + size], targets[i : i + size]) for i in starts]
    return make_fit(work, loader, valid)


def run_loop(
    work: Work,
    loader: Any,
    valid_loader: Iterable[Any] | None,
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Train, and validate after each epoch where the tutorial does."""
    run_epoch = EPOCHS[work.task.average]
    loss, accuracy = float("nan"), None
    for _ in range(work.epochs):
        model.train()
        loss = run_epoch(loader, model, criterion, optimizer)
        if valid_loader is not None:
            _, accuracy = validate(valid_loader, model, criterion)
    return {"loss": loss, "accuracy": accuracy, "threads": torch.get_num_threads()}


def run_epoch_by_samples(
    loader: Any, model: nn.Module, criterion: nn.Module, optimizer: Any
) -> float:
    """Go through the batches once; return the loss of the mean sample."""
    running_loss, num_samples = 0.0, 0
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        running_loss += loss.item() * len(targets)
        num_samples += len(targets)
    return running_loss / num_samples


def run_epoch_by_batches(
    loader: Any, model: nn.Module, criterion: nn.Module, optimizer: Any
) -> float:
    """Go through the batches once; return the loss of the mean batch."""
    running_loss = 0.0
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    return running_loss / len(loader)


EPOCHS = {"samples": run_epoch_by_samples, "batches": run_epoch_by_batches}


def validate(
    loader: Iterable[Any], model: nn.Module, criterion: nn.Module
) -> tuple[float, float]:
    """Return loss, a mean over batches, and accuracy."""
    model.eval()
    losses, correct, total, num_batches = 0.0, 0, 0, 0
    with torch.no_grad():
        for inputs, targets in loader:
            outputs = model(inputs)
            losses += criterion(outputs, targets).item()
            predicted = outputs.max(1).indices
            correct += int((predicted == targets).sum().item())
            total += len(targets)
            num_batches += 1
    return losses / num_batches, correct / total


def prepare_everything(work: Work) -> Fit:
    """Prepare handful's Trainer with progress lines and a run folder."""
    return prepare_trainer(work, progress="lines", run_dir=work.folder / "run")


def prepare_without_folder(work: Work) -> Fit:
    """Prepare handful's Trainer with progress lines and the run kept in memory."""
    return prepare_trainer(work, progress="lines", run_dir=None)


def prepare_off(work: Work) -> Fit:
    """Prepare handful's Trainer without progress and folder."""
    return prepare_trainer(work, progress="off", run_dir=None)


def prepare_population(work: Work) -> Fit:
    """Prepare `handful.compare` with 16 rates around the task's own, of one seed."""
    train, valid = (
        None if a is None else Columns(*a) for a in (work.train, work.valid)
    )
    recipe = handful.Recipe(
        name="population",
        make_data=lambda _seed: (train, valid, None),
        make_model=work.task.make_model,
        loss=work.task.loss,
        optimizer=work.task.optimizer,
        batch_size=work.batch_size,
        epochs=work.epochs,
    )
    rates = [work.task.lr * 1.25 ** (place - 8) for place in range(16)]

    def fit() -> dict[str, Any]:
        study = handful.compare(
            recipe, {"lr": rates}, seeds=[work.seed], progress="off"
        )
        best = min(row.final["train_loss"] for row in study.rows)
        return {"loss": best, "accuracy": None, "threads": 1}

    return fit


def prepare_trainer(work: Work, *, progress: str, run_dir: Path | None) -> Fit:
    """Prepare handful's Trainer; all else is as it comes."""
    is_bytes = work.train[0].dtype == np.uint8
    transform = ScaleBytes() if is_bytes else None
    make_loader: Callable[..., Any] = partial(
        handful.DataLoader, batch_size=work.batch_size, batch_transform=transform
    )
    loader = make_loader(work.train, shuffle=True)
    valid = None if work.valid is None else make_loader(work.valid)
    trainer = handful.Trainer(
        work.task.make_model(),
        loss=work.task.loss,
        optimizer=work.task.optimizer,
        lr=work.task.lr,
        metrics=() if valid is None else ("accuracy",),
        seed=work.seed,
        loss_average=work.task.average,
        progress=progress,
    )

    def fit() -> dict[str, Any]:
        run = trainer.fit(loader, valid, epochs=work.epochs, run_dir=run_dir)
        last = run.history[-1]
        return {
            "loss": last["train_loss"],
            "accuracy": last.get("valid_accuracy"),
            "threads": run.identity["threads"],
        }

    return fit
