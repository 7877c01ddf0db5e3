"""The tests' side of ``server``: start a job, hear of it, disturb it, await its end."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).resolve().parent.parent


class Server:
    """A process that forks a child for each job; see ``server``.

    Args:
        shim: The library to preload, None for none.
    """

    def __init__(self, shim: Path | None) -> None:
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        env = {**os.environ, **one, "PYTHONPATH": str(SUPPORT)}
        if shim is not None:
            env["LD_PRELOAD"] = str(shim)
        self.has_shim = shim is not None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.server"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert "ready" in self.hear(120)

    def start(self, job: str, log: Path, **arguments: Any) -> Job:
        """Start a job in a process of its own.

        Args:
            job: A name of ``jobs.JOBS``.
            log: A file for what the process prints.
            arguments: The job's, as JSON can hold them.
        """
        self.send({"job": job, "arguments": arguments, "log": str(log)})
        return Job(self, int(self.hear(60)["pid"]), log)

    def run(self, job: str, log: Path, timeout: float = 60, **arguments: Any) -> Job:
        """Do a job to its end."""
        return self.start(job, log, **arguments).wait(timeout)

    def send(self, order: dict[str, Any]) -> None:
        """Write a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def hear(self, timeout: float) -> dict[str, Any]:
        """Return the next line; ``{}`` if none came in time."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            return {}
        if line is None:
            raise RuntimeError(f"the server ended with {self._process.wait()}")
        return line

    def close(self) -> None:
        """End the server, and with it a child that still runs."""
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait(30)
        self._process.stdin.close()
        self._reader.join(30)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(json.loads(line))
        self._lines.put(None)


class Job:
    """A child of the server, as far as it is known.

    Attributes:
        pid: Its process.
        said: What it said, each a mapping.
        exit: Its exit status, negative for a signal; None while it runs.
    """

    def __init__(self, server: Server, pid: int, log: Path) -> None:
        self._server = server
        self.pid = pid
        self.log = log
        self.said: list[dict[str, Any]] = []
        self.exit: int | None = None

    def listen(self, timeout: float) -> dict[str, Any]:
        """Return what the child says next; ``{}`` in time or if it has ended."""
        if self.exit is not None:
            return {}
        line = self._server.hear(timeout)
        if "exit" in line:
            # Workers that have survived it; the group's number is still its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._server.send({"reap": True})
            rest = self._server.hear(60)
            self.exit = int(rest["exit"])
            return {}
        if line:
            self.said.append(line)
        return line

    def hear(self, name: str, timeout: float = 60) -> Any:
        """Wait until the child says something; None if it ends before."""
        while self.exit is None:
            line = self.listen(timeout)
            if name in line:
                return line[name]
            if not line and self.exit is None:
                self.kill()
                raise TimeoutError(f"nothing heard of {name}: {self.printed()}")
        return None

    def wait(self, timeout: float = 60) -> Job:
        """Wait for the end, in the worst case by force."""
        while self.exit is None:
            if not self.listen(timeout) and self.exit is None:
                self.kill()
                raise TimeoutError(f"the job goes on and on: {self.printed()}")
        return self

    def send(self, signum: signal.Signals) -> None:
        """Send a signal; the pid is the child's until it is reaped."""
        if self.exit is None:
            os.kill(self.pid, signum)

    def send_all(self, signum: signal.Signals) -> None:
        """Send a signal to it and its workers."""
        if self.exit is None:
            os.killpg(self.pid, signum)

    def kill(self) -> Job:
        """Kill it, and wait until it is gone."""
        self.send(signal.SIGKILL)
        while self.exit is None:
            self.listen(60)
        return self

    def get(self, name: str) -> Any:
        """Return the last of what was said under a name, None if nothing was."""
        return next((line[name] for line in reversed(self.said) if name in line), None)

    def printed(self) -> str:
        """Return what the child printed."""
        return self.log.read_text() if self.log.exists() else ""


def skip_if_unable(job: Job) -> None:
    """Skip where the system does not let the process have mounts of its own."""
    if job.get("unable"):
        pytest.skip(f"needs root or user namespaces: {job.get('unable')}")
