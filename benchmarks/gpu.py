"""Training on a GPU: steps of two small models, by hand and by the Trainer.

``scripts/gpu`` runs the tests that need a GPU, then this program, which writes a dated
table with the hardware's name into docs/performance.md. With ``--quick`` it runs a few
steps on the CPU and writes nothing: that shows that all runs.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import markdown_table, now, replace_between
from torch import Tensor, nn
from training_loops import make_convolutions, make_digits_model

from handful import DataLoader, Trainer

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
MODELS = {"MLP 784-128-10": make_digits_model, "small CNN": make_convolutions}
BATCH_SIZES = (32, 256, 2048, 8192)


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        model: A key of `MODELS`.
        batch_size: Samples a step.
        precision: ``"float32"`` or ``"bf16"``.
        device: Where.
        num_samples: Samples of the data.
        seconds: About how long each way is timed.
    """

    model: str
    batch_size: int
    precision: str
    device: str
    num_samples: int
    seconds: float

    def make_data(self) -> tuple[Tensor, Tensor]:
        """Return made-up images and labels, on the CPU."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.num_samples, 1, 28, 28, generator=generator)
        return images, torch.randint(10, (self.num_samples,), generator=generator)

    def autocast(self) -> Any:
        """Return the context in which forward is done."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, torch.bfloat16)

    def wait(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def batches_of(case: Case, *, is_resident: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches for ever, by handful's loader, on the device."""
    device = case.device if is_resident else None
    loader: Any = DataLoader(
        case.make_data(), case.batch_size, True, seed=0, drop_last=True, device=device
    )
    for images, labels in itertools.chain.from_iterable(itertools.repeat(loader)):
        yield images.to(case.device), labels.to(case.device)


def by_hand(case: Case, *, is_compiled: bool, is_resident: bool) -> float:
    """Return the microseconds of a step of a loop by hand, with the fused Adam."""
    model: Any = MODELS[case.model]().to(case.device)
    params = list(model.parameters())
    optimizer = torch.optim.Adam(params, fused=True)
    forward = torch.compile(model, mode="reduce-overhead") if is_compiled else model
    criterion = nn.CrossEntropyLoss()
    batches = batches_of(case, is_resident=is_resident)

    def step() -> None:
        images, labels = next(batches)
        optimizer.zero_grad()
        with case.autocast():
            loss = criterion(forward(images), labels)
        loss.backward()
        optimizer.step()

    return measure(step, case)


def measure(step: Callable[[], None], case: Case) -> float:
    """Return microseconds a step, after some that are not counted."""
    for _ in range(10):
        step()
    case.wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < case.seconds:
        for _ in range(10):
            step()
        count += 10
        case.wait()
    return (time.perf_counter() - began) / count * 1e6


def by_trainer(case: Case, *, is_resident: bool) -> float:
    """Return the microseconds of a step of the Trainer's, its best epoch's."""
    loader: Any = DataLoader(
        case.make_data(),
        case.batch_size,
        shuffle=True,
        drop_last=True,
        device=case.device if is_resident else None,
    )
    trainer = Trainer(
        MODELS[case.model](),
        loss="cross_entropy",
        precision=case.precision,
        device=case.device,
        seed=0,
        progress="off",
    )
    epochs = 3
    run = trainer.fit(loader, epochs=epochs)
    best = min(record["seconds"] for record in run.history[1:])
    return float(best) / len(loader) * 1e6


def list_ways(case: Case) -> dict[str, float]:
    """Return the microseconds of a step of each way."""
    ways: dict[str, float] = {}
    for is_resident in (False, True):
        where = "data on the device" if is_resident else "data in memory"
        ways[f"by hand, {where}"] = by_hand(
            case, is_compiled=False, is_resident=is_resident
        )
        ways[f"handful, {where}"] = by_trainer(case, is_resident=is_resident)
    if case.device == "cuda":
        ways["by hand, compiled with CUDA graphs"] = by_hand(
            case, is_compiled=True, is_resident=True
        )
    return ways


def main() -> None:
    """Measure, print the table, and write it into the page."""
    parser = argparse.ArgumentParser(prog="scripts/gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="on the CPU, few steps")
    is_quick = parser.parse_args().quick
    device = "cpu" if is_quick else "cuda"
    sizes = BATCH_SIZES[:1] if is_quick else BATCH_SIZES
    seconds = 0.05 if is_quick else 1.0
    rows = []
    for model, size, precision in itertools.product(MODELS, sizes, ("float32", "bf16")):
        samples = 320 if is_quick else max(16_384, 4 * size)
        case = Case(model, size, precision, device, samples, seconds)
        for way, micros in list_ways(case).items():
            rows.append([model, str(size), precision, way, f"{micros:.0f}"])
            print(*rows[-1], flush=True)
    table = markdown_table(["model", "batch", "precision", "way", "µs a step"], rows)
    if is_quick:
        print(f"\n{table}")
        return
    name = torch.cuda.get_device_name()
    head = f"{name}, torch {torch.__version__}, {now()[:10]}:"
    replace_between(PAGE, "gpu", f"{head}\n\n{table}")
    print(f"\nwritten: {PAGE}")


if __name__ == "__main__":
    main()
