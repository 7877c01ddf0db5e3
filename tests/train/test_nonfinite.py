"""Losses and gradients that are not finite: stop or skip, and nothing is spoilt."""

from __future__ import annotations

import copy
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

from handful import Callback, DataLoader, Run, Trainer
from handful.errors import NonfiniteError, TrainingError
from handful.train.callbacks import FitState
from handful.train.nonfinite import StepGuard
from handful.train.nonfinite_steps import MOST_EVENTS

g = torch.Generator().manual_seed(0)
X = torch.randn(120, 4, generator=g)
Y = (X.sum(1) > 0).long()
BAD = X.clone()
BAD[77, 2] = math.nan


class Root(nn.Module):
    """Its value is finite at 0, and its slope is not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().sqrt()


class Steep(nn.Module):
    """Goes wrong in the gradient alone, where all inputs of a sample are 0."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.root, self.head = Root(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.root(x * self.scale))  # type: ignore[no-any-return]


def plain() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def normed() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(8, 2))


def steep() -> nn.Module:
    torch.manual_seed(1)
    return Steep()


def zeroed() -> Tensor:
    values = X.clone()
    values[77] = 0
    return values


def make_trainer(model: nn.Module, *callbacks: Callback, **options: Any) -> Trainer:
    settings = {"loss": "cross_entropy", "lr": 0.05, "progress": "off", **options}
    return Trainer(model, callbacks=callbacks, num_threads=1, **settings)


def loader(values: Tensor, **options: Any) -> DataLoader[Any]:
    return DataLoader((values, Y), 10, shuffle=True, seed=3, **options)


class Keep(Callback):
    """Keeps weights and buffers after each step."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_step(self, state: FitState) -> None:
        self.states.append(copy.deepcopy(state.model.state_dict()))


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def step_of(sample: int) -> tuple[int, list[int]]:
    """Return the step, from 1 on, in which a sample of the loader comes."""
    rows = DataLoader(torch.arange(120), 10, shuffle=True, seed=3)
    for number, batch in enumerate(rows, start=1):
        if sample in batch:
            return number, batch.tolist()
    raise AssertionError


@pytest.fixture(params=["eager", "captured", "native"])
def engine(request: pytest.FixtureRequest) -> str:
    """Return a setting of `engine`: that of each, played natively as well."""
    if request.param != "native":
        return str(request.param)
    request.getfixturevalue("native_player")
    return "captured"


OPTIMIZERS = ["adam", "sgd:momentum=0.9", "rmsprop", "rprop", "adagrad", "asgd"]


@pytest.mark.parametrize("make", [plain, normed])
def test_stopping_leaves_the_state_from_before_the_bad_step(
    make: Callable[[], nn.Module], engine: str
) -> None:
    model, keep = make(), Keep()
    number, samples = step_of(77)
    with pytest.raises(NonfiniteError, match="must be finite; got nan") as caught:
        make_trainer(model, keep, engine=engine).fit(loader(BAD), epochs=3)
    assert len(keep.states) == number - 1
    assert_same(model.state_dict(), keep.states[-1])
    assert all(p.grad is None for p in model.parameters())
    said = str(caught.value)
    listed = ", ".join(map(str, samples))
    assert f"the loss of step {number} (epoch 1, batch {number}; samples" in said
    assert listed in said
    assert "batch[0] holds NaN in sample 77, column 2, counted from 0." in said
    assert "first layer whose output is not finite is '0' (Linear)" in said


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_is_skipped_changes_nothing(optimizer: str) -> None:
    model, keep = normed(), Keep()
    trainer = make_trainer(model, keep, optimizer=optimizer, on_nonfinite="skip")
    run = trainer.fit(loader(BAD), epochs=2)
    number = step_of(77)[0]
    assert_same(keep.states[number - 2], keep.states[number - 1])
    assert run.history[0]["skipped_steps"] == 1
    assert run.history[-1]["skipped_steps"] == 2
    assert len(run.steps) == 24
    assert math.isnan(run.steps["loss"][number - 1])
    assert math.isfinite(run.history[-1]["train_loss"])
    events = [e["message"] for e in run.events if e["kind"] == "skipped step"]
    assert len(events) == 2
    assert f"step {number} (epoch 1" in events[0]
    assert "'0' (Linear)" in events[0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_skipping_gives_the_weights_of_a_run_without_the_bad_batches(
    optimizer: str,
) -> None:
    bad, good = plain(), plain()
    batches = list(loader(BAD))
    rest = [b for b in batches if b[0].isfinite().all()]
    assert len(rest) == len(batches) - 1
    options: dict[str, Any] = {"optimizer": optimizer, "ema": 0.9}
    options["schedule"] = "exponential:gamma=0.9,unit=step"
    first = make_trainer(bad, on_nonfinite="skip", **options)
    first.fit(batches, epochs=2)
    second = make_trainer(good, **options)
    second.fit(rest, epochs=2)
    assert_same(bad.state_dict(), good.state_dict())
    assert torch.equal(first.predict([(X, Y)]), second.predict([(X, Y)]))


def test_a_gradient_alone_that_is_not_finite_is_found(engine: str) -> None:
    model, keep = steep(), Keep()
    trainer = make_trainer(model, keep, engine=engine)
    with pytest.raises(NonfiniteError, match="the gradient of step") as caught:
        trainer.fit(loader(zeroed()), epochs=1)
    assert_same(model.state_dict(), keep.states[-1])
    said = str(caught.value)
    assert "All layers' outputs are finite." in said
    assert "the model itself (Steep), in scale" in said


@pytest.mark.parametrize("options", [{"clip_norm": 1.0}, {"clip_value": 0.1}])
def test_clipping_does_not_hide_an_infinite_gradient(options: dict[str, float]) -> None:
    with pytest.raises(NonfiniteError, match="the gradient of step"):
        make_trainer(steep(), **options).fit(loader(zeroed()), epochs=1)


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"micro_batch_size": 5}])
def test_a_step_of_several_micro_batches_is_left_out_whole(
    options: dict[str, int],
) -> None:
    keep = Keep()
    trainer = make_trainer(normed(), keep, on_nonfinite="skip", **options)
    run = trainer.fit(loader(BAD), epochs=1)
    at = (step_of(77)[0] - 1) // options.get("accumulate", 1)
    assert_same(keep.states[at - 1], keep.states[at])
    message = next(e["message"] for e in run.events if e["kind"] == "skipped step")
    assert "in sample 77, column 2" in message


def test_the_captured_engine_skips_as_the_eager_one_does() -> None:
    states, losses = [], []
    for engine in ("eager", "captured"):
        model = normed()
        trainer = make_trainer(model, engine=engine, on_nonfinite="skip", ema=0.9)
        run = trainer.fit(loader(BAD), epochs=6)
        states.append(model.state_dict())
        losses.append(run.steps["loss"])
        assert run.history[-1]["skipped_steps"] == 6
    assert any("are replayed" in event["message"] for event in run.events)
    assert_same(*states)
    assert np.array_equal(*losses, equal_nan=True)


def test_train_metrics_leave_a_bad_batch_out() -> None:
    trainer = make_trainer(
        plain(), train_metrics=["accuracy"], on_nonfinite="skip", lr=1e-12
    )
    run = trainer.fit(loader(BAD), epochs=1)
    good = [b for b in loader(BAD) if b[0].isfinite().all()]
    wanted = make_trainer(plain(), metrics=["accuracy"]).evaluate(good)
    assert run.history[0]["train_accuracy"] == pytest.approx(wanted["accuracy"])


class Interrupt(Callback):
    """Asks to stop after a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, state: FitState) -> None:
        if state.step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("after", [-1, 0, 1])
