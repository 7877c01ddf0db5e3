"""The loader doctor: the planted cause is found, and nothing of the user's is touched.

The six situations of the benchmark are so clear that no noise changes what is found;
how good the advice is, the benchmark itself measures.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, IterableDataset, RandomSampler, Sampler

from handful import DataLoader
from handful.data.loader_profile import LoaderProfile, profile_loader
from handful.data.loader_timing import Timing, share_of_waiting
from handful.errors import ArgumentError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("doctor_works")


def diagnose(works: ModuleType, name: str, folder: Path, seconds: float) -> Any:
    situation = works.plant(name, folder)
    profile = profile_loader(situation.loader, situation.step, seconds=seconds)
    assert profile.cause == situation.cause, profile
    return profile


@pytest.mark.parametrize("name", ["photos", "words", "model"])
def test_planted_cause_is_found(name: str, works: ModuleType, tmp_path: Path) -> None:
    diagnose(works, name, tmp_path, 1)


def test_rows_asked_for_one_by_one_are_put_in_arrays(
    works: ModuleType, tmp_path: Path
) -> None:
    profile = diagnose(works, "rows", tmp_path, 2)
    assert (profile.needs, profile.settings) == ("handful.Columns", {})
    assert profile.advice.startswith("Put the samples in arrays (handful.Columns)")


def test_a_slow_file_is_read_by_threads(works: ModuleType, tmp_path: Path) -> None:
    profile = diagnose(works, "records", tmp_path, 3)
    assert profile.settings["worker_type"] == "thread"
    assert profile.settings["num_workers"] >= 4
    assert profile.needs == "handful.DataLoader"


def test_workers_that_cost_more_than_they_bring_are_dropped(
    works: ModuleType, tmp_path: Path
) -> None:
    profile = diagnose(works, "large", tmp_path, 3)
    assert profile.settings == {"num_workers": 0}


def test_a_step_that_outweighs_loading_leaves_the_loader(works: ModuleType) -> None:
    situation = works.plant("model", Path())
    profile = profile_loader(situation.loader, situation.step, seconds=1)
    assert profile.settings == {}
    assert profile.waiting is not None
    assert profile.waiting < 0.1
    assert [trial.name for trial in profile.trials] == ["as it is"]
    assert profile.advice.startswith("Leave the loader as it is: the step waits")


@pytest.mark.slow
def test_the_benchmark_judges_a_situation_to_its_end(tmp_path: Path) -> None:
    out = tmp_path / "doctor.json"
    command = [sys.executable, str(BENCHMARKS / "doctor.py"), "--only", "rows,model"]
    options = ["--seconds", "3", "--rounds", "1", "--window", "0.2", "--out", str(out)]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stderr == ""
    rows, model = json.loads(out.read_text())["verdicts"]
    assert (rows["found"], rows["chosen"]) == ("tiny rows", "in arrays")
    assert (model["found"], model["chosen"]) == ("slow model", "as it is")
    assert rows["rates"][rows["best"]] == max(rows["rates"].values())


class Counting(Dataset[Any]):
    """Draws from every kind of generator, and has a state."""

    def __init__(self, length: int = 64) -> None:
        self.length = length
        self.rng = np.random.default_rng(3)
        self.dice = random.Random(4)
        self.own = torch.Generator().manual_seed(5)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        noise = [self.rng.random(), self.dice.random(), random.random()]
        noise += [np.random.random(), float(torch.rand(1, generator=self.own))]
        return torch.tensor([index, *noise, float(torch.rand(()))])


def drawn(dataset: Counting) -> list[Any]:
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        dataset.rng.bit_generator.state,
        dataset.dice.getstate(),
        dataset.own.get_state().tolist(),
    ]


@pytest.mark.parametrize("ours", [True, False])
def test_generators_and_the_loader_are_as_they_were(ours: bool) -> None:
    dataset = Counting()
    generator = torch.Generator().manual_seed(1)
    kind: Any = DataLoader if ours else TorchDataLoader
    sampler = RandomSampler(dataset, generator=generator)
    loader = kind(dataset, 8, sampler=sampler, generator=generator)
    before = [*drawn(dataset), generator.get_state().tolist()]
    attributes = dict(vars(loader))
    profile_loader(loader, lambda batch: None, seconds=1)
    assert [*drawn(dataset), generator.get_state().tolist()] == before
    assert {k: v for k, v in vars(loader).items() if v is not attributes[k]} == {}


class CountedPasses(Sampler[int]):
    """Counts how often it was gone through."""

    def __init__(self) -> None:
        self.passes = 0

    def __len__(self) -> int:
        return 64

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        return iter(range(64))


def test_a_sampler_of_the_users_is_not_gone_through() -> None:
    sampler = CountedPasses()
    profile_loader(TorchDataLoader(Counting(), 8, sampler=sampler), seconds=1)
    assert sampler.passes == 0


def test_a_loader_in_mid_pass_goes_on_where_it_was() -> None:
    loader = DataLoader(torch.arange(40), 4, shuffle=True, seed=1)
    expected = torch.cat(list(DataLoader(torch.arange(40), 4, shuffle=True, seed=1)))
    batches = iter(loader)
    got = [next(batches) for _ in range(3)]
    state = loader.state_dict()
    profile_loader(loader, seconds=1)
    assert loader.state_dict() == state
    assert torch.cat([*got, *batches]).equal(expected)


class WithState(Counting):
    """Counts what it read, and says so in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __getitem__(self, index: int) -> Tensor:
        self.reads += 1
        return torch.zeros(4)

    def state_dict(self) -> dict[str, Any]:
        return {"reads": self.reads}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reads = state["reads"]


