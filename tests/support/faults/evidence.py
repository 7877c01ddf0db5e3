"""What a run's folder holds, read without handful: is it whole, is it the same?"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from manifests import read_manifest

_TIMES = ("seconds", "time")


def list_steps(run_dir: Path) -> list[int]:
    """Return the steps of all checkpoints that have their name, oldest first."""
    found = (p.name[5:] for p in (run_dir / "checkpoints").glob("step-*"))
    return sorted(int(name) for name in found if name.isdigit())


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Return the folder of a checkpoint."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def is_whole(path: Path) -> bool:
    """Say whether all files of a checkpoint have the size and hash that it says."""
    try:
        files = read_manifest(path)["files"]
        return all(_is_as_said(path / name, said) for name, said in files.items())
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        return False


def newest_whole(run_dir: Path) -> int:
    """Return the step of the newest checkpoint that is whole, -1 if there is none."""
    steps = reversed(list_steps(run_dir))
    return next((s for s in steps if is_whole(checkpoint_path(run_dir, s))), -1)


def has_unfinished_save(run_dir: Path) -> bool:
    """Say whether a save was under way when the run ended."""
    return any((run_dir / "checkpoints").glob(".step-*"))


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """Return the run's events."""
    lines = (run_dir / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def last_state(run_dir: Path) -> dict[str, Any]:
    """Return all that must be the same in two runs, but for times, to be compared."""
    path = checkpoint_path(run_dir, newest_whole(run_dir))
    manifest = read_manifest(path)
    history = (run_dir / "history.jsonl").read_text().splitlines()
    return {
        "manifest": _without_times(manifest),
        "tensors": {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in path.glob("*.safetensors")
        },
        "history": [_without_times(json.loads(line)) for line in history],
        "steps": np.load(run_dir / "steps.npy").tobytes(),
        "status": json.loads((run_dir / "run.json").read_bytes())["status"],
    }


def _is_as_said(path: Path, said: dict[str, Any]) -> bool:
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    return len(content) == said["bytes"] and found == said["sha256"]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in _TIMES}
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    return value