def test_a_run_that_skips_resumes_to_the_same_bits(tmp_path: Path, after: int) -> None:
    number = step_of(77)[0]

    def train(model: nn.Module, *callbacks: Callback, **options: Any) -> Run:
        settings = {"ema": 0.9, "schedule": "cosine:unit=step"}
        trainer = make_trainer(model, *callbacks, on_nonfinite="skip", **settings)
        return trainer.fit(loader(BAD), epochs=2, **options)

    whole, parts, again = normed(), normed(), normed()
    run = train(whole)
    train(parts, Interrupt(number + after), run_dir=tmp_path / "run")
    rest = train(again, run_dir=tmp_path / "run", resume=True)
    assert_same(whole.state_dict(), again.state_dict())
    assert np.array_equal(run.steps["loss"], rest.steps["loss"], equal_nan=True)
    assert np.array_equal(run.steps["lr"], rest.steps["lr"])
    assert rest.history[-1]["skipped_steps"] == 2


@pytest.mark.parametrize("kind", ["ours", "PyTorch's"])
@pytest.mark.parametrize("place", [0, 50])
def test_a_run_that_stopped_goes_on_before_the_bad_step(
    tmp_path: Path, kind: str, place: int
) -> None:
    def load(values: Tensor) -> Any:
        if kind == "ours":
            return loader(values)
        return TorchDataLoader(TensorDataset(values, Y), 10)

    good, values = X.clone(), X.clone()
    good[place, 0] = 5
    values[place, 0] = math.nan if place else 5
    if not place:  # the first batch of the second epoch, by way of the weights
        values = good
    whole = plain()
    make_trainer(whole).fit(load(good), epochs=3)

    class Spoil(Callback):
        def on_gradients(self, state: FitState) -> None:
            if state.step == 12 and not place:
                next(state.model.parameters()).grad.fill_(math.inf)

    stopped, again = plain(), plain()
    with pytest.raises(NonfiniteError, match="is kept"):
        make_trainer(stopped, Spoil()).fit(
            load(values), epochs=3, run_dir=tmp_path / "run"
        )
    assert Run.load(tmp_path / "run").status == "failed"
    if place and kind == "ours":  # other data have another fingerprint
        return
    run = make_trainer(again).fit(
        load(good), epochs=3, run_dir=tmp_path / "run", resume=True
    )
    assert_same(whole.state_dict(), again.state_dict())
    assert len(run.steps) == 36
    assert [record["epoch"] for record in run.history] == [1, 2, 3]


