"""Feeding: batches by hand, by loaders and by a data set of one's own, timed."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, TensorDataset

from handful.data.loader import DataLoader
from handful.datasets.tables import load_regression
from handful.lessons.feeding_measure import draw_ways, measure_ways, tell_measured
from handful.lessons.feeding_ways import (
    Batch,
    PairDataset,
    can_pin,
    make_loader,
    make_ways,
    manual_epochs,
    stack_pairs,
)
from handful.lessons.lesson import LessonOptions, LessonResult, Printed
from handful.train.threads import restored_threads

CORRECTION = (
    "Its manual batches are shuffled once before the first epoch, so that every epoch "
    "repeats the same batches in the same order; and its epoch loss is the plain mean "
    "of the batches' means, in which a sample of the smaller last batch weighs more "
    "than the others."
)

BATCH_SIZES = (16, 32, 64)
BATCH_SIZE, NUM_FEATURES = 32, 64
OPTIONS: tuple[dict[str, Any], ...] = (
    {"shuffle": False, "num_workers": 0, "drop_last": False},
    {"shuffle": True, "num_workers": 0, "drop_last": False},
    {"shuffle": True, "num_workers": 0, "drop_last": True},
    {"shuffle": True, "num_workers": 2, "drop_last": True},
)
THEIR_RANGE = "3 12 8 10 2 | 9 4 7 14 5 | 1 13 0 6 11"
THEIR_LETTERS = "17 18 10 22 8 14, r s k w i o"


@dataclass(frozen=True)
class EpochLosses:
    """Losses of one training, an entry an epoch.

    Attributes:
        of_batches: Mean of the batches' mean losses.
        of_samples: Mean over all samples, each weighing the same.
        num_batches: Batches an epoch.
    """

    of_batches: list[float]
    of_samples: list[float]
    num_batches: int


class Sequenced(Dataset[object]):
    """Any sequence as a data set."""

    def __init__(self, items: Sequence[object]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


def run(options: LessonOptions) -> LessonResult:
    """Make batches in every way of the tutorials, train with them, and time them."""
    result = LessonResult(correction=CORRECTION)
    _load_sequences(result, options.seed)
    _batch_by_hand(result, options)
    _try_options(result, options.seed)
    _compare_batches(result, options.seed)
    _train_sizes(result, options)
    _measure(result, options)
    return result


def shuffled_batches(items: Sequence[object], batch_size: int, seed: int) -> list[list]:  # type: ignore[type-arg]
    """Return the batches of a shuffling loader over a sequence."""
    loader = TorchDataLoader(
        Sequenced(items),
        batch_size=batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
    )
    return list(loader)


def _load_sequences(result: LessonResult, seed: int) -> None:
    numbers = [batch.tolist() for batch in shuffled_batches(range(15), 5, seed)]  # type: ignore[attr-defined]
    pairs = list(enumerate(string.ascii_lowercase))
    letters = [
        [indices.tolist(), list(names)]
        for indices, names in shuffled_batches(pairs, 6, seed)
    ]
    result.lines += ["0 to 14 in shuffled batches of 5:"]
    result.lines += [f"  {batch}" for batch in numbers]
    result.lines += ["(number, letter) in shuffled batches of 6, the last of 2:"]
    result.lines += [f"  {numbers} {' '.join(names)}" for numbers, names in letters]
    result.numbers |= {"numbers": numbers, "letters": letters}
    ours = " | ".join(_join(batch) for batch in numbers)
    first = f"{_join(letters[0][0])}, {' '.join(letters[0][1])}"
    result.printed += [
        Printed("0 to 14 in batches of 5", THEIR_RANGE, ours, is_sample=True),
        Printed("first letters", THEIR_LETTERS, first, is_sample=True),
    ]


def _join(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _batch_by_hand(result: LessonResult, options: LessonOptions) -> None:
    samples = torch.arange(10)
    epoch = manual_epochs(
        samples, samples, 4, seed=options.seed, is_reshuffled=not options.as_printed
    )
    orders = [torch.cat([batch for batch, _ in epoch()]).tolist() for _ in range(3)]
    how = "shuffled once" if options.as_printed else "shuffled for each epoch"
    result.lines.append(f"Batches of 4 by hand, {how}:")
    for number, order in enumerate(orders, start=1):
        text = " | ".join(_join(order[at : at + 4]) for at in range(0, 10, 4))
        result.lines.append(f"  epoch {number}: {text}")
    result.numbers["manual_orders"] = orders


def _try_options(result: LessonResult, seed: int) -> None:
    features, target = _regression()
    pinned = "on" if can_pin(features) else "off: no GPU is here"
    result.lines.append(f"PyTorch's loader, 100 samples, pin_memory {pinned}:")
    found = []
    for given in OPTIONS:
        loader = make_loader(features, target, BATCH_SIZE, seed=seed, **given)
        sizes = [len(part) for _, part in loader]
        found.append({**given, "sizes": sizes})
        text = ", ".join(f"{name}={value}" for name, value in given.items())
        result.lines.append(f"  {text}: batches of {_join(sizes)}")
    result.numbers["options"] = found


def _compare_batches(result: LessonResult, seed: int) -> None:
    """See whether loader, own data set and own collation give the same batches."""
    features, target = _regression()
    pairs, arrays = PairDataset(features, target), TensorDataset(features, target)
    expected = list(make_loader(features, target, BATCH_SIZE, seed=seed))
    given: dict[str, tuple[Any, Any, Any]] = {
        "own data set": (TorchDataLoader, pairs, None),
        "own collation": (TorchDataLoader, pairs, stack_pairs),
        "handful's loader": (DataLoader, arrays, None),
    }
    others: dict[str, list[Batch]] = {}
    for name, (kind, data, collate) in given.items():
        generator = torch.Generator().manual_seed(seed)
        loader = kind(
            data, BATCH_SIZE, shuffle=True, collate_fn=collate, generator=generator
        )
        others[name] = list(loader)
    same = {name: _are_same(expected, batches) for name, batches in others.items()}
    for name, is_same in same.items():
        text = "the same batches, bit for bit" if is_same else "other batches"
        result.lines.append(f"{name}: {text}")
    result.numbers["same_batches"] = same


def _are_same(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(left, right)
        for pair in zip(one, other, strict=True)
        for left, right in zip(*pair, strict=True)
    )


def train_by_loader(
    features: Tensor,
    target: Tensor,
    *,
    batch_size: int,
    epochs: int = 50,
    lr: float = 0.01,
    seed: int = 0,
) -> EpochLosses:
    """Train a linear model by SGD on batches of a loader.

    Args:
        features: Float32, shape ``(N, n)``.
        target: Float32, shape ``(N, 1)``.
        batch_size: Samples a step, the last batch of an epoch included if smaller.
        epochs: Passes over the samples.
        lr: Learning rate.
        seed: Seed of the initial weights and of the orders.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Linear(features.shape[1], 1)
    loader = make_loader(features, target, batch_size, seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = EpochLosses([], [], len(loader))
    for _ in range(epochs):
        found = [
            (_take_step(model, optimizer, *batch), len(batch[1])) for batch in loader
        ]
        losses.of_batches.append(sum(loss for loss, _ in found) / len(found))
        total = sum(loss * size for loss, size in found)
        losses.of_samples.append(total / len(features))
    return losses


def _take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, features: Tensor, target: Tensor
) -> float:
    loss = nn.functional.mse_loss(model(features), target)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def _train_sizes(result: LessonResult, options: LessonOptions) -> None:
    features, target = _regression()
    epochs = 10 if options.quick else 50
    result.numbers["losses"] = {}
    for size in BATCH_SIZES:
        with restored_threads():
            torch.set_num_threads(1)
            losses = train_by_loader(
                features, target, batch_size=size, epochs=epochs, seed=options.seed
            )
        shown = losses.of_batches if options.as_printed else losses.of_samples
        result.lines.append(f"Training with batches of {size}:")
        result.lines += [
            f"  Epoch {epoch}/{epochs}: Loss = {shown[epoch - 1]:.6f}, "
            f"Batches = {losses.num_batches}"
            for epoch in range(10, epochs + 1, 10)
        ]
        result.numbers["losses"][str(size)] = vars(losses)
        result.printed += _print_losses(size, epochs, losses)


