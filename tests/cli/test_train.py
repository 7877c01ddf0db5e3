"""``handful train``, for real: small recipes on the CPU."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from handful.cli.main import main
from handful.runs.run import Run

MINE = """\
import time

import torch
from torch import nn

from handful import Columns, Recipe


class Slow(nn.Linear):
    def forward(self, x):
        time.sleep(0.02)
        return super().forward(x)


def make_data(seed):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(60, 4, generator=generator)
    return Columns(X, (X.sum(1) > 0).long()), None, None


def fail(seed):
    raise OSError("the disk is gone")


recipe = Recipe(
    name="mine", make_data=make_data, make_model=lambda: nn.Linear(4, 2), epochs=3
)
slow = recipe.override(name="slow", make_model=lambda: Slow(4, 2), epochs=400)
broken = recipe.override(name="broken", make_data=fail)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which holds ``mine.py`` with recipes."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _same_steps(one: str, other: str) -> bool:
    first, second = Run.load(one).steps, Run.load(other).steps
    return len(first) > 0 and np.array_equal(first, second)


def test_run_lies_in_runs_and_the_end_says_where(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "mine.py:recipe", "--epochs", "2"]) == 0
    (path,) = (folder / "runs").iterdir()
    assert path.name.startswith("mine-")
    run = Run.load(path)
    assert (run.status, len(run.history)) == ("finished", 2)
    assert run.config["recipe"] == "mine.py:recipe"
    printed = capsys.readouterr().out
    relative = path.relative_to(folder)
    assert f"run     {relative}\n" in printed
    assert "best    epoch 2 of 2\n        train_loss " in printed
    assert f"curves  {relative / 'curves.png'}\n" in printed
    assert f"handful show {relative}\n" in printed
    assert (path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_flags_come_before_the_file_and_the_file_before_the_recipe(
    folder: Path,
) -> None:
    (folder / "c.yaml").write_text(
        "recipe: mine.py:recipe\nepochs: 2\nlr: 0.5\nbatch_size: 30\n"
        "optimizer: {name: sgd, momentum: 0.5}\n"
    )
    argv = ["train", "--config", "c.yaml", "--out", "r", "--lr", "0.25", "--seed", "3"]
    argv += ["--schedule", "step:step_size=1", "--batch-size", "full"]
    assert main([*argv, "--loss-average", "batches"]) == 0
    config = Run.load("r").config
    assert config["epochs"] == 2
    assert config["lr"] == 0.25
    assert config["batch_size"] == "full"
    assert config["seed"] == 3
    assert config["loss_average"] == "batches"
    assert config["loss"] == "cross_entropy"
    assert config["optimizer"] == {"name": "sgd", "momentum": 0.5}
    assert config["schedule"]["step_size"] == 1


@pytest.mark.parametrize(
    "options",
    [
        ["wine", "--epochs", "2", "--schedule", "cosine", "--optimizer", "sgd"],
        ["wine", "--as-seed", "--epochs", "1", "--quiet", "--batch-size", "full"],
    ],
)
def test_config_of_a_run_repeats_it(folder: Path, options: list[str]) -> None:
    assert main(["train", *options, "--out", "first", "--seed", "5"]) == 0
    assert main(["train", "--config", "first/config.yaml", "--out", "again"]) == 0
    assert _same_steps("first", "again")
    assert Run.load("first").config == Run.load("again").config


def test_as_seed_prints_the_lessons_lines(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "wine", "--as-seed", "--epochs", "1", "--out", "r"]) == 0
    lines = capsys.readouterr().out.splitlines()
    losses = Run.load("r").steps["loss"]
    assert lines[: len(losses)] == [f"Batch Loss: {loss:.4f}" for loss in losses]
    assert lines[len(losses)].startswith("Epoch [1/1] Average Loss: ")
    assert lines[-1].endswith("handful evaluate r --split train")


