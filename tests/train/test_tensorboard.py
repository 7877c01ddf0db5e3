"""TensorBoard: what its own reader finds in the files."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from handful.errors import ArgumentError, RunError
from handful.runs.run import Run
from handful.train.callbacks import FitState

pytest.importorskip("tensorboard", reason="tensorboard is not installed")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from handful.train.tensorboard import BLOCK_STEPS, TensorBoard

STEPS = 4


def train(board: TensorBoard, epochs: int, *, first: int = 1, stop_at: int = 0) -> None:
    """Call a callback as a training would, from one epoch to another.

    One tensor holds every step's loss, as an engine with fixed memory has it.
    """
    state = FitState(run=Run(), epochs=epochs, steps_per_epoch=STEPS)
    state.epoch, state.step = first - 1, (first - 1) * STEPS
    state.loss = torch.zeros((), requires_grad=True)
    board.on_run_start(state)
    try:
        for state.epoch in range(first, epochs + 1):
            for _ in range(STEPS):
                state.step += 1
                with torch.no_grad():
                    state.loss.fill_(1 / state.step)
                state.lr = 0.5 / state.epoch
                board.on_step(state)
                if state.step == stop_at:
                    raise KeyboardInterrupt("stopped")
            record = {"epoch": state.epoch, "step": state.step, "seconds": 1.5}
            record |= {"train_loss": 10.0 * state.epoch, "partial": False}
            board.on_epoch_end(state, record)
    finally:
        board.on_run_end(state)


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read all scalars with TensorBoard's own reader."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_steps_and_records_are_read_back(tmp_path: Path) -> None:
    train(TensorBoard(tmp_path), 2)
    found = read(tmp_path)
    assert found["step/loss"] == [
        (step, pytest.approx(1 / step)) for step in range(1, 9)
    ]
    assert [value for _, value in found["step/lr"]] == [0.5] * 4 + [0.25] * 4
    assert found["train_loss"] == [(4, 10.0), (8, 20.0)]
    assert found["seconds"] == [(4, 1.5), (8, 1.5)]
    assert found["epoch"] == [(4, 1.0), (8, 2.0)]
    assert set(found) == {"step/loss", "step/lr", "train_loss", "seconds", "epoch"}


def test_every_thins_the_steps_out(tmp_path: Path) -> None:
    train(TensorBoard(tmp_path, every=3), 2)
    assert [step for step, _ in read(tmp_path)["step/loss"]] == [3, 6]


def test_a_resumed_run_shows_no_step_twice(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        train(TensorBoard(tmp_path), 3, stop_at=7)
    assert [step for step, _ in read(tmp_path)["step/loss"]] == [*range(1, 8)]
    train(TensorBoard(tmp_path), 3, first=2)
    found = read(tmp_path)
    assert [step for step, _ in found["step/loss"]] == [*range(1, 13)]
    assert [step for step, _ in found["train_loss"]] == [4, 8, 12]


def test_one_callback_serves_several_runs(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    train(board, 3)
    train(board, 1)
    assert [step for step, _ in read(tmp_path)["step/loss"]] == [1, 2, 3, 4]


def test_losses_are_read_back_in_blocks(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    state = FitState(run=Run(), epochs=1, steps_per_epoch=None)
    board.on_run_start(state)
    counts = []
    for state.step in range(1, 2 * BLOCK_STEPS + 1):
        state.loss = torch.tensor(0.5)
        board.on_step(state)
        board._writer.flush()
        if state.step % BLOCK_STEPS in (0, BLOCK_STEPS - 1):
            counts.append(len(read(tmp_path).get("step/loss", ())))
    board.on_run_end(state)
    assert counts == [0, BLOCK_STEPS, BLOCK_STEPS, 2 * BLOCK_STEPS]


def test_a_record_is_on_the_disk_before_the_training_goes_on(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    state = FitState(run=Run(), epochs=2, steps_per_epoch=1, step=1, epoch=1)
    state.loss = torch.tensor(2.0, dtype=torch.bfloat16)
    board.on_run_start(FitState(run=Run(), epochs=2, steps_per_epoch=1))
    board.on_step(state)
    board.on_epoch_end(state, {"epoch": 1, "step": 1, "valid_loss": math.nan})
    found = read(tmp_path)
    board.on_run_end(state)
    assert found["step/loss"] == [(1, 2.0)]
    assert math.isnan(found["valid_loss"][0][1])


def test_a_validation_inside_an_epoch_stands_at_its_step(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    state = FitState(run=Run(), epochs=1, steps_per_epoch=8)
    board.on_run_start(state)
    record = {"epoch": 1, "step": 5, "valid_loss": 0.5, "partial": True}
    board.on_validation(state, record)
    board.on_run_end(state)
    assert read(tmp_path) == {"epoch": [(5, 1.0)], "valid_loss": [(5, 0.5)]}


def test_a_run_that_never_started_ends_quietly(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "never")
    board.on_run_end(FitState(run=Run(), epochs=1, steps_per_epoch=None))
    assert not (tmp_path / "never").exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    board = TensorBoard(tmp_path / "file")
    with pytest.raises(RunError, match=r"folder must be .*'.*file': .* exists"):
        board.on_run_start(FitState(run=Run(), epochs=1, steps_per_epoch=None))


@pytest.mark.parametrize("every", [0, -1, True, 1.0, "1", None])
def test_every_must_be_a_whole_number(tmp_path: Path, every: Any) -> None:
    with pytest.raises(ArgumentError, match="every must be a whole number from 1"):
        TensorBoard(tmp_path, every=every)


def test_a_missing_tensorboard_is_named_with_its_extra(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "__init__.py").write_text("raise ImportError")
    program = (
        "from handful.train.tensorboard import TensorBoard\n"
        "from handful.errors import MissingExtraError\n"
        "try:\n    TensorBoard('runs')\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    paths = [str(tmp_path), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "needs tensorboard, which is not installed" in done.stdout
    assert 'pip install "handful[tensorboard]"' in done.stdout
