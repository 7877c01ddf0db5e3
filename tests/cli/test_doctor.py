"""``handful doctor``, on real recipes: what it prints, writes and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from handful import first
from handful.cli.doctor import as_command
from handful.cli.main import main
from handful.cli.training_step import training_step
from handful.recipes.registry import load_recipe
from handful.train.run_recipe import make_split_loader

REMOTE = """\
import time
import torch
from torch import nn
from torch.utils.data import Dataset
from handful import Recipe

class Remote(Dataset):
    def __len__(self):
        return 400

    def __getitem__(self, index):
        time.sleep(0.002)
        return torch.full((4,), float(index)), index % 2

recipe = Recipe(
    name="remote",
    make_data=lambda seed: (Remote(), None, None),
    make_model=lambda: nn.Linear(4, 2),
    batch_size=20,
    options={"monitor": "valid_loss", "accumulate": 2, "num_threads": 1},
)
"""


def test_a_remote_data_set_is_diagnosed_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "remote.py").write_text(REMOTE)
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "remote.py:recipe", "--seconds", "4"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert "worker_type='thread'" in lines[0]
    assert "times as many samples trained a second (measured)" in lines[0]
    assert "cause   slow disk" in lines
    assert re.search(r"^both +[\d,]+ samples/s, \d+% waiting$", printed, re.MULTILINE)
    assert re.search(r"^sample +2\.\d+ ms to read \(2\.", printed, re.MULTILINE)
    assert re.search(r"^as it is +[\d,]+ +[\d,]+-[\d,]+ +[\d,]+$", printed, re.M)
    command = r"^with these settings: handful train remote\.py:recipe "
    command += r"--num-workers \d+ --worker-type thread$"
    assert re.search(command, printed, re.MULTILINE)
    folder = tmp_path / "doctor" / "remote"
    names = ["loader.json", "loader.png", "loader.svg"]
    assert sorted(path.name for path in folder.iterdir()) == names
    numbers = json.loads((folder / "loader.json").read_text())
    assert numbers["cause"] == "slow disk"
    assert numbers["trials"][0]["name"] == "as it is"


def test_arrays_have_no_table_of_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "here"
    argv = ["doctor", "digits", "--seconds", "1", "--out", str(out)]
    assert main([*argv, "--batch-size", "64", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "(batched: Columns is in arrays)" in printed
    assert "setting " not in printed
    assert f"wrote   {out / 'loader.json'}" in printed


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["digits", "--seconds", "0"], "--seconds must be a finite number above 0"),
        (["digits", "--seconds", "0.5"], "--seconds must be 1 or more; got '0.5'."),
        (["digits", "--seconds", "soon"], "--seconds must be a finite number above 0"),
        (["digit"], "Did you mean 'digits'?"),
        (["digits", "--seed", "-1"], "--seed must be a whole number from 0 on"),
        (["digits", "--batch-size", "0"], "--batch-size must be a whole number"),
        (["digits", "--device", "tpu"], "--device must be auto, cpu"),
        (["digits", "--out", "file"], "--out must be a folder; got the file 'file'."),
    ],
)
def test_wrong_use_is_answered_by_a_sentence(
    argv: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["doctor", *argv]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.out == ""
    assert [path.name for path in tmp_path.iterdir() if path.name != "private"] == [
        "file"
    ]


def test_ctrl_c_ends_with_its_status_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pressed = REMOTE.replace(
        "time.sleep(0.002)", "index == 30 and os.kill(os.getpid(), signal.SIGINT)"
    ).replace("import time", "import os\nimport signal")
    (tmp_path / "pressed.py").write_text(pressed)
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "pressed.py:recipe", "--seconds", "50"]) == 130
    assert not (tmp_path / "doctor").exists()


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-h"]) == 0
    printed = capsys.readouterr().out
    for option in ("--seconds", "--out", "--batch-size", "--seed", "--device"):
        assert option in printed


@pytest.mark.parametrize(
    ("recipe", "settings", "command"),
    [
        ("wine", {"num_workers": 2}, "handful train wine --num-workers 2"),
        (
            "data:my table.csv:y",
            {"num_workers": 4, "worker_type": "process", "persistent_workers": True},
            "handful train --data 'my table.csv' --target y --num-workers 4 "
            "--worker-type process",
        ),
    ],
)
def test_advice_is_a_command_that_can_be_typed(
    recipe: str, settings: dict[str, Any], command: str
) -> None:
    assert as_command(recipe, settings) == command


def test_a_training_step_trains_and_leaves_threads_and_generators() -> None:
    models: list[nn.Module] = []

    def make_model() -> nn.Module:
        models.append(nn.Sequential(nn.Dropout(), nn.Linear(64, 10)))
        return models[-1]

    recipe = load_recipe("digits").override(make_model=make_model)
    loader = make_split_loader(recipe, "train", 0)
    torch.set_num_threads(2)  # The tiny model gets one.
    state = torch.get_rng_state()
    with training_step(recipe, loader, seed=0, device="cpu") as step:
        (model,) = models
        before = [parameter.clone() for parameter in model.parameters()]
        step(first(loader))
        assert torch.get_num_threads() == 1
    after = list(model.parameters())
    assert not any(old.equal(new) for old, new in zip(before, after, strict=True))
    assert torch.get_num_threads() == 2
    assert torch.get_rng_state().equal(state)
