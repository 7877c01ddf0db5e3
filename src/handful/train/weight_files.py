"""Files of weights: read from any of many kinds, written to one of two.

A file that `torch.save` wrote is read with ``weights_only=True``, which makes tensors
and plain values and refuses all else: nothing is unpickled freely.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from handful.errors import CheckpointError, unknown_choice
from handful.runs.files import write_atomic
from handful.runs.run import Run, read_config
from handful.train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    newest_checkpoint,
)
from handful.train.tensor_file import plain_tensors

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
"""Endings of the files that are read with `torch.load`."""

READABLE_SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
"""Endings of the files that `load_weights` reads."""

WRITABLE_SUFFIXES = (".safetensors", ".pt")
"""Endings of the files that `save_weights` writes."""

WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "module", "params")
"""Keys under which programs put the model's entries beside other things, in the order
in which they are looked for."""

_MAX_DEPTH = 4

_MAX_LISTED = 5


def save_state(state: Mapping[str, Any], path: str | Path) -> Path:
    """Save a ``state_dict`` as `save_weights` does.

    Args:
        state: Tensors by name, any dense shape and dtype.
        path: The file, ``.safetensors`` or ``.pt``.

    Returns:
        The file.

    Raises:
        ArgumentError: The ending is another.
        CheckpointError: An entry is no dense tensor, or the disk refuses.
    """
    to = Path(path)
    suffix = _check_suffix(to, WRITABLE_SUFFIXES)
    tensors = plain_tensors(state, "the model's state")
    content = save_tensors(tensors) if suffix == ".safetensors" else _pack(tensors)
    try:
        write_atomic(to, content)
    except OSError as error:
        raise CheckpointError(f"{to} cannot be saved: {error.strerror}.") from None
    return to


def read_weights(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """Read weights, on the CPU, from any source that `load_weights` knows.

    Args:
        path: The file or folder.

    Returns:
        The file or checkpoint's folder that was read, and its entries by their names
        in it.

    Raises:
        ArgumentError: The file's ending is unknown.
        CheckpointError: It cannot be read, is damaged, refused, or holds no weights.
    """
    source = Path(path)
    if source.is_dir():
        source, checkpoint = _find_checkpoint(source)
        return source, dict(checkpoint.best_model)
    if _check_suffix(source, READABLE_SUFFIXES) == ".safetensors":
        return source, _read_safetensors(source)
    return source, _unwrap(_read_torch(source), source)


def best_checkpoint(run_dir: str | Path) -> tuple[Path, Checkpoint]:
    """Load the checkpoint of a run's best epoch, or the newest where it is gone.

    Epochs recorded after the newest checkpoint do not count: their weights are lost.

    Args:
        run_dir: The run's folder.

    Returns:
        The checkpoint's folder and the checkpoint.

    Raises:
        CheckpointError: None is valid, or the best is damaged.
        RunError: The run's settings are damaged.
    """
    folder = Path(run_dir) / "checkpoints"
    path, newest, _ = newest_checkpoint(folder)
    history = list(newest.progress.get("history", []))
    best = Run(config=_config_of(Path(run_dir)), history=history).best
    wanted = folder / f"step-{best['step']:08d}" if best else path
    if wanted == path or not wanted.is_dir():
        return path, newest
    return wanted, load_checkpoint(wanted)


def _config_of(run_dir: Path) -> dict[str, Any]:
    """Return a run's settings, which say what its best epoch is; none by default."""
    path = run_dir / "config.yaml"
    return read_config(path) if path.exists() else {}


def _find_checkpoint(folder: Path) -> tuple[Path, Checkpoint]:
    if (folder / "manifest.json").is_file():
        return folder, load_checkpoint(folder)
    if (folder / "checkpoints").is_dir():
        return best_checkpoint(folder)
    raise CheckpointError(
        f"path must be a file of weights, a run's folder or a checkpoint's; got the "
        f"folder {str(folder)!r}, which has neither checkpoints/ nor manifest.json."
    )


def _check_suffix(path: Path, known: Sequence[str]) -> str:
    suffix = path.suffix.lower()
    if suffix not in known:
        raise unknown_choice(f"the ending of {str(path)!r}", path.suffix, known)
    return suffix


def _pack(tensors: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except OSError as error:
        raise _unreadable(path, error) from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is no safetensors file, or is damaged: {error}."
        ) from None


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # About kinds of file that are refused anyhow.
            warnings.simplefilter("ignore")
            return torch.load(_open_torch(path), map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(path, error) from None
    except Exception as error:
        # Damaged bytes can raise anything: KeyError, EOFError, UnicodeDecodeError …
        raise CheckpointError(_describe_refusal(path, error)) from None


def _open_torch(path: Path) -> Path | io.BytesIO:
    """Return what `torch.load` is given.

    A file of its former format, which is no ZIP archive, may ask for a text of
    gigabytes, and from a file torch would take memory for that: from memory it can't.
    """
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            return path
        file.seek(0)
        return io.BytesIO(file.read())


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read: {error.strerror or error}.")


def _describe_refusal(path: Path, error: Exception) -> str:
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if found or "TorchScript" in text:
        what = found[1].rstrip(".") if found else "a TorchScript program"
        return (
            f"{path} must hold tensors and plain values alone; it asks for {what}, and "
            "loading that could run code from the file. Save the weights alone: "
            "torch.save(model.state_dict(), path)."
        )
    if isinstance(error, pickle.UnpicklingError):
        text = text.partition("WeightsUnpickler error:")[2] or text
    reason = next(iter(text.strip().splitlines()), "it ends too early")
    reason = reason.partition(". ")[0].rstrip(".")
    return f"{path} is no file of torch.save that can be read, or is damaged: {reason}."


def _unwrap(content: Any, path: Path) -> dict[str, Any]:
    entries = _find_entries(content, _MAX_DEPTH)
    if entries is not None:
        return dict(entries)
    got = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        got += f" with the keys {shorten([str(key) for key in content]) or 'none'}"
    raise CheckpointError(
        f"{path} must hold a state_dict, bare or under one of "
        f"{', '.join(WRAPPER_KEYS)}; got {got}."
    )


def _find_entries(content: Any, depth: int) -> Mapping[str, Any] | None:
    """Return the tensors by name, from under `WRAPPER_KEYS` where they lie there."""
    if not isinstance(content, Mapping) or depth == 0:
        return None
    for key in WRAPPER_KEYS:
        found = _find_entries(content.get(key), depth - 1)
        if found is not None:
            return found
    is_named = all(isinstance(name, str) for name in content)
    has_tensor = any(isinstance(value, Tensor) for value in content.values())
    return content if is_named and has_tensor else None


def shorten(names: Sequence[str]) -> str:
    """Return the first five names and the number of those left out, as text."""
    shown = ", ".join(names[:_MAX_LISTED])
    left = len(names) - _MAX_LISTED
    return f"{shown} and {left} more" if left > 0 else shown
