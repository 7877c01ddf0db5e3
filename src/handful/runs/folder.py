"""A run's folder: making it, filling it while the training goes on, finding it.

::

    <recipe>-<yyyymmdd-hhmmss>-<id>/
      run.json        format version, status, identity, environment
      config.yaml     every setting
      history.jsonl   a line per epoch
      steps.npy       loss and rate of every step
      events.jsonl    warnings, resumes
      checkpoints/    one folder per checkpoint
      curves.png      drawn at the end
"""

from __future__ import annotations

import io
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from ruamel.yaml import YAML

from handful.errors import HandfulError, RunError
from handful.runs.files import (
    GrowingFile,
    read_json,
    sync_file,
    sync_folder,
    to_json,
    write_atomic,
)
from handful.runs.run import FORMAT_VERSION, STEP_DTYPE, Run
from handful.runs.salvage import load_salvaged

OWN_FILES = (
    "run.json",
    "config.yaml",
    "history.jsonl",
    "steps.npy",
    "events.jsonl",
    "run.lock",
    "curves.png",
)
"""The files that handful writes into a run's folder, beside ``checkpoints``."""

_STEP_DESCR = repr(STEP_DTYPE.descr)

_UNFINISHED = ("running", "stopped", "failed")


def new_run_dir(root: Path, recipe: str) -> Path:
    """Return a name for a new run's folder under ``root``; makes nothing.

    Args:
        root: The folder of runs.
        recipe: Name of what is trained.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return root / f"{recipe}-{stamp}-{secrets.token_hex(3)}"


def holds_run(path: Path) -> bool:
    """Say whether a folder holds a run."""
    return (path / "run.json").is_file()


def find_unfinished(root: Path, recipe: str) -> Path | None:
    """Return the newest run of a recipe that has not finished, or None.

    Args:
        root: The folder of runs; it may be missing.
        recipe: The recipe's name, as the run's configuration has it.
    """
    newest: tuple[int, Path] | None = None
    for meta_path in root.glob("*/run.json") if root.is_dir() else ():
        try:
            run = load_salvaged(meta_path.parent)
        except HandfulError:
            continue
        if run.config.get("recipe") == recipe and run.status in _UNFINISHED:
            changed = meta_path.stat().st_mtime_ns
            if newest is None or changed > newest[0]:
                newest = (changed, meta_path.parent)
    return newest[1] if newest else None


def remove_run(path: Path) -> None:
    """Delete what handful wrote into a run's folder, and an empty folder itself.

    Args:
        path: The run's folder.

    Raises:
        RunError: The folder holds no run, or a training is running in it.
    """
    if not holds_run(path):
        raise RunError(f"{path} holds no run; nothing was deleted.")
    lock = lock_run(path)
    try:
        # run.json goes last: until then the folder is still known as a run's.
        shutil.rmtree(path / "checkpoints", ignore_errors=True)
        for name in reversed(OWN_FILES):
            if name != "run.lock":
                (path / name).unlink(missing_ok=True)
    finally:
        lock.release()
        (path / "run.lock").unlink(missing_ok=True)
    if not any(path.iterdir()):
        path.rmdir()


def lock_run(path: Path) -> FileLock:
    """Lock a run's folder against a second training; the lock dies with the process.

    Raises:
        RunError: Another training holds it.
    """
    return lock_file(path / "run.lock", "training", "run_dir=")


def lock_file(path: Path, user: str, argument: str) -> FileLock:
    """Lock a folder by a file in it; the lock dies with the process.

    Args:
        path: The file of the lock.
        user: What holds such a lock, for the error: ``"training"``.
        argument: What names the folder in Python, for the error: ``"run_dir="``.

    Raises:
        RunError: Another process holds it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"{path.parent} is in use by another {user}. "
            f"Wait for it, or choose another folder with --out ({argument})."
        ) from None
    return lock


