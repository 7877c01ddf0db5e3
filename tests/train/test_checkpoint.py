"""Checkpoints: whole or absent, checked on loading, never pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from handful.errors import CheckpointError
from handful.train.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from handful.train.optimizers import make_optimizer

NO_OPTIMIZER: dict[str, Any] = {"state": {}, "param_groups": []}


def save(folder: Path, step: int = 7, **progress: Any) -> tuple[Path, nn.Module, Any]:
    """Save a checkpoint of a small model after one step of Adam."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = make_optimizer("adam", model, 0.1)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    progress = {"step": step, "epoch": 1, **progress}
    checkpoint = Checkpoint(model.state_dict(), optimizer.state_dict(), progress)
    return save_checkpoint(folder, checkpoint), model, optimizer


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    path, model, optimizer = save(tmp_path, loss=float("nan"))
    loaded = load_checkpoint(path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model[name], value)
        assert loaded.model[name].dtype is value.dtype
    again = make_optimizer("adam", model, 0.5)
    again.load_state_dict(loaded.optimizer)
    assert again.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(again.state_dict()["state"][index][name], value)
    assert loaded.progress["step"] == 7
    assert loaded.progress["loss"] != loaded.progress["loss"]


def test_model_file_loads_without_handful(tmp_path: Path) -> None:
    path, model, _ = save(tmp_path)
    plain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    plain.load_state_dict(load_file(path / "model.safetensors"), strict=True)
    assert torch.equal(plain[0].weight, model[0].weight)  # type: ignore[index]


def test_tied_and_strided_weights_are_saved_whole(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    model["b"].bias = nn.Parameter(torch.arange(8.0)[::2])
    path = save_checkpoint(
        tmp_path, Checkpoint(model.state_dict(), NO_OPTIMIZER, {"step": 1})
    )
    loaded = load_checkpoint(path).model
    assert torch.equal(loaded["a.weight"], loaded["b.weight"])
    assert loaded["b.bias"].tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: str) -> None:
    path, *_ = save(tmp_path)
    content = bytearray((path / name).read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage == "cut":
        del content[-1]
    else:
        content += b"\0"
    (path / name).write_bytes(content)
    if damage == "remove":
        (path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is not JSON"),
        (b"[1]", "no manifest"),
        (b"{}", "no manifest"),
        (b'{"format_version": 99}', "Install a newer handful"),
        (b'{"format_version": 1}', "damaged"),
        (b'{"format_version": 1, "files": [3]}', "damaged"),
    ],
)
def test_damaged_manifests_are_refused(
    tmp_path: Path, content: bytes, match: str
) -> None:
    path, *_ = save(tmp_path)
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(path)


def test_a_pickle_in_place_of_tensors_is_never_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    path, *_ = save(tmp_path)
    torch.save(Bomb(), path / "model.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_the_newest_valid_one_is_found_and_others_are_told(tmp_path: Path) -> None:
    save(tmp_path, step=5)
    broken, *_ = save(tmp_path, step=123456789)
    (broken / "manifest.json").write_text("{")
    path, checkpoint, reasons = newest_checkpoint(tmp_path)
    assert path.name == "step-00000005"
    assert checkpoint.progress["step"] == 5
    assert len(reasons) == 1
    assert "manifest.json is not JSON" in reasons[0]
    (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="must hold a valid checkpoint"):
        newest_checkpoint(tmp_path)


def test_pruning_keeps_what_it_is_told_and_clears_interrupted_saves(
    tmp_path: Path,
) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step=step)
    (tmp_path / ".step-00000004.tmp").mkdir()
    prune_checkpoints(tmp_path, [1, 3])
    assert [p.name for p in list_checkpoints(tmp_path)] == [
        "step-00000001",
        "step-00000003",
    ]
    assert not list(tmp_path.glob(".step*"))


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="got object for 'extra'"):
        save_checkpoint(
            tmp_path, Checkpoint({"extra": object()}, NO_OPTIMIZER, {"step": 1})
        )
    assert not list(tmp_path.glob("step*"))


def test_manifest_is_strict_json_with_hashes(tmp_path: Path) -> None:
    path, *_ = save(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest["files"]) == {"model.safetensors", "optimizer.safetensors"}
    assert {len(entry["sha256"]) for entry in manifest["files"].values()} == {64}
