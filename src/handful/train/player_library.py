"""The native player's library: compiled once for a machine and a torch, and kept.

``player.cpp`` needs nothing of Python and nothing but torch's own headers, so any C++
compiler does, in some ten seconds. Training never waits for it: a library that is there
is used, one that is not is built beside a training that is long enough to gain by it,
or ahead by ``python -m handful.train.player_library``. ``HANDFUL_PLAYER=off`` leaves it
alone altogether.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pooch
import torch

SOURCE = Path(__file__).with_name("player.cpp")
HEADER = Path(__file__).with_name("bernoulli.h")
BUILD_SECONDS = 30
"""A bound on how long a build takes on a processor that does other work as well."""

_COMPILERS = ("c++", "g++", "clang++")


def is_off() -> bool:
    """Say whether the user or the machine forbids the native player."""
    return os.environ.get("HANDFUL_PLAYER") == "off" or sys.platform != "linux"


def library_path() -> Path:
    """Return where the library of this source, this torch and this machine lies."""
    parts = [
        SOURCE.read_bytes(),
        HEADER.read_bytes(),
        torch.__version__.encode(),
        str(torch.version.git_version).encode(),
        platform.machine().encode(),
    ]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return Path(pooch.os_cache("handful")) / "player" / f"{digest}.so"


def find_compiler() -> str | None:
    """Return a C++ compiler: that of ``CXX``, or one on the path; None without one."""
    asked = os.environ.get("CXX")
    names = _COMPILERS if asked is None else (asked,)
    return next((found for name in names if (found := shutil.which(name))), None)


def compile_command(compiler: str, target: Path) -> list[str]:
    """Return the command that compiles the library.

    Args:
        compiler: The compiler's path.
        target: The file to write.
    """
    torch_folder = Path(torch.__file__).parent
    include = torch_folder / "include"
    abi = int(torch.compiled_with_cxx11_abi())
    return [
        *(compiler, "-std=c++17", "-O3", "-w", "-fPIC", "-shared"),
        f"-D_GLIBCXX_USE_CXX11_ABI={abi}",
        *(f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"),
        *(str(SOURCE), "-o", str(target)),
        *(f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"),
    ]


def build_library() -> Path:
    """Compile the library, unless it is there; it appears whole or not at all.

    Returns:
        Its path.

    Raises:
        OSError: There is no compiler, or it failed, or the cache can't be written.
    """
    target = library_path()
    if target.exists():
        return target
    compiler = find_compiler()
    if compiler is None:
        raise OSError("no C++ compiler is on the path (c++, g++ or clang++)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder, target.name)
        done = _run(compile_command(compiler, made))
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise OSError(f"{compiler} failed: {last[0]}")
        made.replace(target)
    return target


class Build:
    """A build in another process, which goes on by itself where this one ends."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "handful.train.player_library"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return self._process.poll() is not None


def load_library() -> ctypes.CDLL | None:
    """Return the library, loaded into this process; None where it isn't there."""
    return None if is_off() else _load()


def look_again() -> None:
    """Notice a library that was built since it was first looked for."""
    if _load() is None:
        _load.cache_clear()


@functools.cache
def _load() -> ctypes.CDLL | None:
    path = library_path()
    if not path.exists():
        return None
    try:
        ops: Any = torch.ops
        ops.load_library(str(path))
        library = ctypes.CDLL(str(path))
        play, error = library.handful_play, library.handful_error
        kind = library.handful_error_kind
    except (OSError, RuntimeError, AttributeError):
        return None
    ops.handful_player.draw_masks(_draws_as_torch(ops.handful_player.fill_mask))
    pointer = ctypes.c_void_p
    play.argtypes = [pointer, ctypes.c_int64, pointer, pointer, pointer]
    play.restype, error.restype = ctypes.c_int64, ctypes.c_char_p
    kind.restype = ctypes.c_int64
    return library


def _draws_as_torch(fill_mask: Any) -> bool:
    """Say whether masks are PyTorch's, and leave its generator as PyTorch does."""
    before = torch.get_rng_state()
    try:
        for dtype in (torch.float32, torch.float64):
            for size, p in _MASKS:
                ours, theirs = torch.empty(2, size, dtype=dtype)
                torch.default_generator.manual_seed(size)
                is_known = fill_mask(ours, p)
                after = torch.get_rng_state()
                torch.default_generator.manual_seed(size)
                theirs.bernoulli_(p)
                is_same = torch.equal(after, torch.get_rng_state())
                if not (is_known and is_same and torch.equal(ours, theirs)):
                    return False
        return True
    finally:
        torch.set_rng_state(before)


_MASKS = ((1, 0.5), (311, 0.9), (312, 0.1), (5000, 1 / 3), (7, 0.0), (7, 1.0))
"""Sizes and probabilities that are compared, around the 624 words of a state."""


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main() -> None:
    """Build the library, as politely as the system knows."""
    if hasattr(os, "nice"):
        os.nice(10)
    try:
        sys.stdout.write(f"{build_library()}\n")
    except OSError as error:
        sys.exit(f"the native player can't be built: {error}")


if __name__ == "__main__":
    main()
