"""What the server's children do."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from faults.isolated import MORE_JOBS
from faults.shim import Shim
from faults.trainings import make_training
from handful import Callback

Say = Callable[..., None]


class Tell(Callback):
    """Says where the training stands, at some steps and before saves.

    Args:
        say: Says it.
        steps: After which steps.
        saves: Before which saves at an epoch's end, by the number of the epoch.
        sleep_at: After which step to sleep for a minute.
        waits: Whether to go on after a step only when a signal has come.
    """

    def __init__(
        self,
        say: Say,
        steps: list[int],
        saves: list[int],
        *,
        sleep_at: int | None = None,
        waits: bool = False,
    ) -> None:
        self.say = say
        self.steps = set(steps)
        self.saves = set(saves)
        self.sleep_at = sleep_at
        self.waits = waits

    def on_run_start(self, state: Any) -> None:
        self.say(start=state.step)

    def on_step(self, state: Any) -> None:
        if state.step in self.steps:
            self.say(step=state.step)
            if self.waits:
                await_request()
        if state.step == self.sleep_at:
            self.say(asleep=state.step)
            time.sleep(60)

    def on_epoch_end(self, state: Any, record: Any) -> None:
        if state.epoch in self.saves:
            self.say(save=state.epoch)


def await_request() -> None:
    """Wait until a signal has come, so that it comes after this very step."""
    request: Any = signal.getsignal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while request.signal is None and time.monotonic() < deadline:
        time.sleep(0.002)


class Jump(Callback):
    """Sets the clock wrong after some steps.

    Args:
        jumps: By the number of the step, as text, how far off it is then, in seconds.
    """

    def __init__(self, jumps: dict[str, float]) -> None:
        self.jumps = jumps

    def on_step(self, state: Any) -> None:
        if str(state.step) in self.jumps:
            Shim().set_clock(self.jumps[str(state.step)])


def take_terminal(path: str) -> None:
    """Let a terminal be this process's own; its end is a SIGHUP."""
    descriptor = os.open(path, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(descriptor, number)


def limit_memory(more: int) -> None:
    """Let this process have so many bytes more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def set_shim(folder: str, shim: dict[str, Any]) -> Shim:
    """Let the preloaded library do to a folder what a test asks for."""
    library = Shim()
    library.watch(Path(folder).absolute())
    if "kill_at" in shim:
        library.kill_at(shim["kill_at"], is_torn=shim.get("is_torn", False))
    for failure in shim.get("fail", ()):
        library.fail(**failure)
    if "log" in shim:
        library.log(Path(shim["log"]))
    return library


def train(
    say: Say,
    name: str,
    run_dir: str,
    data: str,
    *,
    resume: bool = False,
    steps: list[int] = (),  # type: ignore[assignment]
    saves: list[int] = (),  # type: ignore[assignment]
    sleep_at: int | None = None,
    waits: bool = False,
    jumps: dict[str, float] | None = None,
    terminal: str | None = None,
    memory: int | None = None,
    shim: dict[str, Any] | None = None,
    make: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    fit: dict[str, Any] | None = None,
) -> None:
    """Train, or go on."""
    library = None if shim is None else set_shim(run_dir, shim)
    if terminal is not None:
        take_terminal(terminal)
    if memory is not None:
        limit_memory(memory)
    training = make_training(name, Path(data), **(make or {}))
    tell = Tell(say, steps, saves, sleep_at=sleep_at, waits=waits)
    run = training.trainer(callbacks=[tell], **(trainer or {})).fit(
        training.train,
        **{**training.fit, **(fit or {})},
        run_dir=run_dir,
        resume=resume,
    )
    facts = {} if library is None else {"calls": library.count()}
    say(status=run.status, done=len(run.steps), **facts)


def train_in_parts(
    say: Say, name: str, run_dir: str, data: str, calls: str, epochs: list[int]
) -> None:
    """Train in several runs of `fit`, each of which goes on; mark the end of each."""
    library = set_shim(str(Path(calls).parent / "disk"), {"log": calls})
    for number, last in enumerate(epochs):
        training = make_training(name, Path(data))
        fit = {**training.fit, "epochs": last, "checkpoint_every": None}
        run = training.trainer().fit(
            training.train, **fit, run_dir=run_dir, resume=number > 0
        )
        # What `fit` has saved when it returns must outlive a loss of power.
        library.mark(str(len(run.steps)))
        say(done=len(run.steps))


def go_on(say: Say, name: str, data: str, paths: list[str], epochs: int) -> None:
    """Let one run after another go on."""
    for path in paths:
        say(path=path)
        training = make_training(name, Path(data))
        fit = {**training.fit, "epochs": epochs, "checkpoint_every": None}
        training.trainer(callbacks=[Tell(say, [], [])]).fit(
            training.train, **fit, run_dir=path, resume=True
        )
        digest = hashlib.sha256()
        for value in training.model.state_dict().values():
            digest.update(value.numpy().tobytes())
        say(weights=digest.hexdigest())


def warm_up() -> None:
    """Load what a training loads late; start no thread."""
    torch.set_num_threads(1)
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    for kind in (torch.optim.Adam, torch.optim.SGD):
        kind(parameters, lr=0.1)


JOBS: dict[str, Callable[..., None]] = {
    "train": train,
    "train in parts": train_in_parts,
    "go on": go_on,
    **MORE_JOBS,
}
