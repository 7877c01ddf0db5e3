"""One run in one folder, a lock that dies with its run, clocks, other workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from faults import counting, evidence
from faults.extent import seeds
from faults.processes import Server
from faults.twins import Train, Twin
from handful import Run


@pytest.fixture
def another() -> Iterator[Server]:
    """Start a second server, so that two trainings can run at a time."""
    started = Server(None)
    yield started
    started.close()


def read_when_saved(path: Path) -> dict[Path, bytes]:
    """Read a run's files once the save beside its training has ended."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        steps = [p.name for p in (path / "checkpoints").iterdir()]
        time.sleep(1)
        now = [p.name for p in (path / "checkpoints").iterdir()]
        if sorted(steps) == sorted(now) and not any(n.endswith(".tmp") for n in now):
            break
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.fault(18, 19)
def test_second_run_is_refused_while_the_first_lives_and_not_after_its_death(
    start: Train, another: Server, twin: Callable[[str], Twin], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    facts = {"name": "workers", "run_dir": str(path), "data": str(tmp_path)}
    job = start("workers", path, steps=[20], sleep_at=20)
    assert job.hear("asleep") == 20
    before = read_when_saved(path)
    second = another.run("train", tmp_path / "second", resume=True, **facts)
    assert second.get("error") == "RunError"
    assert f"{path} is in use by another training" in second.get("message")
    after = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    assert after == before
    counting.count(18, "passed")

    # Its workers, which hold its files open, are still there.
    os.kill(job.pid, signal.SIGKILL)
    second = another.run("train", tmp_path / "second", resume=True, **facts)
    job.wait()
    assert second.exit == 0, second.printed()
    assert evidence.last_state(path) == twin("workers").state
    counting.count(19, "passed")


@pytest.mark.fault(28)
@pytest.mark.timeout(0)
def test_another_number_of_workers_goes_on_with_the_same_samples(
    start: Train, train: Train, tmp_path: Path
) -> None:
    for seed in seeds(2, 20):
        numbers = [(seed + shift) % 4 for shift in range(3)]
        whole = tmp_path / f"whole {seed}"
        assert train("images", whole, make={"workers": numbers[0]}).exit == 0
        path = tmp_path / f"parts {seed}"
        for number, step in zip(numbers, (7 + seed, 23 + seed), strict=False):
            resume = path.exists()
            options = {"steps": [step], "waits": True, "resume": resume}
            job = start("images", path, make={"workers": number}, **options)
            assert job.hear("step") == step
            job.send(signal.SIGTERM)
            assert job.wait().exit == 143, job.printed()
        last = train("images", path, make={"workers": numbers[2]}, resume=True)
        assert last.exit == 0, last.printed()
        assert (
            evidence.last_state(path)["tensors"]
            == (evidence.last_state(whole)["tensors"])
        )
        assert evidence.last_state(path)["steps"] == evidence.last_state(whole)["steps"]
        counting.count(28, "passed")


@pytest.mark.fault(31)
@pytest.mark.timeout(0)
def test_clock_that_jumps_changes_no_bit_and_no_duration(
    shim: Server, train: Train, twin: Callable[[str], Twin], tmp_path: Path
) -> None:
    day = 86400.0
    for seed in seeds(2, 20):
        path = tmp_path / str(seed)
        step = 3 + 5 * seed % 40
        jumps = {str(step): day, str(step + 17): -3 * day, str(step + 33): 400 * day}
        job = train("averaged", path, jumps=jumps)
        assert job.exit == 0, job.printed()
        assert evidence.last_state(path) == twin("averaged").state
        seconds = np.array([record["seconds"] for record in Run.load(path).history])
        assert (seconds > 0).all()
        assert seconds.sum() < 60
        counting.count(31, "passed")


@pytest.mark.fault(31)
def test_run_of_the_future_goes_on_today(
    shim: Server,
    start: Train,
    train: Train,
    twin: Callable[[str], Twin],
    tmp_path: Path,
) -> None:
    path = tmp_path / "run"
    job = start("mlp", path, steps=[50], waits=True, jumps={"3": 1e8})
    job.hear("step")
    job.send(signal.SIGTERM)
    assert job.wait().exit == 143
    assert train("mlp", path, resume=True).exit == 0
    assert evidence.last_state(path) == twin("mlp").state


@pytest.mark.fault(32)
@pytest.mark.parametrize("changed", ["value", "label", "length"])
def test_data_that_changed_are_refused_and_nothing_is_touched(
    start: Train,
    train: Train,
    twin: Callable[[str], Twin],
    tmp_path: Path,
    changed: str,
) -> None:
    path = tmp_path / "run"
    job = start("mlp", path, steps=[50], waits=True)
    assert job.hear("step") == 50
    job.send(signal.SIGTERM)
    assert job.wait().exit == 143
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    job = train("mlp", path, resume=True, make={"changed": changed})
    assert job.exit == 1
    assert "Error" in job.get("error")
    assert "data" in job.get("message")
    after = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    assert after == before
    assert train("mlp", path, resume=True).exit == 0
    assert evidence.last_state(path) == twin("mlp").state
