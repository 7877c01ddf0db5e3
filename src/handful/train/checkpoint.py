"""Checkpoints: a training's state in plain files, old or new but never half.

::

    step-00001234/
      model.safetensors       every entry of the model's state_dict
      optimizer.safetensors   the optimiser's tensors, named state.<parameter>.<name>
      averages.safetensors    the averaged weights, where they are kept
      manifest.json           everything else; sizes and SHA-256 hashes of the files

A checkpoint is written into a hidden sibling, each file is flushed to the disk, the
manifest last; then the folder is renamed and its parent flushed (with it the names of
the files, which are older: file systems write such changes in order, and the hashes
tell if one does not). Only after that are older ones deleted. The newest valid one is
found by scanning. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import numbers
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from handful.errors import CheckpointError, RunError
from handful.runs.files import read_json, sync_folder, to_json, write_synced

CHECKPOINT_VERSION = 1
"""Version of the checkpoint's folder that this handful writes."""

_MODEL_FILE = "model.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_AVERAGES_FILE = "averages.safetensors"
_MANIFEST_FILE = "manifest.json"

_TENSOR, _TUPLE = "$tensor", "$tuple"
"""Keys of what stands in an optimiser's plain values for a tensor and for a tuple."""


@dataclass(frozen=True)
class Checkpoint:
    """A training's state after some step.

    Attributes:
        model: The model's state_dict.
        optimizer: The optimiser's state_dict.
        progress: Everything else, plain values: ``step``, ``epoch``, ``samples``,
            ``history``, ``generators``, ``identity``, the places of the parts.
        averages: A state_dict of averaged weights, empty where none are kept.
    """

    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    progress: dict[str, Any]
    averages: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best_model(self) -> Mapping[str, Any]:
        """The weights to use: the averaged ones where they are kept."""
        return self.averages or self.model


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
    partial, former = (folder / f".{final.name}.{kind}.tmp" for kind in ("new", "old"))
    tensors, groups = _flatten_optimizer(checkpoint.optimizer)
    model = _plain_tensors(checkpoint.model, "the model's state")
    contents = {
        _MODEL_FILE: _to_bytes(model, "the model's state"),
        _OPTIMIZER_FILE: _to_bytes(tensors, "the optimiser's state"),
    }
    if checkpoint.averages:
        averages = _plain_tensors(checkpoint.averages, "the averaged weights")
        contents[_AVERAGES_FILE] = _to_bytes(averages, "the averaged weights")
    manifest = {
        "format_version": CHECKPOINT_VERSION,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
        "optimizer": groups,
        **checkpoint.progress,
    }
    contents[_MANIFEST_FILE] = _to_text(manifest)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, content in contents.items():
            write_synced(partial / name, content)
        if final.exists():
            shutil.rmtree(former, ignore_errors=True)
            final.rename(former)
        partial.rename(final)
        sync_folder(folder)
        shutil.rmtree(former, ignore_errors=True)
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
    names = [_MODEL_FILE, _OPTIMIZER_FILE]
    if _expected(manifest, _AVERAGES_FILE):
        names.append(_AVERAGES_FILE)
    contents = {
        name: _read_checked(path / name, _expected(manifest, name)) for name in names
    }
    try:
        model = load_tensors(contents[_MODEL_FILE])
        saved = contents.get(_AVERAGES_FILE)
        averages = {} if saved is None else load_tensors(saved)
        tensors = load_tensors(contents[_OPTIMIZER_FILE])
        optimizer = _unflatten_optimizer(tensors, manifest["optimizer"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from None
    own = ("format_version", "files", "optimizer")
    progress = {key: value for key, value in manifest.items() if key not in own}
    return Checkpoint(model, optimizer, progress, averages)


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


def _to_bytes(tensors: dict[str, Tensor], what: str) -> bytes:
    try:
        return bytes(save_tensors(tensors))
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{what} cannot be saved: {error}.") from None


def _to_text(manifest: Mapping[str, Any]) -> bytes:
    try:
        return to_json(manifest).encode()
    except TypeError as error:
        raise CheckpointError(
            f"a checkpoint's progress must be plain values to be saved: {error}."
        ) from None


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
        if value.is_meta:
            raise CheckpointError(f"{what} must have values to be saved; got {name!r}.")
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
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, values in state["state"].items():
        if not isinstance(index, int) or not isinstance(values, Mapping):
            raise _unstorable(repr(index), values)
        for name, value in values.items():
            key = f"state.{index}.{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
            else:
                encoded = _encode(value, key, tensors)
                plain.setdefault(str(index), {})[name] = encoded
    groups = [_encode_group(group) for group in state["param_groups"]]
    return (
        _plain_tensors(tensors, "the optimiser's state"),
        {"param_groups": groups, "state": plain},
    )


def _encode_group(group: Mapping[str, Any]) -> dict[str, Any]:
    tensors: dict[str, Tensor] = {}
    encoded = {}
    for name, value in group.items():
        items = list(value) if isinstance(value, tuple) else value
        encoded[name] = _encode(items, name, tensors)
        if tensors:
            raise CheckpointError(
                f"the optimiser's {name!r} must be a plain number to be saved; "
                "got a tensor."
            )
    return encoded


def _encode(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON can hold it, with its tensors put aside by their keys."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        tensors[key] = value
        return {_TENSOR: key}
    if isinstance(value, (list, tuple)):
        items = [_encode(v, f"{key}.{i}", tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {_TUPLE: items}
    if isinstance(value, Mapping) and all(
        isinstance(k, str) and not k.startswith("$") for k in value
    ):
        return {k: _encode(v, f"{key}.{k}", tensors) for k, v in value.items()}
    if isinstance(value, numbers.Real):  # such as NumPy's
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    raise _unstorable(key, value)


def _unstorable(key: str, value: Any) -> CheckpointError:
    return CheckpointError(
        "the optimiser's state must be tensors, numbers, texts, and lists or mappings "
        f"of these to be saved; got an object of {type(value).__name__} for {key}. "
        "Train without run_dir, or keep it out of the optimiser's state_dict."
    )


def _unflatten_optimizer(
    tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    listed: set[str] = set()
    for index, values in plain["state"].items():
        for name, value in values.items():
            decoded = _decode(value, tensors, listed)
            state.setdefault(int(index), {})[name] = decoded
    for key, tensor in tensors.items():
        if key not in listed:
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensor
    groups = [_decode_group(group) for group in plain["param_groups"]]
    return {"state": state, "param_groups": groups}


def _decode_group(group: Mapping[str, Any]) -> dict[str, Any]:
    lists = ("params", "param_names")
    return {
        name: tuple(value) if isinstance(value, list) and name not in lists else value
        for name, value in group.items()
    }


def _decode(value: Any, tensors: Mapping[str, Tensor], listed: set[str]) -> Any:
    """Return what `_encode` was given; add the keys of its tensors to ``listed``."""
    if isinstance(value, list):
        return [_decode(item, tensors, listed) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        listed.add(value[_TENSOR])
        return tensors[value[_TENSOR]]
    if value.keys() == {_TUPLE}:
        return tuple(_decode(value[_TUPLE], tensors, listed))
    return {key: _decode(item, tensors, listed) for key, item in value.items()}


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
