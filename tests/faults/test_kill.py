"""SIGKILL at any moment: nothing that was saved is lost, and every bit comes again."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from faults import counting, evidence
from faults.extent import NUM_KILLS, SEED
from faults.processes import Job, Server
from faults.trainings import TRAININGS
from faults.twins import Twin


@dataclass
class Victim:
    """A run that is killed some times and goes on, until it has finished.

    Args:
        server: Starts it.
        name: The training.
        twin: The same, undisturbed.
        folder: For its files.
        rng: Chooses when it is killed.
    """

    server: Server
    name: str
    twin: Twin
    folder: Path
    rng: random.Random
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def path(self) -> Path:
        return self.folder / "run"

    def live(self, num_kills: int) -> None:
        """Train, with so many kills at the most."""
        for left in range(num_kills, -1, -1):
            newest = evidence.newest_whole(self.path)
            if newest < 0:
                shutil.rmtree(self.path, ignore_errors=True)
            kind = self.rng.choice(("step", "time", "save")) if left else None
            job = self.start(kind, newest)
            goes_on_from = job.hear("start")
            if newest >= 0 and goes_on_from is not None:
                assert goes_on_from == newest
            if kind is None or not self.kill(job, kind):
                break
            after = evidence.newest_whole(self.path)
            assert after >= newest, f"step {newest} was saved, and {after} is left"
        job.wait()
        assert job.exit == 0, job.printed()
        assert evidence.last_state(self.path) == self.twin.state

    def start(self, kind: str | None, newest: int) -> Job:
        """Start the training, or let it go on from its newest checkpoint."""
        steps, saves = [], []
        if kind == "step":
            first = min(max(newest, 0) + 1, self.twin.num_steps)
            steps = [self.rng.randint(first, self.twin.num_steps)]
        if kind == "save":
            saves = [self.rng.randint(1, 10)]
        return self.server.start(
            "train",
            self.folder / "log",
            name=self.name,
            run_dir=str(self.path),
            data=str(self.folder),
            resume=newest >= 0,
            steps=steps,
            saves=saves,
        )

    def kill(self, job: Job, kind: str) -> bool:
        """Kill a training at a random moment; return whether it was still alive."""
        if kind == "time":
            time.sleep(self.rng.uniform(0, self.twin.seconds))
        elif job.hear(kind) is None:
            return False
        else:
            # A save begins after this; it takes some milliseconds.
            time.sleep(self.rng.uniform(0, 0.02 if kind == "save" else 0.002))
        seen = max(evidence.list_steps(self.path), default=-1)
        if job.kill().exit != -9:
            return False
        assert evidence.newest_whole(self.path) >= seen, f"step {seen} was there"
        self.kinds[kind] += 1
        if evidence.has_unfinished_save(self.path):
            self.kinds["in a save"] += 1
        return True


@pytest.mark.fault(1)
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", TRAININGS)
def test_runs_killed_at_random_end_as_if_they_had_not_been(
    server: Server, twin: Callable[[str], Twin], name: str, tmp_path: Path
) -> None:
    kinds: Counter[str] = Counter()
    seed, wanted = SEED, NUM_KILLS // len(TRAININGS)
    while sum(kinds[kind] for kind in ("step", "time", "save")) < wanted:
        rng = random.Random(f"{name} {seed}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        victim = Victim(server, name, twin(name), folder, rng)
        try:
            victim.live(rng.randint(1, 4))
        except Exception as error:
            again = f"scripts/faults --only kill --seed {seed} -k {name}"
            raise AssertionError(f"again: {again}: {error}") from error
        kinds += victim.kinds
        num = sum(victim.kinds[kind] for kind in ("step", "time", "save"))
        counting.count(1, "passed", num)
        counting.note(**{f"kills of {name}": dict(kinds)})
        shutil.rmtree(folder)
        seed += 1
