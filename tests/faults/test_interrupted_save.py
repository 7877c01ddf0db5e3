"""SIGKILL before each call that changes a file: the old or the new checkpoint loads."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults import counting, evidence
from faults.crash_log import Call, read_log
from faults.extent import choose
from faults.processes import Server
from faults.twins import Twin

NAME = "averaged"


def row_of(calls: list[Call]) -> int | None:
    """Return the row of the table that a kill belongs to, from what was logged last."""
    killed, name = calls[-1], calls[-1].other
    assert killed.name == "killed"
    before = calls[-2] if len(calls) > 1 else None
    if before is not None and before.name == "rename" and "/step-" in before.other:
        return 4
    if "/step-" in killed.path and name in ("unlink", "rmdir"):
        return 3
    return 2 if "/checkpoints/." in killed.path else None


@pytest.fixture
def calls(shim: Server, tmp_path: Path, twin: Callable[[str], Twin]) -> list[Call]:
    """Return the calls of a run that goes on and deletes old checkpoints."""
    base = tmp_path / "base"
    make_base(shim, tmp_path, base)
    path, log = tmp_path / "logged", tmp_path / "calls"
    shutil.copytree(base, path)
    facts: dict[str, Any] = {"run_dir": str(path), "data": str(tmp_path)}
    job = shim.run(
        "train",
        tmp_path / "log",
        name=NAME,
        resume=True,
        shim={"log": str(log)},
        fit=GOES_ON,
        **facts,
    )
    assert job.exit == 0, job.printed()
    found = read_log(log)
    shutil.rmtree(path)
    return found


GOES_ON = {"epochs": 7, "checkpoint_every": None}
"""The run keeps two checkpoints, so that an older one is deleted with each save."""


def make_base(server: Server, tmp_path: Path, base: Path) -> None:
    """Make a run of four epochs with three checkpoints."""
    facts: dict[str, Any] = {"run_dir": str(base), "data": str(tmp_path)}
    for epochs in (2, 3, 4):
        job = server.run(
            "train",
            tmp_path / "log",
            name=NAME,
            resume=epochs > 2,
            fit={"epochs": epochs, "checkpoint_every": None},
            **facts,
        )
        assert job.exit == 0, job.printed()


@pytest.mark.fault(2, 3, 4)
@pytest.mark.timeout(0)
def test_killed_before_any_call_the_old_or_the_new_checkpoint_goes_on(
    shim: Server, calls: list[Call], tmp_path: Path
) -> None:
    base, path = tmp_path / "base", tmp_path / "run"
    facts: dict[str, Any] = {"run_dir": str(path), "data": str(tmp_path), "name": NAME}
    log = tmp_path / "killed"
    old, done = evidence.newest_whole(base), Counter[int]()
    expected = None
    chosen = [n for n, c in enumerate(calls, 1) if c.name != "mark"]
    stride = -(-len(chosen) // choose(10, 10**6))
    for is_torn in (False, True)[: choose(1, 2)]:
        for number in chosen[::stride]:
            if is_torn and calls[number - 1].name != "write":
                continue
            shutil.copytree(base, path)
            log.unlink(missing_ok=True)
            shim_facts = {"kill_at": number, "is_torn": is_torn, "log": str(log)}
            job = shim.run(
                "train",
                tmp_path / "log",
                resume=True,
                shim=shim_facts,
                fit=GOES_ON,
                **facts,
            )
            # A save that falls behind delays the next, so that calls may be fewer.
            assert job.exit in (-9, 0), job.printed()
            assert evidence.newest_whole(path) >= old, f"before call {number}"
            row = row_of(read_log(log)) if job.exit else None
            job = shim.run("train", tmp_path / "log", resume=True, fit=GOES_ON, **facts)
            assert job.exit == 0, job.printed()
            assert job.said[0].get("start", old) >= old
            state = evidence.last_state(path)
            expected = expected or state
            assert state == expected
            if row is not None:
                done[row] += 1
                counting.count(row, "passed")
            shutil.rmtree(path)
    assert set(done) >= ({2, 3, 4} if stride == 1 else {2})
