"""The manifest of a checkpoint: read, and every part of it checked before it is used.

Whoever can write a checkpoint's folder may have written anything there. A manifest
that passes here has the keys and the kinds of values that the rest of handful takes
for granted.

Disks change bits by themselves, too. A manifest ends with the hash of all its bytes
before that::

    {"format_version": 2, ..., "sha256": "<64 digits>"}

Of format version 1 it had none, and such are read as they always were.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from handful.errors import CheckpointError, RunError
from handful.runs.files import parse_json

CHECKPOINT_VERSION = 2
"""Version of the checkpoint's folder that this handful writes."""

MANIFEST_FILE = "manifest.json"

OWN_KEYS = ("format_version", "files", "optimizer", "plain", "sha256")
"""Keys of the manifest's own; all others are a training's progress."""

_HASH = re.compile(r"[0-9a-f]{64}")
_SEAL = re.compile(rb', "sha256": "([0-9a-f]{64})"\}')
_SEAL_BYTES = 79
_FIRST_SEALED = 2
"""The first format version whose manifests must have a hash of their own."""
_ENDINGS = (None, "record", "validation")
_MOST = 2**62


class NewerVersionError(CheckpointError):
    """A newer handful wrote the checkpoint."""


def seal_manifest(text: str) -> bytes:
    """Return a manifest's content: its text, and at the end the hash of that.

    Args:
        text: A JSON object that has a key at least, without the hash.
    """
    body = text.removesuffix("}").encode()
    return body + f', "sha256": "{hashlib.sha256(body).hexdigest()}"}}'.encode()


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest of a checkpoint.

    Args:
        path: The checkpoint's folder.

    Raises:
        CheckpointError: It is missing, unreadable, damaged or of a newer version.
    """
    file = path / MANIFEST_FILE
    content = _read(file)
    is_sealed = _check_seal(file, content)
    try:
        manifest = parse_json(file, content)
    except RunError as error:
        raise CheckpointError(str(error)) from None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or not _is_count(version) or version < 1:
        raise CheckpointError(f"{file} is no manifest of handful's.")
    if version > CHECKPOINT_VERSION:
        raise NewerVersionError(
            f"{path} has format version {version}, and this handful reads up to "
            f"{CHECKPOINT_VERSION}. Install a newer handful."
        )
    if version >= _FIRST_SEALED and not is_sealed:
        raise CheckpointError(f"{file} is damaged: it lacks its own sha256.")
    _check_values(file, manifest)
    return dict(manifest)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from None


def _check_seal(file: Path, content: bytes) -> bool:
    """Check the hash at a manifest's end; return whether there is one."""
    body, end = content[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
    seal = _SEAL.fullmatch(end)
    if seal is None:
        return False
    expected = seal[1].decode()
    actual = hashlib.sha256(body).hexdigest()
    if actual != expected:
        raise CheckpointError(
            f"{file} is damaged: expected sha256 {expected}, got {actual}."
        )
    return True


def _check_values(file: Path, manifest: Mapping[str, Any]) -> None:
    for name, check in _NEEDED.items():
        if name not in manifest:
            raise CheckpointError(f"{file} is damaged: it lacks {name!r}.")
        _check(file, name, check, manifest[name])
    for name, check in _OPTIONAL.items():
        if name in manifest:
            _check(file, name, check, manifest[name])
    if manifest.get("ending") is not None and not manifest.get("history"):
        raise CheckpointError(f"{file} is damaged: its history lacks its ending.")


def _check(file: Path, name: str, check: Callable[[Any], bool], value: Any) -> None:
    if not check(value):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise CheckpointError(
            f"{file} is damaged: {name!r} must be {_KINDS[check]}; got {shown}."
        )


def _is_count(value: Any) -> bool:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return is_int and 0 <= value < _MOST


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST
    )


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 <= value < math.inf


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_record, value))


def _is_record(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    counts = (value.get(name, 0) for name in ("epoch", "step", "samples"))
    measured = (v for k, v in value.items() if k.startswith(("train_", "valid_")))
    return (
        "step" in value
        and all(map(_is_count, counts))
        and all(map(_is_number, measured))
        and _is_number(value.get("seconds", 0.0))
    )


def _is_ending(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value in _ENDINGS)


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_file, value.values()))


def _is_file(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_count(value.get("bytes")):
        return False
    digest = value.get("sha256")
    return isinstance(digest, str) and _HASH.fullmatch(digest) is not None


def _is_optimizer(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    groups, state = value.get("param_groups"), value.get("state")
    return (
        isinstance(groups, list)
        and all(isinstance(g, dict) and _is_counts(g.get("params")) for g in groups)
        and isinstance(state, dict)
        and all(k.isascii() and k.isdecimal() and len(k) < 19 for k in state)
        and all(isinstance(v, dict) for v in state.values())
    )


def _are_mappings(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_mapping, value.values()))


_KINDS: Mapping[Callable[[Any], bool], str] = {
    _is_count: "a whole number from 0 on",
    _is_number: "a number",
    _is_duration: "a number from 0 on",
    _is_mapping: "a mapping",
    _are_mappings: "a mapping of mappings",
    _is_counts: "a list of whole numbers",
    _is_history: "a list of records, each with its step",
    _is_ending: "null, 'record' or 'validation'",
    _are_files: "a mapping of files to their bytes and sha256",
    _is_optimizer: "a mapping with param_groups and state",
}

_NEEDED = {"files": _are_files, "optimizer": _is_optimizer, "step": _is_count}

_OPTIONAL = {
    "plain": _are_mappings,
    "epoch": _is_count,
    "samples": _is_count,
    "history": _is_history,
    "kept": _is_counts,
    "ending": _is_ending,
    "lr": _is_number,
    "seconds": _is_duration,
    **dict.fromkeys(
        (
            *(
                "generators",
                "identity",
                "feed",
                "log",
                "observed",
                "precision",
                "nonfinite",
            ),
            *("schedule", "averages", "data"),
        ),
        _is_mapping,
    ),
}
