"""SIGTERM, Ctrl-C, a terminal that goes away, SIGSTOP: asked from outside."""

from __future__ import annotations

import os
import pty
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults import counting, evidence
from faults.extent import choose, seeds
from faults.trainings import TRAININGS
from faults.twins import Train, Twin


def names(seed: int) -> str:
    """Return one training after another."""
    return list(TRAININGS)[seed % len(TRAININGS)]


@pytest.mark.fault(5, 6)
@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("row", "signum", "code"), [(5, signal.SIGTERM, 143), (6, signal.SIGINT, 0)]
)
def test_run_that_is_asked_to_stop_saves_that_step_and_goes_on_to_the_same_bits(
    start: Train,
    train: Train,
    twin: Callable[[str], Twin],
    tmp_path: Path,
    row: int,
    signum: signal.Signals,
    code: int,
) -> None:
    for seed in seeds(5, 50):
        name, path = names(seed), tmp_path / str(seed)
        undisturbed = twin(name)
        step = random.Random(seed).randint(1, undisturbed.num_steps - 1)
        job = start(name, path, steps=[step], waits=True)
        assert job.hear("step") == step
        job.send(signum)
        job.wait()
        assert job.exit == code, job.printed()
        saved = evidence.newest_whole(path)
        assert saved >= step
        assert evidence.has_unfinished_save(path) is False
        again = train(name, path, resume=True)
        assert again.exit == 0, again.printed()
        assert again.get("start") == saved
        assert evidence.last_state(path) == undisturbed.state
        counting.count(row, "passed")


@pytest.mark.fault(6)
def test_second_interrupt_ends_a_step_that_takes_long(
    start: Train, train: Train, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    job = start("averaged", path, sleep_at=30)
    assert job.hear("asleep") == 30
    job.send(signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    job.send(signal.SIGINT)
    job.wait()
    assert time.monotonic() - began < 2
    assert job.exit == 130, job.printed()
    assert 24 <= evidence.newest_whole(path) <= 30
    assert train("averaged", path, resume=True).exit == 0


@pytest.mark.fault(7)
@pytest.mark.timeout(0)
def test_terminal_that_goes_away_loses_nothing(
    start: Train, train: Train, twin: Callable[[str], Twin], tmp_path: Path
) -> None:
    for seed in seeds(2, 20):
        name, path = names(seed), tmp_path / str(seed)
        undisturbed = twin(name)
        step = random.Random(seed).randint(10, undisturbed.num_steps - 1)
        keyboard, screen = pty.openpty()
        terminal = {"terminal": os.ttyname(screen), "trainer": {"progress": "bar"}}
        job = start(name, path, steps=[step], waits=True, **terminal)
        assert job.hear("step") == step
        os.close(screen)
        os.close(keyboard)
        job.wait()
        assert job.exit == 129, job.get("shown")
        assert evidence.newest_whole(path) >= step
        assert train(name, path, resume=True).exit == 0
        assert evidence.last_state(path) == undisturbed.state
        counting.count(7, "passed")


@pytest.mark.fault(8)
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", ["mlp", "workers"])
def test_stopped_process_goes_on_as_if_nothing_had_been(
    start: Train, twin: Callable[[str], Twin], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "run"
    job = start(name, path, steps=[20])
    assert job.hear("step") == 20
    job.send_all(signal.SIGSTOP)
    time.sleep(choose(1, 61))
    job.send_all(signal.SIGCONT)
    job.wait(120)
    assert job.exit == 0, job.printed()
    assert evidence.last_state(path) == twin(name).state
