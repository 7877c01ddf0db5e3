"""Saving within epochs and beside the training: what a kill leaves, what fails, where
a run goes on, and what is refused."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import RandomSampler, TensorDataset

from handful import Callback, DataLoader, Run, Trainer
from handful.errors import ArgumentError, CheckpointError, RunError
from handful.train.callbacks import FitState
from handful.train.checkpoint import load_checkpoint
from handful.train.save_times import SaveTimes, parse_save_every
from handful.train.step_log import add_exactly
from manifests import change_manifest, read_manifest, write_manifest

generator = torch.Generator().manual_seed(0)
X = torch.randn(48, 4, generator=generator)
Y = (X.sum(1) > 0).long()
STEPS_PER_EPOCH = 12


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def ours(**options: Any) -> DataLoader[Any]:
    return DataLoader((X, Y), 4, shuffle=True, **options)


def by_sampler(kind: Any) -> Any:
    data = TensorDataset(X, Y)
    return kind(data, 4, sampler=RandomSampler(data, generator=seeded()))


LOADERS: dict[str, Callable[[], Any]] = {
    "by the trainer's seed": ours,
    "with a generator": lambda: ours(generator=seeded()),
    "ours, whose sampler has a generator": lambda: by_sampler(DataLoader),
    "PyTorch's, whose sampler has one": lambda: by_sampler(TorchDataLoader),
    "PyTorch's with a generator": lambda: TorchDataLoader(
        TensorDataset(X, Y), 4, shuffle=True, generator=seeded()
    ),
}


class WaitForSaves(Callback):
    """Lets every save end before the next step."""

    def on_step(self, state: FitState) -> None:
        for thread in threading.enumerate():
            if thread.name == "handful-saver":
                thread.join()


def fit(
    loader: Any, *callbacks: Callback, model: nn.Module | None = None, **options: Any
) -> tuple[Run, nn.Module]:
    torch.manual_seed(3)
    if model is None:
        model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.Linear(6, 2))
    trainer = Trainer(
        model,
        loss="cross_entropy",
        lr=0.05,
        train_metrics=["accuracy"],
        callbacks=callbacks,
        progress="off",
        num_threads=1,
        **options.pop("trainer", {}),
    )
    return trainer.fit(loader, DataLoader((X, Y), 16), epochs=2, **options), model


def history(run: Run) -> list[dict[str, Any]]:
    return [{**record, "seconds": None} for record in run.history]


def assert_same(one: tuple[Run, nn.Module], other: tuple[Run, nn.Module]) -> None:
    assert history(one[0]) == history(other[0])
    assert one[0].steps.tobytes() == other[0].steps.tobytes()
    for name, value in one[1].state_dict().items():
        assert torch.equal(value, other[1].state_dict()[name]), name


def checkpoints(path: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (path / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("name", LOADERS)
def test_a_checkpoint_of_mid_epoch_goes_on_to_the_bits_of_the_whole_run(
    name: str, tmp_path: Path
) -> None:
    whole = fit(LOADERS[name]())
    saving = fit(
        LOADERS[name](), WaitForSaves(), run_dir=tmp_path / "run", save_every="5steps"
    )
    assert_same(whole, saving)
    assert checkpoints(tmp_path / "run")[-2:] == [20, 24]
    for step in [n for n in checkpoints(tmp_path / "run") if n % 12]:
        origin = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        parts = tmp_path / f"from-{step}"
        assert_same(whole, fit(LOADERS[name](), resume=origin, run_dir=parts))
        assert Run.load(parts).events[-1]["message"] == f"from {origin.name}"
    assert checkpoints(tmp_path / "run")[-2:] == [20, 24]


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from test_saving import *

class Kill(WaitForSaves):
    def on_step(self, state):
        super().on_step(state)
        if state.step == 20:
            os.kill(os.getpid(), signal.SIGKILL)

fit(ours(), Kill(), run_dir=sys.argv[1], save_every="3steps")
"""


def test_a_kill_in_mid_epoch_loses_only_the_steps_since_the_last_save(
    tmp_path: Path,
) -> None:
    run, here = tmp_path / "run", Path(__file__).parent
    folders = [str(here), str(here.parent / "support")]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(run), *folders],
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert checkpoints(run)[-1] == 18
    whole, resumed = fit(ours()), fit(ours(), run_dir=run, resume=True)
    assert Run.load(run).events[-1]["message"] == "from step-00000018"
    assert_same(whole, resumed)


