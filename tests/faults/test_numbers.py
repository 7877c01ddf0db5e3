"""Numbers that are none: the run stops, or leaves the step out, and says where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from faults import counting, evidence
from faults.conftest import Train
from faults.extent import choose
from handful import Run


@pytest.mark.fault(30)
@pytest.mark.timeout(0)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_step_that_is_not_finite_stops_the_run_with_the_state_before_it(
    train: Train, tmp_path: Path, value: str
) -> None:
    for sample in range(7, 7 + choose(1, 20)):
        path = tmp_path / f"{value} {sample}"
        job = train("mlp", path, make={"changed": f"{value} {sample}"})
        assert job.exit == 1
        assert job.get("error") == "NonfiniteError"
        assert re.search(rf"\b{sample}\b", job.get("message"))
        bad = len(Run.load(path).steps)
        assert f"step {bad}" in job.get("message")
        assert evidence.newest_whole(path) == (bad - 1 or -1)
        counting.count(30, "passed")


@pytest.mark.fault(30)
@pytest.mark.timeout(0)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_step_that_is_not_finite_is_left_out_by_policy(
    train: Train, tmp_path: Path, value: str
) -> None:
    for sample in range(7, 7 + choose(1, 20)):
        path = tmp_path / f"{value} {sample}"
        options = {"on_nonfinite": "skip"}
        changed = {"changed": f"{value} {sample}"}
        job = train("mlp", path, make=changed, trainer=options)
        assert job.exit == 0, job.printed()
        run = Run.load(path)
        assert run.history[-1]["skipped_steps"] == len(run.history)
        assert any(re.search(rf"\b{sample}\b", e["message"]) for e in run.events)
        counting.count(30, "passed")
