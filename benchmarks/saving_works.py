"""The work of the benchmark of saving: a training in a process of its own."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import answer
from torch import nn

from handful import Callback, DataLoader, Trainer

FIRST = 50
"""Steps before the clock starts."""


class Clock(Callback):
    """Notes the time after each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, _: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


WIDTH, BALLAST_BYTES = 1000, 84_000_000
"""Of the two layers; of a buffer that makes the checkpoint large and no step slower."""


def make_model() -> nn.Module:
    """Return two layers with a large buffer; 100 MB with the momenta."""
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)]
    model = nn.Sequential(*layers)
    model.register_buffer("ballast", torch.zeros(BALLAST_BYTES // 4))
    return model


def find_batch_size(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the samples of a batch whose step takes so many milliseconds.

    Args:
        spec: ``step_ms`` and ``threads``.
    """
    torch.set_num_threads(spec["threads"])
    model, size = make_model(), 128
    X = torch.randn(size, WIDTH)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, fused=True)
    times = []
    for _ in range(30):
        started = time.perf_counter()
        loss = nn.functional.mse_loss(model(X), X)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    ms = 1000 * statistics.median(times)
    return {"batch_size": max(round(size * spec["step_ms"] / ms), 1)}


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """Train for some steps, saving as the specification says.

    Args:
        spec: ``batch_size``, ``steps``, ``save_every``, ``threads``, and ``folder`` for
            the run.

    Returns:
        Seconds of a step, the longest step, bytes of a checkpoint, and the steps whose
        checkpoints were there in the end.
    """
    size, steps = spec["batch_size"], spec["steps"]
    clock = Clock()
    trainer = Trainer(
        make_model(),
        loss="mse",
        optimizer="sgd:momentum=0.9",
        lr=1e-3,
        num_threads=spec["threads"],
        callbacks=[clock],
        progress="off",
    )
    X = torch.randn(size * 20, WIDTH)
    batches = list(DataLoader((X, X), size))
    epoch = [batches[i % 20] for i in range(steps)]
    with tempfile.TemporaryDirectory(dir=spec["folder"]) as folder:
        run_dir = Path(folder) / "run"
        trainer.fit(epoch, epochs=1, run_dir=run_dir, save_every=spec["save_every"])
        checkpoints = sorted((run_dir / "checkpoints").glob("step-*"))
        num_bytes = sum(file.stat().st_size for file in checkpoints[-1].iterdir())
    times = clock.times[FIRST - 1 :]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    return {
        "step_seconds": (times[-1] - times[0]) / (len(times) - 1),
        "longest_seconds": max(pauses),
        "bytes": num_bytes,
        "checkpoints": [int(path.name[5:]) for path in checkpoints],
    }


if __name__ == "__main__":
    answer(lambda spec: find_batch_size(spec) if "step_ms" in spec else train(spec))
