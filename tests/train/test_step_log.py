"""The log of steps: exact means, little memory, nothing read back on the way."""

from __future__ import annotations

import gc
import math
import tracemalloc
import weakref
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from handful import Callback, Trainer
from handful.runs.run import STEP_DTYPE
from handful.train.batches import BatchLayout
from handful.train.engine import EagerEngine, StepResult, StepSettings
from handful.train.losses import make_criterion
from handful.train.precision import Precision
from handful.train.step import CriterionStep, CustomStep, Step
from handful.train.step_log import BLOCK, StepLog

NAN = math.nan


def make_result(loss: float, weight: Any = 1, **options: Any) -> StepResult:
    return StepResult(torch.tensor(loss), weight, samples=1, **options)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(-100, 100, width=32), st.integers(0, 9)), max_size=40
    ),
    cut=st.integers(0, 40),
    kind=st.sampled_from(["int", "tensor", "mixed"]),
)
def test_means_are_weighed_and_flushing_in_between_changes_nothing(
    rows: list[tuple[float, int]], cut: int, kind: str
) -> None:
    means, read = {}, []
    for average in ("samples", "batches"):
        log = StepLog(average)
        read = []
        for place, (loss, weight) in enumerate(rows):
            if place == cut:
                read += log.flush()["loss"].tolist()
            is_tensor = kind == "tensor" or (kind == "mixed" and place % 2)
            given_weight = torch.tensor(weight) if is_tensor else weight
            log.add(make_result(loss if weight else NAN, given_weight), 0.1)
        read += log.flush()["loss"].tolist()
        means[average] = log.means()["train_loss"]
    counted = [(loss, weight) for loss, weight in rows if weight]
    assert [v for v in read if v == v] == [loss for loss, _ in counted]
    if not counted:
        assert math.isnan(means["samples"])
        assert math.isnan(means["batches"])
        return
    total = math.fsum(weight for _, weight in counted)
    weighted = math.fsum(loss * weight for loss, weight in counted) / total
    plain = math.fsum(loss for loss, _ in counted) / len(counted)
    assert means["samples"] == pytest.approx(weighted, rel=1e-12, abs=1e-12)
    assert means["batches"] == pytest.approx(plain, rel=1e-12, abs=1e-12)


def test_rows_hold_losses_and_rates_across_blocks() -> None:
    log = StepLog("samples")
    count = 2 * BLOCK + 3
    for step in range(count):
        log.add(make_result(float(step)), step / 10)
    rows = log.flush()
    assert rows.dtype == STEP_DTYPE
    assert rows["loss"].tolist() == list(range(count))
    assert rows["lr"].tolist() == [step / 10 for step in range(count)]
    assert len(log.flush()) == 0
    assert log.means()["train_loss"] == (count - 1) / 2


def test_an_epoch_starts_anew_and_its_sums_survive_a_checkpoint() -> None:
    log = StepLog("samples")
    log.add(make_result(5.0, 3, sums={"hits": torch.tensor(6)}), 0.1)
    log.flush()
    state = log.state_dict()
    log.add(make_result(1.0, 1, sums={"hits": torch.tensor(2)}), 0.1)
    log.flush()
    assert log.means() == {"train_loss": 4.0, "train_hits": 2.0}
    other = StepLog("samples")
    other.load_state_dict(state)
    assert other.means() == {"train_loss": 5.0, "train_hits": 2.0}
    assert state["extras"] == {"hits": [6.0]}
    log.start_epoch()
    assert math.isnan(log.means()["train_loss"])


def test_norms_are_averaged_over_the_steps_that_were_taken() -> None:
    log = StepLog("samples")
    for norm, was_taken in ((1.0, True), (math.inf, False), (4.0, True)):
        norm_tensor = torch.tensor(norm)
        log.add(make_result(1.0, grad_norm=norm_tensor, was_taken=was_taken), 0.1)
    log.flush()
    assert log.means()["grad_norm"] == 2.5


def test_a_step_left_out_counts_where_its_loss_is_finite() -> None:
    log = StepLog("samples")
    log.add(make_result(2.0), 0.1)
    log.add(make_result(6.0, was_taken=False), 0.1)
    broken = {"hits": torch.tensor(NAN)}
    log.add(make_result(NAN, was_taken=False, sums=broken), 0.1)
    log.add(make_result(math.inf, torch.tensor(1), was_taken=False), 0.1)
    assert len(log.flush()) == 4
    assert log.means() == {"train_loss": 4.0}


