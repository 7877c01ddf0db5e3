"""Run: what happened in one training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml.error import YAMLError

from handful.errors import RunError
from handful.runs.files import from_json, read_json
from handful.runs.stored import check_mapping, check_record, is_number
from handful.runs.yaml_text import MOST_BYTES, load_yaml

FORMAT_VERSION = 1
"""Version of a run's folder that this handful writes."""

STEP_DTYPE = np.dtype([("loss", "<f4"), ("lr", "<f8")])
"""A row of ``steps.npy``: mean loss of the batch, and the rate of the step."""


@dataclass
class Run:
    """What happened in one training.

    `Trainer.fit` returns one; `Run.load` reads one back from its folder, without torch.
    """

    path: Path | None = None
    """The run's folder; None for a run kept in memory."""

    status: str = "running"
    """``running``, ``finished``, ``stopped`` (on request) or ``failed``."""

    config: dict[str, Any] = field(default_factory=dict)
    """Every setting, defaults included."""

    history: list[dict[str, Any]] = field(default_factory=list)
    """A record an epoch, or a validation in between: ``epoch`` (from 1 on), ``step``,
    ``samples``, ``train_loss`` (mean over the epoch so far), ``lr``, ``seconds`` (since
    the record before), where there was validation ``valid_loss`` and metrics, and in
    mid-epoch ``partial``, which is true."""

    steps: NDArray[np.void] = field(default_factory=lambda: np.empty(0, STEP_DTYPE))
    """Loss and rate of every step, shape ``(S,)``, dtype `STEP_DTYPE`."""

    events: list[dict[str, Any]] = field(default_factory=list)
    """Warnings, resumes and the like, oldest first."""

    environment: dict[str, Any] = field(default_factory=dict)
    """Versions and machine."""

    identity: dict[str, Any] = field(default_factory=dict)
    """What the last bits of the numbers depend on."""

    @property
    def monitor(self) -> str:
        """The value of the history that says which record is best."""
        for name in (str(self.config.get("monitor")), "valid_loss"):
            if any(name in record for record in reversed(self.history)):
                return name
        return "train_loss"

    @property
    def best(self) -> dict[str, Any] | None:
        """The first record with the best `monitor`, None before there is one."""
        name = self.monitor
        is_upward = self.config.get("monitor_mode") == "max"
        sign = -1.0 if is_upward and name == self.config.get("monitor") else 1.0
        numbers = [r for r in self.history if not math.isnan(_number(r.get(name)))]
        return min(numbers, key=lambda record: sign * float(record[name]), default=None)

    @property
    def seconds(self) -> float:
        """Seconds of all epochs together."""
        return float(sum(record.get("seconds", 0.0) for record in self.history))

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Read a run from its folder.

        Args:
            path: The folder.

        Returns:
            The run, as far as it got.

        Raises:
            RunError: The folder is missing, holds no run, was written by a newer
                version, or one of its files is damaged.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise RunError(f"run must be a folder that exists; got {str(path)!r}.")
        if not (folder / "run.json").is_file():
            raise RunError(
                f"{folder} holds no run: run.json is missing. "
                "Give the folder that `handful train` printed at its end."
            )
        meta = read_meta(folder / "run.json")
        return cls(
            path=folder,
            status=str(meta.get("status", "running")),
            config=read_config(folder / "config.yaml"),
            history=read_history(folder / "history.jsonl"),
            steps=read_steps(folder / "steps.npy"),
            events=read_lines(folder / "events.jsonl"),
            environment=_mapping_of(meta, "environment", folder),
            identity=_mapping_of(meta, "identity", folder),
        )


def read_config(path: Path) -> dict[str, Any]:
    """Read a run's ``config.yaml``.

    Raises:
        RunError: It is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    if len(raw) > MOST_BYTES:
        raise RunError(f"{path} must be at most 64 KiB; the file is damaged.")
    try:
        config, _ = load_yaml(raw.decode("utf-8-sig"))
    except (YAMLError, ValueError, RecursionError):
        raise RunError(f"{path} is not YAML; the file is damaged.") from None
    if not isinstance(config, dict) or not all(isinstance(k, str) for k in config):
        raise RunError(f"{path} must hold settings; the file is damaged.")
    return config


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read a run's ``history.jsonl``; a last line cut short is left out.

    Raises:
        RunError: A line before the last is not JSON, or one is no record.
    """
    records = read_lines(path)
    for number, record in enumerate(records, start=1):
        check_record(record, f"{path}, record {number},")
    return records


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; a last line cut short is left out.

    Raises:
        RunError: A line before the last is not JSON.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = from_json(line)
            if not isinstance(record, dict):
                raise ValueError
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            raise RunError(f"{path}, line {number}, is no JSON object.") from None
        records.append(record)
    return records


def read_meta(path: Path) -> dict[str, Any]:
    """Read a run's ``run.json``.

    Raises:
        RunError: It is missing or damaged, or a newer version wrote it.
    """
    meta = read_json(path)
    version = meta.get("format_version") if isinstance(meta, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise RunError(f"{path} has no format_version; the file is damaged.")
    if version > FORMAT_VERSION:
        raise RunError(
            f"{path} has format version {version}, and this handful reads up to "
            f"{FORMAT_VERSION}. Install a newer handful."
        )
    return dict(meta)


def read_steps(path: Path) -> NDArray[np.void]:
    """Read a run's ``steps.npy``; of one cut short, the rows that are whole.

    Returns:
        Shape ``(S,)``, dtype `STEP_DTYPE`; empty where the file is missing.

    Raises:
        RunError: It is another kind of file.
    """
    if not path.exists():
        return np.empty(0, STEP_DTYPE)
    try:
        with path.open("rb") as file:
            count, dtype = _read_header(file)
            if dtype != STEP_DTYPE:
                raise RunError(f"{path} must hold rows of {STEP_DTYPE}; got {dtype}.")
            content = file.read()
    except RunError:
        raise
    except Exception:  # A damaged header can raise anything: TokenError, SyntaxError …
        raise RunError(f"{path} is not a NumPy file; it is damaged.") from None
    size = min(count, len(content) // STEP_DTYPE.itemsize) * STEP_DTYPE.itemsize
    return np.frombuffer(bytearray(content[:size]), STEP_DTYPE)


def _read_header(file: BinaryIO) -> tuple[int, np.dtype[Any]]:
    """Return how many rows an array has, as its header says, and their dtype."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or len(shape) != 1 or shape[0] < 0:
        raise ValueError(f"{dtype}, shape {shape}")
    return shape[0], dtype


def _number(value: object) -> float:
    """Return a number of a record as float, NaN for what is none."""
    return float(value) if is_number(value) else math.nan  # type: ignore[arg-type]


def _mapping_of(meta: dict[str, Any], name: str, folder: Path) -> dict[str, Any]:
    return check_mapping(meta.get(name, {}), str(folder / "run.json"), name)
