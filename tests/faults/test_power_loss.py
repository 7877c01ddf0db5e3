"""Power loss: writes that were not flushed are dropped, and what was saved still loads.

SIGKILL can't show this: the system keeps what a dead process wrote. So all calls of a
run are recorded, and after each one the states are rebuilt that a crash could leave.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from faults import counting, evidence
from faults.crash_log import Disk, marks, read_log
from faults.extent import SEED, choose
from faults.processes import Server

PARTS = [2, 3, 5]
"""Epochs after which `fit` returns; with each save an older one is deleted."""


@pytest.mark.fault(13)
@pytest.mark.timeout(0)
def test_what_was_saved_outlives_a_loss_of_power(shim: Server, tmp_path: Path) -> None:
    disk_path, log = tmp_path / "disk", tmp_path / "calls"
    disk_path.mkdir()
    facts = {"name": "averaged", "data": str(tmp_path), "epochs": PARTS}
    path = disk_path / "new" / "run"
    job = shim.run(
        "train in parts", tmp_path / "log", run_dir=str(path), calls=str(log), **facts
    )
    assert job.exit == 0, job.printed()
    calls = read_log(log)
    assert len(marks(calls)) == len(PARTS)

    rng, disk, saved, number = random.Random(SEED), Disk(disk_path), -1, 0
    states: dict[str, int] = {}
    # The short form looks at some of the moments, the long one at all, and longer.
    chance = choose(15, 10**6) / len(calls)
    for call in calls:
        disk.do(call)
        if call.name == "mark":
            saved = int(call.path)
        elif saved < 0 or rng.random() > chance:
            continue
        for state in disk.states(rng, choose(1, 20)):
            crash = tmp_path / f"crash {number}"
            state.write(crash)
            assert evidence.newest_whole(crash / "new" / "run") >= saved, call
            states[str(crash / "new" / "run")] = saved
            number += 1
        if len(states) >= 50:
            go_on(shim, tmp_path, states)
    go_on(shim, tmp_path, states)
    counting.count(13, "passed", number)


def go_on(server: Server, tmp_path: Path, states: dict[str, int]) -> None:
    """Let runs go on from states of the disk; forget them."""
    facts = {"name": "averaged", "data": str(tmp_path), "epochs": PARTS[-1] + 1}
    job = server.run("go on", tmp_path / "log", 300, paths=list(states), **facts)
    assert job.exit == 0, f"{job.get('path')}: {job.printed()}"
    starts = [line["start"] for line in job.said if "start" in line]
    assert all(s >= saved for s, saved in zip(starts, states.values(), strict=True))
    assert len({line["weights"] for line in job.said if "weights" in line}) <= 1
    for path in states:
        shutil.rmtree(Path(path).parents[1])
    states.clear()
