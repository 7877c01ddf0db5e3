"""Checkpoints: a training's state in plain files, old or new but never half.

::

    step-00001234/
      model.safetensors       every tensor of the model's state_dict
      optimizer.safetensors   the optimiser's tensors, named state.<parameter>.<name>
      averages.safetensors    the averaged weights, where they are kept
      manifest.json           everything else; sizes and hashes (SHA-256) of the files,
                              and of itself

A checkpoint is written into a hidden sibling, each file is flushed to the disk, the
manifest last, and then the folder with their names; it is renamed, and its parent
flushed. Only after that are older ones deleted. The newest valid one is
found by scanning. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from handful.errors import ArgumentError, CheckpointError
from handful.runs.files import sync_folder, to_json, write_synced
from handful.train.manifest import (
    CHECKPOINT_VERSION,
    MANIFEST_FILE,
    OWN_KEYS,
    NewerVersionError,
    read_manifest,
    seal_manifest,
)
from handful.train.optimizer_state import flatten_optimizer, unflatten_optimizer
from handful.train.plain_state import decode_state, encode_state
from handful.train.tensor_file import check_tensors, write_tensors

_MODEL_FILE = "model.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_AVERAGES_FILE = "averages.safetensors"
_EXTRA = "_extra_state"
"""How the name of what a module's ``get_extra_state`` returned ends."""


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


@dataclass(frozen=True)
class _Parts:
    """A state taken apart: what goes into files of tensors, and plain values."""

    tensors: dict[str, Mapping[str, Tensor]]
    """By files."""
    optimizer: dict[str, Any]
    plain: dict[str, dict[str, Any]]
    """Extra state of modules that is no tensor, by ``model`` and ``averages``."""


def check_storable(checkpoint: Checkpoint) -> None:
    """Check that files can hold a state of model and optimiser; copies no tensor.

    Raises:
        CheckpointError: They can't; the error names what and where.
    """
    _take_apart(checkpoint)


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
    parts = _take_apart(checkpoint)
    plain = {"plain": parts.plain} if any(parts.plain.values()) else {}
    rest = _to_text({"optimizer": parts.optimizer, **plain, **checkpoint.progress})
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        files = {}
        for name, tensors in parts.tensors.items():
            size, digest = write_tensors(partial / name, tensors)
            files[name] = {"bytes": size, "sha256": digest}
        head = to_json({"format_version": CHECKPOINT_VERSION, "files": files})
        manifest = seal_manifest(f"{head[:-1]}, {rest[1:]}")
        write_synced(partial / MANIFEST_FILE, manifest)
        sync_folder(partial)
        if final.exists():
            shutil.rmtree(former, ignore_errors=True)
            final.rename(former)
        partial.rename(final)
        sync_folder(folder)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)  # what it takes may be missed
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
    manifest = read_manifest(path)
    files = manifest["files"]
    names = [_MODEL_FILE, _OPTIMIZER_FILE]
    if _AVERAGES_FILE in files:
        names.append(_AVERAGES_FILE)
    contents = {name: _read_checked(path / name, files.get(name)) for name in names}
    plain = manifest.get("plain", {})
    try:
        model = {
            **load_tensors(contents[_MODEL_FILE]),
            **decode_state(plain.get("model", {})),
        }
        averages = {}
        if _AVERAGES_FILE in contents:
            averages = {
                **load_tensors(contents[_AVERAGES_FILE]),
                **decode_state(plain.get("averages", {})),
            }
        tensors = load_tensors(contents[_OPTIMIZER_FILE])
        optimizer = unflatten_optimizer(tensors, manifest["optimizer"])
    except _DAMAGES as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from None
    progress = {key: value for key, value in manifest.items() if key not in OWN_KEYS}
    return Checkpoint(model, optimizer, progress, averages)


_DAMAGES = (
    *(SafetensorError, LookupError, TypeError, ValueError, AttributeError),
    *(ArithmeticError, RuntimeError, MemoryError),
)
"""What reading well-hashed nonsense may raise."""


def newest_checkpoint(folder: Path) -> tuple[Path, Checkpoint, list[str]]:
    """Find and load the newest valid checkpoint of a run.

    Args:
        folder: The run's folder of checkpoints.

    Returns:
        Its folder, the checkpoint, and for each newer one that is damaged a sentence.

    Raises:
        CheckpointError: None is valid, or a newer handful wrote the newest.
    """
    reasons: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return path, load_checkpoint(path), reasons
        except NewerVersionError:
            raise
        except CheckpointError as error:
            reasons.append(str(error))
    found = " ".join(reasons) or "There is none."
    raise CheckpointError(f"{folder} must hold a valid checkpoint. {found}")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first, whether valid or not."""
    found = (p for p in folder.glob("step-*") if is_checkpoint(p))
    return sorted(found, key=lambda path: int(path.name[5:]))


def is_checkpoint(path: Path) -> bool:
    """Say whether a path has the name of a checkpoint's folder."""
    number = path.name.removeprefix("step-")
    return number != path.name and number.isascii() and number.isdecimal()


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


def _take_apart(checkpoint: Checkpoint) -> _Parts:
    model, model_extra = _split_extra(checkpoint.model)
    averages, averages_extra = _split_extra(checkpoint.averages)
    check_tensors(model, "the model's state")
    check_tensors(averages, "the averaged weights")
    optimizer, groups = flatten_optimizer(checkpoint.optimizer)
    tensors: dict[str, Mapping[str, Tensor]] = {
        _MODEL_FILE: model,
        _OPTIMIZER_FILE: optimizer,
    }
    if checkpoint.averages:
        tensors[_AVERAGES_FILE] = averages
    plain = {"model": model_extra, "averages": averages_extra}
    return _Parts(tensors, groups, plain)


def _split_extra(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors of a state_dict, and its modules' extra state, encoded."""
    tensors: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in state.items():
        *path, last = name.split(".")
        if isinstance(value, Tensor) or last != _EXTRA:
            tensors[name] = value
            continue
        try:
            extra[name] = encode_state(value, "a module", "get_extra_state()")
        except ArgumentError:
            module = ".".join(path)
            where = f"module {module!r}" if module else "the model"
            raise CheckpointError(
                f"get_extra_state of {where} must return tensors, numbers, texts, and "
                "lists or mappings of these to be saved; got a "
                f"{type(value).__name__} of something else. Return plain values, or "
                "train without run_dir."
            ) from None
    return tensors, extra


def _to_text(values: Mapping[str, Any]) -> str:
    try:
        return to_json(values)
    except TypeError as error:
        raise CheckpointError(
            f"a checkpoint's progress must be plain values to be saved: {error}."
        ) from None


def _read_checked(path: Path, expected: Mapping[str, Any] | None) -> bytes:
    """Read a file whose size and hash are those of the manifest."""
    if expected is None:
        raise CheckpointError(f"{path.parent} is damaged: its manifest lacks {path}.")
    size, digest = expected["bytes"], expected["sha256"]
    try:
        found = path.stat().st_size
        content = path.read_bytes() if found == size else b""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    if found != size:
        raise CheckpointError(f"{path} is damaged: expected {size} bytes, got {found}.")
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise CheckpointError(
            f"{path} is damaged: expected sha256 {digest}, got {actual}."
        )
    return content
