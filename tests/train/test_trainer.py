"""Trainer: what is trained, what is recorded, what is left as it was."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, TensorDataset

from handful import Callback, DataLoader, Run, Trainer
from handful.errors import (
    ArgumentError,
    CheckpointError,
    RunError,
    TrainingError,
)
from handful.train.callbacks import FitState

torch.manual_seed(0)
X = torch.randn(50, 4)
Y = (X.sum(1) > 0).long() + (X[:, 0] > 1).long()


def make_model(dropout: float = 0.0) -> nn.Module:
    """Make a small classifier with the same weights on every call."""
    state = torch.get_rng_state()
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
    )
    torch.set_rng_state(state)
    return model


def make_loader(**options: Any) -> DataLoader:
    return DataLoader((X, Y), **{"batch_size": 16, "shuffle": True, **options})


def make_trainer(model: nn.Module | None = None, **options: Any) -> Trainer:
    settings = {"loss": "cross_entropy", "progress": "off", "lr": 0.01, **options}
    return Trainer(make_model() if model is None else model, **settings)


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def assert_equal_weights(one: list[Tensor], other: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class StopAfter(Callback):
    """Ends the training as Ctrl-C does, after an epoch's record."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
        if record["epoch"] == self.epoch:
            raise KeyboardInterrupt("asked to stop")


def test_records_hold_weighted_losses_steps_samples_and_rates() -> None:
    trainer = make_trainer(metrics=["accuracy"], schedule="step:step_size=1,gamma=0.5")
    run = trainer.fit(make_loader(), make_loader(shuffle=False), epochs=2)
    assert [r["step"] for r in run.history] == [4, 8]
    assert [r["samples"] for r in run.history] == [50, 100]
    assert [r["lr"] for r in run.history] == [0.01, 0.005]
    assert run.steps["lr"].tolist() == [0.01] * 4 + [0.005] * 4
    losses = run.steps["loss"][:4].astype(np.float64)
    expected = (losses * [16, 16, 16, 2]).sum() / 50
    assert run.history[0]["train_loss"] == pytest.approx(expected, rel=1e-12)
    with torch.no_grad():
        output = trainer.model(X)
    last = run.history[1]
    assert last["valid_accuracy"] == (output.argmax(1) == Y).double().mean().item()
    whole = nn.functional.cross_entropy(output, Y).item()
    assert last["valid_loss"] == pytest.approx(whole, rel=1e-6)


def test_average_of_batches_is_the_tutorials_on_request() -> None:
    run = make_trainer(loss_average="batches").fit(make_loader(), epochs=1)
    assert run.history[0]["train_loss"] == pytest.approx(run.steps["loss"].mean())


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_same_seed_ends_with_the_same_weights(dropout: float) -> None:
    ends = []
    for seed in (3, 3, 4):
        torch.rand(5)  # the caller's own draws must not matter
        trainer = make_trainer(make_model(dropout), seed=seed)
        trainer.fit(make_loader(), epochs=3)
        ends.append(weights(trainer))
    assert_equal_weights(ends[0], ends[1])
    assert not torch.equal(ends[0][0], ends[2][0])


def test_a_loaders_own_seed_comes_before_the_trainers() -> None:
    ends = []
    for seed in (0, 1):
        trainer = make_trainer(seed=seed)
        trainer.fit(make_loader(seed=9), epochs=2)
        ends.append(weights(trainer))
    assert_equal_weights(*ends)


def test_generators_loader_and_modes_are_left_as_they_were() -> None:
    loader, trainer = make_loader(), make_trainer(make_model(0.5))
    trainer.model[0].eval()  # type: ignore[index]
    before = torch.get_rng_state()
    trainer.evaluate(make_loader(shuffle=False, seed=0))
    assert not trainer.model[0].training  # type: ignore[index]
    trainer.fit(loader, epochs=2)
    assert torch.equal(before, torch.get_rng_state())
    assert loader.seed is None
    assert loader.epoch == 0


def test_dropout_is_active_in_training_alone() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return x

    trainer = make_trainer(nn.Sequential(Spy(), nn.Linear(4, 3)), num_threads=1)
    trainer.fit(make_loader(), make_loader(), epochs=1)
    assert seen == [(True, True)] * 4 + [(False, False)] * 4


@pytest.mark.parametrize("kind", ["torch", "list"])
def test_any_loader_is_accepted(kind: str) -> None:
    data = TensorDataset(X, Y)
    loader: Any = TorchDataLoader(data, 16, shuffle=True)
    if kind == "list":
        loader = list(loader)
    run = make_trainer().fit(loader, loader, epochs=2)
    assert run.status == "finished"
    assert run.history[-1]["step"] == 8


