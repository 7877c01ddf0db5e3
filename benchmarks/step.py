"""The parts of one optimisation step of a small model, and ways to do them.

``scripts/bench step`` prints a table for docs/training_speed.md. Each figure is the
first percentile of many short blocks, on one thread: what the work costs where nothing
disturbs it. Trainings as a whole are measured by ``scripts/bench training``.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
from measure import markdown_table
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

from handful import DataLoader
from handful.train.backward import make_backward
from handful.train.batches import BatchLayout
from handful.train.captured import CapturedEngine
from handful.train.engine import EagerEngine, StepSettings
from handful.train.kernels import make_update
from handful.train.losses import make_criterion
from handful.train.native_engine import NativeEngine
from handful.train.player_library import build_library
from handful.train.precision import Precision
from handful.train.step import CriterionStep

STRETCH = 20
"""Steps a call of the native player."""

BLOCK = 4
"""Calls a block: short, so that other programs leave most blocks alone."""


def make_model(widths: tuple[int, ...]) -> nn.Sequential:
    """Make a perceptron with ReLU between its layers."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def measure(run: Callable[[], object], blocks: int) -> float:
    """Return microseconds a call."""
    for _ in range(50):
        run()
    times = []
    for _ in range(blocks):
        started = time.perf_counter()
        for _ in range(BLOCK):
            run()
        times.append((time.perf_counter() - started) / BLOCK * 1e6)
    return sorted(times)[len(times) // 100]


class Parts:
    """A model, a batch, and what can be done with them.

    Args:
        widths: Widths of the model's layers.
        batch_size: Samples in the batch.
    """

    def __init__(self, widths: tuple[int, ...], batch_size: int) -> None:
        self.model = make_model(widths)
        self.loss = nn.CrossEntropyLoss()
        self.inputs = torch.randn(batch_size, widths[0])
        self.target = torch.randint(0, widths[-1], (batch_size,))

    def make_optimizer(self, **options: object) -> torch.optim.Adam:
        """Make Adam, with its state there and gradients to go with."""
        # A rate so small that thousands of steps on one batch change nothing.
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-9, **options)
        self.clear()
        self.forward().backward()
        optimizer.step()
        return optimizer

    def clear(self) -> None:
        """Forget the gradients."""
        for param in self.model.parameters():
            param.grad = None

    def forward(self) -> Tensor:
        """Return the batch's loss."""
        return self.loss(self.model(self.inputs), self.target)

    def hand_step(self, **options: object) -> Callable[[], float]:
        """Return the step of a loop by hand."""
        optimizer = self.make_optimizer(**options)

        def step() -> float:
            optimizer.zero_grad()
            loss = self.forward()
            loss.backward()
            optimizer.step()
            return loss.item()

        return step

    def backward(self, *, direct: bool) -> Callable[[], None]:
        """Return forward and backward, by the public way or by the engine."""
        go_back = make_backward(self.forward()) if direct else torch.autograd.backward

        def run() -> None:
            loss = self.forward()
            self.clear()
            go_back(loss)

        return run

    def gradients(self) -> Callable[[], object]:
        """Return forward and `torch.autograd.grad`."""
        params = list(self.model.parameters())
        return lambda: torch.autograd.grad(self.forward(), params)

    def backward_to_inputs(self) -> Callable[[], None]:
        """Return forward and backward with the parameters named."""
        params = list(self.model.parameters())

        def run() -> None:
            self.clear()
            self.forward().backward(inputs=params)

        return run

    def layers_forward(self) -> Tensor:
        """Call the layers' `forward`, past their `__call__` and its hooks."""
        value = self.inputs
        for layer in self.model:
            value = layer.forward(value)
        return value

    def loader_time(self, kind: Callable[..., Any]) -> float:
        """Return microseconds a batch of a loader: the mean of an epoch, of the best.

        Most batches of handful's are cut from one that was gathered for many.
        """
        data = TensorDataset(self.inputs.repeat(500, 1), self.target.repeat(500))
        loader = kind(data, batch_size=len(self.inputs), shuffle=True)
        times = []
        for _ in range(5):
            started = time.perf_counter()
            count = sum(1 for _ in loader)
            times.append((time.perf_counter() - started) / count * 1e6)
        return min(times)

    def engine_step(self, kind: type[EagerEngine]) -> Callable[[], object]:
        """Return a step of one of handful's engines."""
        engine = self.make_engine(kind)
        batches = [(self.inputs, self.target)]
        return lambda: engine.step(batches)

    def played_steps(self) -> Callable[[], object]:
        """Return `STRETCH` steps of the native player."""
        engine = self.make_engine(NativeEngine)
        batches = [(self.inputs, self.target)]
        for _ in range(8):
            engine.step(batches)
        stretch, rates = [batches] * STRETCH, [[1e-9]] * STRETCH
        if engine.play(stretch, rates) is None:
            raise SystemExit("step: the native player can't be used here")
        return lambda: engine.play(stretch, rates)

    def make_engine(self, kind: type[EagerEngine]) -> EagerEngine:
        """Make one of handful's engines."""
        precision = Precision("float32", torch.device("cpu"))
        criterion = make_criterion(self.loss).with_all_labels()
        more: dict[str, Any] = {}
        if issubclass(kind, CapturedEngine):
            more = {
                "steps_to_come": lambda: None,
                "is_watched": False,
                "on_note": lambda _: None,
            }
        return kind(
            self.model,
            CriterionStep(criterion, BatchLayout(), precision),
            self.make_optimizer(fused=True),
            precision=precision,
            settings=StepSettings(),
            **more,
        )


