"""Compare, for real: grids of small trainings, here and in other processes."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from handful import Recipe, load_recipe, run_recipe
from handful.errors import ArgumentError, RunError
from handful.runs.run import Run
from handful.runs.study import Study
from handful.runs.study_row import Row, row_to_json
from handful.studies.compare import compare
from handful.studies.peak_memory import read_peak, start_peak
from handful.studies.stopwatch import Stopwatch
from handful.train.callbacks import FitState

RECIPES = Path(__file__).with_name("recipes.py")


def run(recipe: Recipe, vary: Any, **arguments: Any) -> Study:
    return compare(recipe, vary, **{"progress": "off", "seeds": 2, **arguments})


def _numbers(row: Row) -> str:
    """Return what of a row may not depend on where it ran; NaN equals NaN there."""
    times = ("seconds", "trained_seconds")
    history = [{k: v for k, v in r.items() if k not in times} for r in row.history]
    kept = replace(row, history=history, seconds=0.0, peak_memory_bytes=None)
    return row_to_json(kept)


def test_grid_has_a_row_per_cell_and_seed_in_its_order(line: Recipe) -> None:
    study = run(line, {"batch-size": [8, "full"], "lr": [0.1, 0.01]}, seeds=[3, 1])
    assert [
        (r.seed, r.settings["batch_size"], r.settings["lr"]) for r in study.rows
    ] == [
        (seed, size, lr)
        for seed in (3, 1)
        for size in (8, "full")
        for lr in (0.1, 0.01)
    ]
    assert {row.status for row in study.rows} == {"finished"}
    assert [row.steps for row in study.rows[:4]] == [18, 18, 3, 3]
    assert {row.samples for row in study.rows} == {144}


@pytest.mark.parametrize("name", ["line", "dropout"])
def test_a_trial_is_the_run_that_run_recipe_makes(recipes: Any, name: str) -> None:
    recipe = recipes(name)
    vary = {"clip_norm": [0.5], "batch_size": [5]}
    row = run(recipe, vary, seeds=[4]).rows[0]
    options = {"clip_norm": 0.5, "num_threads": 1}
    alone = run_recipe(recipe.override(batch_size=5, options=options), seed=4)
    for record, other in zip(row.history, alone.history, strict=True):
        for key in ("train_loss", "valid_loss", "valid_mae", "step"):
            assert record[key] == other[key]


def test_row_says_final_and_best_values_and_the_gap(line: Recipe) -> None:
    row = run(line, {"lr": [0.05]}, seeds=1).rows[0]
    assert row.final["valid_loss"] == row.history[-1]["valid_loss"]
    assert row.best["valid_loss"] == min(r["valid_loss"] for r in row.history)
    assert row.best["valid_r2"] == max(r["valid_r2"] for r in row.history)
    assert row.generalization_gap == row.final["valid_loss"] - row.train_eval["loss"]
    assert row.train_eval["loss"] != row.final["train_loss"]
    assert row.identity["threads"] == 1
    assert 0 < row.seconds == row.history[-1]["trained_seconds"]
    for noise in (row.noise_start, row.noise_end):
        assert noise is not None
        assert noise["variance"] > 0
    assert row.noise_end["gradient_squared"] < row.noise_start["gradient_squared"]


def test_noise_at_the_start_is_the_same_whatever_else_a_study_varies(
    line: Recipe,
) -> None:
    sizes = [3, 8, "full"]
    together = run(line, {"batch_size": sizes, "loss": ["mse", "mae"]}, seeds=[5])
    found = {tuple(row.settings.values()): row.noise_start for row in together.rows}
    for size in sizes:
        for loss in ("mse", "mae"):
            alone = run(line, {"batch_size": [size], "loss": [loss]}, seeds=[5]).rows[0]
            assert alone.noise_start is not None
            assert alone.noise_start == found[size, loss]
    assert len({str(noise) for noise in found.values()}) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory through /proc")
def test_peak_memory_is_counted_from_now_on_and_in_rows(line: Recipe) -> None:
    np.ones(16_000_000)  # 128 MB before, which don't count
    before = start_peak()
    assert before is not None
    first = read_peak(before)
    np.ones(8_000_000)
    second = read_peak(before)
    assert first is not None
    assert second is not None
    assert first < 16e6
    assert 48e6 < second < 96e6
    row = run(line, {"lr": [0.1]}, seeds=1).rows[0]
    assert isinstance(row.peak_memory_bytes, int)


PAUSED = """
import numpy as np
from handful.studies.peak_memory import PeakMemory

