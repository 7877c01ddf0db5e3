"""What a loss of power may leave of a run's series does not keep it from going on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from handful import DataLoader, Run, Trainer
from handful.errors import RunError
from handful.runs.folder import find_unfinished
from handful.runs.salvage import load_salvaged


def train(path: Path, epochs: int, *, resume: bool = False) -> Run:
    torch.manual_seed(0)
    X = torch.randn(20, 4)
    trainer = Trainer(nn.Linear(4, 2), loss="cross_entropy", progress="off")
    loader = DataLoader((X, (X.sum(1) > 0).long()), 8, shuffle=True)
    settings = {"recipe": "mine"}
    return trainer.fit(
        loader, epochs=epochs, run_dir=path, resume=resume, settings=settings
    )


@pytest.mark.parametrize("left", [b"", b"\0" * 50, b'{"half": '])
def test_run_goes_on_without_what_its_series_have_lost(
    tmp_path: Path, left: bytes
) -> None:
    path = tmp_path / "run"
    whole = train(path, 2)
    for name in ("steps.npy", "history.jsonl", "events.jsonl"):
        (path / name).write_bytes(left + b"\n{" if left else left)
    with pytest.raises(RunError, match=r"steps.npy is not a NumPy file|no JSON object"):
        Run.load(path)
    salvaged = load_salvaged(path)
    assert (salvaged.config, salvaged.identity) == (whole.config, whole.identity)
    assert (salvaged.history, len(salvaged.steps)) == ([], 0)
    assert find_unfinished(tmp_path, "mine") is None

    run = train(path, 3, resume=True)
    assert run.history[:2] == whole.history
    assert np.isnan(run.steps["loss"][:6]).all()
    assert np.isfinite(run.steps["loss"][6:]).all()
    assert [event["kind"] for event in run.events] == ["resumed"]
    assert len(Run.load(path).steps) == 9


def test_damaged_settings_are_told(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(path, 1)
    (path / "config.yaml").write_bytes(b"\0")
    with pytest.raises(RunError, match=r"config.yaml is not YAML"):
        load_salvaged(path)
