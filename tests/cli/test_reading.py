"""``show``, ``look``, ``evaluate`` and ``predict``, on real runs and data."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from handful.cli.first_batch import count_classes, find_images, find_labels
from handful.cli.main import main
from handful.cli.show import format_history
from handful.cli.tables import format_figure, format_table
from handful.runs.run import Run

SOFTMAX = """\
import torch
from torch import nn
from handful import Columns, Recipe

def make_data(seed):
    X = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
    y = (X.sum(1) > 0).long()
    return Columns(X, y), Columns(X, 1 - y), None

recipe = Recipe(
    name="mine",
    make_data=make_data,
    make_model=lambda: nn.Sequential(nn.Linear(4, 2), nn.Softmax(1)),
    batch_size=20,
    lr=1.0,
)
"""
"""A recipe with a softmax too many, whose validation loss rises as it learns."""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train digits for two epochs."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", "--epochs", "2", "--out", str(path), "-q"]) == 0
    return path


def test_show_tells_status_settings_epochs_and_files(
    run_dir: Path, run_handful: Any
) -> None:
    done = run_handful("show", run_dir, env={"COLUMNS": "40"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "status  finished, 2 of 2 epochs, 72 steps, " in done.stdout
    settings = dict(
        line.split(maxsplit=1)
        for line in done.stdout.split("settings\n")[1].split("\n\n")[0].splitlines()
    )
    assert (settings["batch_size"], settings["schedule"]) == ("32", "constant")
    assert (settings["clip_norm"], settings["num_threads"]) == ("-", "auto")
    assert "best    epoch 2: train_loss " in done.stdout
    assert "files   checkpoints/, config.yaml, curves.png, " in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.endswith(" *")]
    assert [row[:3] for row in rows] == [["2", "72", "2300"]]


def test_show_needs_neither_torch_nor_the_current_folder(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run_dir)
    assert main(["show", "."]) == 0
    assert "run     .\n" in capsys.readouterr().out


def test_long_history_is_shortened_in_the_middle() -> None:
    history = [{"epoch": n, "train_loss": 1 / n} for n in range(1, 41)]
    run = Run(history=history)
    short = format_history(run, whole=False).splitlines()
    shown = [int(line.split()[0]) for line in short if line.split()[0].isdigit()]
    assert shown == [*range(1, 6), *range(31, 41)]
    assert short[-1] == "(25 epochs left out; --all prints them)"
    assert len(format_history(run, whole=True).splitlines()) == 41


def test_history_of_sixteen_epochs_is_whole() -> None:
    run = Run(history=[{"epoch": n, "train_loss": 1.0} for n in range(1, 17)])
    assert format_history(run, whole=False) == format_history(run, whole=True)


def test_validations_inside_epochs_have_rows_with_the_epoch_in_brackets() -> None:
    history = [
        {"epoch": 1, "step": 5, "partial": True, "valid_loss": 0.5},
        {"epoch": 1, "step": 8, "train_loss": 1.0},
    ]
    assert format_history(Run(history=history), whole=False).splitlines() == [
        "epoch  step  valid_loss  train_loss",
        "  (1)     5      0.5000           -  *",
        "    1     8           -      1.0000",
    ]


def test_show_tells_of_runs_without_epochs_and_their_notes(
    tmp_path: Path, run_handful: Any
) -> None:
    (tmp_path / "mine.py").write_text(SOFTMAX)
    argv = ["mine.py:recipe", "--max-steps", "5", "--valid-every", "2", "--out", "r"]
    trained = run_handful("train", *argv, "--early-stopping", "9")
    assert trained.returncode == 0, trained.stderr
    note = "note    The model seems to end in a softmax"
    assert trained.stdout.count(note) == 1
    assert "best    step 2, in epoch 1 of 2\n" in trained.stdout
    done = run_handful("show", "r")
    assert (done.returncode, done.stderr) == (0, "")
    assert "status  finished, 1 epochs, 5 of 5 steps, " in done.stdout
    assert "\n  epochs                  -\n" in done.stdout
    assert "patience=9, min_delta=0.0, start=0\n" in done.stdout
    assert "best    step 2, in epoch 1: train_loss " in done.stdout
    assert done.stdout.count(note) == 1
    rows = [line.split()[:2] for line in done.stdout.split("epochs\n")[-1].splitlines()]
    assert rows[1:5] == [["(1)", "2"], ["1", "3"], ["(2)", "4"], ["(2)", "5"]]


def test_missing_figures_show_as_a_dash() -> None:
    history = [{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "valid_loss": 0.5}]
    assert format_history(Run(history=history), whole=False).splitlines() == [
        "epoch  train_loss  valid_loss",
        "    1      1.0000           -",
        "    2           -      0.5000  *",
    ]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("epoch", 12, "12"),
        ("train_loss", 0.25, "0.2500"),
        ("train_loss", 0.0, "0.0000"),
        ("train_loss", 1.5e-7, "1.500e-07"),
        ("train_loss", 3.2e9, "3.200e+09"),
        ("train_loss", float("nan"), "nan"),
        ("lr", 0.0001, "0.0001"),
        ("seconds", 1.234, "1.23"),
        ("valid_loss", None, "-"),
    ],
)
def test_figures_are_as_long_as_they_need(name: str, value: Any, text: str) -> None:
    assert format_figure(name, value) == text


def test_table_aligns_text_left_and_numbers_right() -> None:
    assert format_table(("name", "n"), [("a", "1"), ("bcdef", "100")], left=1) == (
        "name     n\na        1\nbcdef  100"
    )


def test_evaluate_repeats_the_figures_of_the_best_epoch(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = Run.load(run_dir).best
    assert best is not None
    assert main(["evaluate", str(run_dir)]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert printed["valid_accuracy"] == f"{best['valid_accuracy']:.4f}"
    assert float(printed["valid_loss"]) == pytest.approx(best["valid_loss"], abs=2e-4)


def test_evaluate_and_export_use_the_averaged_weights_of_the_best_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r"
    argv = ["train", "wine", "--epochs", "6", "--lr", "0.05", "--ema", "0.9", "-q"]
    argv += ["--monitor", "valid_accuracy", "--batch-size", "32", "--metrics"]
    assert main([*argv, "accuracy,f1", "--out", str(path)]) == 0
    run = Run.load(path)
    best = run.best
    assert best is not None
    assert best["valid_accuracy"] == max(r["valid_accuracy"] for r in run.history)
    # The best is not the epoch with the lowest loss, and not the last.
    assert best["epoch"] < 6
    capsys.readouterr()
    assert main(["evaluate", str(path)]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    for name in ("valid_loss", "valid_accuracy", "valid_f1"):
        assert float(printed[name]) == pytest.approx(best[name], abs=1e-4)
    assert main(["export", str(path), "--to", str(tmp_path / "w.safetensors")]) == 0
    folder = path / "checkpoints" / f"step-{best['step']:08d}"
    exported = load_file(tmp_path / "w.safetensors")
    averages = load_file(folder / "averages.safetensors")
    model = load_file(folder / "model.safetensors")
    assert all(torch.equal(exported[name], averages[name]) for name in averages)
    assert not any(torch.equal(exported[name], model[name]) for name in model)


def test_predict_writes_a_row_per_sample(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "p.csv"
    assert main(["predict", str(run_dir), "--to", str(to)]) == 0
    assert capsys.readouterr().out == f"wrote 359 rows to {to}\n"
    with to.open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["target"] == row["prediction"] for row in rows)
    assert main(["evaluate", str(run_dir), "--split", "test"]) == 0
    assert f"test_accuracy  {right / 359:.4f}\n" in capsys.readouterr().out


def test_predict_overwrites_with_force(run_dir: Path, tmp_path: Path) -> None:
    to = tmp_path / "p.npy"
    to.touch()
    argv = ["predict", str(run_dir), "--to", str(to), "--split", "valid", "--force"]
    assert main(argv) == 0
    assert np.load(to).shape == (288, 10)


def test_split_that_a_recipe_lacks_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "r")
    assert main(["train", "wine", "--epochs", "1", "--out", path, "--quiet"]) == 0
    assert main(["predict", path, "--to", str(tmp_path / "p.csv")]) == 2
    assert "'wine' has: train, valid; got 'test'." in capsys.readouterr().err


def test_look_counts_classes_and_draws_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["look", "digits", "--batch-size", "50", "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert "samples  train 1,150, valid 288, test 359\n" in printed
    assert "\n  X     50 x 64  float32    0    1  " in printed
    table = printed.split("classes in it\n")[1].splitlines()[1:11]
    assert sum(int(line.split()[-1]) for line in table) == 50
    assert (tmp_path / "look-digits.png").read_bytes()[:4] == b"\x89PNG"


def test_look_at_data_without_images_draws_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["look", "regression", "--out", "r.png"]) == 0
    printed = capsys.readouterr().out
    assert "none in this batch; r.png was not written" in printed
    assert "classes" not in printed
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("first", "side", "shape"),
    [
        (torch.zeros(5, 1, 4, 6), None, (5, 1, 4, 6)),
        (torch.zeros(5, 3, 4, 6, dtype=torch.uint8), None, (5, 3, 4, 6)),
        (torch.zeros(5, 64), 8, (5, 1, 8, 8)),
        (torch.zeros(5, 64), None, None),
        (torch.zeros(5, 2, 4, 6), None, None),
        (torch.zeros(5, 4, 6), None, None),
    ],
)
def test_images_are_known_by_their_shape(
    first: Tensor, side: int | None, shape: tuple[int, ...] | None
) -> None:
    images = find_images({"X": first, "y": torch.zeros(5)}, flat_side=side)
    assert (None if images is None else tuple(images.shape)) == shape


def test_labels_are_whole_numbers_one_a_sample() -> None:
    X, y = torch.zeros(3, 2), torch.tensor([0, 2, 2])
    assert find_labels({"X": X, "y": y}) is y
    assert find_labels({"X": X, "y": y.float()}) is None
    assert find_labels({"X": X, "y": y[:, None]}) is None
    assert find_labels({"y": y}) is None
    assert find_labels({}) is None


def test_absent_classes_are_counted_zero_and_many_are_cut() -> None:
    lines = count_classes(torch.tensor([2, 2, 5]), ("a", "b", "c")).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0", "a", "0"],
        ["1", "b", "0"],
        ["2", "c", "2"],
        ["5", "1"],
    ]
    assert count_classes(torch.arange(100), ()).endswith("... and 70 more")
