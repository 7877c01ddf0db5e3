"""Files of tensors, written from the memory that the tensors lie in.

The format is that of safetensors: eight bytes with the length of a header in JSON, the
header, then the tensors one after another. Nothing is copied on the way to the file,
and what goes there is hashed as it goes; both let other threads run meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handful.errors import CheckpointError

_PIECE_BYTES = 4 * 2**20
"""How much is hashed and written at a time: small enough for a processor's cache."""

_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
}
"""What safetensors calls the types of numbers."""


def check_tensors(state: Mapping[str, Any], what: str) -> None:
    """Check that a file can hold all values of a state.

    Args:
        state: Names and values.
        what: Whose state, for the error.

    Raises:
        CheckpointError: One is no dense tensor with numbers of a known type.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            raise CheckpointError(
                f"{what} must be dense tensors to be saved; got "
                f"{type(value).__name__} for {name!r}."
            )
        if value.is_meta:
            raise CheckpointError(f"{what} must have values to be saved; got {name!r}.")
        if value.dtype not in _NAMES or value.is_quantized:
            raise CheckpointError(
                f"{what} must be of numbers that safetensors knows to be saved; got "
                f"{value.dtype} for {name!r}."
            )


def plain_tensors(state: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU, each with memory of its own.

    Args:
        state: Names and values.
        what: Whose state, for the error.

    Raises:
        CheckpointError: As `check_tensors`.
    """
    check_tensors(state, what)
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        tensor = value.detach().to("cpu").contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(storage.data_ptr())
        tensors[name] = tensor
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write tensors, and wait until the disk has them.

    Args:
        path: The file; its folder exists.
        tensors: Names and tensors that `check_tensors` has passed, on any device.

    Returns:
        The file's size in bytes and its SHA-256.

    Raises:
        OSError: It could not be written; a part of it may be left.
    """
    # Tensors of larger numbers first, as safetensors does it, so that each is aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    content = [_header(order, tensors)]
    with path.open("wb", buffering=0) as file:
        digest, size = hashlib.sha256(), 0
        for piece in content:
            size += _write(file.fileno(), memoryview(piece), digest)
        for name in order:
            size += _write(file.fileno(), _memory(tensors[name]), digest)
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def _header(order: list[str], tensors: Mapping[str, Tensor]) -> bytes:
    entries, end = {}, 0
    for name in order:
        tensor, begin = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _memory(tensor: Tensor) -> memoryview:
    """Return the memory of a tensor's numbers, copied only where it must be."""
    plain = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    memory: Any = plain.reshape(-1).view(torch.uint8).numpy()
    return memoryview(memory)


def _write(descriptor: int, memory: memoryview, digest: Any) -> int:
    """Write and hash; returns the bytes."""
    for begin in range(0, len(memory), _PIECE_BYTES):
        piece = memory[begin : begin + _PIECE_BYTES]
        digest.update(piece)
        while len(piece):
            piece = piece[os.write(descriptor, piece) :]
    return len(memory)
