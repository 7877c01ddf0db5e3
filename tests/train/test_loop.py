"""The loop: what ends it, what it records and when, and what callbacks may do."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, lr_scheduler

from handful import Callback, DataLoader, Run, Trainer
from handful.errors import TrainingError
from handful.train.callbacks import FitState

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()
BATCHES = list(DataLoader((X, Y), 8))


class Endless:
    """Batches without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(BATCHES)


class CountedValidation:
    """Validation data that count how often they are gone through."""

    passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(BATCHES)


def make_trainer(*callbacks: Callback, **options: Any) -> Trainer:
    torch.manual_seed(1)
    settings = {"loss": "cross_entropy", "lr": 0.1, "progress": "off", **options}
    return Trainer(nn.Linear(4, 2), callbacks=callbacks, **settings)


LOADERS = {"a length": lambda: BATCHES, "no length": Endless}


@pytest.fixture(params=LOADERS)
def loader(request: pytest.FixtureRequest) -> Any:
    """Give three batches an epoch, with a length or without."""
    return LOADERS[request.param]()


@pytest.mark.parametrize(
    ("end", "places"),
    [
        ({"epochs": 2}, [(1, 3), (2, 6)]),
        ({"max_steps": 4}, [(1, 3), (2, 4, "partial")]),
        ({"max_steps": 2}, [(1, 2, "partial")]),
        ({"epochs": 1, "max_steps": 9}, [(1, 3)]),
        ({"epochs": 9, "max_steps": 5}, [(1, 3), (2, 5, "partial")]),
    ],
)
def test_epochs_or_steps_end_a_run_whichever_comes_first(
    loader: Any, end: dict[str, int], places: list[Any]
) -> None:
    run = make_trainer().fit(loader, BATCHES, **end)
    assert places_of(run) == places
    assert run.status == "finished"
    assert len(run.steps) == run.history[-1]["step"]
    assert all("valid_loss" in record for record in run.history)


def places_of(run: Run) -> list[Any]:
    return [
        (r["epoch"], r["step"], *(["partial"] if r.get("partial") else []))
        for r in run.history
    ]


@pytest.mark.parametrize("end", [{"max_steps": 6}, {"epochs": 2, "max_steps": 6}])
def test_steps_that_end_with_an_epoch_end_it_in_whole(end: dict[str, int]) -> None:
    assert places_of(make_trainer().fit(BATCHES, **end)) == [(1, 3), (2, 6)]
    # Whether an epoch without a length has ended only its next batch can tell.
    run = make_trainer().fit(Endless(), **end)
    assert places_of(run) == [(1, 3), (2, 6, "partial")]


@pytest.mark.parametrize("accumulate", [2, 5])
def test_the_last_step_of_an_epoch_takes_what_batches_are_left(
    loader: Any, accumulate: int
) -> None:
    per_epoch = math.ceil(3 / accumulate)
    run = make_trainer(accumulate=accumulate).fit(loader, epochs=2)
    assert [r["step"] for r in run.history] == [per_epoch, 2 * per_epoch]
    assert [r["samples"] for r in run.history] == [20, 40]
    run = make_trainer(accumulate=accumulate).fit(loader, max_steps=1)
    assert run.history[-1]["samples"] == min(8 * accumulate, 20)


@pytest.mark.parametrize(
    ("every", "places", "validated"),
    [
        (1, [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)], [1, 2, 3, 4, 5, 6]),
        (2, [(1, 2), (1, 3), (2, 4), (2, 6)], [2, 4, 6]),
        (3, [(1, 3), (2, 6)], [3, 6]),
        (4, [(1, 3), (2, 4), (2, 6)], [4, 6]),
        (9, [(1, 3), (2, 6)], [6]),
    ],
)
def test_validations_come_every_so_many_steps_and_once_at_the_end(
    every: int, places: list[Any], validated: list[int]
) -> None:
    valid = CountedValidation()
    run = make_trainer().fit(BATCHES, valid, epochs=2, valid_every=every)
    assert [(r["epoch"], r["step"]) for r in run.history] == places
    assert [r["step"] for r in run.history if "valid_loss" in r] == validated
    assert valid.passes == len(validated)
    assert [r["step"] for r in run.history if not r.get("partial")] == [3, 6]


def test_an_epoch_that_ends_unforeseen_is_validated_and_counted_once() -> None:
    valid = CountedValidation()
    trainer = make_trainer(early_stopping=3, lr=1e-12)
    run = trainer.fit(Endless(), valid, epochs=1, valid_every=1)
    assert not any(event["kind"] == "stopped early" for event in run.events)
    steps = [(r["step"], r.get("partial")) for r in run.history]
    assert steps == [(1, True), (2, True), (3, True), (3, None)]
    assert valid.passes == 3
    assert run.history[2]["valid_loss"] == run.history[3]["valid_loss"]


def test_losses_of_a_partial_record_are_of_the_epoch_so_far(loader: Any) -> None:
    run = make_trainer().fit(loader, BATCHES, epochs=2, valid_every=2)
    losses = run.steps["loss"].astype(float)
    weights = [8, 8, 4] * 2
    for record in run.history:
        first = 3 * (record["epoch"] - 1)
        own = slice(first, record["step"])
        expected = (losses[own] * weights[own]).sum() / sum(weights[own])
        assert record["train_loss"] == pytest.approx(expected, rel=1e-12)


