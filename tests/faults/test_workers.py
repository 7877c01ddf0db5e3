"""A loader's workers that die, hang, raise or find no room: named, within seconds."""

from __future__ import annotations

import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults import counting
from faults.extent import choose
from faults.processes import Job, Server, skip_if_unable
from faults.samples import BAD

Read = Callable[..., Job]


@pytest.fixture
def read(server: Server, tmp_path: Path) -> Read:
    """Return a function that reads a data set whose sample 6 is trouble."""

    def run(how: str, **options: Any) -> Job:
        job = server.run("read deadly", tmp_path / "log", how=how, options=options)
        assert job.exit == 0, job.printed()
        return job

    return run


@pytest.mark.fault(20)
@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("how", "cause"),
    [("kill", "SIGKILL"), ("segfault", "SIGSEGV"), ("quit", "exited with status 3")],
)
def test_worker_that_dies_is_named_with_its_pid_and_samples(
    read: Read, how: str, cause: str
) -> None:
    for workers in range(2, choose(3, 7)):
        job = read(how, num_workers=workers)
        assert job.get("error") == "WorkerError", job.get("shown")
        assert re.search(rf"pid \d+, .*{cause}", job.get("message"))
        held = re.search(r"and held samples ([\d, ]+)", job.get("message"))
        assert held is not None
        assert str(BAD) in held[1].split(", ")
        assert job.get("seconds") < 10
        counting.count(20, "passed")


@pytest.mark.fault(25)
def test_worker_that_is_killed_for_memory_is_named_as_such(read: Read) -> None:
    # The system kills by the same signal as `kill -9`, and tells nobody why.
    job = read("kill", num_workers=1)
    assert job.get("error") == "WorkerError"
    assert "SIGKILL, perhaps for want of memory" in job.get("message")


@pytest.mark.fault(21)
@pytest.mark.parametrize("kind", ["process", "thread"])
def test_worker_that_hangs_is_named_with_its_samples_and_stack(
    read: Read, kind: str
) -> None:
    job = read("hang", num_workers=2, timeout=0.5, worker_type=kind)
    assert job.get("error") == "WorkerError"
    message = job.get("message")
    assert re.search("after 0.5 seconds|timeout=0.5 seconds", message)
    assert re.search(rf"samples \[?{BAD}, {BAD + 1}", message)
    assert re.search(r'samples.py", line \d+,? in _hang', message)


@pytest.mark.fault(8)
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", ["process", "thread"])
def test_time_in_which_the_process_was_stopped_is_no_time_out(
    server: Server, tmp_path: Path, kind: str
) -> None:
    options = {"num_workers": 1, "timeout": 1.2, "worker_type": kind}
    job = server.start("read deadly", tmp_path / "log", how="nap", options=options)
    assert job.hear("batches_begin") is not None
    time.sleep(0.3)
    job.send_all(signal.SIGSTOP)
    time.sleep(choose(2, 61))
    job.send_all(signal.SIGCONT)
    job.wait()
    assert (job.get("batches"), job.get("error")) == (6, None), job.get("message")
    assert "Warning" not in job.printed()


@pytest.mark.fault(22)
@pytest.mark.parametrize("kind", ["process", "thread"])
def test_worker_that_raises_is_shown_with_its_traceback_and_sample(
    read: Read, kind: str
) -> None:
    job = read("raise", num_workers=2, worker_type=kind)
    assert job.get("error") == "OSError"
    assert f"nothing at {BAD}" in job.get("message")
    assert "in _raise" in job.get("shown")


@pytest.mark.fault(23)
def test_full_shared_memory_is_told(server: Server, tmp_path: Path) -> None:
    job = server.run("load with full shm", tmp_path / "log", size="256k")
    skip_if_unable(job)
    assert job.exit == 0, job.printed()
    assert job.get("error") is not None, "no batch needed the memory"
    assert re.search("shared memory|shm|No space left", job.get("message"))


@pytest.mark.fault(24)
def test_few_open_files_are_told(server: Server, tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard == resource.RLIM_INFINITY or hard >= 64
    job = server.run("load with few files", tmp_path / "log", most=64)
    assert job.exit == 0, job.printed()
    message = job.get("message")
    assert job.get("batches") == 32 or re.search("(?i)open files", message), message