@pytest.mark.parametrize(
    ("has_workers", "rate", "share"),
    [(False, 50.0, 0.02), (True, 50.0, 0.5), (True, 80.0, 0.02), (True, 120.0, 0.02)],
)
@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_workers_that_slow_the_step_down_count_as_waiting(
    has_workers: bool, rate: float, share: float
) -> None:
    both = Timing(rate, rate, rate, waiting=0.02)
    alone = Timing(100.0, 100.0, 100.0)
    found = share_of_waiting(both, alone, has_workers=has_workers)
    assert found == pytest.approx(share)


def test_the_state_of_a_data_set_is_put_back() -> None:
    dataset = WithState()
    profile_loader(TorchDataLoader(dataset, 8), seconds=1)
    assert dataset.reads == 0


class Endless(IterableDataset[Any]):
    """A stream without an end, which waits for each sample."""

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            time.sleep(0.002)
            yield torch.zeros(4)


def test_an_endless_stream_is_left_and_gets_no_workers() -> None:
    profile = profile_loader(DataLoader(Endless(), 4), seconds=1)
    assert profile.cause == "slow disk"
    assert [trial.name for trial in profile.trials] == ["as it is"]
    assert profile.settings == {}


def test_a_stream_that_shares_itself_out_may_get_other_workers() -> None:
    profile = profile_loader(DataLoader(Endless(), 4, num_workers=1), seconds=4)
    names = [trial.name for trial in profile.trials]
    left_out = [name for name, _ in profile.left_out]
    assert "no workers" in names + left_out


def test_any_iterable_is_measured_but_not_varied() -> None:
    def batches() -> Iterator[Tensor]:
        for _ in range(2000):
            time.sleep(0.002)
            yield torch.zeros(8, 4)

    profile = profile_loader(batches(), lambda batch: None, seconds=1)
    assert profile.cause == "slow disk"
    assert (profile.settings, profile.trials) == ({}, ())
    assert profile.waiting is not None
    assert profile.waiting > 0.9
    assert "has no settings that could be varied" in profile.advice


def test_what_can_be_gone_through_once_is_measured_as_far_as_it_goes() -> None:
    profile = profile_loader(iter([torch.zeros(8, 4)]), seconds=1)
    assert profile.cause == "nothing"
    assert profile.parts is None


def test_a_loader_of_one_batch_is_gone_through_again_and_again() -> None:
    profile = profile_loader(TorchDataLoader(Counting(8), 8), seconds=1)
    assert profile.trials[0].low > 0
    assert profile.cause in ("tiny rows", "slow transform", "slow decode")


def test_arrays_have_nothing_to_be_cured() -> None:
    loader = DataLoader((torch.rand(1000, 4), torch.arange(1000)), 32)
    profile = profile_loader(loader, seconds=1)
    assert profile.cause == "nothing"
    assert profile.parts is None
    assert profile.path.startswith("batched")


def busy(batch: Any) -> Any:
    sum(k * k for k in range(20_000))
    return batch


def test_a_slow_transform_of_batches_from_arrays_is_found() -> None:
    loader = DataLoader(torch.rand(1000, 4), 32, batch_transform=busy)
    assert profile_loader(loader, seconds=1).cause == "slow transform"


