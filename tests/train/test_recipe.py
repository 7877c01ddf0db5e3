"""Recipes: what they may say, and that all of it reaches the training."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handful import Columns, Recipe, Run, run_recipe
from handful.errors import ArgumentError, TrainingError
from handful.train.choices import Choice
from handful.train.memory_format import MEMORY_FORMATS as MEASURED_FORMATS
from handful.train.metrics import Metric
from handful.train.options import (
    MEMORY_FORMATS,
    OPTIONS,
    check_options,
    split_options,
)
from handful.train.overfit import overfit_one_batch
from handful.train.recipe_summary import describe_summary
from handful.train.run_recipe import (
    evaluate_run,
    make_split_loader,
    predict_run,
    summarize_recipe,
)
from handful.train.stopping import EarlyStopping
from handful.train.trainer import Trainer

SAID_ELSEWHERE = {
    *("self", "model", "loss", "optimizer", "lr", "schedule", "metrics"),
    *("device", "seed", "loss_average", "callbacks", "progress"),
    *("train", "valid", "epochs", "run_dir", "resume", "allow_changed", "settings"),
}
"""Arguments of `Trainer` and `fit` that recipes have fields for, or that are a run's
own."""


def make_data(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(50, 4, generator=generator)
    data = Columns(X, (X.sum(1) > 0).long())
    return data, data, None


def make_recipe(**settings: Any) -> Recipe:
    own: dict[str, Any] = {
        "name": "mine",
        "make_data": make_data,
        "make_model": lambda: nn.Sequential(
            nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)
        ),
        "batch_size": 16,
        "lr": 0.05,
        "epochs": 2,
    }
    return Recipe(**{**own, **settings})


def test_options_are_all_that_a_training_takes_and_recipes_lack() -> None:
    of_trainer = set(inspect.signature(Trainer.__init__).parameters)
    of_fit = set(inspect.signature(Trainer.fit).parameters)
    assert set(OPTIONS) == (of_trainer | of_fit) - SAID_ELSEWHERE
    taken = {name: name in of_fit for name in OPTIONS}
    assert {name: option.is_of_fit for name, option in OPTIONS.items()} == taken


def test_defaults_of_a_training_are_values_that_options_take() -> None:
    for function in (Trainer.__init__, Trainer.fit):
        for name, parameter in inspect.signature(function).parameters.items():
            if name in OPTIONS and name != "train_metrics":
                default = parameter.default
                assert OPTIONS[name].check(default, name=name) == default


def test_memory_formats_are_those_of_the_training() -> None:
    assert {"auto", *MEASURED_FORMATS} == {*MEMORY_FORMATS}


def test_options_are_read_without_torch() -> None:
    code = "import sys, handful.train.options\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_unknown_option_is_told_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match=r"an entry of options.*Did you mean 'clip"):
        make_recipe(options={"clip_norms": 1.0})
    with pytest.raises(ArgumentError, match="options must be a mapping; got 5"):
        make_recipe(options=5)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("max_steps", 0, "max_steps must be a whole number from 1 on"),
        ("accumulate", None, "accumulate must be a whole number from 1 on"),
        ("clip_norm", -1.0, "clip_norm must be a finite number above 0"),
        ("ema", 1.0, "ema must be between 0 and 1"),
        ("log_norms", "yes", "log_norms must be true or false"),
        ("precision", "half", "precision must be one of bf16, float32, fp16"),
        ("early_stopping", 0, "early_stopping must be a whole number"),
        ("early_stopping", {"patince": 1}, "Did you mean 'patience'"),
        ("monitor", "f1", "Did you mean 'valid_f1'"),
        ("monitor_mode", "up", "monitor_mode must be one of max, min"),
        ("train_metrics", ["f2"], "an entry of train_metrics must be one of"),
        ("train_metrics", "f1", "train_metrics must be a list of names"),
        ("train_metrics", [None], "an entry of train_metrics must be one of"),
        ("param_groups", {"0.*": 0.1}, r"param_groups\['0.\*'\] must map a pattern"),
        ("num_threads", "many", "num_threads must be a whole number from 1 on, 'auto'"),
        ("target", True, "target must be a position or a key"),
        ("sample_weight", "", "sample_weight must be a position or a key"),
        ("memory_format", "nhwc", "memory_format must be one of auto"),
        ("step", 5, r"step must be a function of \(model, batch\)"),
    ],
)
def test_wrong_options_are_refused_at_once(name: str, value: Any, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        make_recipe(options={name: value})


def test_options_are_kept_in_one_spelling() -> None:
    found = check_options(
        {"early_stopping": 3, "train_metrics": ["f1"], "num_threads": "torch"}
    )
    assert found == {
        "early_stopping": EarlyStopping(patience=3),
        "train_metrics": ("f1",),
        "num_threads": None,
    }
    assert check_options(found) == found
    assert split_options({"ema": 0.9, "max_steps": 3}) == (
        {"ema": 0.9},
        {"max_steps": 3},
    )


def test_every_option_reaches_the_training() -> None:
    options = {
        "max_steps": 5,
        "valid_every": 2,
        "accumulate": 2,
        "micro_batch_size": 5,
        "clip_norm": 0.01,
        "log_norms": True,
        "precision": "bf16",
        "ema": 0.9,
        "early_stopping": 9,
        "monitor": "train_f1",
        "train_metrics": ("f1",),
        "param_groups": {"0.*": {"lr_factor": 0.5}},
        "decay_biases_and_norms": False,
        "num_threads": 1,
    }
    run = run_recipe(make_recipe(epochs=None, options=options))
    assert [record["step"] for record in run.history] == [2, 4, 5]
    assert run.config["epochs"] is None
    plain = {**options, "early_stopping": vars(EarlyStopping(patience=9))}
    plain["train_metrics"] = ["f1"]
    assert {name: run.config[name] for name in plain} == plain
    assert run.config["monitor_mode"] == "max"
    assert run.identity["threads"] == 1
    assert "grad_norm" in run.history[-1]


def test_last_batch_is_kept_or_dropped() -> None:
    kept, dropped = (
        run_recipe(make_recipe(last_batch=name)) for name in ("keep", "drop")
    )
    assert [record["samples"] for record in kept.history] == [50, 100]
    assert [record["samples"] for record in dropped.history] == [48, 96]
    assert (kept.config["last_batch"], dropped.config["last_batch"]) == ("keep", "drop")
    assert len(make_split_loader(make_recipe(last_batch="drop"), "train", 0)) == 3
    with pytest.raises(ArgumentError, match="last_batch must be one of drop, keep"):
        make_recipe(last_batch="leave")


@pytest.mark.parametrize(
    "loss",
    [
        "cross_entropy:label_smoothing=0.5",
        {"name": "cross_entropy", "label_smoothing": 0.5},
        Choice("cross_entropy", {"label_smoothing": 0.5}),
    ],
)
def test_loss_may_have_arguments(loss: Any) -> None:
    run = run_recipe(make_recipe(loss=loss))
    assert run.config["loss"] == {"name": "cross_entropy", "label_smoothing": 0.5}
    by_hand = run_recipe(make_recipe(loss=nn.CrossEntropyLoss(label_smoothing=0.5)))
    assert np.array_equal(run.steps, by_hand.steps)
    with pytest.raises(ArgumentError, match="Did you mean 'label_smoothing'"):
        make_recipe(loss="cross_entropy:label_smoothin=0.5")


def train_step(model: nn.Module, batch: Any) -> Tensor:
    X, y = batch
    return nn.functional.cross_entropy(model(X), y)


def test_step_takes_the_place_of_the_loss() -> None:
    run = run_recipe(make_recipe(loss=None, options={"step": train_step}))
    assert np.array_equal(run.steps, run_recipe(make_recipe()).steps)
    assert run.config["loss"] is None
    for wrong in ({"options": {"step": train_step}}, {"loss": None}):
        with pytest.raises(ArgumentError, match="loss must be None if options has a"):
            make_recipe(**wrong)


def test_epochs_may_be_left_out_for_steps_alone() -> None:
    with pytest.raises(ArgumentError, match="epochs must be given unless options has"):
        make_recipe(epochs=None)
    run = run_recipe(make_recipe(epochs=None, options={"max_steps": 3}))
    assert len(run.steps) == 3


def test_metrics_that_are_objects_are_left_to_the_recipe(tmp_path: Path) -> None:
    metric = Metric("mean_output", lambda output, target: output.mean(1).sum())
    options = {"train_metrics": (metric,)}
    recipe = make_recipe(metrics=(metric,), options=options)
    run_recipe(recipe, run_dir=tmp_path / "run")
    run = Run.load(tmp_path / "run")
    assert {"valid_mean_output", "train_mean_output"} <= set(run.history[-1])
    assert (run.config["metrics"], run.config["train_metrics"]) == (None, None)


def make_dictionaries(seed: int) -> Any:
    data, _, _ = make_data(seed)
    X, y = data.tensors
    whole = Columns(label=y, x=X, importance=torch.ones(len(y)))
    return whole, whole, None


def test_targets_and_weights_of_dictionaries_are_found_by_name(tmp_path: Path) -> None:
    recipe = make_recipe(
        make_data=make_dictionaries,
        options={"target": "label", "sample_weight": "importance"},
    )
    run_recipe(recipe, run_dir=tmp_path / "run")
    run = Run.load(tmp_path / "run")
    assert run.config["target"] == "label"
    assert run.config["sample_weight"] == "importance"
    measured = evaluate_run(tmp_path / "run", recipe)
    assert measured["valid_loss"] == pytest.approx(run.best["valid_loss"])  # type: ignore[index]
    to = tmp_path / "p.csv"
    assert predict_run(tmp_path / "run", recipe, to=to, split="valid") == 50
    targets = [int(row.split(",")[1]) for row in to.read_text().splitlines()[1:]]
    assert targets == make_data(0)[0].tensors[1].tolist()


class Twice(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        output = super().forward(x)
        return output, output


def test_several_outputs_are_no_table(tmp_path: Path) -> None:
    recipe = make_recipe(
        make_model=lambda: Twice(4, 2),
        loss=lambda output, target: nn.functional.cross_entropy(output[0], target),
        epochs=1,
    )
    run_recipe(recipe, run_dir=tmp_path / "run")
    with pytest.raises(TrainingError, match="the model of recipe 'mine' returns a tup"):
        predict_run(tmp_path / "run", recipe, to=tmp_path / "p.csv", split="valid")


def test_summary_is_of_the_first_micro_batch() -> None:
    summary = summarize_recipe(make_recipe())
    assert (summary.batch_size, summary.parameters) == (16, 114)
    assert [row.shapes for row in summary.rows] == [
        *("(16, 2)", "(16, 16)", "(16, 16)", "(16, 2)")
    ]
    assert summary.optimizer_states == 2
    smaller = summarize_recipe(
        make_recipe(optimizer="sgd", options={"micro_batch_size": 4})
    )
    assert (smaller.batch_size, smaller.optimizer_states) == (4, 0)
    by_step = make_recipe(loss=None, options={"step": train_step})
    assert summarize_recipe(by_step).rows == summary.rows


def test_line_about_the_model_tells_what_is_frozen() -> None:
    def make_model() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2))
        model[0].requires_grad_(False)
        return model

    line = describe_summary(summarize_recipe(make_recipe(make_model=make_model)))
    assert line.startswith("114 parameters, 34 trainable; training holds about ")
    assert line.endswith(" at batch size 16")
    lazy = make_recipe(make_model=lambda: nn.LazyLinear(2))
    assert "lazy layers" in describe_summary(summarize_recipe(lazy))


class Noisy(nn.Module):
    """Has dropout, a running mean, and draws from NumPy and Python as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Any:
        return self.layers(x) + float(np.random.rand())