def test_times_are_read_in_the_spellings_of_the_page() -> None:
    assert parse_save_every("500steps") == SaveTimes(steps=500)
    assert parse_save_every("1h") == SaveTimes(seconds=3600)
    assert parse_save_every("1.5 minutes") == SaveTimes(seconds=90)
    wrong_ones = ("0steps", "1.5steps", "10", "5epochs", "", 10, None, "0s", "9e9h")
    for wrong in (*wrong_ones, "9" * 5000 + "steps"):
        with pytest.raises(ArgumentError, match="save_every must be auto, records, or"):
            parse_save_every(wrong)


def test_a_state_is_saved_by_the_clock_within_an_epoch(tmp_path: Path) -> None:
    fit(ours(), WaitForSaves(), run_dir=tmp_path / "run", save_every="0.000001s")
    assert checkpoints(tmp_path / "run")[-2:] == [23, 24]


def test_sums_are_exact_however_they_are_cut() -> None:
    draw = random.Random(1)
    for _ in range(50):
        values = [draw.uniform(-1, 1) * 10 ** draw.randint(-9, 9) for _ in range(40)]
        parts = add_exactly([], values)
        cut = draw.randint(0, 40)
        in_two = add_exactly(add_exactly([], values[:cut]), values[cut:])
        assert in_two == parts
        assert sum(parts) == math.fsum(values)
    assert add_exactly([1.0], [math.inf]) == [math.inf]
    assert math.isnan(sum(add_exactly([math.inf], [-math.inf])))


