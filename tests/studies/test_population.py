"""Populations: trials trained as one model, against the same trials one by one."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from handful import Columns, Recipe, load_recipe
from handful.errors import ArgumentError
from handful.runs.study import Study
from handful.runs.study_row import Row, row_to_json
from handful.studies.compare import compare
from handful.train.recipe import Splits

TOLERANCE = 2e-3
"""Share by which losses may differ after the few epochs of these tests: roundings of
1e-7 grow with each step."""

_TIMES = ("seconds", "trained_seconds")


def run(recipe: Recipe, vary: Any, population: str, **arguments: Any) -> Study:
    given = {"progress": "off", "seeds": 2, **arguments}
    return compare(recipe, vary, population=population, **given)


def run_both(recipe: Recipe, vary: Any, **arguments: Any) -> tuple[Study, Study]:
    """Return a study as one model, which it must have been, and one by one."""
    together = run(recipe, vary, "always", **arguments)
    assert [choice["reason"] for choice in together.populations] == [None]
    return together, run(recipe, vary, "never", **arguments)


def assert_same_curves(study: Study, other: Study, share: float = TOLERANCE) -> None:
    assert [row.key for row in study.rows] == [row.key for row in other.rows]
    for row, alone in zip(study.rows, other.rows, strict=True):
        assert (row.status, row.steps, row.samples) == (
            *(alone.status, alone.steps, alone.samples),
        )
        assert len(row.history) == len(alone.history)
        for record, wanted in zip(row.history, alone.history, strict=True):
            assert record.keys() == wanted.keys()
            for name in record.keys() - set(_TIMES):
                close = math.isclose(
                    record[name], wanted[name], rel_tol=share, abs_tol=share / 10
                )
                same = record[name] == wanted[name] or math.isnan(record[name])
                assert close or same, (name, record, wanted)


def assert_same_row(row: Row, other: Row) -> None:
    """Check that all is equal but times; as text, in which NaN equals NaN."""
    assert row_to_json(row) == row_to_json(_with_times_of(other, row))


def make_normed_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


def make_named_data(seed: int) -> Splits:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(40, 4, generator=generator)
    return Columns(x=X, target=X.sum(1, keepdim=True)), None, None


class Named(nn.Module):
    """A model whose input has a name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["wine", "digits", "regression"])
def test_curves_are_those_of_the_trials_one_by_one(name: str) -> None:
    rates = [0.001, 0.003, 0.01]
    study, alone = run_both(load_recipe(name), {"lr": rates}, epochs=3)
    assert_same_curves(study, alone)
    for row, other in zip(study.rows, alone.rows, strict=True):
        assert row.train_eval["loss"] == pytest.approx(
            other.train_eval["loss"], rel=TOLERANCE
        )
        for noise in ("noise_start", "noise_end"):
            found, wanted = getattr(row, noise), getattr(other, noise)
            assert found["variance"] == pytest.approx(wanted["variance"], rel=1e-2)


@pytest.mark.parametrize("name", ["wine", "regression"])
def test_weights_differ_by_roundings_alone(line: Recipe, name: str) -> None:
    recipe = load_recipe(name)
    vary = {"lr": [0.003, 0.01], "backend": ["trainer"]}
    study, alone = run_both(recipe, vary, epochs=10)
    for row, other in zip(study.rows, alone.rows, strict=True):
        assert row.weights == pytest.approx(other.weights, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "optimizers",
    [
        ["sgd", "sgd:weight_decay=0.1", "sgd:momentum=0.9", "sgd:momentum=0.5"],
        ["sgd:momentum=0.9,dampening=0.5", "sgd:momentum=0.5,dampening=0.1", "sgd"],
        ["sgd:momentum=0.9,nesterov=true", "sgd:momentum=0.5,nesterov=true"],
        ["adam", "adam:weight_decay=0.1", "adam:eps=0.001"],
        ["adam:amsgrad=true", "adam:amsgrad=true,weight_decay=0.1"],
        ["adamw", "adamw:weight_decay=0.5"],
        ["rmsprop", "rmsprop:alpha=0.9", "rmsprop:momentum=0.5,weight_decay=0.1"],
        ["rmsprop:centered=true", "rmsprop:centered=true,momentum=0.9"],
        ["adagrad", "adagrad:lr_decay=0.1", "adagrad:initial_accumulator_value=0.5"],
        ["adadelta", "adadelta:rho=0.5", "adadelta:weight_decay=0.1"],
        ["adamax", "adamax:weight_decay=0.1"],
        ["nadam", "nadam:momentum_decay=0.1", "nadam:weight_decay=0.1"],
        ["nadam:decoupled_weight_decay=true,weight_decay=0.1"],
    ],
    ids=lambda names: names[-1].replace(":", " "),
)
def test_numbers_of_the_optimizer_may_differ(
    line: Recipe, optimizers: list[str]
) -> None:
    vary = {"optimizer": optimizers, "lr": [0.01, 0.03]}
    study, alone = run_both(line, vary, seeds=1, epochs=4)
    assert_same_curves(study, alone, share=1e-4)


