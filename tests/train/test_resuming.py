"""Resuming: a run that is stopped after any step and continued is the whole run."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from handful import Callback, DataLoader, Run, Trainer
from handful.errors import CheckpointError
from handful.train.callbacks import FitState
from handful.train.checkpoint import newest_checkpoint
from handful.train.stopping import EarlyStopping
from handful.train.torch_schedule import TorchSchedule

NUM_SAMPLES, BATCH_SIZE, EPOCHS = 20, 8, 3
STEPS_PER_EPOCH = 3
NUM_STEPS = STEPS_PER_EPOCH * EPOCHS

generator = torch.Generator().manual_seed(0)
X = torch.randn(NUM_SAMPLES, 4, generator=generator)
Y = (X.sum(1) > 0).long() + (X[:, 0] > 1).long()


class Rows(Dataset[Any]):
    """A data set of the user's own, whose samples are disturbed at random."""

    def __init__(self, noise: float = 0.1) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> Any:
        return X[index] + self.noise * torch.randn(4) * np.random.rand(), Y[index]


class Stream(IterableDataset[Any]):
    """A data set without a length."""

    def __iter__(self) -> Iterator[Any]:
        for i in torch.randperm(NUM_SAMPLES).tolist():
            yield X[i], Y[i]


class Keeper:
    """A loader of somebody else's that keeps its own place, with a tensor in it."""

    def __init__(self) -> None:
        self.place, self.order = 0, torch.arange(NUM_SAMPLES)

    def __len__(self) -> int:
        return STEPS_PER_EPOCH

    def __iter__(self) -> Iterator[Any]:
        torch.rand(1)  # draws when it begins, as PyTorch's do
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        if self.place == 0:
            self.order = torch.randperm(NUM_SAMPLES)
        while self.place < STEPS_PER_EPOCH:
            start = self.place * BATCH_SIZE
            indices = self.order[start : start + BATCH_SIZE]
            self.place += 1
            yield X[indices], Y[indices]
        self.place = 0

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place, self.order = state["place"], state["order"]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what only a loss of power would tell, and takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def ours(**options: Any) -> DataLoader[Any]:
    return DataLoader((X, Y), BATCH_SIZE, shuffle=True, **options)


def theirs(**options: Any) -> TorchDataLoader[Any]:
    data = options.pop("data", None) or TensorDataset(X, Y)
    return TorchDataLoader(data, BATCH_SIZE, shuffle=True, **options)


def batches() -> list[Any]:
    return list(DataLoader((X, Y), BATCH_SIZE))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


LOADERS: dict[str, Callable[[], Any]] = {
    "ours by the trainer's seed": ours,
    "ours by its own seed": lambda: ours(seed=9),
    "ours with a generator": lambda: ours(generator=seeded()),
    "ours, rows": lambda: DataLoader(Rows(), BATCH_SIZE, shuffle=True),
    "ours, rows by a seed": lambda: DataLoader(Rows(), BATCH_SIZE, True, seed=9),
    "ours, a stream": lambda: DataLoader(Stream(), BATCH_SIZE),
    "PyTorch's": theirs,
    "PyTorch's, rows": lambda: theirs(data=Rows()),
    "PyTorch's with a generator": lambda: theirs(generator=seeded()),
    "PyTorch's, a stream": lambda: TorchDataLoader(Stream(), BATCH_SIZE),
    "one that keeps its place": Keeper,
    "a list": batches,
}

WORKER_LOADERS: dict[str, Callable[[], Any]] = {
    "ours": lambda: DataLoader(Rows(0.0), BATCH_SIZE, shuffle=True, num_workers=2),
    "PyTorch's": lambda: theirs(data=Rows(0.0), num_workers=2),
    "PyTorch's that stay": lambda: theirs(
        data=Rows(0.0), num_workers=2, persistent_workers=True
    ),
}


def one_cycle(optimizer: Any) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=NUM_STEPS + 3)


def in_sequence(optimizer: Any) -> Any:
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2),
        lr_scheduler.ExponentialLR(optimizer, 0.8),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])


def on_plateau(optimizer: Any) -> Any:
    return lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.2)