class RunFolder:
    """Writes a run's folder while the training goes on.

    What is appended lies in the file when the call returns (not necessarily on the
    disk: a checkpoint is what survives a loss of power).
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Open a folder for a new run, or for one that goes on.

        Args:
            path: The folder; made where it is missing.
            resume: Whether a run in it goes on.

        Raises:
            RunError: The folder holds a run and ``resume`` is false, or none and it
                is true; it holds something else; it cannot be written; or another
                training uses it.
        """
        self.path = path
        _check_folder(path, resume=resume)
        self._is_resumed = resume
        self._new_parents = [p.parent for p in (path, *path.parents) if not p.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "checkpoints").mkdir(exist_ok=True)
            self._lock = lock_run(path)
        except OSError as error:
            if isinstance(error, HandfulError):
                raise
            raise RunError(
                f"{path} cannot be written: {error.strerror}. "
                "Choose another folder with --out (run_dir=)."
            ) from None
        self._steps = GrowingFile(path / "steps.npy")
        self._history = GrowingFile(path / "history.jsonl")
        self._events = GrowingFile(path / "events.jsonl")
        self._num_steps = 0
        self._is_settled = False

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def start(self, run: Run) -> None:
        """Write the run as it stands: settings, history, steps and events so far.

        For a new run the disk need not have any of it yet: without a checkpoint there
        is nothing that a loss of power could take. `settle` is called before the
        first. A run that goes on has checkpoints, and they need what is replaced here.

        Raises:
            RunError: The disk refuses.
        """
        try:
            self._write_all(run)
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error.strerror}. "
                "Choose another folder with --out (run_dir=)."
            ) from None

    def _write_all(self, run: Run) -> None:
        write_config(self.path / "config.yaml", run.config, sync=self._is_resumed)
        _write_lines(self.path / "history.jsonl", run.history)
        _write_lines(self.path / "events.jsonl", run.events)
        content = _steps_header(len(run.steps)) + run.steps.tobytes()
        write_atomic(self.path / "steps.npy", content, sync=False)
        self._num_steps = len(run.steps)
        self.write_status(run, sync=False)

    def settle(self) -> None:
        """Wait until the disk has what a resumed run needs beside a checkpoint."""
        if not self._is_settled:
            sync_file(self.path / "config.yaml")
            sync_file(self.path / "run.json")
            for folder in (self.path, *self._new_parents):
                sync_folder(folder)
            self._is_settled = True

    def write_status(self, run: Run, *, sync: bool = True) -> None:
        """Write ``run.json``; of a run that goes on, always as with ``sync``."""
        meta = {
            "format_version": FORMAT_VERSION,
            "status": run.status,
            "identity": run.identity,
            "environment": run.environment,
        }
        content = to_json(meta, indent=2).encode() + b"\n"
        write_atomic(self.path / "run.json", content, sync=sync or self._is_resumed)

    def append_history(self, record: Mapping[str, Any]) -> None:
        """Add a line to ``history.jsonl``."""
        self._history.add(to_json(record).encode() + b"\n")

    def append_event(self, event: Mapping[str, Any]) -> None:
        """Add a line to ``events.jsonl``."""
        self._events.add(to_json(event).encode() + b"\n")

    def append_steps(self, steps: NDArray[np.void]) -> None:
        """Add rows to ``steps.npy``.

        The rows go to the file's end first and are counted in its header second, so a
        reader always finds a whole file.

        Args:
            steps: New rows, shape ``(S,)``, dtype `STEP_DTYPE`.
        """
        self._num_steps += len(steps)
        self._steps.add(steps.tobytes())
        self._steps.replace_start(_steps_header(self._num_steps))

    def close_as(self, run: Run) -> None:
        """Write how a run ended, and close."""
        try:
            self.write_status(run)
        finally:
            self.close()

    def close(self) -> None:
        """Close the files and give up the lock."""
        for file in (self._steps, self._history, self._events):
            file.close()
        self._lock.release()


def write_config(path: Path, config: Mapping[str, Any], *, sync: bool = False) -> None:
    """Write settings as YAML 1.2.

    Args:
        path: The file.
        config: Plain values: numbers, text, lists and mappings.
        sync: Whether to wait until the disk has it.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    buffer = io.BytesIO()
    yaml.dump(dict(config), buffer)
    write_atomic(path, buffer.getvalue(), sync=sync)


def _check_folder(path: Path, *, resume: bool) -> None:
    if resume and not holds_run(path):
        raise RunError(f"{path} holds no run to resume.")
    if resume:
        read_json(path / "run.json")
        return
    if holds_run(path):
        raise RunError(
            f"{path} already holds a run. Continue it with --resume (resume=True), "
            "start anew with --fresh, or choose another folder."
        )
    if path.exists() and not (path.is_dir() and _is_left_over(path)):
        raise RunError(f"{path} must be a new or an empty folder, or a run's.")


def _is_left_over(path: Path) -> bool:
    """Say whether a folder is empty, but for what a run that could not begin left."""
    names = {entry.name for entry in path.iterdir() if not _is_temporary(entry)}
    checkpoints = path / "checkpoints"
    has_any = checkpoints.is_dir() and any(checkpoints.iterdir())
    return names <= {"checkpoints", *OWN_FILES} and not has_any


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    lines = b"".join(to_json(record).encode() + b"\n" for record in records)
    write_atomic(path, lines, sync=False)


def _steps_header(count: int) -> bytes:
    """Return the header of an .npy file, version 1.0, always 128 bytes long."""
    shape = f"'fortran_order': False, 'shape': ({count},), "
    text = f"{{'descr': {_STEP_DESCR}, {shape}}}"
    body = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body
