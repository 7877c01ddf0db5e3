"""Disks that are full, broken, unreadable or read-only: told, and nothing is lost."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults import counting, evidence
from faults.extent import choose, seeds
from faults.processes import Server, skip_if_unable
from faults.twins import Train, Twin

NAME = "averaged"


@pytest.mark.fault(9)
@pytest.mark.timeout(0)
def test_full_disk_is_told_and_earlier_checkpoints_stay(
    server: Server, tmp_path: Path
) -> None:
    policies = [("stop", "400k"), ("continue", "400k"), ("stop", "1m")]
    for policy, size in [*policies, ("continue", "1500k")][: choose(2, 4)]:
        folder = tmp_path / f"{policy} {size}"
        folder.mkdir()
        path = folder / "disk" / "run"
        facts = {"run_dir": str(path), "data": str(folder), "size": size}
        job = server.run("fill disk", folder / "log", policy=policy, **facts)
        skip_if_unable(job)
        assert job.exit == 0, job.printed()
        told = job.get("message") if policy == "stop" else "\n".join(job.get("told"))
        assert "No space left on device" in told
        assert job.get("status") == (None if policy == "stop" else "finished")
        assert len(job.get("steps")) >= 2
        assert all(job.get("whole"))
        assert job.get("again") == "finished"
        counting.count(9, "passed")


@pytest.mark.fault(10)
@pytest.mark.timeout(0)
def test_write_that_fails_leaves_the_earlier_checkpoint(
    shim: Server, train: Train, tmp_path: Path, twin: Callable[[str], Twin]
) -> None:
    for file in ("model", "optimizer", "averages", "manifest")[: choose(2, 4)]:
        for step in (16, 24, 32, 40, 48, 56)[: choose(1, 6)]:
            path = tmp_path / f"{len(file)} {step}"
            part = f".step-{step:08d}.new.tmp/{file}."
            fail_in_save(train, path, {"call": "write", "part": part})
            go_on(train, path, twin(NAME))
            counting.count(10, "passed")


@pytest.mark.fault(12)
@pytest.mark.timeout(0)
def test_flush_that_fails_is_no_save(
    shim: Server, train: Train, tmp_path: Path, twin: Callable[[str], Twin]
) -> None:
    for step in (16, 24, 32, 40, 48, 56)[: choose(1, 6)]:
        partial = f".step-{step:08d}.new.tmp"
        files = ("$", "/manifest.json", "/model.safetensors", "/optimizer.safetensors")
        for number, file in enumerate(files[: choose(2, 4)]):
            path = tmp_path / f"{step} {number}"
            fail_in_save(train, path, {"call": "fsync", "part": partial + file})
            go_on(train, path, twin(NAME))
            counting.count(12, "passed")
        path = tmp_path / f"{step} folder"
        failure = {"call": "fsync", "part": "/checkpoints$", "first": step // 8}
        fail_in_save(train, path, failure)
        go_on(train, path, twin(NAME))
        counting.count(12, "passed")


def fail_in_save(train: Train, path: Path, failure: dict[str, Any]) -> None:
    """Train until a save fails; check that it is told, and what is left."""
    job = train(NAME, path, shim={"fail": [{"error": errno.EIO, **failure}]})
    assert job.exit == 1, f"no save failed: {failure}"
    assert job.get("error") == "CheckpointError"
    assert "Input/output error" in job.get("message")
    assert evidence.newest_whole(path) > 0
    assert any(event["kind"] == "failed" for event in evidence.read_events(path))


def go_on(train: Train, path: Path, twin: Twin) -> None:
    """Let a run go on, on a disk that works again, to the twin's end."""
    job = train(NAME, path, resume=True)
    assert job.exit == 0, job.printed()
    assert evidence.last_state(path) == twin.state
    shutil.rmtree(path)


@pytest.mark.fault(11)
@pytest.mark.timeout(0)
@pytest.mark.parametrize("call", ["openr", "read"])
def test_checkpoint_that_cannot_be_read_gives_way_to_the_one_before(
    shim: Server,
    train: Train,
    tmp_path: Path,
    twin: Callable[[str], Twin],
    call: str,
) -> None:
    for file in ("model", "optimizer", "averages", "manifest")[: choose(2, 4)]:
        path = tmp_path / f"{call} {file}"
        shutil.copytree(twin(NAME).path, path)
        before, newest = evidence.list_steps(path)[-2:]
        part = f"step-{newest:08d}/{file}."
        failure = {"call": call, "part": part, "error": errno.EIO}
        job = train(NAME, path, resume=True, shim={"fail": [failure]})
        assert job.exit == 0, job.printed()
        assert job.get("start") == before
        assert part in told(path)
        assert "Input/output error" in told(path) or "cannot be read" in told(path)
        assert evidence.last_state(path) == twin(NAME).state
        counting.count(11, "passed")