memory = PeakMemory()
kept = [np.ones(4_000_000)]  # 32 MB
memory.pause()
kept.append(np.ones(8_000_000))
memory.go_on()
kept.append(np.ones(2_000_000))
print(memory.read())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory through /proc")
def test_memory_taken_in_a_pause_does_not_count() -> None:
    # A process that has freed memory before may give of that.
    done = subprocess.run(
        [sys.executable, "-c", PAUSED], capture_output=True, text=True, check=True
    )
    assert 40e6 < int(done.stdout) < 60e6


def test_diverged_and_failed_trials_are_rows_and_the_others_go_on(recipes: Any) -> None:
    study = run(recipes("failing"), {"lr": [0.01, 1e30]})
    assert [row.status for row in study.rows] == [
        *("finished", "diverged", "failed", "failed")
    ]
    assert "train_loss is" in str(study.rows[1].reason)
    assert not math.isfinite(study.rows[1].final["train_loss"])
    assert study.rows[2].reason == "OSError: the disk is gone"
    good, bad = study.table()
    assert (good.num_finished, good.num_failed) == (1, 1)
    assert (bad.num_diverged, bad.values) == (1, {})


@pytest.mark.parametrize(
    ("budget", "steps", "samples"),
    [("2epochs", 12, 96), ("7steps", 7, 56), ("60samples", 8, 60)],
)
def test_budget_ends_each_trial(
    line: Recipe, budget: str, steps: int, samples: int
) -> None:
    study = run(line, {"batch_size": [8, "full"]}, budget=budget, seeds=1)
    assert study.rows[0].steps == steps
    assert study.rows[0].samples >= samples
    assert study.rows[0].history[-1]["step"] == steps
    assert "valid_loss" in study.rows[0].history[-1]


def test_budget_of_seconds_is_of_training_alone(recipes: Any) -> None:
    row = run(recipes("slow"), {"lr": [0.01]}, budget="0.05s", seeds=1).rows[0]
    assert row.status == "finished"
    # Each step sleeps for 10 ms, and so does each of the validation's batches.
    assert 1 <= row.steps <= 5
    assert row.seconds >= 0.05
    assert "valid_loss" in row.final


def test_schedules_know_the_length_of_a_budget_of_steps(line: Recipe) -> None:
    study = run(line, {"schedule": ["cosine"]}, budget="8steps", seeds=1)
    assert [r["lr"] for r in study.rows[0].history] == [0.05, 0.025]


def test_target_says_where_it_was_first_reached(line: Recipe) -> None:
    vary, target = {"lr": [0.05, 1e-6]}, "valid_loss<=1.5"
    whole = run(line, vary, target=target, seeds=1, epochs=6)
    reached, never = whole.rows
    first = next(r for r in reached.history if r["valid_loss"] <= 1.5)
    assert reached.target == {
        **{name: first[name] for name in ("epoch", "step", "samples")},
        "seconds": first["trained_seconds"],
    }
    assert never.target is None
    assert [cell.num_reached for cell in whole.table()] == [1, 0]
    ended = run(line, vary, target=target, stop_at_target=True, seeds=1, epochs=6)
    assert ended.rows[0].history[-1]["epoch"] == first["epoch"] < 6
    assert ended.rows[1].history[-1]["epoch"] == 6