def test_being_told_the_summary_changes_no_bit(tmp_path: Path) -> None:
    recipe = make_recipe(make_model=Noisy, options={"num_threads": 1})
    told: list[Any] = []
    runs = []
    for name, on_summary in (("told", told.append), ("untold", None)):
        np.random.seed(3)
        run = run_recipe(recipe, run_dir=tmp_path / name, on_summary=on_summary)
        (newest,) = (tmp_path / name / "checkpoints").glob("*8")
        runs.append((run.steps.tobytes(), (newest / "model.safetensors").read_bytes()))
    assert [summary.batch_size for summary in told] == [16]
    assert runs[0] == runs[1]


def test_looking_at_the_first_batch_draws_from_no_generator() -> None:
    def shift(batch: Any) -> Any:
        X, y = batch
        return X + random.random() + float(np.random.rand()) + torch.rand(1), y

    recipe = make_recipe(batch_transform=shift)
    before = random.getstate(), np.random.get_state()[2], torch.get_rng_state()
    summarize_recipe(recipe)
    overfit_one_batch(recipe, max_steps=2)
    assert random.getstate() == before[0]
    assert np.random.get_state()[2] == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_model_that_cannot_run_is_told_by_the_training_alone() -> None:
    told: list[Any] = []
    recipe = make_recipe(make_model=lambda: nn.Linear(5, 2))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        run_recipe(recipe, on_summary=told.append)
    assert not told


