"""Bad checkpoints, and hostile ones: a run of ``wine`` of which files are replaced."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from bad_inputs.case import Case
from manifests import change_manifest, unseal

CHECKPOINTS = "Checkpoints"
PAYLOAD = "payload-was-run"
"""The file that a hostile checkpoint makes, if anything in it is run."""

Change = Callable[[Path], None]


class Bomb:
    """Pickled, it asks that a file be made when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {PAYLOAD}",)


@functools.cache
def _finished_run() -> dict[str, bytes]:
    """Return the files of a run that was trained once, by their names in it."""
    from handful.cli.main import main

    with tempfile.TemporaryDirectory() as folder:
        argv = ["train", "wine", "--epochs", "1", "--threads", "1", "--seed", "0"]
        with redirect_stdout(io.StringIO()):
            assert main([*argv, "--out", f"{folder}/r", "-q"]) == 0
        root = Path(folder) / "r"
        files = (path for path in root.rglob("*") if path.is_file())
        return {str(p.relative_to(root)): p.read_bytes() for p in files}


def make_finished_run(folder: Path) -> Path:
    """Write a finished run of ``wine`` to ``r``; return its checkpoint's folder."""
    for name, content in _finished_run().items():
        path = folder / "r" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (step,) = (folder / "r" / "checkpoints").iterdir()
    return step


def vouch(step: Path, name: str, content: bytes) -> None:
    """Replace a file of tensors, and let the manifest vouch for it."""
    (step / name).write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change_manifest(step, lambda manifest: manifest["files"].update({name: entry}))


def _tensors(change: Callable[[dict[str, Any]], object]) -> Change:
    def run(step: Path) -> None:
        tensors = load_file(step / "model.safetensors")
        change(tensors)
        vouch(step, "model.safetensors", save(tensors))

    return run


def _header(header: Any, *, length: int | None = None, data: bytes = b"") -> Change:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(raw) if length is None else length
    content = struct.pack("<Q", size) + raw + data
    return lambda step: vouch(step, "model.safetensors", content)


def _one(start: int, end: int, shape: int = 2) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [shape], "data_offsets": [start, end]}


def _manifest(change: Callable[[dict[str, Any]], object]) -> Change:
    return lambda step: change_manifest(step, change)


def _text(text: str) -> Change:
    return lambda step: _write(step / "manifest.json", text.encode())


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _cut(step: Path) -> None:
    path = step / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def _remove_hash(step: Path) -> None:
    path = step / "manifest.json"
    path.write_bytes(unseal(path.read_bytes()))


def _remove_optimizer(step: Path) -> None:
    (step / "optimizer.safetensors").unlink()


def _put_outside(step: Path) -> None:
    """Let the manifest name a file outside of the checkpoint."""
    shutil.copy(step / "model.safetensors", step.parent.parent.parent / "x.safetensors")
    change_manifest(
        step, lambda m: m["files"].update({"../../../x.safetensors": {"bytes": 1}})
    )
    _cut(step)


def _deep(depth: int) -> str:
    return '{"format_version": 1, "files": ' + "[" * depth + "]" * depth + "}"


HOSTILE: dict[str, tuple[Change, str]] = {
    "a pickle in place of the weights": (
        lambda step: vouch(step, "model.safetensors", pickle.dumps(Bomb())),
        "is damaged",
    ),
    "a file of torch.save in place of the weights": (
        lambda step: vouch(step, "model.safetensors", _torch_bomb()),
        "is damaged",
    ),
    "a pickle in place of the manifest": (
        lambda step: _write(step / "manifest.json", pickle.dumps(Bomb())),
        "manifest.json is not JSON",
    ),
    "weights cut short": (_cut, "model.safetensors is damaged: expected"),
    "a file missing": (_remove_optimizer, "optimizer.safetensors cannot be read"),
    "a header longer than the file": (_header(b"{}", length=1000), "is damaged"),
    "a header of 2**63 bytes": (_header(b"{}", length=2**63), "is damaged"),
    "overlapping offsets": (
        _header({"a": _one(0, 8), "b": _one(4, 12)}, data=bytes(12)),
        "is damaged",
    ),
    "offsets beyond the file": (
        _header({"a": _one(0, 8)}, data=bytes(4)),
        "is damaged",
    ),
    "a shape that the offsets do not fit": (
        _header({"a": _one(0, 8, shape=2**40)}, data=bytes(8)),
        "is damaged",
    ),
    "a header nested too deeply": (_header(b"[" * 5000), "is damaged"),
    "weights of another shape": (
        _tensors(lambda t: t.update({_first(t): torch.zeros(1, 1)})),
        "does not fit",
    ),
    "a tensor missing": (_tensors(lambda t: t.pop(_first(t))), "does not fit"),
    "a tensor more": (
        _tensors(lambda t: t.update({"../../x": torch.zeros(1)})),
        "does not fit",
    ),
    "a newer format": (
        _manifest(lambda m: m.update(format_version=99)),
        "has format version 99, and this handful reads up to",
    ),
    "a manifest without its own hash": (_remove_hash, "lacks its own sha256"),
    "a manifest cut short": (_text('{"format_version": 1, "fil'), "is not JSON"),
    "an empty manifest": (_text(""), "is not JSON"),
    "a manifest nested too deeply": (_text(_deep(100_000)), "is not JSON"),
    "a list as manifest": (_text("[1, 2]"), "is no manifest of handful's"),
    "no files in the manifest": (_text('{"format_version": 1}'), "is damaged"),
    "a hash that is no text": (
        _manifest(lambda m: m["files"]["model.safetensors"].update(sha256=[1])),
        "is damaged",
    ),
    "a file outside of the folder": (_put_outside, "is damaged"),
}
"""What is wrong -> what makes it so, and what is said of it."""


def _first(tensors: dict[str, Any]) -> str:
    return next(iter(tensors))


def _torch_bomb() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": Bomb()}, buffer)
    return buffer.getvalue()


def _case(title: str, change: Change, says: str) -> Case:
    return Case(
        group=CHECKPOINTS,
        title=title,
        command="train --resume --out r --epochs 2",
        make=lambda folder: change(make_finished_run(folder)),
        code=1,
        says=(says,),
        needs_torch=True,
    )


_ANOTHER = Case(
    group=CHECKPOINTS,
    title="another optimiser",
    command="train --resume --out r --epochs 2 --optimizer adamw",
    make=lambda folder: (make_finished_run(folder), None)[1],
    code=1,
    says=("optimizer must be the one that r was trained with; got AdamW",),
    needs_torch=True,
)

CASES = (*(_case(title, *rest) for title, rest in HOSTILE.items()), _ANOTHER)
"""Of checkpoints."""
