"""Run and its folder: written while the training goes on, read back whole."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from handful.errors import RunError
from handful.runs.files import from_json, to_json, write_atomic
from handful.runs.folder import (
    RunFolder,
    find_unfinished,
    holds_run,
    new_run_dir,
    remove_run,
)
from handful.runs.run import STEP_DTYPE, Run

CONFIG = {"recipe": "wine", "lr": 1e-5, "schedule": {"name": "step"}, "text": "1e5"}


def make_run(path: Path, **fields: object) -> Path:
    """Write a run's folder as a training does."""
    folder = RunFolder(path, resume=False)
    run = Run(path=path, config=dict(CONFIG), **fields)  # type: ignore[arg-type]
    folder.start(run)
    for epoch in (1, 2):
        folder.append_steps(np.array([(epoch, 0.1), (epoch / 2, 0.1)], STEP_DTYPE))
        folder.append_history({"epoch": epoch, "step": 2 * epoch, "train_loss": 3.0})
    folder.append_event({"kind": "note", "message": "hello"})
    folder.close()
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path / "run", identity={"engine": "eager"}))
    assert run.config == CONFIG
    assert run.status == "running"
    assert run.identity == {"engine": "eager"}
    assert [r["epoch"] for r in run.history] == [1, 2]
    assert run.steps["loss"].tolist() == [1, 0.5, 2, 1]
    assert run.events == [{"kind": "note", "message": "hello"}]


def test_numbers_that_are_not_finite_survive_as_strict_json() -> None:
    text = to_json({"a": [math.nan, math.inf, -math.inf, 1.5]})
    assert "NaN" not in text
    back = from_json(text)["a"]
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf, 1.5]


def test_best_is_the_least_validation_loss_and_ignores_nan() -> None:
    history = [
        {"epoch": 1, "train_loss": 1.0, "valid_loss": math.nan},
        {"epoch": 2, "train_loss": 0.5, "valid_loss": 0.7},
        {"epoch": 3, "train_loss": 0.1, "valid_loss": 0.9},
    ]
    best = Run(history=history).best
    assert best is not None
    assert best["epoch"] == 2
    assert Run().best is None


def test_steps_file_is_an_ordinary_numpy_file_after_every_append(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path / "run", resume=False)
    folder.start(Run(config=CONFIG))
    for count in range(1, 13):
        folder.append_steps(np.array([(count, 0.5)], STEP_DTYPE))
        steps = np.load(tmp_path / "run" / "steps.npy", allow_pickle=False)
        assert steps["loss"].tolist() == list(range(1, count + 1))
    folder.close()


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    with (path / "history.jsonl").open("ab") as file:
        file.write(b'{"epoch": 3, "tr')
    assert [r["epoch"] for r in Run.load(path).history] == [1, 2]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    (path / "history.jsonl").write_text('{"epoch": 1}\nnonsense\n{"epoch": 3}\n')
    with pytest.raises(RunError, match=r"history.jsonl, line 2, is no JSON object"):
        Run.load(path)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("run.json", b"", "is not JSON"),
        ("run.json", b"[]", "has no format_version"),
        ("run.json", b'{"format_version": 99}', "Install a newer handful"),
        ("config.yaml", b"a: [", "is not YAML"),
        ("config.yaml", b"- 1\n", "must hold settings"),
        ("steps.npy", b"nonsense", "is not a NumPy file"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, name: str, content: bytes, match: str
) -> None:
    path = make_run(tmp_path / "run")
    (path / name).write_bytes(content)
    with pytest.raises(RunError, match=match):
        Run.load(path)


def test_pickled_steps_are_refused(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    np.save(path / "steps.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(RunError, match="is not a NumPy file"):
        Run.load(path)


def test_folders_without_a_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="must be a folder that exists"):
        Run.load(tmp_path / "none")
    with pytest.raises(RunError, match=r"run.json is missing"):
        Run.load(tmp_path)


def test_a_second_training_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", resume=False)
    folder.start(Run(config=CONFIG))
    code = (
        "import sys; from pathlib import Path; from handful.runs.folder import *\n"
        "RunFolder(Path(sys.argv[1]), resume=True)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "is in use by another training" in other.stderr
    folder.close()
    RunFolder(tmp_path / "run", resume=True).close()


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match="must be a new or an empty folder"):
        RunFolder(tmp_path, resume=False)
    with pytest.raises(RunError, match="no run to resume"):
        RunFolder(tmp_path, resume=True)
    with pytest.raises(RunError, match="already holds a run"):
        RunFolder(make_run(tmp_path / "run"), resume=False)


def test_removing_a_run_leaves_what_others_put_there(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    (path / "notes.txt").write_text("mine")
    remove_run(path)
    assert [p.name for p in path.iterdir()] == ["notes.txt"]
    empty = make_run(tmp_path / "other")
    remove_run(empty)
    assert not empty.exists()
    with pytest.raises(RunError, match="nothing was deleted"):
        remove_run(path)


def test_the_newest_unfinished_run_of_the_recipe_is_found(tmp_path: Path) -> None:
    assert find_unfinished(tmp_path / "none", "wine") is None
    make_run(tmp_path / "done", status="finished")
    first = make_run(tmp_path / "first", status="stopped")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    assert find_unfinished(tmp_path, "wine") == first
    assert find_unfinished(tmp_path, "digits") is None


def test_new_names_differ_and_make_nothing(tmp_path: Path) -> None:
    names = {new_run_dir(tmp_path, "wine") for _ in range(20)}
    assert len(names) == 20
    assert not any(tmp_path.glob("wine*"))
    assert not any(holds_run(name) for name in names)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(TypeError, match="bytes-like"):
        write_atomic(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir() if p.name != "private"] == ["file"]


@pytest.mark.parametrize("lost", [1, 12, 13, 40])
def test_of_steps_cut_short_those_that_are_whole_are_read(
    lost: int, tmp_path: Path
) -> None:
    path = make_run(tmp_path / "run")
    file = path / "steps.npy"
    file.write_bytes(file.read_bytes()[:-lost])
    losses = Run.load(path).steps["loss"].tolist()
    assert losses == [1, 0.5, 2, 1][: 4 - -(-lost // 12)]


def test_a_run_without_steps_is_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", resume=False)
    folder.start(Run(config=CONFIG))
    folder.close()
    assert len(Run.load(tmp_path / "run").steps) == 0


def test_what_a_start_that_was_killed_left_is_taken_over(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    (path / "run.json").rename(path / ".run.json.123.tmp")
    RunFolder(path, resume=False).close()
    (path / "checkpoints" / "step-00000001").mkdir()
    with pytest.raises(RunError, match="must be a new or an empty folder"):
        RunFolder(path, resume=False)


def test_how_a_run_ended_is_written_and_the_folder_is_free(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", resume=False)
    run = Run(config=dict(CONFIG))
    folder.start(run)
    run.status = "stopped"
    folder.close_as(run)
    assert Run.load(tmp_path / "run").status == "stopped"
    RunFolder(tmp_path / "run", resume=True).close()
