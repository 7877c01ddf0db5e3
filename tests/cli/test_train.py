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


def make_both(seed):
    train, _, _ = make_data(seed)
    return train, train, train


def train_step(model, batch):
    X, y = batch
    output = model(X)
    loss = nn.functional.cross_entropy(output, y, reduction="sum")
    return {"loss_sum": loss, "weight": len(y), "output": output, "target": y}


full = recipe.override(name="full", make_data=make_both, metrics=("accuracy",))
own_step = Recipe(
    name="own-step",
    make_data=make_both,
    make_model=recipe.make_model,
    loss=None,
    metrics=("accuracy",),
    epochs=2,
    options={"step": train_step, "clip_norm": 1.0},
)


def make_noisy_model():
    return nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)
    )


noisy = recipe.override(name="noisy", make_model=make_noisy_model)


def make_noise(seed):
    generator = torch.Generator().manual_seed(seed)
    X = torch.zeros(60, 4)
    return Columns(X, torch.randint(2, (60,), generator=generator)), None, None


hopeless = recipe.override(
    name="hopeless", make_data=make_noise, make_model=lambda: nn.Linear(4, 20)
)
"""

EVERYTHING = [
    *("--max-steps", "9", "--epochs", "4", "--early-stopping", "3"),
    *("--batch-size", "8", "--last-batch", "drop", "--accumulate", "2"),
    *("--micro-batch-size", "4", "--loss", "cross_entropy:label_smoothing=0.1"),
    *("--optimizer", "adamw:weight_decay=0.1", "--lr", "0.05"),
    *("--schedule", "cosine:warmup=2,unit=step", "--no-decay-on-biases-and-norms"),
    *("--clip-norm", "1", "--clip-value", "0.5", "--ema", "0.9"),
    *("--metrics", "accuracy,f1", "--train-metrics", "accuracy"),
    *("--monitor", "valid_f1", "--valid-every", "2", "--loss-average", "batches"),
    *("--log-norms", "--seed", "5", "--device", "cpu", "--precision", "bf16"),
    *("--threads", "torch", "--checkpoint-every", "1"),
    *("--save-every", "3steps", "--on-save-error", "continue"),
]
"""Every flag that says how to train."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which holds ``mine.py`` with recipes."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _same_steps(one: str, other: str) -> bool:
    first, second = Run.load(one).steps, Run.load(other).steps
    return len(first) > 0 and np.array_equal(first, second)


def _last_weights(run: str) -> bytes:
    last = max((Path(run) / "checkpoints").iterdir())
    return (last / "model.safetensors").read_bytes()


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


def test_config_with_everything_switched_on_repeats_the_run(folder: Path) -> None:
    assert main(["train", "mine.py:full", *EVERYTHING, "--out", "first", "-q"]) == 0
    config = Run.load("first").config
    # A pattern for one parameter, which only a file can say.
    with (folder / "groups.yaml").open("w") as file:
        groups = {"weight": {"lr_factor": 0.5}}
        YAML(typ="safe").dump({**config, "param_groups": groups}, file)
    argv = ["train", "--config", "groups.yaml", "--out", "second", "-q"]
    assert main(argv) == 0
    argv = ["train", "--config", "second/config.yaml", "--out", "third", "-q"]
    assert main(argv) == 0
    assert not _same_steps("first", "second")
    assert _same_steps("second", "third")
    second = Run.load("second").config
    assert second == Run.load("third").config
    assert second == {**config, "param_groups": groups}
    expected = {
        "epochs": 4,
        "max_steps": 9,
        "batch_size": 8,
        "last_batch": "drop",
        "loss": {"name": "cross_entropy", "label_smoothing": 0.1},
        "loss_average": "batches",
        "metrics": ["accuracy", "f1"],
        "train_metrics": ["accuracy"],
        "monitor": "valid_f1",
        "monitor_mode": "max",
        "early_stopping": {"patience": 3, "min_delta": 0.0, "start": 0},
        "decay_biases_and_norms": False,
        "valid_every": 2,
        "checkpoint_every": 1,
        "save_every": "3steps",
        "on_save_error": "continue",
        "accumulate": 2,
        "micro_batch_size": 4,
        "clip_norm": 1.0,
        "clip_value": 0.5,
        "log_norms": True,
        "precision": "bf16",
        "ema": 0.9,
        "num_threads": None,
    }
    assert {name: config[name] for name in expected} == expected
    records = Run.load("first").history
    assert any(record.get("partial") for record in records)
    assert {"grad_norm", "weight_norm", "train_accuracy"} <= set(records[-1])
    kept = {path.name for path in (folder / "first" / "checkpoints").iterdir()}
    assert "step-00000004" in kept  # the first epoch's: 7 batches, by twos


