"""A loader's workers that die, hang, raise or find no room: named, within seconds."""

from __future__ import annotations

import re
import resource
import time
from pathlib import Path

import pytest

from faults import counting
from faults.extent import choose
from faults.processes import Server
from faults.samples import BAD, Deadly
from faults.test_disk import skip_if_unable
from handful import DataLoader
from handful.errors import WorkerError


@pytest.mark.fault(20)
@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("how", "cause"),
    [("kill", "SIGKILL"), ("segfault", "SIGSEGV"), ("quit", "exited with status 3")],
)
def test_worker_that_dies_is_named_with_its_pid_and_samples(
    how: str, cause: str
) -> None:
    for workers in range(1, choose(2, 5)):
        began = time.monotonic()
        loader = DataLoader(Deadly(how), 2, num_workers=workers)
        with pytest.raises(WorkerError, match=rf"pid \d+, .*{cause}") as caught:
            list(loader)
        assert time.monotonic() - began < 10
        held = re.search(r"and held samples ([\d, ]+)", str(caught.value))
        assert held is not None
        assert str(BAD) in held[1].split(", ")
        counting.count(20, "passed")


@pytest.mark.fault(25)
def test_worker_that_is_killed_for_memory_is_named_as_such() -> None:
    # The system kills by the same signal as `kill -9`, and tells nobody why.
    with pytest.raises(WorkerError, match="SIGKILL, perhaps for want of memory"):
        list(DataLoader(Deadly("kill"), 2, num_workers=1))


@pytest.mark.fault(21)
@pytest.mark.parametrize("kind", ["process", "thread"])
def test_worker_that_hangs_ends_the_pass_at_the_time_out(kind: str) -> None:
    dataset = Deadly("hang")
    options = {"num_workers": 1, "timeout": 0.5, "worker_type": kind}
    loader = DataLoader(dataset, 2, **options)
    with pytest.raises(RuntimeError, match=r"timed out after 0.5|timeout=0.5 seconds"):
        list(loader)
    dataset.gate.set()


@pytest.mark.fault(22)
@pytest.mark.parametrize("kind", ["process", "thread"])
def test_worker_that_raises_is_shown_with_its_traceback_and_sample(kind: str) -> None:
    loader = DataLoader(Deadly("raise"), 2, num_workers=2, worker_type=kind)
    with pytest.raises(OSError, match=f"nothing at {BAD}") as caught:
        list(loader)
    shown = str(caught.value) + "".join(map(str, caught.traceback))
    assert "in _raise" in shown or "_raise" in [t.name for t in caught.traceback]


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
