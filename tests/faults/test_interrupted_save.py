"""SIGKILL before each call that changes a file: the old or the new checkpoint loads."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults import counting, evidence
from faults.conftest import Twin
from faults.crash_log import Call, read_log
from faults.extent import choose
from faults.processes import Server

NAME = "averaged"


def row_of(call: Call, before: Call | None) -> int | None:
    """Return the row of the table that a kill before a call belongs to."""
    if before is not None and before.name == "rename" and "/step-" in before.other:
        return 4
    if "/step-" in call.path and call.name in ("unlink", "rmdir"):
        return 3
    return 2 if "/checkpoints/." in call.path else None


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
    old, done = evidence.newest_whole(base), Counter[int]()
    expected = None
    chosen = [n for n, c in enumerate(calls, 1) if c.name != "mark"]
    stride = -(-len(chosen) // choose(10, 10**6))
    for is_torn in (False, True)[: choose(1, 2)]:
        for number in chosen[::stride]:
            call = calls[number - 1]
            if is_torn and call.name != "write":
                continue
            shutil.copytree(base, path)
            shim_facts = {"kill_at": number, "is_torn": is_torn}
            job = shim.run(
                "train",
                tmp_path / "log",
                resume=True,
                shim=shim_facts,
                fit=GOES_ON,
                **facts,
            )
            assert job.exit == -9, f"call {number} never came"
            assert evidence.newest_whole(path) >= old, f"before call {number}, {call}"
            job = shim.run("train", tmp_path / "log", resume=True, fit=GOES_ON, **facts)
            assert job.exit == 0, job.printed()
            assert job.said[0]["start"] >= old
            state = evidence.last_state(path)
            expected = expected or state
            assert state == expected
            row = row_of(call, calls[number - 2] if number > 1 else None)
            if row is not None:
                done[row] += 1
                counting.count(row, "passed")
            shutil.rmtree(path)
    assert set(done) >= ({2, 3, 4} if stride == 1 else {2})