def list_ways(parts: Parts) -> dict[str, Callable[[], object]]:
    """Return what is measured, by what the table calls it."""
    counts = [torch.zeros(()) for _ in parts.model.parameters()]
    together = torch.zeros(len(counts))
    return {
        "forward": lambda: parts.model(parts.inputs),
        "forward, past `Module.__call__`": parts.layers_forward,
        "forward and loss": parts.forward,
        "forward, backward by `torch.autograd.backward`": parts.backward(direct=False),
        "forward, backward by autograd's engine called directly": parts.backward(
            direct=True
        ),
        "forward, backward with `inputs=`": parts.backward_to_inputs(),
        "forward, `torch.autograd.grad`": parts.gradients(),
        "Adam's `step()`, default": parts.make_optimizer().step,
        "Adam's `step()`, foreach": parts.make_optimizer(foreach=True).step,
        "Adam's `step()`, fused": parts.make_optimizer(fused=True).step,
        "the fused kernel called directly": make_update(
            parts.make_optimizer(fused=True)
        ),
        "counting up a tensor a parameter": lambda: torch._foreach_add_(counts, 1),
        "counting up one tensor that they are views of": lambda: together.add_(1),
        "a step by hand, default Adam": parts.hand_step(),
        "a step by hand, fused Adam": parts.hand_step(fused=True),
        "a step of handful's eager engine": parts.engine_step(EagerEngine),
        "a step of handful's captured engine": parts.engine_step(CapturedEngine),
    }


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench step", description=__doc__)
    parser.add_argument("--blocks", type=int, default=600)
    blocks = parser.parse_args().blocks
    build_library()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    works = {
        "Wine 13-10-10-3": Parts((13, 10, 10, 3), 32),
        "MNIST 784-128-10": Parts((784, 128, 10), 32),
    }
    columns = {
        title: {
            "a batch of PyTorch's loader": parts.loader_time(TorchDataLoader),
            "a batch of handful's loader": parts.loader_time(DataLoader),
            **{name: measure(run, blocks) for name, run in list_ways(parts).items()},
            f"a step of the native player, {STRETCH} a call": (
                measure(parts.played_steps(), blocks) / STRETCH
            ),
        }
        for title, parts in works.items()
    }
    names = list(next(iter(columns.values())))
    rows = [[name, *(f"{c[name]:.1f}" for c in columns.values())] for name in names]
    print(markdown_table(["µs on one thread, batches of 32", *columns], rows))


if __name__ == "__main__":
    main()