class Block(WaitForSaves):
    """Puts a file where a checkpoint of some step is to be written."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path / "checkpoints" / f".step-{step:08d}.new.tmp"

    def on_step(self, state: FitState) -> None:
        super().on_step(state)
        if state.step == 1:
            self.path.write_text("in the way")


def test_a_save_that_fails_beside_the_training_ends_it_at_the_next_step(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match="step-00000006 cannot be saved: File ex"):
        fit(ours(), Block(run, 6), run_dir=run, save_every="3steps")
    assert checkpoints(run)[:1] == [3]
    ended = Run.load(run)
    assert ended.status == "failed"
    assert ended.events[0]["kind"] == "failed"


def test_a_run_that_is_to_go_on_says_what_was_not_saved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done, _ = fit(
        ours(),
        Block(run, 6),
        run_dir=run,
        save_every="3steps",
        on_save_error="continue",
    )
    assert done.status == "finished"
    assert [e["kind"] for e in done.events] == ["not saved"]
    assert checkpoints(run)[-1] == 24


class Fill(Callback):
    """Puts a full disk in the place of a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_run_start(self, state: FitState) -> None:
        self.file.unlink()
        self.file.symlink_to("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["history.jsonl", "steps.npy", "events.jsonl"])
def test_a_full_disk_is_a_sentence_or_an_event(name: str, tmp_path: Path) -> None:
    class Note(Fill):
        def on_epoch_end(self, state: FitState, record: Any) -> None:
            state.stop = "asked to"  # which is an event

    run = tmp_path / "run"
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        fit(ours(), Note(run / name), run_dir=run)
    other = tmp_path / "other"
    done, _ = fit(ours(), Note(other / name), run_dir=other, on_save_error="continue")
    assert done.status == "finished"
    assert "not saved" in [event["kind"] for event in done.events]
    assert checkpoints(other) == [12]


def test_a_run_goes_on_from_its_folder_or_from_an_earlier_checkpoint(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    whole = fit(ours(), run_dir=run, checkpoint_every=1)
    assert checkpoints(run) == [12, 24]
    assert_same(whole, fit(ours(), resume=run))
    earlier = run / "checkpoints" / "step-00000012"
    assert_same(whole, fit(ours(), resume=str(earlier)))
    assert Run.load(run).events[-1]["message"] == "from step-00000012"
    with pytest.raises(RunError, match="already holds a run"):
        fit(ours(), resume=earlier, run_dir=fit(ours(), run_dir=tmp_path / "x")[0].path)
    with pytest.raises(ArgumentError, match="resume must be true, false, or the fol"):
        fit(ours(), resume=3)


@pytest.mark.parametrize(
    ("now", "match"),
    [
        ({"trainer": {"precision": "bf16"}}, "precision was float32, is bf16"),
        ({"X": X + 1}, "data was samples 48, hash"),
    ],
)
def test_a_run_with_another_identity_is_refused_unless_asked_for(
    now: dict[str, Any], match: str, tmp_path: Path
) -> None:
    options = dict(now)
    loader = DataLoader((options.pop("X", X), Y), 4, shuffle=True)
    fit(ours(), run_dir=tmp_path / "run", checkpoint_every=1)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000024")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=match):
        fit(loader, run_dir=tmp_path / "run", resume=True, **options)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    run, _ = fit(
        loader, run_dir=tmp_path / "run", resume=True, allow_changed=True, **options
    )
    changed = [e["message"] for e in run.events if e["kind"] == "identity changed"]
    assert len(changed) == 1
    assert changed[0].endswith("not bitwise the same run")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_another_number_of_workers_gives_the_same_run(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_step(self, state: FitState) -> None:
            if state.step == 15:
                os.kill(os.getpid(), signal.SIGINT)

    rows = [(x, y) for x, y in zip(X, Y, strict=True)]
    whole = fit(DataLoader(rows, 4, shuffle=True, seed=1))
    fit(
        DataLoader(rows, 4, shuffle=True, seed=1, num_workers=2),
        Stop(),
        run_dir=tmp_path / "run",
    )
    again = DataLoader(rows, 4, shuffle=True, seed=1, num_workers=1)
    assert_same(whole, fit(again, run_dir=tmp_path / "run", resume=True))


PLAIN = """
import sys, torch
from safetensors.torch import load_file
from torch import nn
model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
model[1].weight = model[0].weight
model.load_state_dict(load_file(sys.argv[1] + "/model.safetensors"))
assert not any(name.split(".")[0] == "handful" for name in sys.modules)
print(model(torch.ones(1, 4)).tolist())
"""


def test_a_checkpoint_loads_into_a_plain_module_without_handful(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    model[2].weight = nn.Parameter(torch.randn(4, 2).t())
    fit(ours(), model=model, run_dir=tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step-00000024"
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0] == pytest.approx(
        model(torch.ones(1, 4))[0].tolist()
    )


VALUES = [None, 1, -1, 2**70, 1.5, "x", True, [], {}, [1], ["x"], {"a": 1}, {"1": []}]


def test_a_manifest_of_anything_is_an_error_of_the_checkpoint_or_loads(
    tmp_path: Path,
) -> None:
    fit(ours(), run_dir=tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step-00000024"
    good = read_manifest(path)
    refused = 0
    for key in good:
        for value in VALUES:
            damaged = {**good, key: value}
            write_manifest(path, damaged)
            try:
                load_checkpoint(path)
            except CheckpointError:
                refused += 1
            with suppress(RunError):
                fit(ours(), resume=path, run_dir=tmp_path / "new", allow_changed=True)
            shutil.rmtree(tmp_path / "new", ignore_errors=True)
    assert refused > 100


def test_a_newer_format_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    fit(ours(), run_dir=tmp_path / "run", checkpoint_every=1)
    path = tmp_path / "run" / "checkpoints" / "step-00000024"
    change_manifest(path, lambda manifest: manifest.update(format_version=9))
    with pytest.raises(CheckpointError, match="Install a newer handful"):
        fit(ours(), run_dir=tmp_path / "run", resume=True)


def test_a_newest_checkpoint_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    fit(ours(), run_dir=tmp_path / "run", checkpoint_every=1)
    file = tmp_path / "run" / "checkpoints" / "step-00000024" / "manifest.json"
    file.unlink()
    file.mkdir()
    whole, run = fit(ours()), fit(ours(), run_dir=tmp_path / "run", resume=True)
    events = Run.load(tmp_path / "run").events
    assert [event["kind"] for event in events] == ["damaged checkpoint", "resumed"]
    assert "cannot be read: Is a directory" in events[0]["message"]
    assert_same(whole, run)