def test_the_last_good_state_is_on_the_disk(tmp_path: Path) -> None:
    model = normed()
    with pytest.raises(NonfiniteError, match="is kept"):
        make_trainer(model).fit(loader(BAD), epochs=1, run_dir=tmp_path / "run")
    number = step_of(77)[0]
    names = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert f"step-{number - 1:08d}" in names
    other = normed()
    make_trainer(other).load_weights(
        tmp_path / "run" / "checkpoints" / f"step-{number - 1:08d}"
    )
    assert_same(model.state_dict(), other.state_dict())
    run = Run.load(tmp_path / "run")
    assert len(run.steps) == number
    assert run.history[-1]["step"] == number
    assert math.isnan(run.history[-1]["train_loss"])
    assert "NonfiniteError" in run.events[-1]["message"]


def test_too_many_skipped_steps_in_a_row_end_the_run() -> None:
    batches = [(X[:10], Y[:10]), *[(BAD[70:80], Y[70:80])] * 200]
    trainer = make_trainer(plain(), on_nonfinite="skip")
    with pytest.raises(NonfiniteError, match="51 steps in a row were left out"):
        trainer.fit(batches, epochs=1)


def test_only_the_first_skipped_steps_are_told_of() -> None:
    batches = [(X[:10], Y[:10]), (BAD[70:80], Y[70:80])] * (MOST_EVENTS + 5)
    run = make_trainer(plain(), on_nonfinite="skip").fit(batches, epochs=1)
    events = [e["message"] for e in run.events if e["kind"] == "skipped step"]
    assert len(events) == MOST_EVENTS
    assert events[-1].endswith("only counted, in skipped_steps.")
    assert run.history[-1]["skipped_steps"] == MOST_EVENTS + 5


def test_weights_that_are_not_finite_end_a_run_that_would_skip() -> None:
    class Break(Callback):
        def on_step(self, state: FitState) -> None:
            if state.step == 4:
                with torch.no_grad():
                    state.model[2].weight[0, 0] = math.inf

    trainer = make_trainer(plain(), Break(), on_nonfinite="skip")
    with pytest.raises(NonfiniteError, match=r"not finite before it: 2\.weight"):
        trainer.fit(loader(X), epochs=1)


def test_a_step_of_lbfgs_is_left_out_whole() -> None:
    bad, good = plain(), plain()
    batches = list(loader(BAD))
    rest = [b for b in batches if b[0].isfinite().all()]
    options = {"optimizer": "lbfgs:max_iter=4", "lr": 0.1}
    run = make_trainer(bad, on_nonfinite="skip", **options).fit(batches, epochs=2)
    make_trainer(good, **options).fit(rest, epochs=2)
    assert run.history[-1]["skipped_steps"] == 2
    assert_same(bad.state_dict(), good.state_dict())


def test_a_batch_without_any_label_is_no_fault() -> None:
    ignored = torch.full((10,), -100)
    batches = [(X[:10], Y[:10]), (X[10:20], ignored), (X[20:30], Y[20:30])]
    run = make_trainer(plain()).fit(batches, epochs=2)
    assert math.isfinite(run.history[-1]["train_loss"])
    assert "skipped_steps" not in run.history[-1]


def test_a_callback_may_repair_gradients() -> None:
    class Repair(Callback):
        def on_gradients(self, state: FitState) -> None:
            for param in state.model.parameters():
                param.grad.nan_to_num_(0.0, 0.0, 0.0)

    model = steep()
    run = make_trainer(model, Repair()).fit(loader(zeroed()), epochs=1)
    assert run.status == "finished"


def test_sparse_gradients_are_looked_at() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(5, 2, sparse=True)
    guard = StepGuard(table, torch.optim.SparseAdam(table.parameters()))
    guard.begin()
    loss = table(torch.tensor([1, 1, 3])).sum()
    loss.backward()
    assert guard.allows(loss.detach(), 1)
    assert table.weight.grad is not None
    table.weight.grad._values()[0, 0] = math.nan
    assert not guard.allows(loss.detach(), 1)


def test_buffers_that_a_model_replaces_are_put_back() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.seen + x.sum().detach()
            return self.layer(x)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, keep = Counts(), Keep()
    run = make_trainer(model, keep, on_nonfinite="skip").fit(loader(BAD), epochs=1)
    assert run.history[-1]["skipped_steps"] == 1
    assert model.seen.isfinite()


def test_a_wrong_policy_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match="on_nonfinite must be one of"):
        make_trainer(plain(), on_nonfinite="ignore")
    assert issubclass(NonfiniteError, TrainingError)