def test_betas_may_differ(line: Recipe) -> None:
    betas = [[0.9, 0.999], [0.5, 0.9]]
    for name in ("adam", "adamax", "nadam"):
        optimizers = [{"name": name, "betas": pair} for pair in betas]
        study, alone = run_both(line, {"optimizer": optimizers}, seeds=1, epochs=4)
        assert_same_curves(study, alone, share=1e-4)


def test_flags_of_the_optimizer_make_populations_of_their_own(line: Recipe) -> None:
    names = ["sgd:momentum=0.9,nesterov=true", "sgd:momentum=0.9", "adam"]
    study = run(line, {"optimizer": names, "lr": [0.01, 0.1]}, "always", seeds=1)
    sizes = [len(choice["trials"]) for choice in study.populations]
    assert sizes == [2, 2, 2]


@pytest.mark.parametrize(
    "schedule",
    ["step:step_size=2", "cosine:warmup=5,unit=step", "plateau:patience=0,factor=0.5"],
)
def test_each_trial_has_its_own_place_in_a_schedule(
    line: Recipe, schedule: str
) -> None:
    recipe = line.override(schedule=schedule)
    study, alone = run_both(recipe, {"lr": [0.3, 0.01]}, epochs=6)
    assert_same_curves(study, alone)


def test_buffers_names_of_fields_and_single_means_are_as_alone(line: Recipe) -> None:
    normed = line.override(make_model=make_normed_model)
    assert_same_curves(*run_both(normed, {"lr": [0.01, 0.1]}))
    named = line.override(make_data=make_named_data, make_model=Named, metrics=())
    assert_same_curves(*run_both(named, {"lr": [0.01, 0.1]}))
    lonely = line.override(loss=lambda output, y: (output - y).abs().mean())
    assert_same_curves(*run_both(lonely, {"lr": [0.01, 0.1]}))


@pytest.mark.parametrize("last_batch", ["keep", "drop"])
def test_ragged_batches_and_budgets_of_steps_end_as_alone(
    line: Recipe, last_batch: str
) -> None:
    recipe = line.override(batch_size=10, last_batch=last_batch)
    study, alone = run_both(recipe, {"lr": [0.01, 0.1]}, budget="11steps")
    assert_same_curves(study, alone)
    assert study.rows[0].history[-1]["partial"]


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("rate", [1e30, 1e6, 0.9])
def test_a_trial_that_diverges_has_the_row_that_it_has_alone(
    line: Recipe, rate: float, policy: str
) -> None:
    recipe = line.override(options={"on_nonfinite": policy})
    study, alone = run_both(recipe, {"lr": [0.01, rate, 0.05]}, epochs=40, seeds=1)
    assert study.rows[1].status == "diverged" or policy == "skip"
    assert_same_row(study.rows[1], alone.rows[1])
    assert [row.identity.get("population") for row in study.rows] == [3, None, 3]
    study.rows.pop(1), alone.rows.pop(1)
    assert_same_curves(study, alone)


def test_a_trial_whose_last_step_spoils_it_is_noticed(line: Recipe) -> None:
    arguments = {"epochs": 1, "seeds": 1}
    recipe = line.override(batch_size="full", optimizer="sgd:weight_decay=1")
    study, alone = run_both(recipe, {"lr": [0.01, 1e39]}, **arguments)
    assert_same_row(study.rows[1], alone.rows[1])


def test_a_trial_ends_at_its_target_with_the_weights_that_it_had(line: Recipe) -> None:
    arguments = {"target": "train_loss<=1.0", "stop_at_target": True, "epochs": 12}
    study, alone = run_both(line, {"lr": [0.05, 0.01, 0.1]}, **arguments)
    assert_same_curves(study, alone)
    assert len({row.steps for row in study.rows}) > 1
    for row, other in zip(study.rows, alone.rows, strict=True):
        assert (row.target is None) == (other.target is None)
        assert row.train_eval["loss"] == pytest.approx(other.train_eval["loss"], 1e-3)


def test_early_stopping_is_each_trials_own(line: Recipe) -> None:
    recipe = line.override(options={"early_stopping": 1})
    study, alone = run_both(recipe, {"lr": [0.05, 0.3, 0.6]}, epochs=20)
    assert_same_curves(study, alone)
    assert len({row.steps for row in study.rows}) > 1


