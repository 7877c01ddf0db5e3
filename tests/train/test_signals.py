"""Signals: real ones, in processes of their own and in this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

from handful import Run
from handful.train.signals import stop_requests

SCRIPT = """
import os, signal, sys
import torch
from torch import nn
from handful import Callback, DataLoader, Trainer

name, step, times = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

class Send(Callback):
    def on_step(self, state):
        if state.step == step:
            for _ in range(times):
                os.kill(os.getpid(), getattr(signal, name))

torch.manual_seed(0)
X = torch.randn(20, 4)
trainer = Trainer(
    nn.Linear(4, 2), loss="cross_entropy", progress="off", callbacks=[Send()]
)
loader = DataLoader((X, (X.sum(1) > 0).long()), 8, shuffle=True)
handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
try:
    run = trainer.fit(loader, epochs=4, run_dir=sys.argv[1])
    print(run.status, len(run.steps))
finally:
    same = handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    print("handlers as before" if same else "handlers lost")
"""


def run_script(
    folder: Path, name: str, step: int = 5, times: int = 1
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), name, str(step), str(times)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (folder / "checkpoints").iterdir())


def test_one_interrupt_ends_the_run_after_that_very_step(tmp_path: Path) -> None:
    done = run_script(tmp_path / "run", "SIGINT")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "stopped 5\nhandlers as before\n"
    run = Run.load(tmp_path / "run")
    assert (run.status, len(run.steps)) == ("stopped", 5)
    assert run.events[-1]["message"] == "by SIGINT"
    assert checkpoints(tmp_path / "run")[-1] == 5


def test_two_interrupts_end_it_at_once(tmp_path: Path) -> None:
    done = run_script(tmp_path / "run", "SIGINT", times=2)
    # Python ends by the signal unless something is evaluated on its way out, as PyTorch
    # does where tabulate is installed: then it ends with status 1.
    assert done.returncode in (-signal.SIGINT, 1)
    assert "KeyboardInterrupt" in done.stderr
    assert done.stdout == "handlers as before\n"
    assert Run.load(tmp_path / "run").status == "stopped"
    assert 5 not in checkpoints(tmp_path / "run")


def test_a_termination_saves_and_exits_with_143(tmp_path: Path) -> None:
    done = run_script(tmp_path / "run", "SIGTERM")
    assert done.returncode == 143, done.stderr
    assert done.stdout == "handlers as before\n"
    run = Run.load(tmp_path / "run")
    assert (run.status, len(run.steps)) == ("stopped", 5)
    assert checkpoints(tmp_path / "run")[-1] == 5


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_a_terminal_that_goes_away_saves_and_exits_with_129(tmp_path: Path) -> None:
    done = run_script(tmp_path / "run", "SIGHUP")
    assert done.returncode == 129, done.stderr
    assert Run.load(tmp_path / "run").events[-1]["message"] == "by SIGHUP"
    assert checkpoints(tmp_path / "run")[-1] == 5


def test_two_terminations_end_it_at_once(tmp_path: Path) -> None:
    done = run_script(tmp_path / "run", "SIGTERM", times=2)
    assert done.returncode == 143, done.stderr
    assert 5 not in checkpoints(tmp_path / "run")


def test_a_handler_of_the_users_own_stays_and_is_called() -> None:
    seen: list[int] = []

    def own(signum: int, _: FrameType | None) -> None:
        seen.append(signum)

    before = signal.signal(signal.SIGINT, own)
    try:
        with stop_requests() as request:
            assert signal.getsignal(signal.SIGINT) is own
            assert signal.getsignal(signal.SIGTERM) is request
            os.kill(os.getpid(), signal.SIGINT)
        assert seen == [signal.SIGINT]
        assert request.signal is None
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_came_in_between_stays() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with stop_requests():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGINT)
        assert request.signal is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_installs_nothing() -> None:
    handlers: list[object] = []

    def enter() -> None:
        with stop_requests():
            handlers.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(timeout=10)
    assert handlers == [before]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_a_request_and_the_second_an_end(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    error = KeyboardInterrupt if signum == signal.SIGINT else SystemExit
    with stop_requests() as request:
        assert request.name == ""
        os.kill(os.getpid(), signum)
        assert request.signal == signum
        assert request.name == signum.name
        with pytest.raises(error, match=r"^(143)?$"):
            os.kill(os.getpid(), signum)
    assert signal.getsignal(signum) is before
