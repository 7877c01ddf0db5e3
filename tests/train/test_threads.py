"""Threads: measured before the first update, kept by the run, put back afterwards."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handful import DataLoader, Run, Trainer
from handful.errors import ArgumentError
from handful.train import measuring
from handful.train.batches import BatchLayout
from handful.train.losses import make_criterion
from handful.train.measuring import measure_fastest
from handful.train.precision import Precision
from handful.train.step import CriterionStep

X, Y = torch.randn(40, 4), torch.randint(0, 3, (40,))


def make_trainer(model: nn.Module | None = None, **options: Any) -> Trainer:
    chosen = nn.Sequential(nn.Linear(4, 3), nn.Dropout()) if model is None else model
    return Trainer(chosen, loss="cross_entropy", progress="off", **options)


def make_loader() -> DataLoader:
    return DataLoader((X, Y), batch_size=8, shuffle=True)


def measure(model: nn.Module, *, replays: bool = False) -> int:
    """Return the threads that are measured as the fastest."""
    precision = Precision("float32", torch.device("cpu"))
    step = CriterionStep(make_criterion("cross_entropy"), BatchLayout(), precision)
    is_open = {"threads": True, "memory_format": True}
    fastest = measure_fastest(model, step, [X, Y], **is_open, replays=replays)
    return fastest.threads


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)  # put back by a fixture of all tests
    monkeypatch.setattr(measuring, "TINY", 0)  # so that these models are measured


class Watch(nn.Module):
    """Notes with how many threads it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(torch.get_num_threads())
        return self.layer(x)


@pytest.mark.parametrize("num_threads", [1, 2, None])
def test_a_given_number_is_used_and_put_back(num_threads: int | None) -> None:
    model = Watch()
    run = make_trainer(model, num_threads=num_threads).fit(make_loader(), epochs=2)
    assert set(model.seen) == {num_threads or 2}
    assert run.identity["threads"] == (num_threads or 2)
    assert torch.get_num_threads() == 2


def test_one_thread_is_chosen_for_a_tiny_model() -> None:
    # Nothing in it is large enough to be shared between threads.
    run = make_trainer().fit(make_loader(), epochs=1)
    assert run.identity["threads"] == 1


class Calls(nn.Linear):
    """Counts the calls of all its copies."""

    count = 0

    def forward(self, x: Tensor) -> Tensor:
        Calls.count += 1
        return super().forward(x)


def test_what_is_tiny_gets_one_thread_unmeasured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Calls.count = 0
    assert measure(Calls(4, 3)) in (1, 2)
    assert Calls.count >= 4
    Calls.count = 0
    monkeypatch.setattr(measuring, "TINY", 15 * (X.numel() + Y.numel()))
    assert measure(Calls(4, 3)) == 1
    assert Calls.count == 0
    monkeypatch.setattr(measuring, "TINY", 15 * (X.numel() + Y.numel()) - 1)
    measure(Calls(4, 3))
    assert Calls.count >= 4


def test_steps_that_will_be_replayed_are_timed_as_replays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measuring, "SLOW_SECONDS", math.inf)
    Calls.count = 0
    assert measure(Calls(4, 3), replays=True) in (1, 2)
    assert Calls.count == 3  # looked at twice, recorded, and no longer called then
    reads = Reads()
    assert measure(reads, replays=True) in (1, 2)
    assert reads.weight.grad is None
    monkeypatch.setattr(measuring, "SLOW_SECONDS", 0.0)
    Calls.count = 0
    measure(Calls(4, 3), replays=True)
    assert Calls.count > 3  # slow: what Python does is of no account


class Reads(nn.Linear):
    """Reads a number back in each step, so that there is no replay."""

    def __init__(self) -> None:
        super().__init__(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 if x.sum().item() else 2)


def test_slow_candidates_are_timed_three_times_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measuring, "BUDGET_SECONDS", 0.0)
    monkeypatch.setattr(measuring, "CLEAR", ())
    monkeypatch.setattr(measuring, "SHORT_SECONDS", 0.0)
    called: list[int] = []
    measuring._time_by_turns([1, 2], called.append)
    assert called.count(1) == called.count(2) == 2 * measuring.LEAST_ROUNDS
    monkeypatch.setattr(measuring, "MOST_SECONDS", 0.0)
    called.clear()
    measuring._time_by_turns([1, 2], called.append)
    assert called.count(2) == 2


def test_measuring_leaves_model_gradients_and_generators_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout())
    model.append(nn.Linear(8, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert measure(model) in (1, 2)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.get_num_threads() == 2


def test_measuring_does_not_change_the_training() -> None:
    ends = []
    for num_threads in ("auto", 1):
        torch.manual_seed(0)
        trainer = make_trainer(num_threads=num_threads)
        run = trainer.fit(make_loader(), epochs=2)
        assert run.identity["threads"] == 1
        ends.append(next(trainer.model.parameters()).detach().clone())
    assert torch.equal(*ends)


def test_a_resumed_run_keeps_its_number(tmp_path: Path) -> None:
    make_trainer(num_threads=2).fit(make_loader(), epochs=1, run_dir=tmp_path / "run")
    fresh = make_trainer(num_threads=1)
    run = fresh.fit(make_loader(), epochs=2, run_dir=tmp_path / "run", resume=True)
    assert run.identity["threads"] == 2
    assert Run.load(tmp_path / "run").identity["threads"] == 2


def test_a_model_that_cannot_be_copied_keeps_torchs_number() -> None:
    class Stubborn(Watch):
        def __deepcopy__(self, memo: object) -> Any:
            raise TypeError("no")

    assert measure(Stubborn()) == 2


@pytest.mark.parametrize("value", [0, -1, 1.5, "two", True])
def test_wrong_numbers_are_refused(value: Any) -> None:
    with pytest.raises(
        ArgumentError, match="num_threads must be a whole number from 1 on"
    ):
        make_trainer(num_threads=value)


def test_measuring_writes_into_nothing_of_the_users() -> None:
    class Greedy(Watch):
        def forward(self, x: Tensor) -> Tensor:
            random.random()
            return super().forward(x.div_(2))

    before, drawn = X.clone(), random.getstate()
    measure(Greedy())
    assert torch.equal(X, before)
    assert random.getstate() == drawn
    hooked = Watch()
    calls: list[int] = []
    hooked.register_forward_hook(lambda *_: calls.append(1))
    assert measure(hooked) == 2
    assert calls == []
