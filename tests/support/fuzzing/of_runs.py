"""The parsers of what handful writes: runs, studies, checkpoints, files of weights."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors

from fuzzing.mutations import mutate_bytes, mutate_json
from fuzzing.parser import Parser
from handful.cli.compare_table import describe_study
from handful.cli.show import show
from handful.runs.folder import RunFolder
from handful.runs.run import STEP_DTYPE, Run
from handful.runs.study import Study
from handful.runs.study_row import Row, row_to_json
from handful.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from handful.train.weight_files import read_weights
from manifests import change_manifest, seal, unseal

_CONFIG = {"recipe": "wine", "epochs": 2, "monitor": "valid_loss", "lr": 0.01}
_HISTORY = [
    {"epoch": 1, "step": 9, "samples": 90, "train_loss": 1.5, "lr": 0.01},
    {"epoch": 2, "step": 12, "train_loss": 0.5, "valid_loss": 0.4, "partial": True},
    {"epoch": 2, "step": 18, "train_loss": 0.5, "valid_loss": 0.6, "seconds": 0.1},
]
_EVENTS = [
    {"time": 1.0, "kind": "note", "message": "The model ends in a softmax."},
    {"time": 2.0, "kind": "stopped early", "message": "after 2 epochs"},
]


def _make_run(folder: Path) -> None:
    path = folder / "run"
    if path.exists():
        return
    steps = np.zeros(3, STEP_DTYPE)
    run = Run(path, "finished", dict(_CONFIG), _HISTORY, steps, _EVENTS, {"torch": "2"})
    opened = RunFolder(path, resume=False)
    opened.start(run)
    opened.close()


def _seed_of(name: str) -> Any:
    def make(folder: Path) -> list[bytes]:
        _make_run(folder)
        return [(folder / "run" / name).read_bytes()]

    return make


def _reader_of(name: str) -> Any:
    def read(folder: Path, data: bytes) -> None:
        (folder / "run" / name).write_bytes(data)
        with contextlib.redirect_stdout(io.StringIO()):
            show(folder / "run", whole=True)

    return read


def _make_study(folder: Path) -> Study:
    axes = {"batch_size": [1, "full"], "optimizer": ["sgd", {"name": "adam"}]}
    study = Study(recipe="line", axes=axes, seeds=[0, 1], target="valid_loss<=0.3")
    (folder / "study").mkdir(exist_ok=True)
    (folder / "study" / "study.json").write_text(json.dumps(study.describe()))
    (folder / "study" / "rows.jsonl").write_bytes(_rows())
    return study


def _rows() -> bytes:
    settings = {"batch_size": 1, "optimizer": "sgd"}
    record = {"epoch": 1, "step": 9, "samples": 90, "trained_seconds": 0.5}
    rows = [
        Row(
            settings=settings,
            seed=seed,
            status=status,
            history=[{**record, "train_loss": 0.5, "valid_loss": 0.4}],
            seconds=0.5,
            steps=9,
            final={"train_loss": 0.5, "valid_loss": 0.4},
            best={"valid_loss": 0.4},
            target={"epoch": 1, "step": 9, "samples": 90, "seconds": 0.5},
            train_eval={"loss": 0.4},
            noise_start={"b_simple": 3.0},
        )
        for seed, status in ((0, "finished"), (1, "diverged"))
    ]
    return b"".join(row_to_json(row).encode() + b"\n" for row in rows)


def _study_seeds(folder: Path) -> list[bytes]:
    return [json.dumps(_make_study(folder).describe()).encode()]


def _row_seeds(folder: Path) -> list[bytes]:
    _make_study(folder)
    return [_rows()]


def _read_study(folder: Path, name: str, data: bytes) -> None:
    path = folder / "study"
    (path / name).write_bytes(data)
    study = Study.load(path)
    if study.num_trials > 1000:
        return
    describe_study(study)
    for value in study.names:
        study.best(value)
        study.align(value, points=5)


def _read_study_json(folder: Path, data: bytes) -> None:
    _read_study(folder, "study.json", data)


def _read_study_rows(folder: Path, data: bytes) -> None:
    _read_study(folder, "rows.jsonl", data)


def _make_checkpoint(folder: Path) -> Path:
    path = folder / "step-00000009"
    if path.exists():
        return path
    model = {"0.weight": torch.zeros(2, 3), "0.bias": torch.ones(2)}
    state = {
        0: {"step": torch.tensor(9.0), "momentum_buffer": torch.zeros(2, 3)},
        1: {"step": 9, "places": (1, 2.5, torch.zeros(1))},
    }
    groups = [{"lr": 0.01, "betas": (0.9, 0.99), "params": [0, 1]}]
    progress = {
        "step": 9,
        "epoch": 1,
        "samples": 90,
        "history": _HISTORY[:1],
        "generators": {"python": [3, [1, 2], None]},
        "feed": {"delivered": 3},
        "nothing": float("nan"),
    }
    optimizer = {"state": state, "param_groups": groups}
    return save_checkpoint(folder, Checkpoint(model, optimizer, progress, model))


def _manifest_seeds(folder: Path) -> list[bytes]:
    return [unseal((_make_checkpoint(folder) / "manifest.json").read_bytes())]


def _read_manifest(folder: Path, data: bytes) -> None:
    """Load a checkpoint of which the manifest vouches for itself."""
    path = folder / "step-00000009"
    (path / "manifest.json").write_bytes(seal(data.rstrip(b"\n")))
    load_checkpoint(path)


_TENSOR_FILES = ("model.safetensors", "optimizer.safetensors")


def _tensor_seeds(folder: Path) -> list[bytes]:
    path = _make_checkpoint(folder)
    kinds = (torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8)
    all_kinds = {str(kind): torch.zeros(2, dtype=kind) for kind in kinds}
    tensors = {**all_kinds, "empty": torch.zeros(0, 3), "one": torch.tensor(1.0)}
    return [*((path / n).read_bytes() for n in _TENSOR_FILES), save_tensors(tensors)]


def _read_tensors(folder: Path, data: bytes) -> None:
    """Load a checkpoint whose manifest vouches for the file, and the file alone."""
    path = folder / "step-00000009"
    place = _TENSOR_FILES[1 if b"state." in data else 0]
    valid = (path / place).read_bytes()
    (folder / "a.safetensors").write_bytes(data)
    read_weights(folder / "a.safetensors")
    _vouch(path, place, data)
    try:
        load_checkpoint(path)
    finally:
        _vouch(path, place, valid)


def _vouch(path: Path, place: str, data: bytes) -> None:
    (path / place).write_bytes(data)
    said = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_manifest(path, lambda manifest: manifest["files"].update({place: said}))


def _weight_seeds(_: Path) -> list[bytes]:
    content = {"state_dict": {"0.weight": torch.zeros(2, 3)}, "epoch": 3}
    seeds = []
    for is_zip in (True, False):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
        seeds.append(buffer.getvalue())
    return seeds


def _read_weight_file(folder: Path, data: bytes) -> None:
    (folder / "a.pt").write_bytes(data)
    read_weights(folder / "a.pt")


_OF_RUNS = {
    "run_json": ("run.json", "a run's `run.json`", mutate_json),
    "history": ("history.jsonl", "a run's `history.jsonl`", mutate_json),
    "events": ("events.jsonl", "a run's `events.jsonl`", mutate_json),
    "steps": ("steps.npy", "a run's `steps.npy`", mutate_bytes),
    "run_config": ("config.yaml", "a run's `config.yaml`", mutate_bytes),
}

PARSERS = (
    *(
        Parser(
            name=name,
            what=what,
            make_seeds=_seed_of(file),
            read=_reader_of(file),
            mutate=mutate,
        )
        for name, (file, what, mutate) in _OF_RUNS.items()
    ),
    Parser(
        name="study_json",
        what="a study's `study.json`",
        make_seeds=_study_seeds,
        read=_read_study_json,
        mutate=mutate_json,
    ),
    Parser(
        name="study_rows",
        what="a study's `rows.jsonl`",
        make_seeds=_row_seeds,
        read=_read_study_rows,
        mutate=mutate_json,
    ),
    Parser(
        name="manifest",
        what="a checkpoint's `manifest.json`",
        make_seeds=_manifest_seeds,
        read=_read_manifest,
        mutate=mutate_json,
    ),
    Parser(
        name="tensors",
        what="a checkpoint's tensor files, `.safetensors`",
        make_seeds=_tensor_seeds,
        read=_read_tensors,
        mutate=mutate_bytes,
    ),
    Parser(
        name="weights",
        what="files of `torch.save`",
        make_seeds=_weight_seeds,
        read=_read_weight_file,
        mutate=mutate_bytes,
    ),
)
"""Those that read what handful writes."""