@pytest.mark.parametrize("schedule", [None, "cosine", "plateau:patience=0"])
@pytest.mark.parametrize("loader", ["ours", "torch"])
def test_a_stopped_run_continued_equals_one_that_was_not(
    tmp_path: Path, schedule: str | None, loader: str
) -> None:
    def fit(path: Path, resume: bool = False, stop: int = 0) -> Trainer:
        trainer = make_trainer(
            make_model(0.3), schedule=schedule, callbacks=[StopAfter(stop)]
        )
        train: Any = make_loader()
        if loader == "torch":
            train = TorchDataLoader(TensorDataset(X, Y), 16, shuffle=True)
        valid = make_loader(shuffle=False, seed=0)
        trainer.fit(train, valid, epochs=6, run_dir=path, resume=resume)
        return trainer

    whole = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt, match="asked to stop"):
        fit(tmp_path / "parts", stop=3)
    assert Run.load(tmp_path / "parts").status == "stopped"
    random.random()
    resumed = fit(tmp_path / "parts", resume=True)
    assert_equal_weights(weights(whole), weights(resumed))
    one, other = Run.load(tmp_path / "whole"), Run.load(tmp_path / "parts")
    assert other.status == "finished"
    assert one.steps.tobytes() == other.steps.tobytes()
    for a, b in zip(one.history, other.history, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert other.events[-1]["message"] == "from step-00000012"


def test_a_finished_run_can_go_on_for_more_epochs(tmp_path: Path) -> None:
    whole, parts = make_trainer(), make_trainer()
    whole.fit(make_loader(), epochs=4)
    parts.fit(make_loader(), epochs=2, run_dir=tmp_path / "run")
    again = make_trainer()
    run = again.fit(make_loader(), epochs=4, run_dir=tmp_path / "run", resume=True)
    assert [r["epoch"] for r in run.history] == [1, 2, 3, 4]
    assert_equal_weights(weights(whole), weights(again))


@pytest.mark.parametrize("share", [0.0, 1e9])
def test_the_last_and_the_best_checkpoint_stay(
    tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handful.train.record.SAVE_SHARE", share)
    trainer = make_trainer(lr=0.5)
    run = trainer.fit(
        make_loader(), make_loader(seed=0), epochs=8, run_dir=tmp_path / "run"
    )
    kept = {int(p.name[5:]) for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert run.best is not None
    assert run.best["step"] not in (4, 28, 32)
    assert {run.best["step"], 32} <= kept
    assert len(kept) <= 3
    assert share or kept == {run.best["step"], 32}


def test_resuming_another_model_is_refused(tmp_path: Path) -> None:
    make_trainer().fit(make_loader(), epochs=1, run_dir=tmp_path / "run")
    wider = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 3))
    with pytest.raises(CheckpointError, match=r"does not fit: .*size mismatch"):
        make_trainer(wider).fit(
            make_loader(), epochs=2, run_dir=tmp_path / "run", resume=True
        )


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run to resume"):
        make_trainer().fit(make_loader(), epochs=1, run_dir=tmp_path, resume=True)
    with pytest.raises(ArgumentError, match="run_dir must be given"):
        make_trainer().fit(make_loader(), epochs=1, resume=True)


def test_callbacks_see_every_moment_in_order() -> None:
    moments: list[str] = []

    class Watch(Callback):
        def on_run_start(self, state: FitState) -> None:
            moments.append(f"start {state.steps_per_epoch}")

        def on_step(self, state: FitState) -> None:
            moments.append(f"step {state.step}")

        def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
            moments.append(f"epoch {record['epoch']}")

        def on_run_end(self, state: FitState) -> None:
            moments.append("end")

    make_trainer(callbacks=[Watch()]).fit(make_loader(drop_last=True), epochs=2)
    steps = ["step 1", "step 2", "step 3", "epoch 1", "step 4", "step 5", "step 6"]
    assert moments == ["start 3", *steps, "epoch 2", "end"]


def test_a_diverged_training_says_so_and_keeps_the_last_good_state(
    tmp_path: Path,
) -> None:
    target = X.sum(1, keepdim=True)
    trainer = Trainer(
        nn.Linear(4, 1), loss="mse", optimizer="sgd", lr=50.0, progress="off"
    )
    with pytest.raises(TrainingError, match=r"The state from before .* lower lr"):
        trainer.fit(
            DataLoader((X, target), batch_size=5), epochs=40, run_dir=tmp_path / "run"
        )
    run = Run.load(tmp_path / "run")
    assert run.status == "failed"
    assert "NonfiniteError: the loss of step" in run.events[-1]["message"]


@pytest.mark.parametrize(
    ("loss", "model", "target", "match"),
    [
        ("mse", nn.Linear(4, 1), X[:, 0], r"same shape; got output \(16, 1\) and targ"),
        ("cross_entropy", nn.Linear(4, 2), Y, r"labels must lie in 0 … 1, .*got 0 … 2"),
        ("cross_entropy", nn.Linear(4, 3), Y - 1, r"labels must lie in 0 … 2"),
        ("cross_entropy", nn.Flatten(0), Y, r"needs an output of shape \(batch, cla"),
    ],
)
def test_a_loss_that_cannot_fit_is_refused_at_the_first_step(
    loss: str, model: nn.Module, target: Tensor, match: str
) -> None:
    if not list(model.parameters()):
        model = nn.Sequential(nn.Linear(4, 3), model)
    trainer = Trainer(model, loss=loss, progress="off")
    with pytest.raises(TrainingError, match=match):
        trainer.fit(DataLoader((X, target), batch_size=16), epochs=1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"optimizer": "adm"}, "Did you mean 'adam'"),
        ({"loss": "crossentropy"}, "Did you mean 'cross_entropy'"),
        ({"loss": nn.MSELoss(reduction="sum")}, "must have reduction='mean'"),
        ({"metrics": ["acuracy"]}, "Did you mean 'accuracy'"),
        ({"lr": float("nan")}, "lr must be a finite number above 0; got nan"),
        ({"loss_average": "x"}, "loss_average must be 'samples' or 'batches'"),
        ({"device": "cpuu"}, "device must be 'auto' or one that torch can use"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"log_norms": "no"}, "log_norms must be true or false; got 'no'"),
        ({"clip_norm": -1.0}, "clip_norm must be a finite number above 0"),
        ({"ema": 1.0}, "ema must be between 0 and 1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ArgumentError, match=match):
        make_trainer(**options)


def test_wrong_data_are_refused_with_a_sentence() -> None:
    with pytest.raises(TrainingError, match=r"gave none\. With drop_last"):
        make_trainer().fit(make_loader(batch_size=99, drop_last=True), epochs=1)
    with pytest.raises(TrainingError, match="a batch must be a list or tuple"):
        make_trainer().fit(DataLoader(X, batch_size=5), epochs=1)
    with pytest.raises(TrainingError, match="the loader must give at least one batch"):
        make_trainer().evaluate([])
    with pytest.raises(ArgumentError, match="epochs must be a whole number from 1 on"):
        make_trainer().fit(make_loader(), epochs=0)


def test_an_optimizer_object_has_its_own_rate() -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    run = make_trainer(model, optimizer=optimizer, lr=None).fit(make_loader(), epochs=1)
    assert run.history[0]["lr"] == 0.3
    made = make_trainer(optimizer=lambda p: torch.optim.SGD(p, lr=0.2), lr=None)
    assert made.fit(make_loader(), epochs=1).history[0]["lr"] == 0.2
    with pytest.raises(ArgumentError, match="lr must be left out"):
        make_trainer(model, optimizer=optimizer).fit(make_loader(), epochs=1)


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(TrainingError, match="must have a parameter with requires_grad"):
        make_trainer(nn.Flatten()).fit(make_loader(), epochs=1)


def test_frozen_parameters_stay() -> None:
    model = make_model()
    model[0].weight.requires_grad_(False)  # type: ignore[index]
    before = model[0].weight.clone()  # type: ignore[index]
    make_trainer(model).fit(make_loader(), epochs=1)
    assert torch.equal(model[0].weight, before)  # type: ignore[index]


def test_predictions_are_the_models_outputs_in_order() -> None:
    trainer = make_trainer()
    expected = trainer.model(X).detach()
    assert torch.allclose(trainer.predict(make_loader(shuffle=False)), expected)
    assert torch.allclose(trainer.predict(DataLoader(X, batch_size=7)), expected)


def test_several_inputs_reach_the_model() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.layer(a + b)

    run = make_trainer(Both()).fit(DataLoader((X, -X, Y), batch_size=10), epochs=1)
    assert run.history[0]["train_loss"] > 0


class Rows(Dataset[Any]):
    """A data set of the user's own, read sample by sample."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


def test_a_data_set_of_the_users_own_is_trained_on_and_resumed(tmp_path: Path) -> None:
    ends = []
    for stops in ([], [1]):
        path = tmp_path / f"run{len(stops)}"
        for stop in stops:
            with pytest.raises(KeyboardInterrupt, match="asked to stop"):
                make_trainer(callbacks=[StopAfter(stop)]).fit(
                    DataLoader(Rows(), 16, shuffle=True), epochs=3, run_dir=path
                )
        trainer = make_trainer()
        trainer.fit(
            DataLoader(Rows(), 16, shuffle=True),
            epochs=3,
            run_dir=path,
            resume=bool(stops),
        )
        ends.append(weights(trainer))
    assert_equal_weights(*ends)


def test_validating_on_the_training_loader_does_not_use_up_its_epochs() -> None:
    plain, shared = make_trainer(), make_trainer()
    plain.fit(make_loader(), epochs=3)
    loader = make_loader()
    shared.fit(loader, loader, epochs=3)
    assert_equal_weights(weights(plain), weights(shared))


def test_validation_may_begin_when_a_run_goes_on(tmp_path: Path) -> None:
    make_trainer().fit(make_loader(), epochs=1, run_dir=tmp_path / "run")
    run = make_trainer().fit(
        make_loader(), make_loader(), epochs=3, run_dir=tmp_path / "run", resume=True
    )
    assert "valid_loss" in run.history[-1]


def test_resuming_with_another_optimizer_is_refused(tmp_path: Path) -> None:
    make_trainer().fit(make_loader(), epochs=1, run_dir=tmp_path / "run")
    with pytest.raises(CheckpointError, match="got SGD, and its state is of Adam"):
        make_trainer(optimizer="sgd").fit(
            make_loader(), epochs=2, run_dir=tmp_path / "run", resume=True
        )


def test_what_a_callback_changes_after_an_epoch_is_saved(tmp_path: Path) -> None:
    class Halve(Callback):
        def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.div_(2)

    ends = []
    for stop in (0, 2):
        path = tmp_path / f"run{stop}"
        for resume in (False, True) if stop else (False,):
            model = make_model()
            stops = [StopAfter(stop)] if stop and not resume else []
            trainer = make_trainer(model, callbacks=[Halve(), *stops])
            try:
                trainer.fit(make_loader(), epochs=4, run_dir=path, resume=resume)
            except KeyboardInterrupt:
                continue
        ends.append(weights(trainer))
    assert_equal_weights(*ends)


def test_settings_that_cannot_be_kept_leave_the_folder_usable(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(Exception, match="cannot represent an object"):
            make_trainer().fit(
                make_loader(), epochs=1, run_dir=tmp_path / "r", settings={"p": Path()}
            )
    make_trainer().fit(make_loader(), epochs=1, run_dir=tmp_path / "r")


class WithExtra(nn.Linear):
    """A layer with a state beside its tensors."""

    def __init__(self, extra: Any) -> None:
        super().__init__(4, 3)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


def test_extra_state_that_is_plain_is_stored_and_comes_back(tmp_path: Path) -> None:
    run = tmp_path / "run"
    extra = {"calls": 3, "shape": (2, None), "table": torch.arange(3)}
    make_trainer(nn.Sequential(WithExtra(extra))).fit(
        make_loader(), epochs=1, run_dir=run
    )
    layer = WithExtra(None)
    make_trainer(nn.Sequential(layer)).fit(
        make_loader(), epochs=2, run_dir=run, resume=True
    )
    assert layer.extra["shape"] == (2, None)
    assert layer.extra["calls"] == 3
    assert layer.extra["table"].tolist() == [0, 1, 2]


def test_state_that_cannot_be_stored_is_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    layer = WithExtra({"odd": object()})
    before = layer.weight.clone()
    with pytest.raises(CheckpointError, match="get_extra_state of module '0' must"):
        make_trainer(nn.Sequential(layer)).fit(
            make_loader(), epochs=1, run_dir=tmp_path / "run"
        )
    assert torch.equal(layer.weight, before)
    assert len(Run.load(tmp_path / "run").steps) == 0
    trainer = make_trainer(nn.Sequential(layer))
    assert trainer.fit(make_loader(), epochs=1).status == "finished"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "epochs or max_steps must be given; got neither"),
        ({"max_steps": 0}, "max_steps must be a whole number from 1 on; got 0"),
        ({"epochs": 1, "valid_every": 0}, "valid_every must be a whole number from 1"),
        ({"epochs": 1, "checkpoint_every": -1}, "checkpoint_every must be a whole num"),
    ],
)
def test_wrong_arguments_of_a_fit_are_refused(
    options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ArgumentError, match=match):
        make_trainer().fit(make_loader(), **options)


def test_checkpoints_every_so_many_epochs_stay(tmp_path: Path) -> None:
    trainer = make_trainer(lr=1e-12)
    trainer.fit(make_loader(), epochs=3, checkpoint_every=2, run_dir=tmp_path / "run")
    run = make_trainer(lr=1e-12).fit(
        make_loader(),
        epochs=9,
        checkpoint_every=3,
        run_dir=tmp_path / "run",
        resume=True,
    )
    found = {int(p.name[5:]) // 4 for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert run.best is not None
    assert {2, 6, 9} <= found <= {2, 6, 8, 9, run.best["epoch"], 3}


def test_the_average_of_the_weights_is_validated_and_resumed(tmp_path: Path) -> None:
    trainer = make_trainer(ema=0.5, metrics=["accuracy"])
    loader = make_loader(shuffle=False)
    run = trainer.fit(make_loader(), loader, epochs=2, run_dir=tmp_path / "run")
    assert trainer.evaluate(loader)["loss"] == run.history[-1]["valid_loss"]
    again = make_trainer(ema=0.5, metrics=["accuracy"])
    again.fit(make_loader(), loader, epochs=2, run_dir=tmp_path / "run", resume=True)
    assert again.evaluate(loader) == trainer.evaluate(loader)


def test_weights_written_after_a_fit_are_those_that_are_used() -> None:
    trainer = make_trainer(ema=0.9)
    trainer.fit(make_loader(), epochs=2)
    averaged = trainer.evaluate(make_loader(shuffle=False))
    assert trainer.evaluate(make_loader(shuffle=False)) == averaged
    trainer.model.load_state_dict(make_model().state_dict())
    fresh = make_trainer().evaluate(make_loader(shuffle=False))
    assert trainer.evaluate(make_loader(shuffle=False)) == fresh


def test_a_refused_fit_leaves_the_averages() -> None:
    trainer = make_trainer(ema=0.9)
    trainer.fit(make_loader(), epochs=2)
    before = trainer.evaluate(make_loader(shuffle=False))
    with pytest.raises(TrainingError, match="labels must lie in"):
        trainer.fit(DataLoader((X, Y + 5), batch_size=16), epochs=1)
    assert trainer.evaluate(make_loader(shuffle=False)) == before


def test_a_step_of_the_users_is_called_for_the_training_alone() -> None:
    calls: list[int] = []

    def step(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    trainer = Trainer(make_model(), step=step, progress="off")
    trainer.fit(make_loader(), epochs=2)
    assert len(calls) == 8


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"callbacks": [Callback]}, r"callbacks must be objects of handful\.Callback"),
        ({"callbacks": Callback()}, "callbacks must be a list"),
        ({"model": nn.Linear}, r"model must be a torch\.nn\.Module"),
    ],
)
def test_what_is_no_model_or_callback_is_refused(
    arguments: dict[str, Any], match: str
) -> None:
    settings = {"model": make_model(), "loss": "mse", **arguments}
    with pytest.raises(ArgumentError, match=match):
        Trainer(**settings)


def test_lazy_layers_are_refused_with_a_remedy() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.LazyLinear(3))
    with pytest.raises(TrainingError, match="Run one batch through it first"):
        make_trainer(model).fit(make_loader(), epochs=1)


def test_a_cosine_of_epochs_ends_with_the_steps() -> None:
    trainer = make_trainer(schedule="cosine", lr=0.1)
    run = trainer.fit(make_loader(), epochs=100, max_steps=8)
    assert run.steps["lr"].tolist() == pytest.approx([0.1] * 4 + [0.05] * 4)


def test_a_plateau_that_looks_the_wrong_way_is_refused() -> None:
    trainer = make_trainer(
        metrics=["accuracy"],
        monitor="valid_accuracy",
        schedule=torch.optim.lr_scheduler.ReduceLROnPlateau,
        lr=0.1,
    )
    with pytest.raises(ArgumentError, match="mode"):
        trainer.fit(make_loader(), make_loader(), epochs=2)


def test_a_callback_that_takes_its_stop_back_lets_the_run_go_on() -> None:
    class Undecided(Callback):
        def on_step(self, state: FitState) -> None:
            state.stop = False  # type: ignore[assignment]

    run = make_trainer(callbacks=[Undecided()]).fit(make_loader(), epochs=2)
    assert len(run.steps) == 8
    assert not [event for event in run.events if event["kind"] == "stopped early"]
