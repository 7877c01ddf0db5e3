"""The native player is built where there is a compiler, and never waited for."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from handful.train.player_library import (
    build_library,
    find_compiler,
    is_off,
    library_path,
    load_library,
)


def make_compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program in the compiler's place."""
    program = folder / "compiler"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(program))


def test_without_a_compiler_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_compiler() is None
    with pytest.raises(OSError, match="no C\\+\\+ compiler is on the path"):
        build_library()


def test_what_a_compiler_says_last_is_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_compiler(tmp_path, "echo first >&2; echo no headers >&2; exit 1", monkeypatch)
    with pytest.raises(OSError, match="compiler failed: no headers"):
        build_library()
    assert not library_path().exists()
    assert not list(library_path().parent.iterdir())


def test_a_library_is_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        f"echo x >> {tmp_path}/calls\nwhile [ $1 != -o ]; do shift; done; echo > $2"
    )
    make_compiler(tmp_path, script, monkeypatch)
    assert build_library() == build_library() == library_path()
    assert (tmp_path / "calls").read_text() == "x\n"


def test_a_file_that_is_no_library_is_left_alone(tmp_path: Path) -> None:
    code = (
        "from handful.train.player_library import library_path, load_library\n"
        "path = library_path(); path.parent.mkdir(parents=True)\n"
        "path.write_text('no library')\n"
        "assert load_library() is None\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "HANDFUL_PLAYER"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=60)


def test_the_command_says_why_it_can_not_build(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "CXX"} | {"PATH": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-m", "handful.train.player_library"],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        timeout=60,
    )
    assert done.returncode == 1
    assert "can't be built: no C++ compiler" in done.stderr


def test_it_can_be_turned_off(
    native_player: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_off()
    assert load_library() is not None
    monkeypatch.setenv("HANDFUL_PLAYER", "off")
    assert load_library() is None


LONG = """
import sys, time
from pathlib import Path
import torch
from torch import nn
from handful import DataLoader, Trainer
from handful.train import native_engine
from handful.train.player_library import library_path

native_engine.BUILD_SECONDS = float(sys.argv[1])
X, y = torch.randn(80, 4), torch.randint(2, (80,))
trainer = Trainer(nn.Linear(4, 2), loss="cross_entropy", progress="off", num_threads=1)
trainer.fit(DataLoader((X, y), 8, shuffle=True), epochs=40)
for _ in range(int(sys.argv[2])):
    if library_path().exists():
        break
    time.sleep(0.1)
print(library_path().exists())
"""


@pytest.mark.parametrize(
    ("seconds", "waits", "is_built"), [("0", "300", True), ("1000", "5", False)]
)
def test_only_a_training_that_gains_by_it_has_the_library_built_beside_it(
    seconds: str,
    waits: str,
    is_built: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = "while [ $1 != -o ]; do shift; done; echo > $2"
    make_compiler(tmp_path, script, monkeypatch)
    env = {k: v for k, v in os.environ.items() if k != "HANDFUL_PLAYER"}
    done = subprocess.run(
        [sys.executable, "-c", LONG, seconds, waits],
        capture_output=True,
        text=True,
        check=True,
        env=env,
        timeout=90,
    )
    assert done.stdout == f"{is_built}\n"