def test_workers_give_the_same_rows_as_this_process(
    recipes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, vary = recipes("dropout"), {"batch_size": [4, "full"], "lr": [0.01, 1e30]}
    here = run(recipe, vary)
    monkeypatch.setenv("STUDY_DATA_LOG", str(tmp_path / "log"))
    there = run(recipe, vary, workers=2, out=tmp_path / "study")
    assert list(map(_numbers, here.rows)) == list(map(_numbers, there.rows))
    stored = Study.load(tmp_path / "study")
    assert list(map(row_to_json, stored.rows)) == list(map(row_to_json, there.rows))
    seeds = (tmp_path / "log").read_text().split()
    assert len(seeds) <= 1 + 2 * 2  # once in the check, once a seed and worker


def test_an_executor_runs_pickled_recipes_and_lambdas_of_a_file(
    recipes: Any, tmp_path: Path
) -> None:
    pickled = recipes("line").override(batch_size=12)
    file = tmp_path / "mine.py"
    make = "make_model=make_model"
    file.write_text(
        RECIPES.read_text().replace(make, "make_model=lambda: make_model()")
    )
    with_lambda = load_recipe(f"{file}:line")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        for recipe in (pickled, with_lambda):
            here = run(recipe, {"lr": [0.1]})
            there = run(recipe, {"lr": [0.1]}, executor=executor)
            assert list(map(_numbers, here.rows)) == list(map(_numbers, there.rows))


def test_a_recipe_that_cannot_be_sent_is_refused(line: Recipe) -> None:
    recipe = line.override(make_model=lambda: nn.Linear(4, 1))
    with pytest.raises(ArgumentError, match=r"can't be pickled.* Use workers=None"):
        run(recipe, {"lr": [0.1]}, workers=2)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"target": "valid_lss<=1"}, "Did you mean 'valid_loss'"),
        ({"target": "valid_accuracy>=1"}, "must be one of train_loss, valid_loss, val"),
        ({"epochs": 2, "budget": "3steps"}, "epochs and budget must not come together"),
        ({"vary": {"epochs": [1]}, "epochs": 2}, "must not name epochs beside epochs"),
        ({"vary": {"max_steps": [1]}, "budget": "1s"}, "name max_steps beside budget"),
        ({"seeds": [1, 1]}, "seeds must be a number from 1 on, or seeds that differ"),
        ({"seeds": 0}, "seeds must be a whole number from 1 on"),
        ({"workers": 0}, "workers must be a whole number from 1 on"),
        ({"progress": "loud"}, "progress must be one of"),
        ({"stop_at_target": True}, "stop_at_target must come with a target"),
        ({"executor": 3}, "executor must have a method submit"),
        ({"vary": {"monitor": ["valid_f1"]}}, "monitor must be one of .* This is with"),
        ({"vary": {"optimizer": ["sgd:momentum=-1"]}}, "momentum"),
        (
            {"vary": {"schedule": ["cosine"]}, "budget": "1s"},
            "budget must be in epochs, steps or samples with a schedule that depends",
        ),
    ],
)
def test_wrong_arguments_are_found_before_any_training(
    recipes: Any, arguments: dict[str, Any], match: str, tmp_path: Path
) -> None:
    arguments = {"vary": {"lr": [0.1]}, "out": tmp_path / "s", **arguments}
    with pytest.raises(ArgumentError, match=match):
        run(recipes("line"), arguments.pop("vary"), **arguments)
    assert not (tmp_path / "s").exists()


def test_threads_and_names_are_refused_in_place_of_processes_and_recipes(
    line: Recipe,
) -> None:
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ArgumentError, match="executor must run trials in processes"),
    ):
        run(line, {"lr": [0.1]}, executor=executor)
    with pytest.raises(ArgumentError, match="must be a Recipe; got 'wine'"):
        run("wine", {"lr": [0.1]})  # type: ignore[arg-type]