class Transformed(Dataset[Any]):
    """Keeps its transform where torchvision's data sets do."""

    def __init__(self) -> None:
        self.transform = busy

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(torch.zeros(4))


def test_a_transform_of_the_data_set_is_timed_by_itself() -> None:
    profile = profile_loader(TorchDataLoader(Transformed(), 4), seconds=1)
    assert profile.cause == "slow transform"
    assert profile.parts is not None
    assert profile.parts.transforming is not None
    assert profile.parts.transforming > profile.parts.reading / 2


class Broken(Dataset[Any]):
    """Cannot read its last samples."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Tensor:
        if index >= 36:
            raise OSError(f"no sample {index}")
        return torch.zeros(4)


def test_the_error_of_a_data_set_is_its_own() -> None:
    with pytest.raises(OSError, match="no sample 36"):
        profile_loader(TorchDataLoader(Broken(), 4), seconds=1)


def test_samples_that_the_loader_leaves_out_are_left_out() -> None:
    loader = DataLoader(Broken(), 4, worker_type="thread", on_error="skip")
    profile = profile_loader(loader, seconds=1)
    assert loader.skipped == []
    assert profile.alone > 0


class Unpicklable(Counting):
    """Has what no process that starts afresh can be given."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(0.001)
        return torch.zeros(4)


def test_settings_that_fail_are_left_out_and_say_why() -> None:
    context = multiprocessing.get_context("spawn")
    loader = TorchDataLoader(Unpicklable(), 4)
    loader.__dict__["_DataLoader__multiprocessing_context"] = context
    profile = profile_loader(loader, seconds=4)
    reasons = dict(profile.left_out)
    assert "cannot pickle '_thread.lock' object" in str(reasons), profile


def test_nothing_is_left_running() -> None:
    before = set(threading.enumerate())
    loader = DataLoader(Unpicklable(), 4, worker_type="thread", num_workers=2)
    profile_loader(loader, seconds=2)
    assert multiprocessing.active_children() == []
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(5)  # PyTorch's queues end theirs a moment later.
    assert [thread.name for thread in left if thread.is_alive()] == []


INTERRUPTED = """
import multiprocessing, threading, time, sys
import torch
from torch.utils.data import DataLoader, Dataset
from handful.data.loader_profile import profile_loader

class Slow(Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        time.sleep(0.001)
        return torch.zeros(4)

print("ready", flush=True)
before = set(threading.enumerate())
try:
    profile_loader(DataLoader(Slow(), 4, num_workers=1), seconds=60)
except KeyboardInterrupt:
    left = [child.name for child in multiprocessing.active_children()]
    for thread in set(threading.enumerate()) - before:
        thread.join(5)  # PyTorch's queues end theirs a moment later.
        left += [thread.name] * thread.is_alive()
    print("interrupted", left, flush=True)
"""


@pytest.mark.parametrize("after", [0.6, 2.5])
def test_ctrl_c_ends_it_and_its_workers(after: float) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(after)
        # Python ignores one that comes while an object is taken down: press it again.
        said = None
        while said is None:
            os.kill(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                said, _ = process.communicate(timeout=15)
    assert said == "interrupted []\n"


def test_a_worker_that_imports_the_program_is_told_of_the_main_guard(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import torch
            from handful import DataLoader
            from handful.data.loader_profile import profile_loader

            loader = DataLoader(
                list(range(100)), 4, num_workers=1, multiprocessing_context="spawn"
            )
            profile_loader(loader, seconds=1)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert 'must be called under `if __name__ == "__main__":`' in done.stderr


@pytest.mark.parametrize("seconds", [0.5, float("nan"), float("inf"), "9"])
def test_seconds_are_from_one_on(seconds: Any) -> None:
    with pytest.raises(ArgumentError, match=r"seconds must be .* from 1 on; got"):
        profile_loader([torch.zeros(2)], seconds=seconds)


def test_a_loader_without_batches_is_refused() -> None:
    with pytest.raises(ArgumentError, match="loader must give at least one batch"):
        profile_loader(TorchDataLoader(torch.zeros(0, 2), 4), seconds=1)


def test_the_profile_is_plain_values() -> None:
    profile = profile_loader(TorchDataLoader(Transformed(), 4), seconds=1)
    read = json.loads(json.dumps(profile.to_dict()))
    assert read["cause"] == profile.cause
    assert read["trials"][0]["name"] == "as it is"
    assert set(read) == set(LoaderProfile.__dataclass_fields__)
    assert read["parts"]["making"] == pytest.approx(profile.parts.making)  # type: ignore[union-attr]
