"""Checkpoints: whole or absent, checked on loading, never pickled."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from handful import Run, Trainer
from handful.errors import CheckpointError
from handful.train.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from handful.train.manifest import NewerVersionError, read_manifest
from handful.train.optimizers import make_optimizer
from handful.train.tensor_file import check_tensors, write_tensors
from manifests import change_manifest

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
        (b'{"format_version": 0}', "no manifest"),
        (b'{"format_version": 99}', "Install a newer handful"),
        (b'{"format_version": 2}', "lacks its own sha256"),
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


def tensor_file(header: Any, data: bytes = b"\0" * 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "a pickle": pickle.dumps({"a": torch.ones(2)}),
    "a header longer than the file": (2**40).to_bytes(8, "little") + b"{}",
    "a header without an end": tensor_file(b'{"a": '),
    "a header of nests": tensor_file(b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    "a header that is a list": tensor_file([entry()]),
    "offsets that overlap": tensor_file({"a": entry(), "b": entry(offsets=(4, 12))}),
    "offsets that run backwards": tensor_file({"a": entry(offsets=(8, 0))}),
    "offsets below 0": tensor_file({"a": entry(offsets=(-8, 0))}),
    "offsets beyond the end": tensor_file({"a": entry(offsets=(0, 2**50))}),
    "a shape of another size": tensor_file({"a": entry(shape=(3,))}),
    "a shape without end": tensor_file({"a": entry(shape=(0, 2**63 - 1, 4))}, b""),
    "numbers of no kind": tensor_file({"a": entry(dtype="F31")}),
    "kinds of another type": tensor_file({"a": entry(dtype=[1])}),
}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_with_good_hashes_are_refused(
    kind: str, name: str, tmp_path: Path
) -> None:
    path, *_ = save(tmp_path)
    content = HOSTILE[kind]
    (path / name).write_bytes(content)
    said = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change_manifest(path, lambda manifest: manifest["files"].update({name: said}))
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path)


def test_every_kind_of_number_is_written_as_safetensors_reads_it(
    tmp_path: Path,
) -> None:
    kinds = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32]
    kinds += [torch.int64, torch.float16, torch.bfloat16, torch.float32]
    kinds += [torch.float64, torch.complex64, torch.uint16, torch.uint32, torch.uint64]
    tensors = {str(kind): torch.arange(6).to(kind).reshape(2, 3) for kind in kinds}
    tensors |= {"none": torch.empty(0, 3), "one": torch.tensor(2.5)}
    tensors["turned"] = torch.arange(6.0).reshape(2, 3).t()
    tensors["conjugate"] = torch.tensor([1 + 2j]).conj()
    write_tensors(tmp_path / "a.safetensors", tensors)
    loaded = load_file(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded[name].dtype is value.dtype
        assert loaded[name].tolist() == value.tolist()
    with pytest.raises(CheckpointError, match="of numbers that safetensors knows"):
        check_tensors({"a": torch.ones(1, dtype=torch.complex128)}, "the state")


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


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("version", [1, 2])
def test_golden_checkpoints_of_each_format_are_read(version: int) -> None:
    path, checkpoint, reasons = newest_checkpoint(GOLDEN / f"checkpoint-{version}")
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format_version"] == version
    assert reasons == []
    weight = torch.tensor([[-0.5, 0.5, 1.5], [2.5, 3.5, 4.5]])
    torch.testing.assert_close(checkpoint.model["weight"], weight)
    assert checkpoint.optimizer["state"][1]["step"].item() == 1
    progress = checkpoint.progress
    assert math.isnan(progress.pop("history")[0]["train_loss"])
    generators = {"python": [3, [1, 2], None]}
    places = {"step": 7, "epoch": 2, "samples": 21, "feed": {"delivered": 3}}
    assert progress == {**places, "generators": generators}


def test_a_bit_that_flips_anywhere_in_a_manifest_is_noticed(tmp_path: Path) -> None:
    path, *_ = save(tmp_path, history=[{"step": 7, "train_loss": float("inf")}])
    file = path / "manifest.json"
    good = file.read_bytes()
    own_hash = range(8 * (len(good) - 79), 8 * len(good))
    version = range(8 * len('{"format_version": 2'))
    rng = random.Random(0)
    for place in (*version, *own_hash, *rng.sample(range(8 * len(good)), 500)):
        flipped = bytearray(good)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"manifest\.json is ") as caught:
            read_manifest(path)
        assert not isinstance(caught.value, NewerVersionError), f"bit {place}"
    file.write_bytes(good)
    assert read_manifest(path)["step"] == 7


def test_a_bit_of_the_manifest_that_flips_costs_the_newest_alone(
    tmp_path: Path,
) -> None:
    save(tmp_path, step=5)
    path, *_ = save(tmp_path, step=7)
    content = (path / "manifest.json").read_bytes()
    flipped = content.replace(b'"format_version": 2', b'"format_version": 3')
    assert flipped != content
    (path / "manifest.json").write_bytes(flipped)
    _, checkpoint, reasons = newest_checkpoint(tmp_path)
    assert checkpoint.progress["step"] == 5
    assert "manifest.json is damaged: expected sha256 " in reasons[0]


def test_manifest_is_strict_json_with_hashes(tmp_path: Path) -> None:
    path, *_ = save(tmp_path)
    content = (path / "manifest.json").read_bytes()
    body, _ = content.rsplit(b', "sha256": "', 1)
    manifest = json.loads(content)
    assert manifest["sha256"] == hashlib.sha256(body).hexdigest()
    assert set(manifest["files"]) == {"model.safetensors", "optimizer.safetensors"}
    assert {len(entry["sha256"]) for entry in manifest["files"].values()} == {64}


def train_with(make: Any) -> tuple[nn.Module, Any]:
    """Train a small model for some steps."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = make(model.parameters())
    inputs = torch.randn(5, 3)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(inputs).square().sum()
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
    return model, optimizer


