"""Steps that do not fit into memory: an error with a remedy, or smaller parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handful import DataLoader, Run, Trainer
from handful.errors import ArgumentError, TrainingError

g = torch.Generator().manual_seed(0)
X = torch.randn(60, 4, generator=g)
Y = (X.sum(1) > 0).long()
LOADER = DataLoader((X, Y), 20, shuffle=True, seed=3)


class Large(nn.Module):
    """Takes memory for each sample, and has some for only so many of them."""

    def __init__(self, most: int, after: int = -1, backward: bool = False) -> None:
        super().__init__()
        self.most, self.after, self.backward = most, after, backward
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        if len(x) <= self.most or self.calls <= self.after:
            return x
        if not self.backward:
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB.")
        y = x * 1
        if y.requires_grad:
            y.register_hook(_refuse)
        return y


def _refuse(_: Tensor) -> None:
    raise RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."
    )


def make_model(**options: Any) -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2)]
    return nn.Sequential(*layers[:3], Large(**options), layers[3])


def make_trainer(model: nn.Module, **options: Any) -> Trainer:
    settings = {"loss": "cross_entropy", "lr": 0.05, "progress": "off", **options}
    return Trainer(model, num_threads=1, **settings)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("engine", ["eager", "captured"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"micro_batch_size": 15}])
def test_splitting_gives_the_run_with_that_micro_batch_size(
    engine: str, backward: bool, options: dict[str, int]
) -> None:
    split, given = make_model(most=7, backward=backward), make_model(most=99)
    size = {15: 7}.get(options.get("micro_batch_size", 0), 5)
    settings = {"engine": engine, "train_metrics": ["accuracy"], "ema": 0.9, **options}
    one = make_trainer(split, on_out_of_memory="split", **settings)
    run = one.fit(LOADER, epochs=2)
    other = make_trainer(given, **{**settings, "micro_batch_size": size})
    wanted = other.fit(LOADER, epochs=2)
    assert_same(split, given)
    assert (run.steps == wanted.steps).all()
    for name in ("train_loss", "train_accuracy", "samples", "step"):
        assert run.history[-1][name] == wanted.history[-1][name]
    told = [e["message"] for e in run.events if e["kind"] == "out of memory"]
    assert f"from it on {size} go through the model at once" in told[-1]
    assert "4096 bytes" in told[0] if backward else "2.00 GiB" in told[0]
    assert "BatchNorm" in told[0]
    assert "dropout" in told[0]


def test_memory_that_runs_out_later_splits_from_that_step_on(tmp_path: Path) -> None:
    whole = make_model(most=10, after=2)
    trainer = make_trainer(whole, on_out_of_memory="split")
    trainer.fit(LOADER, max_steps=5)
    first, rest = make_model(most=99), make_model(most=99)
    make_trainer(first).fit(LOADER, max_steps=2, run_dir=tmp_path / "run")
    other = make_trainer(rest, micro_batch_size=10)
    other.fit(LOADER, max_steps=5, run_dir=tmp_path / "run", resume=True)
    assert_same(whole, rest)


def test_the_size_is_kept_by_a_run_that_is_resumed(tmp_path: Path) -> None:
    whole, first, rest = make_model(most=6), make_model(most=6), make_model(most=99)
    make_trainer(whole, on_out_of_memory="split").fit(LOADER, epochs=3)
    options = {"on_out_of_memory": "split"}
    make_trainer(first, **options).fit(LOADER, max_steps=4, run_dir=tmp_path / "run")
    run = make_trainer(rest, **options).fit(
        LOADER, epochs=3, run_dir=tmp_path / "run", resume=True
    )
    assert_same(whole, rest)
    assert len(run.steps) == 9


@pytest.mark.parametrize("average", ["samples", "batches"])
def test_an_evaluation_splits_its_own_batch_alone(average: str) -> None:
    model, other = make_model(most=9), make_model(most=99)
    metrics = ["accuracy", "f1"]
    options = {"metrics": metrics, "loss_average": average}
    wanted = make_trainer(other, **options).evaluate(LOADER)
    trainer = make_trainer(model, on_out_of_memory="split", **options)
    assert trainer.evaluate(LOADER) == pytest.approx(wanted)
    with pytest.raises(TrainingError, match=r"batch of 20 samples .* 2\.00 GiB more"):
        make_trainer(model, **options).evaluate(LOADER)


def test_without_the_policy_the_error_says_what_to_do() -> None:
    with pytest.raises(
        TrainingError, match=r"20 samples at once .*2\.00 GiB.*micro_batch_size=10"
    ):
        make_trainer(make_model(most=9)).fit(LOADER, epochs=1)


def test_one_sample_that_does_not_fit_ends_the_run() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 2), Large(most=0))
    with pytest.raises(TrainingError, match=r"1 samples at once .* can't be split"):
        make_trainer(model, on_out_of_memory="split").fit(LOADER, epochs=1)


class Greedy(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        raise torch.OutOfMemoryError("Tried to allocate 8.00 GiB.")


def test_an_update_that_does_not_fit_is_not_tried_again() -> None:
    model = make_model(most=99)
    trainer = make_trainer(
        model,
        optimizer=Greedy(model.parameters(), 0.1),
        lr=None,
        on_out_of_memory="split",
    )
    with pytest.raises(TrainingError, match="the optimizer's update did not fit"):
        trainer.fit(LOADER, epochs=1)


def test_other_errors_pass_as_they_are() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("a bug")

    model = nn.Sequential(nn.Linear(4, 2), Broken())
    with pytest.raises(RuntimeError, match="a bug"):
        make_trainer(model, on_out_of_memory="split").fit(LOADER, epochs=1)


def test_lbfgs_is_refused() -> None:
    trainer = make_trainer(
        make_model(most=99), optimizer="lbfgs", lr=0.1, on_out_of_memory="split"
    )
    with pytest.raises(ArgumentError, match="must be 'raise' for lbfgs"):
        trainer.fit(LOADER, epochs=1)


PROGRAM = """
import resource, sys
import torch
from torch import nn
from handful import DataLoader, Trainer

class Square(nn.Module):
    def forward(self, x):
        return (x @ torch.ones(1, 1_000_000)).sin().mean(1, keepdim=True)

torch.manual_seed(0)
torch.set_num_threads(1)
X = torch.randn(64, 4)
loader = DataLoader((X, X.sum(1, keepdim=True)), 64)
model = nn.Sequential(nn.Linear(4, 1), Square(), nn.Linear(1, 1))
trainer = Trainer(model, loss="mse", progress="off", num_threads=1,
                  memory_format="contiguous", on_out_of_memory=sys.argv[2])
warm = Trainer(nn.Linear(4, 1), loss="mse", progress="off", num_threads=1)
warm.fit(loader, loader, epochs=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + 300 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
run = trainer.fit(loader, loader, epochs=2, run_dir=sys.argv[1])
print(len(run.steps), model[0].weight.flatten().tolist())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is Linux's")
def test_a_real_limit_is_met_by_smaller_parts(tmp_path: Path) -> None:
    made = run_program(tmp_path / "split", "split")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("2 [")
    told = [e for e in Run.load(tmp_path / "split").events if e["kind"][:3] == "out"]
    assert "bytes more were asked for" in told[0]["message"]
    made = run_program(tmp_path / "raise", "raise")
    assert made.returncode == 1
    assert "64 samples at once must fit into memory; 256000000 bytes" in made.stderr


def run_program(folder: Path, policy: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), policy],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