def test_rows_share_the_time_and_say_what_they_were_trained_in(line: Recipe) -> None:
    study = run(line, {"lr": [0.01, 0.1]}, "always", seeds=1)
    assert [row.identity["population"] for row in study.rows] == [2, 2]
    assert study.rows[0].seconds == study.rows[1].seconds > 0
    assert all(row.peak_memory_bytes is not None for row in study.rows)
    alone = run(line, {"lr": [0.01, 0.1]}, "never", seeds=1)
    assert alone.populations == []
    assert "population" not in alone.rows[0].identity


def test_short_studies_go_one_by_one_by_themselves(line: Recipe) -> None:
    study = run(line, {"lr": [0.01, 0.1]}, "auto")
    assert [choice["reason"] for choice in study.populations] == ["they are too short"]
    assert all("population" not in row.identity for row in study.rows)


def test_long_ones_are_measured_before_anything_counts(line: Recipe) -> None:
    study = run(line, {"lr": [0.01, 0.1, 0.05]}, "auto", epochs=60)
    choice = study.populations[0]
    faster = choice["together_seconds"] < choice["alone_seconds"]
    assert choice["together"] == faster
    assert len(choice["trials"]) == 6


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("dropout", {}, "random"),
        ("slow", {}, "sleep"),
        ("line", {"clip_norm": 1.0}, "clipped"),
        ("line", {"ema": 0.9}, "averaged"),
        ("line", {"accumulate": 2}, "add up"),
        ("line", {"engine": "eager"}, "engine"),
        ("line", {"train_metrics": ["mae"]}, "measured"),
    ],
)
def test_what_stacked_models_do_not_do_goes_one_by_one(
    recipes: Any, name: str, options: dict[str, Any], reason: str
) -> None:
    recipe = recipes(name).override(options=options)
    study = run(recipe, {"lr": [0.01, 0.1]}, "always", seeds=1)
    assert reason in study.populations[0]["reason"]
    assert {row.status for row in study.rows} == {"finished"}
    alone = run(recipe, {"lr": [0.01, 0.1]}, "never", seeds=1)
    for row, other in zip(study.rows, alone.rows, strict=True):
        assert_same_row(row, other)


def _with_times_of(row: Row, other: Row) -> Row:
    history = [
        {**record, **{name: taken[name] for name in _TIMES}}
        for record, taken in zip(row.history, other.history, strict=True)
    ]
    values = {**vars(row), "history": history, "seconds": other.seconds}
    values["peak_memory_bytes"] = other.peak_memory_bytes
    return Row(**values)


def test_models_that_differ_beyond_their_weights_are_noticed(line: Recipe) -> None:
    made: list[float] = []

    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 1)
            made.append(1.0)
            self.scale = float(len(made))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.scale

    recipe = line.override(make_model=Scaled, lr=1e-4)
    study = run(recipe, {"lr": [1e-4, 1e-5]}, "always", seeds=1)
    assert "other numbers" in study.populations[0]["reason"]


def test_a_study_that_was_stopped_keeps_its_rows_and_runs_the_rest_together(
    tmp_path: Path, line: Recipe
) -> None:
    vary, out = {"lr": [0.01, 0.1, 0.05]}, tmp_path / "study"
    whole = run(line, vary, "always", out=out, seeds=1)
    rows = (out / "rows.jsonl").read_text().splitlines(keepends=True)
    (out / "rows.jsonl").write_text(rows[0])
    again = run(line, vary, "always", out=out, seeds=1)
    assert [len(choice["trials"]) for choice in again.populations] == [3, 2]
    assert Study.load(out).populations == again.populations
    assert_same_curves(again, whole)


@pytest.mark.slow
def test_workers_train_populations(line: Recipe, recipes: Any) -> None:
    vary = {"lr": [0.01, 0.1, 0.05]}
    study = run(line, vary, "always", workers=2)
    assert [len(choice["trials"]) for choice in study.populations] == [3, 3]
    assert_same_curves(study, run(line, vary, "never"))
    apart = run(recipes("dropout"), vary, "always", workers=2)
    assert {row.status for row in apart.rows} == {"finished"}


def test_ctrl_c_leaves_no_row_of_a_population(line: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "study"
    threading.Thread(target=_interrupt_once_there, args=(out,), daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        run(line, {"lr": [0.01, 0.1]}, "always", epochs=100_000, out=out)
    assert Study.load(out).rows == []


def _interrupt_once_there(out: Path) -> None:
    deadline = time.monotonic() + 30
    while not (out / "study.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGINT)


def test_generators_and_threads_are_as_before(line: Recipe) -> None:
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    run(line, {"lr": [0.01, 0.1]}, "always")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_an_unknown_choice_is_refused(line: Recipe) -> None:
    with pytest.raises(ArgumentError, match="population must be one of"):
        run(line, {"lr": [0.1]}, "sometimes")