def test_recipes_without_validation_have_no_gap_and_no_such_target() -> None:
    recipe = load_recipe("regression").override(epochs=2)
    row = run(recipe, {"batch_size": ["full"]}, seeds=1).rows[0]
    assert row.generalization_gap is None
    assert set(row.final) == {"train_loss"}
    with pytest.raises(ArgumentError, match="must be one of train_loss; got"):
        run(recipe, {"lr": [0.1]}, target="valid_loss<=1")


def test_threads_and_generators_are_as_before(line: Recipe) -> None:
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    run(line, {"lr": [0.1]}, seeds=1)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)


def test_a_study_goes_on_with_what_is_missing_or_failed(
    recipes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vary = {"lr": [0.01, 0.1]}
    folder = tmp_path / "study"
    first = run(recipes("failing"), vary, out=folder)
    lines = (folder / "rows.jsonl").read_bytes().splitlines(keepends=True)
    assert [row.status for row in first.rows] == ["finished"] * 2 + ["failed"] * 2
    # As if killed while the second line was written; failed trials are run again.
    (folder / "rows.jsonl").write_bytes(lines[0] + lines[2] + lines[3] + lines[1][:50])
    monkeypatch.setenv("STUDY_REPAIRED", "1")
    again = run(recipes("failing"), vary, out=folder)
    kept = (folder / "rows.jsonl").read_bytes().splitlines(keepends=True)
    assert kept[0] == lines[0]
    assert len(kept) == 4
    assert {row.status for row in again.rows} == {"finished"}
    assert list(map(_numbers, again.rows[:2])) == list(map(_numbers, first.rows[:2]))
    assert again.rows[0].seconds == first.rows[0].seconds


def test_other_arguments_in_the_same_folder_are_refused_with_the_difference(
    line: Recipe, tmp_path: Path
) -> None:
    run(line, {"lr": [0.1]}, seeds=1, out=tmp_path / "s")
    before = (tmp_path / "s" / "study.json").read_bytes()
    with pytest.raises(ArgumentError, match=r'axes was \{"lr": \[0.1\]\}, is'):
        run(line, {"lr": [0.2]}, seeds=1, out=tmp_path / "s")
    other = line.override(batch_size=4)
    match = r'settings was \{"batch_size": 8\}, is \{"batch_size": 4\}'
    with pytest.raises(ArgumentError, match=match):
        run(other, {"lr": [0.1]}, seeds=1, out=tmp_path / "s")
    with pytest.raises(ArgumentError, match="must be a new folder with resume=False"):
        run(line, {"lr": [0.1]}, seeds=1, out=tmp_path / "s", resume=False)
    assert (tmp_path / "s" / "study.json").read_bytes() == before
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match="must be a new or an empty folder, or a study"):
        run(line, {"lr": [0.1]}, seeds=1, out=tmp_path)


def test_rows_stay_in_the_order_in_which_they_ended(
    line: Recipe, tmp_path: Path
) -> None:
    vary, rows = {"lr": [0.01, 0.1]}, tmp_path / "s" / "rows.jsonl"
    run(line, vary, out=tmp_path / "s")
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(lines[2] + lines[0])
    again = run(line, vary, out=tmp_path / "s")
    assert rows.read_bytes().splitlines(keepends=True)[:2] == [lines[2], lines[0]]
    assert [row.seed for row in again.rows] == [0, 0, 1, 1]


