"""The preloaded library ``shim.c``: compiled once, driven from the process it is in."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


def find_compiler() -> str | None:
    """Return the C compiler of this machine, None where there is none."""
    return next(
        (found for n in ("cc", "gcc", "clang") if (found := shutil.which(n))), None
    )


def build_shim() -> Path | None:
    """Compile the library, unless that was done before; None without a compiler."""
    compiler = find_compiler()
    if compiler is None or os.uname().sysname != "Linux":
        return None
    name = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"handful-faults-{os.getuid()}-{name}.so"
    if not library.exists():
        partial = library.with_suffix(f".{os.getpid()}.tmp")
        options = ["-shared", "-fPIC", "-O1", "-o", str(partial), str(SOURCE)]
        subprocess.run([compiler, *options], check=True, timeout=60)
        partial.replace(library)
    return library


class Shim:
    """The library as it is in this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)

    def watch(self, folder: Path) -> None:
        """Count, log and disturb calls on files below a folder."""
        self._library.shim_watch(os.fsencode(folder))

    def kill_at(self, number: int, *, is_torn: bool = False) -> None:
        """Die before a call by its number, from 1 on; of a write, after half of it."""
        self._library.shim_kill_at(ctypes.c_long(number), int(is_torn))

    def count(self) -> int:
        """Return how many calls have changed something."""
        self._library.shim_count.restype = ctypes.c_long
        return int(self._library.shim_count())

    def log(self, path: Path) -> None:
        """Write what happens to a file."""
        self._library.shim_log(os.fsencode(path))

    def mark(self, text: str) -> None:
        """Write a text into the log."""
        self._library.shim_mark(text.encode())

    def fail(
        self, call: str, part: str, error: int, *, first: int = 1, last: int = 2**31
    ) -> None:
        """Let calls fail, such as ``write`` on paths with ``part`` in them.

        Args:
            call: ``openr`` (for reading), ``open``, ``read``, ``write``, ``fsync``,
                ``rename``, ``mkdir``, ``unlink``, ``rmdir`` or ``truncate``.
            part: What is in the path; with ``$``, what is at its end.
            error: The ``errno``.
            first: The first of such calls that fails, from 1 on.
            last: The last one.
        """
        limits = ctypes.c_long(first), ctypes.c_long(last)
        self._library.shim_fail(call.encode(), part.encode(), error, *limits)

    def forget_failures(self) -> None:
        """Let all calls do what they should."""
        self._library.shim_forget_failures()

    def set_clock(self, offset_seconds: float) -> None:
        """Let the clock be wrong."""
        self._library.shim_clock(ctypes.c_double(offset_seconds))