def test_seconds_add_up_to_the_time_of_the_run() -> None:
    class Slow(Callback):
        def on_step(self, state: FitState) -> None:
            time.sleep(0.02)

        def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
            time.sleep(0.02)

    begun = time.perf_counter()
    run = make_trainer(Slow(), num_threads=1).fit(BATCHES, max_steps=7, valid_every=2)
    elapsed = time.perf_counter() - begun
    assert 7 * 0.02 + 2 * 0.02 <= run.seconds <= elapsed


MOMENTS = (
    "on_run_start",
    "on_gradients",
    "on_step",
    "on_validation",
    "on_epoch_end",
    "on_run_end",
)


class Watch(Callback):
    """Notes every moment; at one of them it stops the run or fails."""

    def __init__(self, at: tuple[str, int] | None = None, *, fails: bool = False):
        self.at, self.fails = at, fails
        self.seen: list[tuple[str, int]] = []

    def _note(self, moment: str, state: FitState) -> None:
        self.seen.append((moment, state.step))
        if self.at == (moment, state.step):
            if self.fails:
                raise LookupError("a fault of the callback's")
            state.stop = "asked to"

    def on_run_start(self, state: FitState) -> None:
        self._note("on_run_start", state)

    def on_gradients(self, state: FitState) -> None:
        assert all(p.grad is not None for p in state.model.parameters())
        self._note("on_gradients", state)

    def on_step(self, state: FitState) -> None:
        self._note("on_step", state)

    def on_validation(self, state: FitState, record: Mapping[str, Any]) -> None:
        assert record["partial"] is True
        self._note("on_validation", state)

    def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
        assert "partial" not in record
        self._note("on_epoch_end", state)

    def on_run_end(self, state: FitState) -> None:
        self._note("on_run_end", state)


def test_callbacks_see_every_moment_in_order() -> None:
    watch = Watch()
    make_trainer(watch).fit(BATCHES, BATCHES, epochs=2, valid_every=2)
    steps = [[("on_gradients", n - 1), ("on_step", n)] for n in range(1, 7)]
    assert watch.seen == [
        ("on_run_start", 0),
        *steps[0],
        *steps[1],
        ("on_validation", 2),
        *steps[2],
        ("on_epoch_end", 3),
        *steps[3],
        ("on_validation", 4),
        *steps[4],
        *steps[5],
        ("on_epoch_end", 6),
        ("on_run_end", 6),
    ]


@pytest.mark.parametrize(
    ("moment", "step", "end"),
    [
        ("on_run_start", 0, 0),
        ("on_gradients", 3, 4),
        ("on_step", 1, 1),
        ("on_step", 3, 3),
        ("on_validation", 2, 2),
        ("on_epoch_end", 3, 3),
        ("on_run_end", 6, 6),
    ],
)
@pytest.mark.parametrize("every", [2, None])
def test_a_reason_to_stop_ends_the_run_after_the_step_with_a_validation(
    moment: str, step: int, end: int, every: int | None, loader: Any
) -> None:
    watch = Watch((moment, step))
    run = make_trainer(watch).fit(loader, BATCHES, epochs=2, valid_every=every)
    if moment == "on_validation" and every is None:
        end = 6
    assert len(run.steps) == end
    assert run.status == "finished"
    if end:
        assert run.history[-1]["step"] == end
        assert "valid_loss" in run.history[-1]
        assert ("on_run_end", end) in watch.seen
    if end < 6:
        assert run.events[-1]["kind"] == "stopped early"
        assert run.events[-1]["message"] == "asked to"