def test_ctrl_c_during_a_training_leaves_no_row_of_it(
    recipes: Any, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        run(recipes("interrupted"), {"lr": [0.1]}, out=tmp_path / "s")
    assert Study.load(tmp_path / "s").rows == []


def test_threads_are_one_unless_they_are_varied(line: Recipe) -> None:
    recipe = line.override(options={"num_threads": 2})
    assert run(recipe, {"lr": [0.1]}, seeds=1).rows[0].identity["threads"] == 1
    rows = run(line, {"num_threads": [1, 2]}, seeds=1).rows
    assert [row.identity["threads"] for row in rows] == [1, 2]


def test_time_between_a_record_and_the_last_step_does_not_count() -> None:
    watch, state = Stopwatch(), FitState(Run(), epochs=2, steps_per_epoch=1)
    record = {"epoch": 1, "step": 1, "samples": 1}
    started = time.perf_counter()
    watch.on_run_start(state)
    for _ in range(2):
        watch.on_step(state)
        time.sleep(0.02)
        watch.on_epoch_end(state, record)
    watch.on_step(state)
    assert 0 < watch.seconds <= time.perf_counter() - started - 2 * 0.02


PROGRAM = """
import sys
from handful import load_recipe
from handful.studies.compare import compare

if __name__ == "__main__":
    workers = int(sys.argv[3]) or None
    vary = {"lr": [0.1, 0.2, 0.3]} if sys.argv[4] == "short" else {"epochs": [1, 10**6]}
    epochs = 3 if sys.argv[4] == "short" else None
    compare(load_recipe(sys.argv[1]), vary, seeds=2, epochs=epochs, out=sys.argv[2],
            workers=workers)
"""


def _start(tmp_path: Path, workers: int, kind: str = "short") -> subprocess.Popen[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    recipe, out = f"{RECIPES}:slow", str(tmp_path / "study")
    return subprocess.Popen(
        [sys.executable, str(program), recipe, out, str(workers), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _wait_for_rows(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _children(pid: int) -> list[int]:
    return [
        int(path.name)
        for path in Path("/proc").glob("[0-9]*")
        if f"PPid:\t{pid}\n" in _read(path / "status")
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_study_runs_only_the_missing_trials(
    tmp_path: Path, recipes: Any, workers: int
) -> None:
    rows = tmp_path / "study" / "rows.jsonl"
    with _start(tmp_path, workers) as process:
        _wait_for_rows(rows, 2, process)
        children = _children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    kept = rows.read_bytes().splitlines(keepends=True)[:2]
    vary = {"lr": [0.1, 0.2, 0.3]}
    study = run(recipes("slow"), vary, epochs=3, out=tmp_path / "study")
    after = rows.read_bytes().splitlines(keepends=True)
    assert after[:2] == kept
    assert len(after) == len(study.rows) == 6
    assert len({row.key for row in study.rows}) == 6
    deadline = time.monotonic() + 30
    while any(map(_is_alive, children)):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_ends_the_study_and_keeps_its_rows(tmp_path: Path, workers: int) -> None:
    rows = tmp_path / "study" / "rows.jsonl"
    with _start(tmp_path, workers, "endless") as process:
        _wait_for_rows(rows, 1, process)
        os.killpg(process.pid, signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert 1 <= len(Study.load(tmp_path / "study").rows) < 4


def test_a_second_comparison_in_the_same_folder_is_refused(
    tmp_path: Path, recipes: Any
) -> None:
    with _start(tmp_path, 0) as process:
        _wait_for_rows(tmp_path / "study" / "rows.jsonl", 1, process)
        vary = {"lr": [0.1, 0.2, 0.3]}
        try:
            with pytest.raises(RunError, match="is in use by another comparison"):
                run(recipes("slow"), vary, epochs=3, out=tmp_path / "study")
        finally:
            process.kill()
            process.communicate(timeout=60)


def test_lines_tell_each_trial_and_bars_leave_nothing_behind(
    line: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    run(line, {"lr": [0.01, 1e30]}, seeds=1, progress="auto")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("trial=1/2 lr=0.01 seed=0 status=finished train_loss=")
    assert "status=diverged" in second
    assert "reason='train_loss is" in second
    run(line, {"lr": [0.01]}, seeds=1, progress="bar")
    assert "trial=" not in capsys.readouterr().out
