"""Experiments on making batches: by hand and by loaders."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from handful.lessons.claims.claim import Bench
from handful.lessons.feeding_measure import measure_ways
from handful.lessons.feeding_ways import (
    make_loader,
    make_manual_batches,
    make_ways,
    stack_pairs,
)
from handful.studies.peak_memory import read_peak, start_peak

SLOW_SECONDS = 0.002


def ways(bench: Bench) -> dict[str, Any]:
    """Time each way to make batches of 32 of samples with 20 features.

    Returns:
        By number of samples and way: ``rates``, samples per second a round.
    """
    found: dict[str, Any] = {}
    for count in (500,) if bench.quick else (500, 10_000, 40_000):
        x, y = torch.rand(count, 20), torch.rand(count, 1)
        rounds = 2 if bench.quick else 3
        measured = measure_ways(make_ways(x, y, 32, bench.seed), count, rounds=rounds)
        found[str(count)] = {one.name: list(one.rates) for one in measured}
    return found


def peaks(bench: Bench) -> dict[str, Any]:
    """Measure the memory that an epoch takes beyond the data, batches of 1,000.

    Returns:
        ``data``: bytes of the data; by way ``extra``, bytes beyond them; None where
        the system doesn't tell.
    """
    count = 20_000 if bench.quick else 200_000
    x, y = torch.rand(count, 64), torch.rand(count, 1)
    chosen = ("manual, made once", "PyTorch's loader", "handful's loader")
    named = [way for way in make_ways(x, y, 1000, bench.seed) if way.name in chosen]
    measured = measure_ways(named, count, rounds=1)
    return {
        "data": x.nbytes + y.nbytes,
        "extra": {one.name: one.peak_bytes for one in measured},
    }


def orders(bench: Bench) -> dict[str, Any]:
    """Look at the batches of two epochs: their samples, their order, their sizes.

    Returns:
        ``manual_same`` and ``loader_same``: whether both epochs have one order;
        ``complete``: whether each epoch has each sample once; ``sizes`` and ``dropped``
        of 178 samples in 32; ``lost``: samples that `drop_last` leaves out;
        ``collated`` and ``workers_same``: whether own collation and two workers give
        the same batches.
    """
    x = torch.arange(178.0)
    generator = torch.Generator().manual_seed(bench.seed)
    batches = make_manual_batches(x, x, 32, generator)
    manual = [torch.cat([one for one, _ in batches]) for _ in range(2)]
    loader = make_loader(x, x, 32, seed=bench.seed)
    loaded = [torch.cat([one for one, _ in loader]) for _ in range(2)]
    dropped = [len(b) for b, _ in make_loader(x, x, 32, drop_last=True)]
    return {
        "manual_same": torch.equal(*manual),
        "loader_same": torch.equal(*loaded),
        "complete": all(torch.equal(one.sort().values, x) for one in loaded),
        "sizes": [len(one) for one, _ in loader],
        "dropped": dropped,
        "lost": 178 - sum(dropped),
        "collated": torch.equal(_read(x, collate_fn=stack_pairs), _read(x)),
        "workers_same": torch.equal(_read(x, num_workers=2), _read(x)),
    }


def _read(x: Tensor, **options: Any) -> Tensor:
    loader = DataLoader(TensorDataset(x, x), batch_size=32, **options)
    return torch.cat([one for one, _ in loader])


class SlowSamples(Dataset[Tensor]):
    """Samples that take 2 ms each to read, as files on a disk may.

    Args:
        count: Samples.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(SLOW_SECONDS)
        return torch.tensor(float(index))


def workers(bench: Bench) -> dict[str, Any]:
    """Time epochs with 0, 1, 2 and 4 worker processes.

    Returns:
        ``slow`` (samples of 2 ms) and ``fast`` (in memory): workers -> seconds of an
        epoch a round, starting the processes included.
    """
    count = 100 if bench.quick else 1000
    x = torch.rand(count, 20)
    data: dict[str, Dataset[Any]] = {
        "slow": SlowSamples(count),
        "fast": TensorDataset(x),
    }
    numbers = (0, 2) if bench.quick else (0, 1, 2, 4)
    rounds = 1 if bench.quick else 3
    return {
        name: {
            str(number): [_time_epoch(one, number) for _ in range(rounds)]
            for number in numbers
        }
        for name, one in data.items()
    }


def _time_epoch(data: Dataset[Any], num_workers: int) -> float:
    start = time.perf_counter()
    with warnings.catch_warnings():
        # More workers than processors are meant: that is part of the question.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        for _ in DataLoader(data, batch_size=32, num_workers=num_workers):
            pass
    return time.perf_counter() - start


class MadeSamples(IterableDataset[Tensor]):
    """Batches of 1,024 samples with 64 features, made as they are asked for.

    Args:
        count: Batches.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.ones(1024, 64) for _ in range(self.count))


def streamed(bench: Bench) -> dict[str, Any]:
    """Go through data that are never in memory as a whole.

    Returns:
        ``bytes`` that went by and ``peak``, bytes held at most beyond those before;
        None where the system doesn't tell.
    """
    count = 200 if bench.quick else 2000
    before = start_peak()
    passed = sum(
        batch.nbytes for batch in DataLoader(MadeSamples(count), batch_size=None)
    )
    return {"bytes": passed, "peak": read_peak(before)}


def share(bench: Bench) -> dict[str, Any]:
    """Time the loader alone and with a training, digits' model in batches of 32.

    Returns:
        ``loading`` and ``training``: seconds of an epoch a round, with PyTorch's
        loader; ``training`` includes the loading.
    """
    count = 500 if bench.quick else 5000
    x, y = torch.rand(count, 64), torch.randint(10, (count,))
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = make_loader(x, y, 32)
    found: dict[str, Any] = {"loading": [], "training": []}
    for _ in range(2 if bench.quick else 4):
        start = time.perf_counter()
        for _batch in loader:
            pass
        middle = time.perf_counter()
        for features, target in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(features), target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        found["loading"].append(middle - start)
        found["training"].append(time.perf_counter() - middle)
    return found
