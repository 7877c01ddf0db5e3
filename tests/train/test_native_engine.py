"""Steps that are played natively, many a call, and what ends a call."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from handful import Callback, DataLoader, Run, Trainer
from handful.errors import NonfiniteError
from handful.train.callbacks import FitState
from handful.train.kernels import FusedUpdate, make_update
from handful.train.native_engine import NativeEngine

pytestmark = pytest.mark.usefixtures("native_player")

g = torch.Generator().manual_seed(0)
X = torch.randn(160, 6, generator=g)
Y = torch.randint(0, 3, (160,), generator=g)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def train(engine: str, *callbacks: Callback, data: Any = (X, Y), **options: Any) -> Any:
    """Return a trained model, its run and its optimizer's calls of `play`."""
    torch.manual_seed(2)
    model = net()
    fit = {k: options.pop(k) for k in ("max_steps", "valid_every") if k in options}
    settings = {"loss": "cross_entropy", "num_threads": 1, "progress": "off"}
    trainer = Trainer(
        model, engine=engine, callbacks=callbacks, **{**settings, "lr": 0.01, **options}
    )
    loader = DataLoader(data, 8, shuffle=True, seed=0)
    valid = DataLoader((X, Y), 80) if fit else None
    return model, trainer.fit(loader, valid, epochs=4, **fit)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many steps each call did."""
    counts: list[int] = []
    play: Callable[..., Any] = NativeEngine.play

    def note(self: NativeEngine, stretch: Any, rates: Any) -> Any:
        done = play(self, stretch, rates)
        counts.append(0 if done is None else done.num_steps)
        return done

    monkeypatch.setattr(NativeEngine, "play", note)
    return counts


def bits(value: Tensor) -> bytes:
    return bytes(value.detach().flatten().clone().view(torch.uint8).numpy())


def assert_same(given: Any, wanted: Any) -> None:
    for name, value in wanted[0].state_dict().items():
        assert bits(given[0].state_dict()[name]) == bits(value), name
    assert given[1].steps.tobytes() == wanted[1].steps.tobytes()
    rows = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in run.history]
        for _, run in (given, wanted)
    ]
    assert rows[0] == rows[1]


def test_an_epoch_is_played_in_one_call(played: list[int]) -> None:
    native = train("captured")
    assert played[-2:] == [20, 20]
    assert_same(native, train("eager"))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"accumulate": 2}, 10),
        ({"accumulate": 3}, 6),  # and one of two batches
        ({"micro_batch_size": 4}, 20),
        ({"accumulate": 2, "micro_batch_size": 5, "clip_norm": 0.1}, 10),
    ],
    ids=str,
)
def test_steps_of_several_batches_are_played_many_a_call(
    options: dict[str, Any], steps: int, played: list[int]
) -> None:
    native = train("captured", **options)
    assert max(played) == steps
    assert_same(native, train("eager", **options))


def test_calls_end_where_a_validation_or_the_end_is_due(played: list[int]) -> None:
    options = {"valid_every": 7, "max_steps": 65}
    native = train("captured", **options)
    assert max(played) == 7
    assert played[-1] == 2
    assert [r["step"] for r in native[1].history][-3:] == [60, 63, 65]
    assert_same(native, train("eager", **options))


class Counts(Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step(self, state: FitState) -> None:
        self.steps.append(state.step)


class CountsSome(Counts):
    sees_each_step: ClassVar[bool] = False


def test_a_callback_of_steps_sees_each_one(played: list[int]) -> None:
    counts = Counts()
    native = train("captured", counts)
    assert counts.steps == list(range(1, 81))
    assert not played
    assert_same(native, train("eager", Counts()))


def test_a_callback_that_is_content_with_some_is_called_between_calls(
    played: list[int],
) -> None:
    counts = CountsSome()
    train("captured", counts)
    assert counts.steps[-2:] == [60, 80]
    assert played[-1] == 20


class SetsRate(Callback):
    """Changes rate and momentum between epochs, as a user may."""

    def __init__(self, **options: float) -> None:
        self.options = options

    def on_epoch_end(self, state: FitState, record: Any) -> None:
        if state.epoch == 2:
            state.optimizer.param_groups[0].update(self.options)


@pytest.mark.parametrize(
    "options", [{"lr": 0.3}, {"momentum": 0.5}, {"dampening": 0.1}]
)
def test_what_a_callback_sets_in_the_optimizer_counts_from_then_on(
    options: dict[str, float],
) -> None:
    optimizer = "sgd:momentum=0.9"
    native = train("captured", SetsRate(**options), optimizer=optimizer)
    assert_same(native, train("eager", SetsRate(**options), optimizer=optimizer))
    assert native[1].steps.tobytes() != train("eager")[1].steps.tobytes()


class LoadsState(Callback):
    """Puts the optimizer back to what it was an epoch ago."""

    def on_epoch_end(self, state: FitState, record: Any) -> None:
        if state.epoch == 2:
            self.state = state.optimizer.state_dict()
        if state.epoch == 3:
            state.optimizer.load_state_dict(self.state)


def test_a_state_that_is_loaded_between_epochs_is_trained_on() -> None:
    assert_same(train("captured", LoadsState()), train("eager", LoadsState()))


class KeepsGradients(Callback):
    """Keeps what the last step of each epoch left as gradients."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def on_epoch_end(self, state: FitState, record: Any) -> None:
        self.kept.append([p.grad for p in state.model.parameters()])