def test_a_loss_that_is_not_finite_though_its_step_was_taken_shows() -> None:
    log = StepLog("samples")
    log.add(make_result(NAN), 0.1)
    log.flush()
    assert math.isnan(log.means()["train_loss"])


def test_a_hundred_thousand_steps_take_little_memory() -> None:
    log, alive = StepLog("samples"), []
    tracemalloc.start()
    for step in range(100_000):
        loss = torch.tensor(0.5)
        if step % 100 == 0:
            alive.append(weakref.ref(loss))
        log.add(StepResult(loss, torch.tensor(3), 3, loss), 0.1)
    del loss
    gc.collect()
    in_use, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(ref() is not None for ref in alive) <= BLOCK // 100 + 1
    assert in_use < 3_000_000  # the rates, and objects of the last block
    assert len(log.flush()) == 100_000


def test_adding_reads_nothing_back() -> None:
    log = StepLog("samples")
    loss = torch.empty((), device="meta")  # has no value that could be read
    for _ in range(BLOCK + 5):
        log.add(StepResult(loss, loss, 1, loss, {"hits": loss}), 0.1)


def custom_step(model: nn.Module, batch: Any) -> dict[str, Any]:
    losses = (model(batch[0]) - batch[0][:, :4]).square().mean(1)
    mask = batch[1] > 0
    return {"loss_sum": (losses * mask).sum(), "weight": mask.sum()}


STEPS: dict[str, Any] = {
    "labels": ("cross_entropy", None),
    "weights of classes": ("cross_entropy:weight=1;2;3;4", None),
    "weights of samples": ("cross_entropy", 2),
    "a step of the user's": (custom_step, None),
}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_step_reads_nothing_back_from_its_device(name: str, parts: int) -> None:
    given, place = STEPS[name]
    device = torch.device("meta")
    model = nn.Linear(6, 4, device=device)
    precision = Precision("float32", device)
    step: Step = CustomStep(custom_step, precision)
    if isinstance(given, str):
        criterion = make_criterion(given)
        step = CriterionStep(criterion, BatchLayout(1, place), precision)
    engine = EagerEngine(
        model,
        step,
        torch.optim.SGD(model.parameters(), lr=0.1, foreach=False),
        precision=precision,
        settings=StepSettings(clip_norm=1.0),
    )
    batch: tuple[Tensor, ...] = (
        torch.empty(5, 6, device=device),
        torch.empty(5, dtype=torch.int64, device=device),
    )
    if place is not None:
        batch = (*batch, torch.empty(5, device=device))
    log = StepLog("samples")
    for _ in range(3):
        log.add(engine.step([batch] * parts), 0.1)


class ReadBacks(TorchDispatchMode):
    """Counts values that go from a tensor to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


class CountEachStep(Callback):
    def __init__(self, mode: ReadBacks) -> None:
        self.mode = mode
        self.counts: list[int] = []

    def on_step(self, state: Any) -> None:
        self.counts.append(self.mode.count)


LOOKS = 2
"""What is read of a step on the CPU, whose memory it lies in: the loss, and one number
for all gradients, both to know whether they are finite."""


@pytest.mark.parametrize(
    ("options", "looks"),
    [
        ({}, LOOKS),
        ({"accumulate": 2}, LOOKS),
        ({"micro_batch_size": 3, "clip_norm": 0.5, "log_norms": True}, LOOKS),
        ({"schedule": "cosine:unit=step", "optimizer": "sgd:momentum=0.9"}, LOOKS),
        ({"train_metrics": ["accuracy"]}, LOOKS + 1),  # the loss once more
        ({"ema": 0.9}, LOOKS),
    ],
)
def test_of_a_step_a_training_reads_only_whether_its_numbers_are_finite(
    options: dict[str, Any], looks: int
) -> None:
    labels = torch.tensor([0, 1, 2, -100, 3, 1, 2, 0])
    loader = [(torch.randn(8, 3), labels) for _ in range(12)]
    mode = ReadBacks()
    counted = CountEachStep(mode)
    settings = {"loss": "cross_entropy", "lr": 0.01, **options}
    trainer = Trainer(
        nn.Linear(3, 4),
        callbacks=[counted],
        progress="off",
        num_threads=None,
        **settings,
    )
    with mode:
        trainer.fit(loader, epochs=1)
    assert mode.count > counted.counts[-1] - counted.counts[0]
    assert counted.counts[0] > 0  # the check of the first loss
    grown = [b - a for a, b in pairwise(counted.counts[1:])]
    assert set(grown) == {looks}
