"""Weights alone: into a model from many kinds of file, and out of it into two.

::

    file or folder --> entries by name --> cut off a shared prefix --> compare
                                                                          |
                       model <-- all at once, or none <-- what fits <-----+
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from handful.errors import ArgumentError, CheckpointError
from handful.train.weight_files import read_weights, save_state, shorten

_MODEL_WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Mismatch:
    """An entry that both sides have, and that does not fit.

    Attributes:
        name: Its name in the model.
        model: Shape and dtype in the model.
        file: Shape and dtype in the file.
    """

    name: str
    model: str
    file: str

    def __str__(self) -> str:
        return f"{self.name} (model {self.model}, file {self.file})"


@dataclass(frozen=True)
class LoadedWeights:
    """What `load_weights` did, by the names of the model's ``state_dict``.

    Attributes:
        source: The file, or the checkpoint's folder, that was read.
        prefix: What was cut off the front of every name in the file; often ``""``.
        loaded: Entries that now hold the file's values, names of tied ones included.
        converted: Those of ``loaded`` whose dtype differed; they kept the model's.
        missing: Entries of the model that the file lacks; they are as they were.
        unexpected: Entries of the file that the model lacks, without the prefix.
        mismatched: Entries of both whose shapes differ, or whose dtypes cannot be
            converted; the model's are as they were.
    """

    source: Path
    prefix: str
    loaded: tuple[str, ...]
    converted: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every entry of both sides was loaded."""
        return not (self.missing or self.unexpected or self.mismatched)


def load_weights(
    model: nn.Module, path: str | Path, *, strict: bool = True
) -> LoadedWeights:
    """Load weights into a model.

    Entries may lie under ``state_dict``, ``model_state_dict``, ``model``, ``module`` or
    ``params``, and their names may share a prefix that the model's lack (``module.``,
    ``_orig_mod.``, ``model.`` …); it is cut off where more entries fit without it.
    Values are converted to the model's dtypes where torch converts them without losing
    their kind (float64 to float32, but not float to int), and are copied to its
    devices. After an error the model is as it was.

    Args:
        model: The model; its weights have memory and shapes.
        path: A ``.safetensors`` file; a ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file
            of `torch.save`, without pickled objects; a run's folder, for its best
            checkpoint if that is there, else its newest; or a checkpoint's folder.
            Checkpoints give their averaged weights where they have such.
        strict: Whether all names and shapes must fit. Otherwise those that fit are
            loaded and the others left as they are.

    Returns:
        What was loaded, and what was not.

    Raises:
        ArgumentError: The file's ending is unknown, or the model has weights without
            memory or shape.
        CheckpointError: The file cannot be read or is refused; or, if ``strict``,
            something does not fit; or nothing does.
        RunError: The folder is a run's, and its settings are damaged.
    """
    own = _own_state(model)
    source, found = read_weights(path)
    prefix, state = _match_names(found, own)
    result = _compare(source, prefix, state, own)
    if not result.loaded or (strict and not result.is_complete):
        raise CheckpointError(_describe_misfit(result))
    chosen = {name: state[name] for name in result.loaded if name in state}
    _copy_all(model, chosen, source)
    return result


def save_weights(model: nn.Module, path: str | Path) -> Path:
    """Save a model's weights, and nothing else, to one file.

    Every entry is written in full, also where several share memory, so that
    ``model.load_state_dict`` takes what ``safetensors.torch.load_file(path)`` or
    ``torch.load(path, weights_only=True)`` returns. The file is written under another
    name and renamed.

    Args:
        model: The model.
        path: The file, ``.safetensors`` or ``.pt``; replaced where it exists.

    Returns:
        The file.

    Raises:
        ArgumentError: The ending is another.
        CheckpointError: An entry is no dense tensor, or the disk refuses; a file that
            was there is as it was.
    """
    return save_state(model.state_dict(), path)


def _own_state(model: nn.Module) -> dict[str, Any]:
    own = dict(model.state_dict())
    for name, value in own.items():
        if is_lazy(value):
            raise ArgumentError(
                f"model must know its shapes; {name!r} has none yet. "
                "Give the model one batch first."
            )
        if isinstance(value, Tensor) and value.is_meta:
            raise ArgumentError(
                f"model must have memory for its weights; {name!r} is on the meta "
                "device. Call model.to_empty(device='cpu') first."
            )
    return own


