"""Checkpoints: a training's state in plain files, old or new but never half.

::

    step-00001234/
      model.safetensors       every entry of the model's state_dict
      optimizer.safetensors   the optimiser's tensors, named state.<parameter>.<name>
      manifest.json           everything else; sizes and SHA-256 hashes of the files

A checkpoint is written into a hidden sibling, each file is flushed to the disk, the
manifest last; then the folder is renamed and its parent flushed. Only after that are
older ones deleted. The newest valid one is found by scanning. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from handful.errors import CheckpointError, RunError
from handful.runs.files import read_json, sync_folder, to_json, write_atomic

CHECKPOINT_VERSION = 1
"""Version of the checkpoint's folder that this handful writes."""

_MODEL_FILE = "model.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A training's state after some step.

    Attributes:
        model: The model's state_dict.
        optimizer: The optimiser's state_dict.
        progress: Everything else, plain values: ``step``, ``epoch``, ``samples``,
            ``history``, ``generators``, ``identity``.
    """

    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    progress: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Save a checkpoint and flush it to the disk.

    Args:
        folder: The run's folder of checkpoints; it exists.
        checkpoint: What to save; its ``progress`` must hold ``step``.

    Returns:
        The checkpoint's folder, ``step-<8 digits>``.

    Raises:
        CheckpointError: The state holds something other than tensors and plain values,
            or the disk refuses; checkpoints before it are as they were.
    """
    final = folder / f"step-{checkpoint.progress['step']:08d}"
    partial = folder / f".{final.name}.tmp"
    tensors, groups = _flatten_optimizer(checkpoint.optimizer)
    model = _plain_tensors(checkpoint.model, "the model's state")
    contents = {
        _MODEL_FILE: save_tensors(model),
        _OPTIMIZER_FILE: save_tensors(tensors),
    }
    manifest = {
        "format_version": CHECKPOINT_VERSION,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
        "optimizer": groups,
        **checkpoint.progress,
    }
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, content in contents.items():
            write_atomic(partial / name, content)
        write_atomic(partial / _MANIFEST_FILE, to_json(manifest).encode())
        sync_folder(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        sync_folder(folder)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {final} cannot be saved: {error.strerror}. "
            "Earlier checkpoints are untouched."
        ) from None
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint after checking every file's size and hash.

    Args:
        path: Its folder.

    Raises:
        CheckpointError: A file is missing or damaged, or a newer version wrote it.
    """
    manifest = _read_manifest(path)
    contents = {
        name: _read_checked(path / name, _expected(manifest, name))
        for name in (_MODEL_FILE, _OPTIMIZER_FILE)
    }
    try:
        model = load_tensors(contents[_MODEL_FILE])
        tensors = load_tensors(contents[_OPTIMIZER_FILE])
        optimizer = _unflatten_optimizer(tensors, manifest["optimizer"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from None
    own = ("format_version", "files", "optimizer")
    progress = {key: value for key, value in manifest.items() if key not in own}
    return Checkpoint(model, optimizer, progress)


def newest_checkpoint(folder: Path) -> tuple[Path, Checkpoint, list[str]]:
    """Find and load the newest valid checkpoint of a run.

    Args:
        folder: The run's folder of checkpoints.

    Returns:
        Its folder, the checkpoint, and for each newer one that is damaged a sentence.

    Raises:
        CheckpointError: None is valid.
    """
    reasons: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return path, load_checkpoint(path), reasons
        except CheckpointError as error:
            reasons.append(str(error))
    found = " ".join(reasons) or "There is none."
    raise CheckpointError(f"{folder} must hold a valid checkpoint. {found}")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first, whether valid or not."""
    found = (p for p in folder.glob("step-*") if p.name[5:].isdigit())
    return sorted(found, key=lambda path: int(path.name[5:]))


def prune_checkpoints(folder: Path, keep_steps: Iterable[int]) -> None:
    """Delete the checkpoints of all steps but some, and what interrupted saves left.

    Args:
        folder: The run's folder of checkpoints.
        keep_steps: Steps whose checkpoints stay.
    """
    keep = set(keep_steps)
    for path in list_checkpoints(folder):
        if int(path.name[5:]) not in keep:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def drop_checkpoints_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of later steps than one."""
    prune_checkpoints(
        folder,
        [int(p.name[5:]) for p in list_checkpoints(folder) if int(p.name[5:]) <= step],
    )


def _plain_tensors(state: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU, each with memory of its own."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            raise CheckpointError(
                f"{what} must be dense tensors to be saved; got "
                f"{type(value).__name__} for {name!r}."
            )
        tensor = value.detach().to("cpu").contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(storage.data_ptr())
        tensors[name] = tensor
    return tensors


def _flatten_optimizer(
    state: Mapping[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state_dict into tensors and plain values."""
    tensors: dict[str, Any] = {}
    plain: dict[str, Any] = {"param_groups": state["param_groups"], "state": {}}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"state.{index}.{name}"] = value
            else:
                plain["state"].setdefault(str(index), {})[name] = value
    for group in plain["param_groups"]:
        for name, value in group.items():
            if isinstance(value, Tensor):
                raise CheckpointError(
                    f"the optimiser's {name!r} must be a plain number to be saved; "
                    "got a tensor."
                )
    return _plain_tensors(tensors, "the optimiser's state"), plain


def _unflatten_optimizer(
    tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for index, name, value in _optimizer_entries(tensors, plain):
        state.setdefault(index, {})[name] = value
    groups = [
        {
            k: tuple(v) if k != "params" and isinstance(v, list) else v
            for k, v in g.items()
        }
        for g in plain["param_groups"]
    ]
    return {"state": state, "param_groups": groups}


def _optimizer_entries(
    tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> Iterator[tuple[int, str, Any]]:
    for index, values in plain["state"].items():
        for name, value in values.items():
            yield int(index), name, value
    for key, tensor in tensors.items():
        _, index, name = key.split(".", 2)
        yield int(index), name, tensor


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path / _MANIFEST_FILE)
    except RunError as error:
        raise CheckpointError(str(error)) from None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise CheckpointError(f"{path / _MANIFEST_FILE} is no manifest of handful's.")
    if version > CHECKPOINT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, and this handful reads up to "
            f"{CHECKPOINT_VERSION}. Install a newer handful."
        )
    return dict(manifest)


def _expected(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    files = manifest.get("files")
    entry = files.get(name) if isinstance(files, dict) else None
    return entry if isinstance(entry, dict) else {}


def _read_checked(path: Path, expected: Mapping[str, Any]) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) != expected.get("bytes"):
        raise CheckpointError(
            f"{path} is damaged: expected {expected.get('bytes')} bytes, "
            f"got {len(content)}."
        )
    found = hashlib.sha256(content).hexdigest()
    if found != expected.get("sha256"):
        raise CheckpointError(
            f"{path} is damaged: expected sha256 {expected.get('sha256')}, got {found}."
        )
    return content
