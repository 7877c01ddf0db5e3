"""Samples that a loader leaves out: a run's events have them, and resuming is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from handful import DataLoader, Run, Trainer
from handful.cli.show import describe_notes
from handful.errors import DataError
from handful.train import record

BAD = (3, 4, 9, 11, 12, 13)
X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


class Rows(Dataset[Any]):
    """Rows of which some can't be read."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        if index in BAD:
            raise OSError("the disk is scratched")
        return X[index], X[index].sum()


def train(
    folder: Path | None, num_threads: int = 2, max_errors: int | None = None, **fit: Any
) -> tuple[Run, dict[str, Any]]:
    torch.manual_seed(0)
    loader: DataLoader[Any] = DataLoader(
        Rows(),
        2,
        shuffle=True,
        seed=1,
        num_workers=num_threads,
        worker_type="thread",
        on_error="skip",
        max_errors=max_errors,
    )
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    trainer = Trainer(model, loss="mse", optimizer="sgd", lr=0.1, progress="off")
    run = trainer.fit(loader, run_dir=folder, **fit)
    return run, model.state_dict()


def skipped_in(run: Run) -> list[str]:
    return sorted(e["message"] for e in run.events if e["kind"] == "skipped sample")


ALL = sorted(f"sample {index}: OSError: the disk is scratched" for index in BAD)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_each_sample_that_is_left_out_is_an_event_of_the_run_once(
    tmp_path: Path, num_threads: int
) -> None:
    run, _ = train(tmp_path / "run", num_threads, epochs=3)
    assert skipped_in(run) == ALL
    assert skipped_in(Run.load(tmp_path / "run")) == ALL
    assert next(note for note in describe_notes(run) if "left out" in note).endswith(
        "the disk is scratched; 5 more in events.jsonl"
    )


@pytest.mark.parametrize("stop", range(1, 15))
def test_a_run_that_goes_on_is_the_whole_one_though_samples_are_left_out(
    tmp_path: Path, stop: int
) -> None:
    whole, weights = train(None, epochs=3)
    train(tmp_path / "run", epochs=3, max_steps=stop)
    resumed, found = train(tmp_path / "run", epochs=3, resume=True)
    assert len(resumed.steps) == len(whole.steps)
    assert resumed.steps["loss"].tolist() == whole.steps["loss"].tolist()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert skipped_in(resumed) == ALL


def test_events_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MOST_SKIPPED", 4)
    run, _ = train(tmp_path / "run", epochs=2)
    messages = [e["message"] for e in run.events if e["kind"] == "skipped sample"]
    assert len(messages) == 5
    assert messages[-1] == "more samples, which are not listed"
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["message"] for line in lines][-5:] == messages


def test_a_run_that_failed_of_too_many_has_them_in_its_events(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at most max_errors=2 samples may be left out"):
        train(tmp_path / "run", max_errors=2, epochs=2)
    run = Run.load(tmp_path / "run")
    assert len(skipped_in(run)) >= 3
    assert run.status == "failed"