def told(path: Path) -> str:
    """Return all that a run's events say."""
    return "\n".join(event["message"] for event in evidence.read_events(path))


@pytest.mark.fault(11)
def test_checkpoint_of_another_user_gives_way_to_the_one_before(
    server: Server, tmp_path: Path, twin: Callable[[str], Twin]
) -> None:
    path = tmp_path / "run"
    shutil.copytree(twin(NAME).path, path)
    before, newest = evidence.list_steps(path)[-2:]
    for folder in (path, *path.rglob("*")):
        folder.chmod(0o777 if folder.is_dir() else 0o666)
    (evidence.checkpoint_path(path, newest) / "model.safetensors").chmod(0)
    for folder in tmp_path.parents[:3]:  # processes of pytest-xdist have one more
        folder.chmod(folder.stat().st_mode | 0o011)
    tmp_path.chmod(0o777)
    facts = {"run_dir": str(path), "data": str(tmp_path)}
    job = server.run("read as nobody", tmp_path / "log", **facts)
    assert job.exit == 0, job.printed()
    told = "\n".join(job.get("events"))
    assert f"step-{newest:08d}/model.safetensors cannot be read" in told
    assert f"from step-{before:08d}" in told


@pytest.mark.fault(14)
@pytest.mark.timeout(0)
def test_flipped_bit_is_found_and_the_one_before_goes_on(
    train: Train, tmp_path: Path, twin: Callable[[str], Twin]
) -> None:
    for seed in seeds(3, 40):
        rng = random.Random(seed)
        path, newest = copy_twin(twin(NAME), tmp_path / f"flip {seed}")
        files = sorted(newest.iterdir())  # of these the second is the manifest
        file = files[seed % len(files)]
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        fall_back(train, path, twin(NAME), f"{newest.name}/{file.name} is ")
        counting.count(14, "passed")


@pytest.mark.fault(15)
@pytest.mark.timeout(0)
def test_file_that_is_cut_off_is_found_and_the_one_before_goes_on(
    train: Train, tmp_path: Path, twin: Callable[[str], Twin]
) -> None:
    for seed in seeds(3, 40):
        rng = random.Random(seed)
        path, newest = copy_twin(twin(NAME), tmp_path / f"cut {seed}")
        file = rng.choice(sorted(newest.glob("*.safetensors")))
        content = file.read_bytes()
        file.write_bytes(content[: rng.randrange(len(content))])
        fall_back(train, path, twin(NAME), f"{newest.name}/{file.name}", "bytes")
        counting.count(15, "passed")


@pytest.mark.fault(16)
@pytest.mark.timeout(0)
def test_damaged_manifest_is_told_and_the_one_before_goes_on(
    train: Train, tmp_path: Path, twin: Callable[[str], Twin]
) -> None:
    for seed in seeds(1, 20):
        rng = random.Random(seed)
        for damage in ("missing", "empty", "cut", "no manifest", "not JSON"):
            path, newest = copy_twin(twin(NAME), tmp_path / f"{damage} {seed}")
            file = newest / "manifest.json"
            content = bytearray(file.read_bytes())
            at = rng.randrange(1, len(content) - 1)
            if damage == "not JSON":
                content[at:at] = bytes(rng.choices(range(256), k=8)) + b'"{'
            changed = {"empty": b"", "cut": content[:at], "no manifest": b"{}"}
            file.write_bytes(changed.get(damage, content))
            if damage == "missing":
                file.unlink()
            fall_back(train, path, twin(NAME), f"{newest.name}/manifest.json", "")
            counting.count(16, "passed")


def copy_twin(twin: Twin, path: Path) -> tuple[Path, Path]:
    """Copy a finished run; return it and its newest checkpoint."""
    shutil.copytree(twin.path, path)
    return path, evidence.checkpoint_path(path, evidence.list_steps(path)[-1])


def fall_back(train: Train, path: Path, twin: Twin, *said: str) -> None:
    """Let a run go on whose newest checkpoint is damaged."""
    before = evidence.list_steps(path)[-2]
    job = train(NAME, path, resume=True)
    assert job.exit == 0, job.printed()
    assert job.get("start") == before
    for text in said:
        assert text in told(path)
    assert evidence.last_state(path) == twin.state
    shutil.rmtree(path)


@pytest.mark.fault(17)
@pytest.mark.parametrize("is_resumed", [False, True])
def test_folder_that_is_read_only_is_refused_before_the_first_step(
    server: Server, tmp_path: Path, is_resumed: bool
) -> None:
    path = tmp_path / "disk" / "run"
    facts = {"run_dir": str(path), "data": str(tmp_path), "is_resumed": is_resumed}
    job = server.run("train read-only", tmp_path / "log", **facts)
    skip_if_unable(job)
    assert job.exit == 0, job.printed()
    assert job.get("error") == "RunError"
    assert "cannot be written: Read-only file system" in job.get("message")
    assert job.get("is_untouched")