def _print_losses(size: int, epochs: int, losses: EpochLosses) -> list[Printed]:
    what = f"batches of {size}, epoch {epochs}"
    return [
        Printed(f"{what}: mean of batches", None, f"{losses.of_batches[-1]:.6f}"),
        Printed(f"{what}: mean of samples", None, f"{losses.of_samples[-1]:.6f}"),
    ]


def _measure(result: LessonResult, options: LessonOptions) -> None:
    num_samples, rounds = (1_000, 1) if options.quick else (20_000, 7)
    generator = torch.Generator().manual_seed(options.seed)
    features = torch.randn(num_samples, NUM_FEATURES, generator=generator)
    target = torch.randn(num_samples, 1, generator=generator)
    ways = make_ways(features, target, BATCH_SIZE, options.seed)
    measured = measure_ways(ways, num_samples, rounds=rounds)
    size = (features.nbytes + target.nbytes) / 2**20
    count = "1 round" if rounds == 1 else f"{rounds} rounds"
    how = (
        f"{num_samples:,} samples of {NUM_FEATURES} numbers ({size:.1f} MiB), batches "
        f"of {BATCH_SIZE}, median of {count} in turn, 1 thread"
    )
    workers = "workers' start counts in their time, their own memory does not"
    result.lines += [f"{how}; {workers}:", *tell_measured(measured)]
    result.numbers["samples_per_second"] = {one.name: one.rate for one in measured}
    result.numbers["peak_bytes"] = {one.name: one.peak_bytes for one in measured}
    result.numbers["measured"] = {
        "num_samples": num_samples,
        "rounds": rounds,
        "num_threads": 1,
    }
    result.figures["ways"] = draw_ways(
        measured, note=f"{how}; lines: from the least to the greatest round; {workers}"
    )


def _regression() -> tuple[Tensor, Tensor]:
    data = load_regression()
    return (
        torch.tensor(data.features, dtype=torch.float32),
        torch.tensor(data.target, dtype=torch.float32),
    )
