"""Peak memory: the most that this process held since a moment, on Linux."""

from __future__ import annotations

from pathlib import Path

_PROCESS = Path("/proc/self")


class PeakMemory:
    """What this process holds at most from now on, pauses left out."""

    def __init__(self) -> None:
        self._held: int | None = 0
        self._before = start_peak()

    def pause(self) -> None:
        """Let what is held at most from now on not count."""
        added = read_peak(self._before)
        self._held = None if self._held is None or added is None else self._held + added

    def go_on(self) -> None:
        """End a pause; what was taken in it counts neither now nor later."""
        self._before = start_peak()

    def read(self) -> int | None:
        """Return the bytes beyond those at the start; None where they are unknown."""
        self.pause()
        self.go_on()
        return self._held


def start_peak() -> int | None:
    """Set the process's memory peak back to what it holds now.

    Returns:
        Bytes held now, for `read_peak`; None where the system has no such counter.
    """
    try:
        # man proc_pid_clear_refs: 5 resets VmHWM to the present VmRSS.
        (_PROCESS / "clear_refs").write_text("5")
        return _read_status("VmRSS")
    except (OSError, KeyError, ValueError):
        return None


def read_peak(before: int | None) -> int | None:
    """Return the bytes that the process held at most beyond those before, 0 or more.

    Args:
        before: What `start_peak` returned.
    """
    if before is None:
        return None
    try:
        return max(_read_status("VmHWM") - before, 0)
    except (OSError, KeyError, ValueError):
        return None


def _read_status(name: str) -> int:
    lines = (_PROCESS / "status").read_text(encoding="ascii", errors="replace")
    fields = dict(line.split(":", 1) for line in lines.splitlines() if ":" in line)
    return int(fields[name].split()[0]) * 1024  # in KiB, called kB