@pytest.mark.parametrize(
    ("every", "steps"), [("epoch", []), ("batch", [1, 2, 3, 4]), ("3", [3])]
)
def test_print_chooses_the_lines(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    every: str,
    steps: list[int],
) -> None:
    argv = ["train", "mine.py:recipe", "--epochs", "2", "--print", every]
    assert main([*argv, "--out", "r"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("step=")] == [
        f"step={step}" for step in steps
    ]
    assert sum(line.startswith("epoch=") for line in lines) == 2


def test_quiet_prints_the_folder_alone(run_handful: Any, folder: Path) -> None:
    done = run_handful("train", "mine.py:recipe", "--epochs", "1", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert Run.load(folder / done.stdout.strip()).status == "finished"


def test_resume_in_parts_equals_one_run(folder: Path) -> None:
    name = "mine.py:recipe"
    assert main(["train", name, "--epochs", "5", "--out", "whole"]) == 0
    assert main(["train", name, "--epochs", "2", "--out", "parts"]) == 0
    assert main(["train", name, "--resume", "--out", "parts", "--epochs", "3"]) == 0
    assert main(["train", "--resume", "--out", "parts", "--epochs", "5"]) == 0
    assert _same_steps("whole", "parts")
    assert [record["epoch"] for record in Run.load("parts").history] == [1, 2, 3, 4, 5]


def test_run_killed_before_its_last_checkpoint_can_be_resumed(folder: Path) -> None:
    name = "mine.py:recipe"
    assert main(["train", name, "--out", "whole"]) == 0
    assert main(["train", name, "--out", "r"]) == 0
    shutil.rmtree(max((folder / "r" / "checkpoints").iterdir()))
    assert main(["train", "--resume", "--out", "r"]) == 0
    assert _same_steps("whole", "r")
    assert [record["epoch"] for record in Run.load("r").history] == [1, 2, 3]


def test_resume_keeps_the_settings_and_tells_changes(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["train", "mine.py:recipe", "--out", "r"]
    assert main([*argv, "--epochs", "1", "--lr", "0.5", "--optimizer", "sgd"]) == 0
    capsys.readouterr()
    resume = [*argv, "--resume", "--epochs", "2", "--lr", "0.25", "--device", "auto"]
    assert main([*resume, "--optimizer", "sgd:momentum=0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "resuming r",
        "changed: lr 0.5 -> 0.25",
        "changed: optimizer sgd -> sgd:momentum=0.5",
    ]
    assert not [line for line in lines[3:] if line.startswith("changed")]
    assert Run.load("r").steps["lr"].tolist() == [0.5] * 2 + [0.25] * 2


def test_device_that_is_not_here_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "mine.py:recipe", "--device", "cuda:99"]) == 2
    assert "one that torch can use; got 'cuda:99'" in capsys.readouterr().err
    assert not (folder / "runs").exists()


def test_fresh_replaces_the_run(folder: Path) -> None:
    assert main(["train", "wine", "--epochs", "1", "--out", "r"]) == 0
    assert main(["train", "mine.py:recipe", "--out", "r", "--fresh"]) == 0
    run = Run.load("r")
    assert run.config["recipe"] == "mine.py:recipe"
    assert len(run.history) == 3
    assert not [path for path in folder.iterdir() if path.name.startswith(".r.")]


def test_fresh_keeps_the_old_run_when_no_new_one_comes_to_be(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "mine.py:recipe", "--epochs", "1", "--out", "r"]) == 0
    before = {p: p.read_bytes() for p in (folder / "r").rglob("*") if p.is_file()}
    assert main(["train", "mine.py:broken", "--out", "r", "--fresh"]) == 1
    assert "the disk is gone" in capsys.readouterr().err
    after = {p: p.read_bytes() for p in (folder / "r").rglob("*") if p.is_file()}
    assert after == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".r.")]


def test_diverged_training_is_an_error_of_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["train", "regression", "--lr", "1e30", "--optimizer", "sgd", "--out", "r"]
    assert main(argv) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("handful: train_loss is ")
    assert printed.count("\n") == 1
    assert Run.load("r").status == "failed"


def _start(folder: Path, *argv: str) -> subprocess.Popen[str]:
    # Under nohup and in background jobs Python would ignore Ctrl-C.
    code = (
        "import signal, sys; from handful.cli.main import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_epochs(process: subprocess.Popen[str], run: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((run / "checkpoints").glob("step-*"))) >= min(count, 2):
            return
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"no checkpoint came: {process.communicate()}")


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_interrupted_run_is_in_order_and_goes_on(
    folder: Path, signum: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    process = _start(folder, "train", "mine.py:slow", "--out", "a run")
    _wait_for_epochs(process, folder / "a run", 2)
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err == (
        "handful: interrupted. Go on with: "
        "handful train mine.py:slow --resume --out 'a run'\n"
    )
    run = Run.load("a run")
    done = len(run.history)
    assert run.status == "stopped"
    assert 2 <= done < 400

    last = str(done + 2)
    assert (
        main(["train", "mine.py:slow", "--resume", "--epochs", last, "--out", "a run"])
        == 0
    )
    capsys.readouterr()
    epochs = [record["epoch"] for record in Run.load("a run").history]
    assert epochs == list(range(1, done + 3))


def test_resume_without_out_finds_the_unfinished_run(folder: Path) -> None:
    assert main(["train", "mine.py:recipe", "--epochs", "1"]) == 0
    (path,) = (folder / "runs").iterdir()
    meta = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**meta, "status": "stopped"}))
    assert main(["train", "./mine.py:recipe", "--resume", "--epochs", "2"]) == 0
    assert list((folder / "runs").iterdir()) == [path]
    assert Run.load(path).status == "finished"
    assert YAML(typ="safe").load(path / "config.yaml")["epochs"] == 2