SETTINGS: dict[str, dict[str, Any]] = {
    "cosine by step": {"schedule": "cosine:unit=step"},
    "warm-up by step": {"schedule": "cosine:warmup=4,unit=step"},
    "step by epoch": {"schedule": "step:step_size=1,gamma=0.5"},
    "plateau": {"schedule": "plateau:patience=0,threshold=0.2"},
    "OneCycleLR, which cycles momenta": {"schedule": one_cycle, "optimizer": "sgd"},
    "OneCycleLR of Adam": {"schedule": one_cycle},
    "SequentialLR": {"schedule": in_sequence},
    "SequentialLR by step": {"schedule": TorchSchedule(in_sequence, unit="step")},
    "ReduceLROnPlateau": {"schedule": on_plateau},
    "EMA": {"ema": 0.9},
    "accumulation": {"accumulate": 2},
    "micro-batches": {"micro_batch_size": 2},
    "norms": {"log_norms": True, "clip_norm": 0.1},
    "bf16": {"precision": "bf16"},
    "no seed": {"seed": None},
    "momentum": {"optimizer": "sgd:momentum=0.9,nesterov=true"},
    "LBFGS": {"optimizer": "lbfgs:history_size=3,max_iter=2", "lr": 0.1},
    "plain mean": {"loss_average": "batches"},
}


@dataclass
class Training:
    """How the trainings of one test are made."""

    loader: Callable[[], Any] = ours
    options: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    dropout: float = 0.3

    def run(self, path: Path, *callbacks: Callback, resume: bool = False) -> Trainer:
        torch.manual_seed(7)
        np.random.seed(7)
        layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Dropout(self.dropout), nn.Linear(6, 3))
        settings = {
            "loss": "cross_entropy",
            "lr": 0.05,
            "progress": "off",
            "num_threads": None,
            "metrics": ["accuracy"],
            **self.options,
        }
        if resume:  # a new process would have drawn other numbers by now
            torch.manual_seed(99)
            np.random.seed(99)
        trainer = Trainer(model, callbacks=callbacks, **settings)
        fit = {"epochs": EPOCHS, **self.fit}
        valid = DataLoader((X, Y), 7)
        trainer.fit(self.loader(), valid, run_dir=path, resume=resume, **fit)
        return trainer


class StopAt(Callback):
    """Stops a run after a step, by a reason or by a real signal."""

    def __init__(self, step: int, how: str) -> None:
        self.step, self.how = step, how

    def on_step(self, state: FitState) -> None:
        if state.step == self.step and self.how == "signal":
            os.kill(os.getpid(), signal.SIGINT)
        elif state.step == self.step:
            state.stop = "asked to"


def history(path: Path) -> list[dict[str, Any]]:
    return [{**record, "seconds": None} for record in Run.load(path).history]


def assert_same(whole: Path, parts: Path, one: Trainer, other: Trainer) -> None:
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert history(whole) == history(parts)
    assert Run.load(whole).steps.tobytes() == Run.load(parts).steps.tobytes()
    assert Run.load(parts).status == "finished"
    if one.averages is not None and other.averages is not None:
        averages = other.averages.state_dict()
        for name, value in one.averages.state_dict().items():
            assert torch.equal(value, averages[name]), name


def check_every_step(
    training: Training, folder: Path, how: str, steps: range | None = None
) -> None:
    """Stop after each step, resume, and compare with the run that was not stopped."""
    whole = training.run(folder / "whole")
    last = len(Run.load(folder / "whole").steps)
    for step in steps or range(1, last):
        parts = folder / f"stopped-at-{step}"
        training.run(parts, StopAt(step, how))
        run = Run.load(parts)
        assert len(run.steps) == step
        assert run.status == ("stopped" if how == "signal" else "finished")
        assert_same(folder / "whole", parts, whole, training.run(parts, resume=True))


@pytest.mark.parametrize("name", LOADERS)
def test_resume_at_every_step_with_every_loader(name: str, tmp_path: Path) -> None:
    training = Training(LOADERS[name], fit={"epochs": 2})
    check_every_step(training, tmp_path, "signal")
    check_every_step(training, tmp_path / "by reason", "reason")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", WORKER_LOADERS)
def test_resume_with_workers(name: str, tmp_path: Path) -> None:
    training = Training(WORKER_LOADERS[name], fit={"epochs": 2})
    check_every_step(training, tmp_path, "signal", range(1, 6, 2))


@pytest.mark.parametrize("name", SETTINGS)
def test_resume_at_every_step_with_every_setting(name: str, tmp_path: Path) -> None:
    epochs = 3 if "schedule" in SETTINGS[name] else 2
    training = Training(options=SETTINGS[name], fit={"epochs": epochs})
    check_every_step(training, tmp_path, "signal")


