"""The work of the benchmark of saving: a training in a process of its own."""

from __future__ import annotations

import itertools
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


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """Train for some steps, saving as the specification says.

    Args:
        spec: ``width`` of the two layers, ``batch_size``, ``steps``, ``save_every``,
            ``threads``, and ``folder`` for the run.

    Returns:
        Seconds of a step, the longest pause after one, bytes of a checkpoint, and how
        many were there in the end.
    """
    torch.manual_seed(0)
    width, size, steps = spec["width"], spec["batch_size"], spec["steps"]
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    X = torch.randn(size * 20, width)
    clock = Clock()
    trainer = Trainer(
        model,
        loss="mse",
        optimizer="sgd:momentum=0.9",
        lr=1e-3,
        num_threads=spec["threads"],
        callbacks=[clock],
        progress="off",
    )
    batches = DataLoader((X, torch.randn(size * 20, width)), size)
    epoch = [batch for _ in range(-(-steps // 20)) for batch in batches][:steps]
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
    answer(train)
