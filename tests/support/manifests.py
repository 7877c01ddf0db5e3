"""Manifests of checkpoints, changed on purpose: their own hash is made anew.

Written apart from handful, so that what it writes is told from the bytes alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_KEY = b', "sha256": "'
_LENGTH = len(_KEY) + 64 + len(b'"}')


def seal(content: bytes) -> bytes:
    """Return a manifest with the hash of all that stands before it as its last key.

    What does not end as a JSON object is returned as it is.
    """
    if not content.endswith(b"}"):
        return content
    body = content[:-1]
    return body + _KEY + hashlib.sha256(body).hexdigest().encode() + b'"}'


def unseal(content: bytes) -> bytes:
    """Return a manifest without its own hash.

    Raises:
        AssertionError: The hash is missing or wrong.
    """
    body = content[:-_LENGTH] + b"}"
    assert seal(body) == content, "the manifest must end with its own hash"
    return body


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Return the values of a checkpoint's manifest, its own hash checked."""
    values = json.loads(unseal((checkpoint / "manifest.json").read_bytes()))
    assert isinstance(values, dict)
    return values


def write_manifest(checkpoint: Path, values: Mapping[str, Any]) -> None:
    """Write a manifest that vouches for itself."""
    (checkpoint / "manifest.json").write_bytes(seal(json.dumps(values).encode()))


def change_manifest(
    checkpoint: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """Change a manifest's values in place."""
    values = read_manifest(checkpoint)
    change(values)
    write_manifest(checkpoint, values)