@pytest.mark.parametrize(
    ("how", "loader"),
    [
        ("signal", "ours by the trainer's seed"),
        ("reason", "ours by the trainer's seed"),
        ("reason", "PyTorch's, a stream"),
    ],
)
@pytest.mark.parametrize("schedule", ["plateau:patience=0,threshold=0.2", on_plateau])
def test_resume_at_every_step_between_validations(
    schedule: Any, loader: str, how: str, tmp_path: Path
) -> None:
    training = Training(
        LOADERS[loader], options={"schedule": schedule}, fit={"valid_every": 2}
    )
    check_every_step(training, tmp_path, how)


def test_a_validation_only_for_the_end_decides_nothing(tmp_path: Path) -> None:
    stopping = EarlyStopping(patience=1, min_delta=0.9)
    training = Training(
        options={"schedule": on_plateau, "early_stopping": stopping},
        fit={"epochs": 1, "valid_every": 2},
    )
    training.run(tmp_path / "run")
    run = Run.load(tmp_path / "run")
    assert [(r["step"], "valid_loss" in r) for r in run.history] == [
        (2, True),
        (3, True),
    ]
    assert run.events == []
    _, checkpoint, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    state = checkpoint.progress["schedule"]["state"]
    assert state["best"] == run.history[0]["valid_loss"]


@pytest.mark.parametrize("how", ["signal", "reason"])
@pytest.mark.parametrize("every", [None, 2])
def test_a_resumed_run_stops_early_where_the_whole_one_does(
    every: int | None, how: str, tmp_path: Path
) -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.5)
    training = Training(
        options={"early_stopping": stopping, "monitor": "valid_accuracy"},
        fit={"epochs": 8, "valid_every": every},
    )
    check_every_step(training, tmp_path, how)
    steps = len(Run.load(tmp_path / "whole").steps)
    assert steps == (STEPS_PER_EPOCH * 3 if every is None else 6)


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    stopping = EarlyStopping(patience=1, min_delta=0.9)
    training = Training(options={"early_stopping": stopping}, fit={"epochs": 8})
    first = training.run(tmp_path / "run")
    before = history(tmp_path / "run")
    again = training.run(tmp_path / "run", resume=True)
    assert history(tmp_path / "run") == before
    assert torch.equal(first.model[0].weight, again.model[0].weight)


@pytest.mark.parametrize("limit", [4, 6])
@pytest.mark.parametrize("every", [None, 2, 5])
@pytest.mark.parametrize(
    "loader", ["ours by the trainer's seed", "PyTorch's, a stream"]
)
def test_a_run_of_some_steps_goes_on_as_one_of_more(
    loader: str, every: int | None, limit: int, tmp_path: Path
) -> None:
    fit = {"epochs": None, "valid_every": every}
    make = LOADERS[loader]
    long = Training(make, fit={**fit, "max_steps": 8})
    short = Training(make, fit={**fit, "max_steps": limit})
    whole = long.run(tmp_path / "whole")
    short.run(tmp_path / "run")
    assert len(Run.load(tmp_path / "run").steps) == limit
    resumed = long.run(tmp_path / "run", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "run", whole, resumed)