def test_gradients_that_a_callback_keeps_stay_what_they_were() -> None:
    ours, theirs = KeepsGradients(), KeepsGradients()
    train("captured", ours)
    train("eager", theirs)
    for given, wanted in zip(ours.kept, theirs.kept, strict=True):
        assert list(map(bits, given)) == list(map(bits, wanted))


def test_a_label_that_is_too_large_is_an_error_as_ever() -> None:
    class Spoils(Callback):
        """Spoils a label once the labels were looked at."""

        def on_epoch_end(self, state: FitState, record: Any) -> None:
            if state.epoch == 3:
                labels[77] = 5

    labels = Y.clone()
    with pytest.raises(IndexError, match="Target 5 is out of bounds"):
        train("captured", Spoils(), data=(X, labels))


class Spoils(Callback):
    """Spoils a sample after an epoch."""

    def __init__(self, values: Tensor, after: int) -> None:
        self.values, self.after = values, after

    def on_epoch_end(self, state: FitState, record: Any) -> None:
        if state.epoch == self.after:
            self.values[77] = float("nan")


def dropping() -> nn.Module:
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("make", [net, dropping])
@pytest.mark.parametrize(("unit", "batches"), [("step", 1), ("epoch", 1), ("step", 2)])
def test_a_step_within_a_call_is_left_out_as_ever(
    make: Callable[[], nn.Module],
    unit: str,
    batches: int,
    played: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(globals(), "net", make)
    results = []
    for engine in ("captured", "eager"):
        values = X.clone()
        options = {"on_nonfinite": "skip", "schedule": f"cosine:unit={unit}"}
        options["accumulate"] = batches  # type: ignore[assignment]
        done = train(engine, Spoils(values, 2), data=(values, Y), **options)
        results.append((*done, torch.get_rng_state()))
    native, eager = results
    assert_same(native[:2], eager[:2])
    assert torch.equal(native[2], eager[2])
    assert native[1].history[-1]["skipped_steps"] == 2
    said = [
        [e["message"] for e in run.events if e["kind"] == "skipped step"]
        for _, run, _ in results
    ]
    assert said[0] == said[1]
    assert max(played) == 20 // batches
    assert 0 in played  # the step that was left out


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_run_that_is_stopped_within_a_call_keeps_the_state_before_that_step(
    accumulate: int, tmp_path: Any
) -> None:
    kept = []
    for engine in ("captured", "eager"):
        values, model = X.clone(), net()
        torch.manual_seed(4)
        for layer in (model[0], model[3]):  # type: ignore[index]
            layer.reset_parameters()
        options = {"loss": "cross_entropy", "progress": "off", "num_threads": 1}
        options["accumulate"] = accumulate
        trainer = Trainer(
            model, engine=engine, callbacks=[Spoils(values, 3)], lr=0.01, **options
        )
        loader = DataLoader((values, Y), 8, shuffle=True, seed=0)
        with pytest.raises(NonfiniteError, match=r"samples .*77.* must be finite") as e:
            trainer.fit(loader, epochs=5, run_dir=tmp_path / engine)
        kept.append((str(e.value), model, Run.load(tmp_path / engine)))
    (said, model, run), (its_said, its_model, its_run) = kept
    assert said == its_said
    assert run.steps.tobytes() == its_run.steps.tobytes()
    for name, value in its_model.state_dict().items():
        assert bits(model.state_dict()[name]) == bits(value), name


def test_an_interrupt_ends_a_run_between_two_calls() -> None:
    class Interrupts(CountsSome):
        def on_step(self, state: FitState) -> None:
            super().on_step(state)
            if state.step == 60:
                os.kill(os.getpid(), signal.SIGINT)

    counts = Interrupts()
    _, run = train("captured", counts)
    assert counts.steps[-1] == 60
    assert run.status == "stopped"


def test_weights_are_known_to_have_changed() -> None:
    model = net()
    versions: list[list[int]] = []

    class Notes(Callback):
        def on_epoch_end(self, state: FitState, record: Any) -> None:
            versions.append([p._version for p in model.parameters()])

    options = {"loss": "cross_entropy", "progress": "off", "num_threads": 1}
    trainer = Trainer(model, engine="captured", callbacks=[Notes()], **options)
    trainer.fit(DataLoader((X, Y), 8, True, seed=0), epochs=4)
    assert all(a < b for a, b in zip(versions[-2], versions[-1], strict=True))


def test_an_update_of_the_kernels_knows_when_its_state_is_another() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    update = make_update(optimizer)
    assert isinstance(update, FusedUpdate)
    assert update.is_current()
    optimizer.load_state_dict(optimizer.state_dict())
    assert not update.is_current()