OPTIMIZERS = {
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2, history_size=3),
    "LBFGS with a search": lambda p: torch.optim.LBFGS(
        p, lr=0.1, max_iter=3, line_search_fn="strong_wolfe"
    ),
    "Adam": lambda p: torch.optim.Adam(p, amsgrad=True),
    "Rprop": torch.optim.Rprop,
    "ASGD": torch.optim.ASGD,
    "NAdam": torch.optim.NAdam,
    "Adafactor": torch.optim.Adafactor,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_from_its_file_as_from_memory(
    name: str, tmp_path: Path
) -> None:
    model, optimizer = train_with(OPTIMIZERS[name])
    state = optimizer.state_dict()
    path = save_checkpoint(tmp_path, Checkpoint(model.state_dict(), state, {"step": 1}))
    loaded = load_checkpoint(path).optimizer
    assert describe(loaded) == describe(state)


def describe(value: Any) -> Any:
    """Return nested values with tensors as lists, for comparisons."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {key: describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(describe(item) for item in value)
    return value


def save_optimizer(folder: Path, state: Any, **group: Any) -> Any:
    """Save a state of one parameter, and return what is loaded."""
    optimizer = {"state": {0: state}, "param_groups": [{"params": [0], **group}]}
    path = save_checkpoint(folder, Checkpoint({}, optimizer, {"step": 1}))
    return load_checkpoint(path).optimizer


def test_nested_states_with_gaps_survive(tmp_path: Path) -> None:
    state = {
        "plain": 3,
        "none": None,
        "nan": float("inf"),
        "text": "a",
        "a.b": torch.ones(2),
        "list": [torch.zeros(1), None, [torch.ones(1)], 2.5],
        "tuple": (torch.ones(1), "x"),
        "mapping": {"left": torch.eye(2), "right": [True]},
        "empty": [],
    }
    loaded = save_optimizer(tmp_path, state, betas=(0.9, 0.99), param_names=["w"])
    assert describe(loaded["state"][0]) == describe(state)
    group = loaded["param_groups"][0]
    assert group == {"params": [0], "betas": (0.9, 0.99), "param_names": ["w"]}


def test_numbers_of_numpy_are_saved_as_plain_ones(tmp_path: Path) -> None:
    state = {"count": np.int64(3), "share": np.float32(0.5)}
    assert save_optimizer(tmp_path, state)["state"][0] == {"count": 3, "share": 0.5}


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"odd": object()}, r"got an object of object for state\.0\.odd"),
        ({"odd": [1, {2}]}, r"got an object of set for state\.0\.odd\.1"),
        ({"odd": {3: 1}}, r"got an object of dict for state\.0\.odd"),
        ({"odd": torch.ones(2).to_sparse()}, "must be dense tensors to be saved"),
        ({"odd": torch.empty(1, device="meta")}, "must have values to be saved"),
    ],
)
def test_a_state_of_an_optimizer_that_no_file_can_hold_is_refused(
    state: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=match):
        save_optimizer(tmp_path, state)
    assert not list(tmp_path.glob("*step*"))


def test_a_rate_in_a_tensor_and_progress_of_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'lr' must be a plain number"):
        save_optimizer(tmp_path, {}, lr=torch.tensor(0.1))
    with pytest.raises(CheckpointError, match="progress must be plain values"):
        save(tmp_path, loader=object())


def test_an_odd_optimizer_is_refused_by_the_first_save_of_a_training(
    tmp_path: Path,
) -> None:
    class Odd(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            for param in self.param_groups[0]["params"]:
                self.state[param]["odd"] = {1, 2}

    trainer = Trainer(
        nn.Linear(3, 2), loss="mse", optimizer=lambda p: Odd(p, lr=0.1), progress="off"
    )
    batches = [(torch.ones(4, 3), torch.ones(4, 2))]
    with pytest.raises(CheckpointError, match="got an object of set for state"):
        trainer.fit(batches, epochs=1, run_dir=tmp_path / "run")
    assert Run.load(tmp_path / "run").status == "failed"


def test_saving_a_step_again_replaces_it_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    save(tmp_path, step=3, mark="first")
    (tmp_path / ".step-00000003.old.tmp").mkdir()
    path, *_ = save(tmp_path, step=3, mark="second")
    assert load_checkpoint(path).progress["mark"] == "second"
    assert [p.name for p in tmp_path.iterdir() if p.name != "private"] == [path.name]


def test_averages_have_a_file_of_their_own(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    averages = {name: value + 1 for name, value in model.state_dict().items()}
    checkpoint = Checkpoint(model.state_dict(), NO_OPTIMIZER, {"step": 1}, averages)
    loaded = load_checkpoint(save_checkpoint(tmp_path, checkpoint))
    assert torch.equal(loaded.best_model["weight"], model.weight + 1)
    assert torch.equal(loaded.model["weight"], model.weight)
    (tmp_path / "step-00000001" / "averages.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"averages\.safetensors cannot be read"):
        load_checkpoint(tmp_path / "step-00000001")
