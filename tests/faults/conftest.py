"""What the tests of faults share: a server that forks trainings, and their twins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faults import evidence
from faults.processes import Job, Server
from faults.shim import build_shim
from faults.twins import Train, Twin


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Start a process that forks trainings; it has the shim where one can be made."""
    started = Server(build_shim())
    yield started
    started.close()


@pytest.fixture
def shim(server: Server) -> Server:
    """Return the server, if calls on files can be disturbed in its processes."""
    if not server.has_shim:
        pytest.skip("needs Linux and a C compiler")
    return server


@pytest.fixture(scope="session")
def twin(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Twin]:
    """Return a function that trains undisturbed, once for each training."""
    folder = tmp_path_factory.mktemp("twins")
    made: dict[str, Twin] = {}

    def make(name: str) -> Twin:
        if name not in made:
            path, began = folder / name, time.monotonic()
            facts = {"run_dir": str(path), "data": str(folder)}
            job = server.run("train", folder / f"{name}.log", name=name, **facts)
            seconds = time.monotonic() - began
            assert job.exit == 0, job.printed()
            state = evidence.last_state(path)
            made[name] = Twin(path, state, seconds, job.get("done"))
        return made[name]

    return make


@pytest.fixture
def train(server: Server, tmp_path: Path) -> Train:
    """Return a function that trains in a process of its own, to its end."""

    def run(name: str, run_dir: Path, **arguments: Any) -> Job:
        facts = {"run_dir": str(run_dir), "data": str(tmp_path)}
        return server.run("train", tmp_path / "log", name=name, **facts, **arguments)

    return run


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Train:
    """Return a function that starts a training in a process of its own."""

    def run(name: str, run_dir: Path, **arguments: Any) -> Job:
        facts = {"run_dir": str(run_dir), "data": str(tmp_path)}
        return server.start("train", tmp_path / "log", name=name, **facts, **arguments)

    return run
