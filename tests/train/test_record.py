"""Recorder: which states are kept, how often, and what a failure leaves."""

from __future__ import annotations

import math
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handful import Callback, DataLoader, Run, Trainer
from handful.errors import ArgumentError, CheckpointError, RunError
from handful.runs.run import STEP_DTYPE
from handful.train.callbacks import FitState
from handful.train.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint
from handful.train.generators import capture_generators
from handful.train.record import Recorder

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()
SHARES = [0.0, 0.05, math.inf]


class Training:
    """A model whose weights change with every step, and a recorder of it."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.model = nn.Linear(3, 2)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.step, self.captures = 0, 0
        self.weights: dict[int, Tensor] = {}

    def keep(self, **options: Any) -> bool:
        self.step += 1
        self.model(torch.ones(1, 3)).sum().backward()
        self.optimizer.step()
        self.weights[self.step] = self.model.weight.detach().clone()
        steps = np.array([(0.5, 0.1)], STEP_DTYPE)
        self.recorder.record_steps(steps)
        record = {"epoch": 1, "step": self.step, "train_loss": 0.5}
        self.recorder.record(record)
        is_saved = self.recorder.keep(self._capture, step=self.step, **options)
        self.recorder.wait()
        return is_saved

    def _capture(self) -> Checkpoint:
        self.captures += 1
        return Checkpoint(
            self.model.state_dict(),
            self.optimizer.state_dict(),
            {
                "step": self.step,
                "records": len(self.recorder.run.history),
                "generators": capture_generators(),
            },
        )


@contextmanager
def training(path: Path | None) -> Iterator[Training]:
    with Recorder.open(Run(config={"a": 1}), path, resume=False) as recorder:
        yield Training(recorder)


def set_shares(monkeypatch: pytest.MonkeyPatch, save: float, copy: float) -> None:
    monkeypatch.setattr("handful.train.record.SAVE_SHARE", save)
    monkeypatch.setattr("handful.train.record.COPY_SHARE", copy)


def saved(path: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (path / "checkpoints").iterdir())


@pytest.mark.parametrize("save", SHARES)
@pytest.mark.parametrize("copy", SHARES)
def test_the_best_the_last_two_and_those_to_be_kept_stay_and_no_other(
    save: float, copy: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_shares(monkeypatch, save, copy)
    with training(tmp_path / "run") as it:
        for step in range(1, 12):
            it.keep(
                is_best=step in (1, 2, 6), is_kept=step % 4 == 0, is_last=step == 11
            )
    found = saved(tmp_path / "run")
    assert {4, 6, 8, 11} <= set(found)
    assert len(set(found) - {4, 6, 8, 11}) <= 1
    if save == math.inf:
        assert found == [4, 6, 8, 10, 11]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


@pytest.mark.parametrize("seed", range(12))
def test_the_best_state_is_never_lost_however_a_run_ends(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    set_shares(monkeypatch, draw.choice(SHARES), draw.choice(SHARES))
    best, end = 0, draw.randint(1, 9)

    def work(it: Training) -> None:
        nonlocal best
        for step in range(1, end + 1):
            if is_best := step == 1 or draw.random() < 0.4:
                best = step
            it.keep(is_best=is_best, is_kept=draw.random() < 0.2)
        if seed % 2:
            raise KeyboardInterrupt("asked to")

    with training(tmp_path / "run") as it:
        if seed % 2 == 0:
            work(it)
    if seed % 2:
        with (
            pytest.raises(KeyboardInterrupt, match="asked to"),
            training(tmp_path / "other") as it,
        ):
            work(it)
    folder = tmp_path / ("other" if seed % 2 else "run") / "checkpoints"
    for path in folder.iterdir():
        checkpoint = load_checkpoint(path)
        step = checkpoint.progress["step"]
        assert torch.equal(checkpoint.model["weight"], it.weights[step])
        assert len(checkpoint.progress["history"]) == step
    assert (folder / f"step-{best:08d}").is_dir()


def test_what_is_neither_best_nor_due_costs_no_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_shares(monkeypatch, 0.0, 0.0)
    with training(tmp_path / "run") as it:
        assert not it.keep(is_best=True)
        for _ in range(5):
            assert not it.keep()
        assert it.captures == 1
        assert it.keep(is_kept=True)
        assert it.captures == 2
    assert saved(tmp_path / "run") == [1, 7]


def test_a_run_in_memory_captures_nothing() -> None:
    with training(None) as it:
        assert not it.keep(is_best=True, is_kept=True, is_last=True)
        assert it.captures == 0


def test_five_hundred_records_use_the_memory_of_two_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_shares(monkeypatch, 0.0, math.inf)
    pointers: set[int] = set()
    with training(tmp_path / "run") as it:
        for step in range(1, 521):
            it.keep(is_best=step % 7 == 0)
            last = it.recorder._waiting.last
            assert last is not None
            it.weights.clear()
            if step == 20:
                tracemalloc.start()
                before = tracemalloc.get_traced_memory()[0]
                pointers.clear()
            if step > 20:
                pointers.add(last.model["weight"].data_ptr())
                pointers.add(last.optimizer["state"][0]["exp_avg"].data_ptr())
            it.recorder.run.history.clear()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert len(pointers) <= 2 * 2
        assert grown < 100_000


def test_a_save_that_fails_leaves_earlier_ones_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_shares(monkeypatch, math.inf, math.inf)
    folder = tmp_path / "run" / "checkpoints"

    def block(it: Training) -> None:
        it.keep(is_best=True)
        it.keep()
        (folder / ".step-00000003.new.tmp").write_text("in the way")
        it.keep(is_best=True)

    with (
        pytest.raises(CheckpointError, match="step-00000003 cannot be saved: File exi"),
        training(tmp_path / "run") as it,
    ):
        block(it)
    path, checkpoint, _ = newest_checkpoint(folder)
    assert path.name == "step-00000002"
    assert torch.equal(checkpoint.model["weight"], it.weights[2])
    assert (folder / "step-00000001").is_dir()
    assert Run.load(tmp_path / "run").status == "failed"


def test_an_error_of_the_training_comes_before_one_of_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_shares(monkeypatch, 0.0, math.inf)

    def work(it: Training) -> None:
        it.keep(is_best=True)
        folder = tmp_path / "run" / "checkpoints"
        (folder / ".step-00000001.new.tmp").write_text("in the way")
        raise ZeroDivisionError("the training's own")

    with (
        pytest.raises(ZeroDivisionError, match="the training's own"),
        training(tmp_path / "run") as it,
    ):
        work(it)
    events = Run.load(tmp_path / "run").events
    assert [event["kind"] for event in events] == ["failed", "not saved"]


def test_what_waits_is_not_torn_by_an_error_in_the_midst_of_copying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_shares(monkeypatch, 0.0, math.inf)
    real: Callable[..., Any] = torch._foreach_copy_

    def copy_half(targets: list[Tensor], sources: list[Tensor]) -> None:
        half = len(targets) // 2
        real(targets[:half], sources[:half])
        raise KeyboardInterrupt("in the midst")

    def work(it: Training) -> None:
        for step in range(1, 5):
            it.keep(is_best=step in (1, 4))
        monkeypatch.setattr(torch, "_foreach_copy_", copy_half)
        it.keep(is_best=False)

    with (
        pytest.raises(KeyboardInterrupt, match="in the midst"),
        training(tmp_path / "run") as it,
    ):
        work(it)
    for step in saved(tmp_path / "run"):
        path = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        assert torch.equal(load_checkpoint(path).model["weight"], it.weights[step])
    assert 4 in saved(tmp_path / "run")


class Syncs:
    """Counts what is flushed to the disk, by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        real = os.fsync

        def fsync(descriptor: int) -> None:
            self.names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_nothing_is_flushed_before_a_checkpoint_and_settings_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = Syncs(monkeypatch)
    set_shares(monkeypatch, 0.0, math.inf)
    with training(tmp_path / "run") as it:
        it.keep(is_best=True)
        it.keep()
        it.recorder.record_event("note", "of no weight")
        assert syncs.names == []
        it.keep(is_kept=True)
        assert syncs.names[:3] == ["config.yaml", "run.json", "run"]
        assert "manifest.json" in syncs.names
        count = len(syncs.names)
        it.keep(is_kept=True)
        assert "config.yaml" not in syncs.names[count:]
    assert syncs.names[-1].startswith(".run.json")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("lr", [0.1, 30.0])