@pytest.mark.parametrize("every", [None, 2, 5])
@pytest.mark.parametrize("end", [{"epochs": 2}, {"epochs": None, "max_steps": 4}])
def test_resuming_a_finished_run_changes_nothing(
    end: dict[str, Any], every: int | None, tmp_path: Path
) -> None:
    training = Training(fit={**end, "valid_every": every})
    first = training.run(tmp_path / "run")
    before = history(tmp_path / "run")
    files = sorted((tmp_path / "run" / "checkpoints").rglob("*"))
    again = training.run(tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", tmp_path / "run", first, again)
    assert history(tmp_path / "run") == before
    assert sorted((tmp_path / "run" / "checkpoints").rglob("*")) == files


def test_a_run_may_be_stopped_and_resumed_over_and_over(tmp_path: Path) -> None:
    training = Training(LOADERS["PyTorch's, rows"], fit={"valid_every": 2})
    whole = training.run(tmp_path / "whole")
    parts = tmp_path / "parts"
    for step in range(1, NUM_STEPS):
        how = "signal" if step % 2 else "reason"
        training.run(parts, StopAt(step, how), resume=step > 1)
        assert len(Run.load(parts).steps) == step
    last = training.run(parts, resume=True)
    assert_same(tmp_path / "whole", parts, whole, last)


@pytest.mark.parametrize("name", ["ours, rows", "PyTorch's", "a list"])
@pytest.mark.parametrize("step", [2, 3])
def test_a_signal_before_the_first_new_step_loses_no_place(
    name: str, step: int, tmp_path: Path
) -> None:
    class AtOnce(Callback):
        def on_run_start(self, state: FitState) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    training = Training(LOADERS[name])
    whole = training.run(tmp_path / "whole")
    parts = tmp_path / "parts"
    training.run(parts, StopAt(step, "signal"))
    for _ in range(2):
        training.run(parts, AtOnce(), resume=True)
        assert Run.load(parts).status == "stopped"
    assert_same(tmp_path / "whole", parts, whole, training.run(parts, resume=True))


def test_seconds_of_a_resumed_run_include_those_before_the_stop(tmp_path: Path) -> None:
    class Slow(StopAt):
        def on_step(self, state: FitState) -> None:
            if state.step == 1:
                signal.sigtimedwait([], 0.2)
            super().on_step(state)

    for how in ("signal", "reason"):
        training = Training(fit={"epochs": 1})
        training.run(tmp_path / how, Slow(2, how))
        training.run(tmp_path / how, resume=True)
        assert Run.load(tmp_path / how).seconds >= 0.2


def test_sums_of_the_users_own_step_are_those_of_the_whole_epoch(
    tmp_path: Path,
) -> None:
    def step(model: nn.Module, batch: Any) -> dict[str, Any]:
        inputs, target = batch
        output = model(inputs)
        loss = nn.functional.cross_entropy(output, target, reduction="sum")
        right = (output.argmax(1) == target).sum()
        return {
            "loss_sum": loss,
            "weight": len(target),
            "right_sum": right,
            "output": output,
            "target": target,
        }

    training = Training(
        options={"loss": None, "step": step}, fit={"valid_every": 2, "epochs": 2}
    )
    check_every_step(training, tmp_path, "signal")


def test_sums_that_wait_to_be_saved_do_not_move_with_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Break(Callback):
        def on_epoch_end(self, state: FitState, record: Any) -> None:
            monkeypatch.setattr("handful.train.record.COPY_SHARE", 0.0)

        def on_step(self, state: FitState) -> None:
            if state.step == 4:
                raise KeyboardInterrupt("asked to")

    def step(model: nn.Module, batch: Any) -> dict[str, Any]:
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")
        return {"loss_sum": loss, "weight": len(batch[1]), "twice_sum": 2 * loss}

    training = Training(
        options={"loss": None, "step": step, "metrics": [], "lr": 1e-12},
        fit={"epochs": 2, "valid_every": 2},
        dropout=0.0,
    )
    whole = training.run(tmp_path / "whole")
    monkeypatch.setattr("handful.train.record.COPY_SHARE", math.inf)
    with pytest.raises(KeyboardInterrupt, match="asked to"):
        training.run(tmp_path / "parts", Break())
    resumed = training.run(tmp_path / "parts", resume=True)
    assert Run.load(tmp_path / "parts").events[-1]["message"] == "from step-00000002"
    assert_same(tmp_path / "whole", tmp_path / "parts", whole, resumed)


def test_a_signal_at_the_end_of_an_epoch_does_not_wait_for_the_validation(
    tmp_path: Path,
) -> None:
    Training().run(tmp_path / "run", StopAt(STEPS_PER_EPOCH, "signal"))
    assert Run.load(tmp_path / "run").history == []
    names = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert names == ["step-00000003"]


def test_metrics_of_the_batches_are_those_of_the_whole_epoch(tmp_path: Path) -> None:
    training = Training(
        options={"train_metrics": ["accuracy", "f1"]}, fit={"valid_every": 2}
    )
    check_every_step(training, tmp_path, "signal")


def test_a_shuffled_validation_gives_the_same_bits_after_a_resume(
    tmp_path: Path,
) -> None:
    def run(path: Path, *callbacks: Callback, resume: bool = False) -> Run:
        torch.manual_seed(1)
        trainer = Trainer(
            nn.Linear(4, 3), loss="cross_entropy", progress="off", callbacks=callbacks
        )
        valid = DataLoader((X, Y), 3, shuffle=True, seed=4)
        return trainer.fit(ours(), valid, epochs=4, run_dir=path, resume=resume)

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", StopAt(7, "signal"))
    parts = run(tmp_path / "parts", resume=True)
    assert [r["valid_loss"] for r in parts.history] == [
        r["valid_loss"] for r in whole.history
    ]


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (Training(theirs), "one without a state_dict"),
        (Training(options={"optimizer": "sgd"}), "got SGD, and its state is of Adam"),
    ],
)
def test_a_training_that_does_not_fit_is_refused_and_nothing_is_touched(
    other: Training, match: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    Training().run(run, StopAt(4, "signal"))
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match=match):
        other.run(run, resume=True)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_checkpoint_of_the_first_format_without_places_goes_on(
    tmp_path: Path,
) -> None:
    names = ["step", "epoch", "samples", "identity", "generators", "history"]
    own = ["format_version", "files", "optimizer"]
    for name in ("ours by the trainer's seed", "ours, rows", "PyTorch's"):
        training = Training(LOADERS[name])
        folder = tmp_path / name
        whole = training.run(folder / "whole")
        training.run(folder / "parts", StopAt(2 * STEPS_PER_EPOCH, "reason"))
        path = folder / "parts" / "checkpoints" / "step-00000006" / "manifest.json"
        manifest = {**json.loads(path.read_text()), "format_version": 1}
        path.write_text(json.dumps({key: manifest[key] for key in (*own, *names)}))
        resumed = training.run(folder / "parts", resume=True)
        assert_same(folder / "whole", folder / "parts", whole, resumed)


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ([4], "had 2 groups of parameters, here 1. Groups that a callback added"),
        ([2, 2], "group 0 of .* had 3 parameters, here 2. Give the Trainer"),
        ([3, 0], "group 1 of .* had 1 parameter, here 0"),
    ],
)
def test_other_groups_of_parameters_are_refused(
    sizes: list[int], match: str, tmp_path: Path
) -> None:
    class AddGroup(Callback):
        def on_run_start(self, state: FitState) -> None:
            last = list(state.model.parameters())[3]
            state.optimizer.add_param_group({"params": [last], "lr": 0.5})

    def fit(sizes: list[int], *callbacks: Callback, resume: bool = False) -> Run:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
        parameters = iter(model.parameters())
        groups = [{"params": list(itertools.islice(parameters, n))} for n in sizes]
        trainer = Trainer(
            model,
            loss="cross_entropy",
            optimizer=torch.optim.Adam(groups, lr=0.1),
            callbacks=callbacks,
            progress="off",
        )
        return trainer.fit(ours(), epochs=2, run_dir=tmp_path / "run", resume=resume)

    fit([3], AddGroup(), StopAt(4, "signal"))
    with pytest.raises(CheckpointError, match=match):
        fit(sizes, resume=True)
    assert fit([3, 1], resume=True).status == "finished"