@pytest.mark.parametrize(
    ("moment", "step", "saved"),
    [
        ("on_run_start", 0, []),
        ("on_gradients", 1, []),
        ("on_step", 1, []),
        ("on_validation", 2, [2]),
        ("on_step", 4, [3]),
        ("on_epoch_end", 3, [3]),
        ("on_epoch_end", 6, [6]),
        ("on_run_end", 6, [6]),
    ],
)
def test_a_fault_in_any_moment_leaves_a_folder_that_can_be_resumed(
    moment: str,
    step: int,
    saved: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("handful.train.record.COPY_SHARE", math.inf)
    other = Watch()
    trainer = make_trainer(Watch((moment, step), fails=True), other)
    with pytest.raises(LookupError, match="a fault of the callback's"):
        trainer.fit(BATCHES, BATCHES, epochs=2, valid_every=2, run_dir=tmp_path / "r")
    assert other.seen[-1][0] == "on_run_end"
    run = Run.load(tmp_path / "r")
    assert run.status == "failed"
    assert run.events[-1]["message"] == "LookupError: a fault of the callback's"
    found = [int(p.name[5:]) for p in (tmp_path / "r" / "checkpoints").iterdir()]
    assert max(found, default=0) == max(saved, default=0)
    if saved:
        whole = make_trainer().fit(BATCHES, BATCHES, epochs=2, valid_every=2)
        again = make_trainer().fit(
            BATCHES,
            BATCHES,
            epochs=2,
            valid_every=2,
            run_dir=tmp_path / "r",
            resume=True,
        )
        assert again.steps.tobytes() == whole.steps.tobytes()
        assert places_of(again) == places_of(whole)


def test_a_state_has_the_living_model_and_optimizer() -> None:
    class Grow(Callback):
        def on_epoch_end(self, state: FitState, record: Mapping[str, Any]) -> None:
            with torch.no_grad():
                state.model.weight.zero_()
            state.optimizer.param_groups[0]["weight_decay"] = 0.5

    model = nn.Linear(4, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    trainer = Trainer(
        model,
        loss="cross_entropy",
        optimizer=optimizer,
        progress="off",
        callbacks=[Grow()],
    )
    trainer.fit(BATCHES, epochs=1)
    assert not model.weight.any()
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def one_cycle(optimizer: Any) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=9)


@pytest.mark.parametrize("schedule", ["cosine", "cosine:unit=step", one_cycle])
@pytest.mark.parametrize("fails", [False, True])
def test_an_optimizers_groups_are_as_before_after_a_run(
    schedule: Any, fails: bool
) -> None:
    model = nn.Linear(4, 2)
    groups = [{"params": [model.weight], "lr": 0.2}, {"params": [model.bias]}]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    before = [{k: v for k, v in g.items() if k != "params"} for g in groups]
    trainer = Trainer(
        model,
        loss="cross_entropy",
        optimizer=optimizer,
        schedule=schedule,
        progress="off",
        callbacks=[Watch(("on_step", 4), fails=fails)],
    )
    if fails:
        with pytest.raises(LookupError, match="a fault"):
            trainer.fit(BATCHES, epochs=2)
    else:
        trainer.fit(BATCHES, epochs=2)
    after = [
        {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups
    ]
    assert after == before


def test_a_schedulers_own_object_starts_anew_with_each_run() -> None:
    model = nn.Linear(4, 2)
    optimizer = SGD(model.parameters(), lr=0.4)
    schedule = lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    trainer = Trainer(
        model,
        loss="cross_entropy",
        optimizer=optimizer,
        schedule=schedule,
        progress="off",
    )
    for _ in range(2):
        run = trainer.fit(BATCHES, epochs=3)
        assert [r["lr"] for r in run.history] == [0.4, 0.2, 0.1]


def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handful.train.record.COPY_SHARE", math.inf)

    class Break(Callback):
        def on_step(self, state: FitState) -> None:
            if state.step == 4:
                with torch.no_grad():
                    state.model.weight.fill_(math.nan)

    with pytest.raises(TrainingError, match="The weights were not finite"):
        make_trainer(Break()).fit(BATCHES, epochs=5, run_dir=tmp_path / "run")
    names = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert names == ["step-00000003"]
    run = make_trainer().fit(BATCHES, epochs=5, run_dir=tmp_path / "run", resume=True)
    assert all(math.isfinite(r["train_loss"]) for r in run.history)


def test_layers_are_in_training_after_a_validation_in_mid_epoch() -> None:
    modes: list[bool] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            return x

    model = nn.Sequential(Spy(), nn.Linear(4, 2))
    trainer = Trainer(model, loss="cross_entropy", num_threads=1, progress="off")
    trainer.fit(BATCHES, BATCHES[:1], epochs=1, valid_every=1)
    assert modes == [True, False] * 3


def test_a_run_in_another_thread_trains_as_in_the_main_one() -> None:
    runs: list[Run] = []
    thread = threading.Thread(
        target=lambda: runs.append(make_trainer().fit(BATCHES, epochs=1))
    )
    thread.start()
    thread.join(timeout=30)
    assert runs[0].status == "finished"


def test_a_loader_that_gives_more_than_its_length_is_stopped_at_the_last_step() -> None:
    class Longer(Endless):
        def __len__(self) -> int:
            return 1

    run = make_trainer().fit(Longer(), max_steps=2)
    assert len(run.steps) == 2


def test_a_reason_to_stop_that_is_no_text_is_recorded_as_one() -> None:
    class Stop(Callback):
        def on_step(self, state: FitState) -> None:
            state.stop = True  # type: ignore[assignment]

    run = make_trainer(Stop()).fit(BATCHES, epochs=1)
    assert run.events[-1]["kind"] == "stopped early"
    assert run.events[-1]["message"] == "True"


@pytest.mark.parametrize("schedule", [None, "step:step_size=1,gamma=0.5,unit=step"])
def test_a_rate_that_a_callback_sets_stays(schedule: Any) -> None:
    class Lower(Callback):
        def on_step(self, state: FitState) -> None:
            if state.step == 2:
                state.optimizer.param_groups[0]["lr"] *= 0.1

    run = make_trainer(Lower(), schedule=schedule).fit(BATCHES, epochs=2)
    gamma = 0.5 if schedule else 1.0
    expected = [(0.1 if step < 2 else 0.01) * gamma**step for step in range(6)]
    assert run.steps["lr"].tolist() == pytest.approx(expected)