def test_a_short_run_flushes_little(
    lr: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_shares(monkeypatch, 0.0, math.inf)
    syncs = Syncs(monkeypatch)
    trainer = Trainer(nn.Linear(4, 2), loss="cross_entropy", lr=lr, progress="off")
    loader = DataLoader((X, Y), 8)
    trainer.fit(loader, loader, epochs=5, run_dir=tmp_path / "run")
    assert 9 <= len(syncs.names) <= 15


def test_opening_says_what_is_wrong_and_gives_up_the_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        pytest.raises(ArgumentError, match="run_dir must be given"),
        Recorder.open(Run(), None, resume=True),
    ):
        pass
    with training(run):
        pass
    for _ in range(2):
        with (
            pytest.raises(CheckpointError, match=r"valid checkpoint\. There is none"),
            Recorder.open(Run(), run, resume=True),
        ):
            pass
    with training(tmp_path / "other") as it:
        it.keep(is_last=True)
    (tmp_path / "other" / "config.yaml").write_text("lr: [")
    for _ in range(2):
        with (
            pytest.raises(RunError, match=r"config.yaml is not YAML"),
            Recorder.open(Run(), tmp_path / "other", resume=True),
        ):
            pass


def test_a_resumed_folder_is_as_it_was_until_the_run_begins(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with training(path) as it:
        for step in range(1, 4):
            it.keep(is_last=step < 3)
    (path / "checkpoints" / "step-00000003" / "manifest.json").write_text("{")
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with (
        pytest.raises(ZeroDivisionError, match="before it began"),
        Recorder.open(Run(config={"b": 2}), path, resume=True),
    ):
        raise ZeroDivisionError("before it began")
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    with Recorder.open(Run(config={"b": 2}), path, resume=True) as recorder:
        recorder.begin()
    run = Run.load(path)
    assert run.config == {"b": 2}
    assert [r["step"] for r in run.history] == [1, 2]
    assert len(run.steps) == 2
    assert saved(path) == [2]
    kinds = [event["kind"] for event in run.events]
    assert kinds[:2] == ["damaged checkpoint", "resumed"]


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "nonsense"])
def test_steps_that_a_loss_of_power_took_are_nan_after_a_resume(
    damage: str, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    with training(path) as it:
        for step in range(1, 5):
            it.keep(is_last=step == 4)
    file = path / "steps.npy"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        damaged = {"cut": content[: -2 * 12 - 5], "empty": b"", "nonsense": b"abc"}
        file.write_bytes(damaged[damage])
    with Recorder.open(Run(), path, resume=True) as recorder:
        recorder.begin()
    losses = Run.load(path).steps["loss"]
    known = 1 if damage == "cut" else 0
    assert np.isnan(losses).tolist() == [False] * known + [True] * (4 - known)


def test_a_parameter_that_a_callback_adds_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_shares(monkeypatch, 0.0, math.inf)

    class Grow(Callback):
        def on_epoch_end(self, state: FitState, record: Any) -> None:
            if record["epoch"] == 2:
                state.model.register_parameter("extra", nn.Parameter(torch.ones(3)))
                group = {"params": [state.model.extra], "lr": 0.5}
                state.optimizer.add_param_group(group)
            if record["epoch"] == 4:
                raise KeyboardInterrupt("asked to")

    model = nn.Linear(4, 2)
    trainer = Trainer(
        model, loss="cross_entropy", progress="off", callbacks=[Grow()], seed=1
    )
    with pytest.raises(KeyboardInterrupt, match="asked to"):
        trainer.fit(DataLoader((X, Y), 8), epochs=9, run_dir=tmp_path / "run")
    _, checkpoint, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint.progress["epoch"] == 4
    assert checkpoint.model["extra"].tolist() == [1, 1, 1]
    assert torch.equal(checkpoint.model["weight"], model.weight)


def test_the_best_of_a_metric_that_rises_is_the_highest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_shares(monkeypatch, 0.0, 0.0)
    trainer = Trainer(
        nn.Linear(4, 2),
        loss="cross_entropy",
        lr=0.3,
        metrics=["accuracy"],
        monitor="valid_accuracy",
        progress="off",
    )
    loader = DataLoader((X, Y), 4, shuffle=True)
    run = trainer.fit(loader, DataLoader((X, Y), 20), epochs=9, run_dir=tmp_path / "r")
    values = [r["valid_accuracy"] for r in run.history]
    best = 5 * (values.index(max(values)) + 1)
    assert best < 45
    assert saved(tmp_path / "r") == [best, 45]
    weights = load_checkpoint(tmp_path / "r" / "checkpoints" / f"step-{best:08d}").model
    right = ((X @ weights["weight"].T + weights["bias"]).argmax(1) == Y).float().mean()
    assert right.item() == pytest.approx(max(values))