def test_one_batch_is_learnt_by_heart() -> None:
    found = overfit_one_batch(make_recipe())
    assert found.has_learned
    assert found.last_loss <= 0.01 * found.first_loss
    assert 1 < found.steps < 300
    assert (found.samples, found.parameters) == (16, 114)
    assert found.verdict.endswith("model and loss can learn this data.")
    assert overfit_one_batch(make_recipe()) == found


def test_overfitting_leaves_out_what_would_hold_it_back() -> None:
    options = {
        "ema": 0.9,
        "accumulate": 4,
        "monitor": "valid_loss",
        "max_steps": 1,
        "valid_every": 1,
        "early_stopping": 1,
    }
    recipe = make_recipe(
        loss="cross_entropy:label_smoothing=0.2",
        schedule="cosine",
        metrics=("accuracy",),
        epochs=None,
        options=options,
    )
    assert overfit_one_batch(recipe).has_learned
    by_step = make_recipe(loss=None, options={"step": train_step})
    assert overfit_one_batch(by_step) == overfit_one_batch(make_recipe())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lr": 1e-5}, "though it fell. Raise lr"),
        (
            {"make_model": lambda: nn.Linear(4, 2), "batch_size": 50},
            "fewer parameters (10) than the batch has samples (50)",
        ),
        (
            {"loss": lambda output, target: output.sum() * 0 + 1.0},
            "it did not fall at all",
        ),
    ],
)
def test_verdict_says_what_to_look_at(settings: dict[str, Any], says: str) -> None:
    found = overfit_one_batch(make_recipe(**settings), max_steps=30)
    assert not found.has_learned
    assert found.steps == 30
    assert says in found.verdict


def test_overfitting_leaves_the_generators_alone() -> None:
    before = torch.get_rng_state()
    overfit_one_batch(make_recipe(make_model=Noisy), max_steps=3)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ArgumentError, match="max_steps must be a whole number from 1"):
        overfit_one_batch(make_recipe(), max_steps=0)
