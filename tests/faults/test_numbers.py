"""Numbers that are none, memory that is short: told, or dealt with by policy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from faults import counting, evidence
from faults.extent import choose
from faults.twins import Train
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
        if job.get("error") == "TrainingError":  # the first batch, before any update
            assert evidence.newest_whole(path) == -1
            counting.count(30, "passed")
            continue
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


@pytest.mark.fault(26)
@pytest.mark.timeout(0)
def test_step_that_finds_no_memory_is_done_in_parts_by_policy(
    train: Train, tmp_path: Path
) -> None:
    whole, path = tmp_path / "whole", tmp_path / "run"
    job = train("hungry", whole, trainer={"micro_batch_size": 8})
    assert job.exit == 0, job.printed()
    for epochs in (2, 4):  # a run that goes on keeps the size
        options = {"trainer": {"on_out_of_memory": "split"}, "memory": 400 * 2**20}
        fit = {"epochs": epochs}
        job = train("hungry", path, resume=epochs > 2, fit=fit, **options)
        assert job.exit == 0, job.printed()
    one, other = evidence.last_state(path), evidence.last_state(whole)
    assert (one["tensors"], one["steps"]) == (other["tensors"], other["steps"])
    assert any(event["kind"] == "out of memory" for event in evidence.read_events(path))


@pytest.mark.fault(26)
def test_step_that_finds_no_memory_says_so(train: Train, tmp_path: Path) -> None:
    job = train("hungry", tmp_path / "run", memory=400 * 2**20)
    assert job.exit == 1
    assert job.get("error") == "TrainingError"
    assert "micro_batch_size=8" in job.get("message")
