"""A checkpoint or a file of weights that means harm runs nothing, and is refused."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bad_inputs.of_checkpoints import HOSTILE, PAYLOAD, Bomb, make_finished_run
from handful.cli.main import main
from handful.data.worker_state import WorkerStates
from handful.errors import CheckpointError
from handful.runs.run import Run
from handful.train.weights import load_weights

SOURCE = Path(__file__).parents[2] / "src"
COMMANDS = {
    "resume": "train --resume --out r --epochs 2",
    "evaluate": "evaluate r",
    "predict": "predict r --to p.csv",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("title", HOSTILE)
def test_hostile_checkpoint_runs_nothing_and_is_told_in_a_sentence(
    title: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, _ = HOSTILE[title]
    change(make_finished_run(folder))
    capsys.readouterr()
    for command in COMMANDS.values():
        assert main(command.split()) == 1, command
        error = capsys.readouterr().err
        assert error.startswith("handful: ")
        assert error.count("\n") == 1
        assert "--debug" not in error
    assert main(["show", "r"]) == 0  # of the checkpoint it reads nothing
    with pytest.raises(CheckpointError, match=r"\S"):
        load_weights(nn.Linear(7, 7), "r")
    assert not (folder / PAYLOAD).exists()
    assert not (folder / "p.csv").exists()


def test_the_bomb_would_go_off(folder: Path) -> None:
    pickle.loads(pickle.dumps(Bomb()))
    assert (folder / PAYLOAD).exists()


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".ckpt", ".safetensors"])
def test_weights_with_an_object_in_them_are_refused(
    folder: Path, is_zip: bool, ending: str
) -> None:
    buffer = io.BytesIO()
    content = {"weight": torch.zeros(2, 2), "more": Bomb()}
    torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
    path = folder / f"w{ending}"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"could run code|no safetensors file"):
        load_weights(nn.Linear(2, 2), path)
    assert not (folder / PAYLOAD).exists()


def _holds_pickle(content: bytes) -> bool:
    """Say whether bytes are a pickle, or an archive of torch.save's with one."""
    if content.startswith(b"PK") and zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    if not re.match(rb"\x80[\x02-\x05]", content):
        return False
    try:
        return any(op.name == "STOP" for op, *_ in pickletools.genops(content))
    except ValueError:
        return False


def test_pickles_are_seen() -> None:
    buffer = io.BytesIO()
    torch.save({"a": 1}, buffer)
    assert _holds_pickle(pickle.dumps([1, 2]))
    assert _holds_pickle(buffer.getvalue())
    assert not _holds_pickle(b'{"a": 1}')


def test_no_run_and_no_study_holds_a_pickle(folder: Path) -> None:
    make_finished_run(folder)
    argv = ["compare", "regression", "--vary", "batch-size=10,full", "--epochs", "1"]
    assert main([*argv, "--seeds", "1", "--out", "s"]) == 0
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"model.safetensors", "study.json"} <= {path.name for path in files}
    assert [p.name for p in files if _holds_pickle(p.read_bytes())] == []


def test_steps_of_objects_are_refused(folder: Path) -> None:
    import numpy as np

    make_finished_run(folder)
    array: Any = np.array([Bomb()], object)
    np.save(folder / "r" / "steps.npy", array, allow_pickle=True)
    with pytest.raises(Exception, match=r"steps\.npy is not a NumPy file"):
        Run.load("r")
    assert not (folder / PAYLOAD).exists()


OWN_PROCESSES = {"transport.py", "worker_state.py"}
"""Files that unpickle what other processes of the same program have sent."""


def test_nothing_in_the_package_unpickles_or_evaluates_a_file() -> None:
    wrong = re.compile(
        r"pickle\.loads?\(|allow_pickle=True|weights_only=False|[^_.\w]eval\(|"
        r"[^_.\w]exec\(|yaml\.unsafe|typ=\"unsafe\"|extractall|os\.system"
    )
    found = {
        path.name: wrong.findall(path.read_text(encoding="utf-8"))
        for path in SOURCE.rglob("*.py")
    }
    assert {name for name, hits in found.items() if hits} == OWN_PROCESSES


def test_bytes_in_a_loader_s_state_are_not_unpickled(folder: Path) -> None:
    state = {"delivered": 1, "state": pickle.dumps(Bomb()), "left": None}
    states = WorkerStates(1, 5, [{**state, "ended": False}])
    assert states.entries(has_ended=False)[0]["state"] == state["state"]
    states.restores(None)
    assert not (folder / PAYLOAD).exists()