def test_settings_that_a_resumed_run_changes_are_an_event(tmp_path: Path) -> None:
    def fit(stop: StopAt | None = None, **options: Any) -> Run:
        epochs, size = options.pop("epochs", 2), options.pop("batch_size", BATCH_SIZE)
        trainer = Trainer(
            nn.Linear(4, 3),
            loss="cross_entropy",
            callbacks=[stop] if stop else [],
            progress="off",
            **options,
        )
        loader = DataLoader((X, Y), size, shuffle=True)
        settings = {"shape": (2, 3)}
        return trainer.fit(
            loader,
            epochs=epochs,
            run_dir=tmp_path / "run",
            resume=stop is None,
            settings=settings,
        )

    fit(StopAt(STEPS_PER_EPOCH, "reason"), lr=0.001, schedule="exponential:gamma=0.9")
    same = {"schedule": {"name": "exponential", "gamma": 0.9}}
    run = fit(lr=0.001, epochs=3, **same)
    assert "settings changed" not in [event["kind"] for event in run.events]
    fit(lr=0.5, batch_size=5, epochs=4, **same)
    events = [e for e in Run.load(tmp_path / "run").events if "settings" in e["kind"]]
    assert [event["kind"] for event in events] == ["settings changed"]
    assert events[0]["message"] == "batch_size was 8, is 5; lr was 0.001, is 0.5"


def test_a_rate_that_a_callback_set_is_the_same_after_a_resume(tmp_path: Path) -> None:
    class Lower(Callback):
        def on_step(self, state: FitState) -> None:
            if state.step == 2:
                state.optimizer.param_groups[0]["lr"] = 0.0123

    def fit(path: Path, *callbacks: Callback, resume: bool = False) -> Run:
        torch.manual_seed(1)
        trainer = Trainer(
            nn.Linear(4, 3),
            loss="cross_entropy",
            callbacks=[Lower(), *callbacks],
            progress="off",
        )
        return trainer.fit(ours(), epochs=2, run_dir=path, resume=resume)

    whole = fit(tmp_path / "whole")
    fit(tmp_path / "parts", StopAt(4, "signal"))
    parts = fit(tmp_path / "parts", resume=True)
    assert parts.steps.tobytes() == whole.steps.tobytes()
    assert parts.steps["lr"][-1] == 0.0123