def _match_names(
    state: Mapping[str, Any], own: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Cut off the shared prefix without which most entries fit, the shortest of equals.

    A model inside DistributedDataParallel or torch.compile has a prefix of its own,
    which names in a file of the bare model get.
    """
    added = _wrapper_prefix(own)
    best_prefix, best_state, best_score = "", dict(state), _score(state, own)
    for prefix in _shared_prefixes(state):
        for front in dict.fromkeys(("", added)):
            renamed = {front + name[len(prefix) :]: v for name, v in state.items()}
            score = _score(renamed, own)
            if score > best_score:
                best_prefix, best_state, best_score = prefix, renamed, score
    return best_prefix, best_state


def _shared_prefixes(names: Iterable[str]) -> list[str]:
    """Return what all names begin with: ``""``, the first part, the first two …."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, columns)
    steps = (f"{parts[0]}." for parts in shared)
    return ["", *itertools.accumulate(steps)]


def _wrapper_prefix(own: Iterable[str]) -> str:
    shared = _shared_prefixes(own)[-1]
    found = re.match(f"({'|'.join(map(re.escape, _MODEL_WRAPPERS))})*", shared)
    return found[0] if found else ""


def _score(state: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[int, int]:
    shared = [name for name in state if name in own]
    return sum(_fits(own[name], state[name]) for name in shared), len(shared)


def _fits(own: Any, new: Any) -> bool:
    if not isinstance(own, Tensor) or not isinstance(new, Tensor):
        return not isinstance(own, Tensor) and not isinstance(new, Tensor)
    return own.shape == new.shape and torch.can_cast(new.dtype, own.dtype)


def _compare(
    source: Path, prefix: str, state: Mapping[str, Any], own: Mapping[str, Any]
) -> LoadedWeights:
    shared = [name for name in own if name in state]
    fitting = {name for name in shared if _fits(own[name], state[name])}
    # Some programs save one name only of weights that share memory.
    filled = {_memory(name, own[name]) for name in fitting}
    tied = {n for n in own if n not in state and _memory(n, own[n]) in filled}
    return LoadedWeights(
        source=source,
        prefix=prefix,
        loaded=tuple(name for name in own if name in fitting or name in tied),
        converted=tuple(
            n for n in shared if n in fitting and _differ(own[n], state[n])
        ),
        missing=tuple(n for n in own if n not in state and n not in tied),
        unexpected=tuple(name for name in state if name not in own),
        mismatched=tuple(
            Mismatch(n, _describe(own[n]), _describe(state[n]))
            for n in shared
            if n not in fitting
        ),
    )


def _memory(name: str, value: Any) -> object:
    """Return what is equal for two names of the same memory, seen the same way."""
    if not isinstance(value, Tensor) or value.numel() == 0:
        return name
    return value.data_ptr(), value.shape, value.stride(), value.dtype, value.device


def _differ(own: Any, new: Any) -> bool:
    return isinstance(own, Tensor) and bool(own.dtype != new.dtype)


def _describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _describe_misfit(result: LoadedWeights) -> str:
    groups = {
        "missing": result.missing,
        "unexpected": result.unexpected,
        "mismatched": [str(mismatch) for mismatch in result.mismatched],
    }
    listed = [f"{name}: {shorten(group)}" for name, group in groups.items() if group]
    remedy = "Make the model that they were saved from"
    if result.loaded:
        remedy += ", or load only what fits with strict=False"
    else:
        listed.insert(0, "nothing that fits")
    return (
        f"the weights in {result.source} must fit the model; got "
        f"{'; '.join(listed)}. {remedy}."
    )


def _copy_all(model: nn.Module, state: Mapping[str, Any], source: Path) -> None:
    """Copy entries into the model: all of them, or none."""
    before = {
        name: v.clone() if isinstance(v, Tensor) else copy.deepcopy(v)
        for name, v in model.state_dict().items()
    }
    try:
        model.load_state_dict(state, strict=False)
    except Exception as error:
        model.load_state_dict(before, strict=False)
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the weights in {source} cannot be loaded: {reason}"
        ) from error
