"""Jobs that make a world of their own: small disks, few files, no memory.

A mount namespace needs root, or a system that lets users make namespaces of their own.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import evidence
from faults.reading import read_all, read_deadly
from faults.samples import Large
from faults.trainings import make_training
from handful import DataLoader

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_RDONLY, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 1, 32, 0x4000, 1 << 18

Say = Callable[..., None]


def enter_namespace() -> bool:
    """Let this process have its own mounts; return whether the system allows it."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNS) != 0:
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
            return False
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0


def mount_tmpfs(path: Path, size: str, *, is_read_only: bool = False) -> bool:
    """Mount a small file system in memory; return whether the system allows it."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size},mode=777".encode()
    flags = _MS_RDONLY if is_read_only else 0
    return libc.mount(b"tmpfs", bytes(path), b"tmpfs", flags, options) == 0


def remount_read_only(path: Path) -> bool:
    """Let a mounted file system be read-only from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _MS_RDONLY | _MS_REMOUNT
    return libc.mount(b"tmpfs", bytes(path), b"tmpfs", flags, None) == 0


def fill_disk(say: Say, run_dir: str, data: str, size: str, policy: str) -> None:
    """Train on a disk that is full after some checkpoints; say what is left there."""
    path = Path(run_dir)
    path.parent.mkdir()
    if not (enter_namespace() and mount_tmpfs(path.parent, size)):
        say(unable="mounting is not allowed")
        return
    training = make_training("averaged", Path(data))
    training.fit |= {"epochs": 200, "on_save_error": policy}
    try:
        run = training.trainer().fit(training.train, **training.fit, run_dir=path)
        say(status=run.status, told=[event["message"] for event in run.events])
    except BaseException as error:
        say(error=type(error).__name__, message=str(error))
    steps = evidence.list_steps(path)
    whole = [evidence.is_whole(evidence.checkpoint_path(path, s)) for s in steps]
    say(steps=steps, whole=whole)
    # Room again: the run goes on.
    for step in steps[: len(steps) // 2]:
        for file in evidence.checkpoint_path(path, step).iterdir():
            file.unlink()
    again = make_training("averaged", Path(data))
    again.fit |= {"epochs": steps[-1] // 8 + 2, "checkpoint_every": None}
    run = again.trainer().fit(again.train, **again.fit, run_dir=path, resume=True)
    say(again=run.status)


def train_read_only(say: Say, run_dir: str, data: str, *, is_resumed: bool) -> None:
    """Train in a folder that cannot be written, new or with a run."""
    path = Path(run_dir)
    path.parent.mkdir()
    if not (enter_namespace() and mount_tmpfs(path.parent, "20m")):
        say(unable="mounting is not allowed")
        return
    training = make_training("averaged", Path(data))
    if is_resumed:
        training.trainer().fit(training.train, **training.fit, run_dir=path)
        training = make_training("averaged", Path(data))
        training.fit["epochs"] = 20
    assert remount_read_only(path.parent)
    before = [p.clone() for p in training.model.parameters()]
    try:
        training.trainer().fit(
            training.train, **training.fit, run_dir=path, resume=is_resumed
        )
    except Exception as error:
        say(error=type(error).__name__, message=str(error))
    same = all(map(_equal, before, training.model.parameters()))
    say(is_untouched=same)


def _equal(one: Any, other: Any) -> bool:
    return bool((one == other).all())


def load_with_full_shm(say: Say, size: str) -> None:
    """Read batches by worker processes where ``/dev/shm`` has no room."""
    if not (enter_namespace() and mount_tmpfs(Path("/dev/shm"), size)):
        say(unable="mounting is not allowed")
        return
    _read_large_batches(say)


def load_with_few_files(say: Say, most: int) -> None:
    """Read batches by worker processes where few files may be open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    _read_large_batches(say)


def _read_large_batches(say: Say) -> None:
    read_all(say, DataLoader(Large(), 8, num_workers=4, prefetch_factor=4))


def read_as_nobody(say: Say, run_dir: str, data: str) -> None:
    """Go on with a run as a user who cannot read all of its files."""
    codecs.lookup("utf-8-sig")  # Python may lie where this user cannot read it
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    training = make_training("averaged", Path(data))
    training.fit |= {"epochs": 12}
    run = training.trainer().fit(
        training.train, **training.fit, run_dir=run_dir, resume=True
    )
    say(events=[event["message"] for event in run.events], done=len(run.steps))


MORE_JOBS: dict[str, Callable[..., None]] = {
    "read deadly": read_deadly,
    "fill disk": fill_disk,
    "train read-only": train_read_only,
    "load with full shm": load_with_full_shm,
    "load with few files": load_with_few_files,
    "read as nobody": read_as_nobody,
}