def test_resume_takes_every_setting_from_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["mine.py:full", *EVERYTHING, "--schedule", "constant"]
    assert main(["train", *options, "--out", "whole", "-q"]) == 0
    assert main(["train", *options, "--out", "parts", "-q", "--max-steps", "3"]) == 0
    capsys.readouterr()
    resume = ["train", "--resume", "--out", "parts", "--max-steps", "9", "--epochs"]
    assert main([*resume, "4", "--clip-norm", "1.0", "--early-stopping", "3"]) == 0
    assert "changed" not in capsys.readouterr().out
    assert _same_steps("whole", "parts")
    assert _last_weights("whole") == _last_weights("parts")


def test_steps_alone_leave_a_run_without_epochs(folder: Path) -> None:
    argv = ["train", "mine.py:recipe", "-q"]
    assert main([*argv, "--max-steps", "7", "--out", "steps"]) == 0
    assert main([*argv, "--epochs", "5", "--out", "epochs"]) == 0
    run = Run.load("steps")
    assert (run.config["epochs"], run.config["max_steps"]) == (None, 7)
    assert np.array_equal(run.steps, Run.load("epochs").steps[:7])
    again = ["train", "--config", "steps/config.yaml", "--out", "again", "-q"]
    assert main(again) == 0
    assert _same_steps("steps", "again")
    assert main(["train", "--resume", "--out", "steps", "--epochs", "5", "-q"]) == 0
    assert _same_steps("steps", "epochs")


def test_schedule_of_epochs_takes_their_number_from_the_steps(folder: Path) -> None:
    argv = ["train", "mine.py:recipe", "--max-steps", "7", "--schedule", "cosine"]
    assert main([*argv, "--out", "r"]) == 0
    rates = Run.load(folder / "r").steps["lr"]
    assert len(rates) == 7  # of four epochs of two steps, the last one cut short
    assert rates[6] < 0.2 * rates[0]


def test_value_that_torch_alone_refuses_makes_no_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "mine.py:recipe", "--out", "r", "--optimizer"]
    assert main([*argv, "adam:betas=0.9;1.5"]) == 2
    assert capsys.readouterr().err.startswith("handful: optimizer adam:betas=0.9;1.5")
    assert main([*argv, "sgd", "--monitor", "valid_loss"]) == 2
    assert "there are none" in capsys.readouterr().err
    assert not (folder / "r").exists()


def test_recipe_with_a_step_of_its_own_is_trained_resumed_and_measured(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "mine.py:own_step", "--out", "r"]
    assert main(argv) == 0
    assert Run.load("r").config["clip_norm"] == 1.0
    assert main([*argv, "--resume", "--epochs", "3"]) == 0
    assert main(["train", "--config", "r/config.yaml", "--out", "again"]) == 0
    assert _same_steps("r", "again")
    capsys.readouterr()
    assert main(["evaluate", "r"]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(printed["valid_accuracy"]) == pytest.approx(
        Run.load("r").history[-1]["valid_accuracy"], abs=1e-4
    )
    assert main(["train", "mine.py:own_step", "--loss", "mse"]) == 2
    assert "loss must be None if options has a step" in capsys.readouterr().err


def test_model_is_told_in_a_line_before_the_first_step(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "digits", "--epochs", "1", "--batch-size", "64"]
    assert main([*argv, "--out", "r"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("model   4,810 parameters; training holds about ")
    assert first.endswith(" KiB at batch size 64")
    assert main([*argv, "--resume", "--out", "r", "--epochs", "2"]) == 0
    assert "parameters" not in capsys.readouterr().out


def test_summary_is_a_table_and_changes_no_bit(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "mine.py:noisy", "--threads", "1"]
    assert main([*argv, "--out", "table", "--summary"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split()[:2] == ["layer", "type"]
    assert "BatchNorm1d" in printed
    assert "at batch_size=32)" in printed
    assert main([*argv, "--out", "line"]) == 0
    assert main([*argv, "--out", "none", "-q"]) == 0
    for other in ("line", "none"):
        assert _same_steps("table", other)
        assert _last_weights("table") == _last_weights(other)


def test_one_batch_is_learnt_by_heart_and_no_run_is_kept(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "mine.py:recipe", "--overfit-one-batch", "--lr", "0.1"]
    before = sorted(folder.iterdir())
    assert main([*argv, "--max-steps", "3000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["first", "last", "steps"]
    assert float(lines[1].split()[-1]) <= 0.01 * float(lines[0].split()[-1])
    assert lines[3:] == [
        "The loss fell to near zero: model and loss can learn this data."
    ]
    after = [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"]
    assert after == before


def test_batch_that_cannot_be_learnt_ends_with_status_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "mine.py:hopeless", "--overfit-one-batch", "--lr", "0.1"]
    assert main([*argv, "--quiet"]) == 1
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith("The loss did not fall to near zero in 300 steps")
    assert "look at the labels" in printed.out
    assert printed.out.count("\n") == 1


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
    assert main(["train", name, "--out", "r", "--checkpoint-every", "1"]) == 0
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


def test_changed_data_are_refused_without_the_flag_for_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "mine.py:recipe", "--out", "r", "--epochs", "1"]) == 0
    file = folder / "mine.py"
    file.write_text(file.read_text().replace("torch.randn(60", "2 * torch.randn(60"))
    resume = ["train", "--resume", "--out", "r", "--epochs", "2"]
    capsys.readouterr()
    assert main(resume) == 1
    message = capsys.readouterr().err
    assert "r would not go on to the same bits: data was samples 60, hash" in message
    assert "Go on all the same with --allow-changed" in message
    assert len(Run.load("r").history) == 1
    assert main([*resume, "--allow-changed"]) == 0
    assert "identity changed" in [event["kind"] for event in Run.load("r").events]


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--allow-changed"], "--allow-changed must go with --resume; got it alone"),
        (["--save-every", "5"], "--save-every must be auto, records, or a number"),
        (["--on-save-error", "stopp"], "Did you mean 'stop'?"),
    ],
)
def test_wrong_words_about_saving_are_refused(
    argv: list[str], match: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "mine.py:recipe", *argv]) == 2
    assert match in capsys.readouterr().err
    assert not (folder / "runs").exists()


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
    assert printed.startswith("handful: the loss of step 2 (epoch 1, batch 2; samples ")
    assert printed.count("\n") == 1
    assert Run.load("r").status == "failed"


def _start(folder: Path, *argv: str, unbuffered: bool = False) -> subprocess.Popen[str]:
    # Under nohup and in background jobs Python would ignore Ctrl-C.
    code = (
        "import signal, sys; from handful.cli.main import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.Popen(
        [sys.executable, *(["-u"] if unbuffered else []), "-c", code, *argv],
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


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_run_interrupted_in_mid_epoch_ends_with_the_weights_of_a_whole_one(
    folder: Path, signum: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["mine.py:slow", "--batch-size", "2", "--threads", "1", "--epochs", "3"]
    process = _start(
        folder, "train", *options, "--out", "parts", "--print", "batch", unbuffered=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step=35 "):  # of 30 an epoch
            break
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert err.startswith("handful: interrupted. Go on with: ")
    run = Run.load("parts")
    assert run.status == "stopped"
    assert len(run.history) == 1
    assert 35 <= len(run.steps) < 60
    assert main(["show", "parts"]) == 0
    assert "status  stopped, 1 of 3 epochs, " in capsys.readouterr().out

    wrong = ["train", "--resume", "--out", "parts", "--batch-size", "4"]
    assert main(wrong) == 2
    assert "must stay 2 until the epoch is over" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", "parts", "-q"]) == 0
    assert main(["train", *options, "--out", "whole", "-q"]) == 0
    assert len(Run.load("whole").steps) == 90
    assert _same_steps("parts", "whole")
    assert _last_weights("parts") == _last_weights("whole")


def test_resume_without_out_finds_the_unfinished_run(folder: Path) -> None:
    assert main(["train", "mine.py:recipe", "--epochs", "1"]) == 0
    (path,) = (folder / "runs").iterdir()
    meta = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**meta, "status": "stopped"}))
    assert main(["train", "./mine.py:recipe", "--resume", "--epochs", "2"]) == 0
    assert list((folder / "runs").iterdir()) == [path]
    assert Run.load(path).status == "finished"
    assert YAML(typ="safe").load(path / "config.yaml")["epochs"] == 2
