"""The captured engine replays what stays the same, and says why it does not."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from handful import Callback, DataLoader, Trainer
from handful.train import captured as module
from handful.train.batch_kinds import flatten_batch
from handful.train.batches import BatchLayout
from handful.train.callbacks import FitState
from handful.train.captured import MOST_SHAPES, CapturedEngine
from handful.train.engine import StepSettings
from handful.train.losses import make_criterion
from handful.train.precision import Precision
from handful.train.step import CriterionStep

g = torch.Generator().manual_seed(0)
X = torch.randn(40, 6, generator=g)
Y = torch.randint(0, 3, (40,), generator=g)


class Net(nn.Module):
    """Two layers, and what a test puts between them."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, self.first(x)))  # type: ignore[no-any-return]


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def train(
    engine: str,
    model: Callable[[], nn.Module] = plain,
    batches: Any = None,
    *,
    callbacks: Any = (),
    **options: Any,
) -> Any:
    """Return a trained model and its run."""
    torch.manual_seed(2)
    made = model()
    settings = {"loss": "cross_entropy", "num_threads": 1, "progress": "off"}
    trainer = Trainer(
        made,
        engine=engine,
        callbacks=[make() for make in callbacks],
        **{**settings, **options},
    )
    loader = DataLoader((X, Y), 8, shuffle=True) if batches is None else batches
    return made, trainer.fit(loader, epochs=4)


def notes_of(run: Any) -> list[str]:
    return [event["message"] for event in run.events if event["kind"] == "engine"]


def is_replayed(run: Any) -> bool:
    return any("are replayed" in note for note in notes_of(run))


def bits(value: Tensor) -> bytes:
    return bytes(value.detach().flatten().clone().view(torch.uint8).numpy())


def assert_same(*args: Any, **kwargs: Any) -> Any:
    """Train with both engines, compare the weights, and return the captured run."""
    model, run = train("captured", *args, **kwargs)
    eager, its_run = train("eager", *args, **kwargs)
    for name, value in eager.state_dict().items():
        assert bits(model.state_dict()[name]) == bits(value), name
    assert run.steps.tobytes() == its_run.steps.tobytes()
    return run


def written_into(net: Any, h: Tensor) -> Tensor:
    net.__dict__.setdefault("sums", torch.zeros(8)).add_(h.detach().mean(0))
    return h + net.sums


def one_in(net: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        net.last.weight.clamp_(-0.3, 0.3)
    return h


def viewed(_: Any, h: Tensor) -> Tensor:
    h = h.clone()
    h[:, 0] = h[:, 1] * 2
    a, b = h.chunk(2, 1)
    h = torch.cat([a, *b.split(1, 1)], 1).masked_fill(h < 0, 0.1)
    first = h.argmax(1, keepdim=True)
    h = h.scatter_add(1, first, h[:, :1]) + h.gather(1, first).expand(-1, 8)
    rows = torch.arange(3), torch.zeros(3, dtype=torch.int64)
    return h.index_put(rows, torch.ones(3), accumulate=True) + h.sort(1)[0]


def hooked(_: Any, h: Tensor) -> Tensor:
    h.register_hook(lambda grad: grad * 0.5)
    return h.relu()


class Clip(torch.autograd.Function):
    """A function of the user's, which also returns what has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.save_for_backward(x)
        signs = x.argmax(1)
        ctx.mark_non_differentiable(signs)
        return x.clamp(0), signs

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad * (x > 0) * 0.9


def clipped(_: Any, h: Tensor) -> Tensor:
    made, signs = Clip.apply(h)
    return made + signs[:, None] * 0.01


REPLAYED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "views and writes in place": viewed,
    "a hook of a tensor": hooked,
    "a function of its own": clipped,
    "noise": lambda _, h: h + 0.1 * torch.randn_like(h) + torch.rand(8),
    "dropout by hand": lambda _, h: h * (torch.empty(8).bernoulli_(0.5) / 0.5),
    "complex numbers": lambda _, h: torch.fft.fft(h).real,
    "einsum": lambda _, h: h + torch.einsum("bi,bj->b", h, h)[:, None] * 0.01,
    "vmap": lambda net, h: torch.func.vmap(torch.tanh)(h),
    "a functional call": lambda net, h: torch.func.functional_call(
        net.first, {"weight": net.first.weight * 2}, (h[:, :6],)
    ),
    "a product": lambda _, h: h + torch.tanh(h).prod(1, keepdim=True),
    "a mask that is written by": lambda _, h: h.clone().masked_fill_(h < 0, 0.0),
}


@pytest.mark.parametrize("name", REPLAYED)
def test_replayed_operations_give_the_bits_of_eager_ones(name: str) -> None:
    run = assert_same(lambda: Net(REPLAYED[name]))
    assert is_replayed(run), notes_of(run)


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "a branch by data": (lambda _, h: h if h.sum() > 0 else -h, "looks at numbers"),
    "a mask": (lambda _, h: h + h[h > -99].mean(), "looks at numbers"),
    "unique numbers": (lambda _, h: h + h.unique().numel(), "looks at numbers"),
    "an item": (lambda _, h: h * h.mean().item(), "reads numbers back (item)"),
    "a list": (lambda _, h: h * h[0].tolist()[0], "reads numbers back (tolist)"),
    "numpy": (
        lambda _, h: h + torch.from_numpy(h.detach().numpy() * 2),
        "reads numbers back (numpy)",
    ),
    "checks": (
        lambda _, h: h + torch.linalg.inv(h.T @ h + torch.eye(8)).sum(),
        "checks numbers",
    ),
    "a tensor that is no buffer": (written_into, "writes into what is no buffer"),
    "a parameter": (one_in, "writes into what is no buffer"),
    "a sparse tensor": (
        lambda _, h: torch.sparse.mm(torch.eye(8).to_sparse(), h.T).T,
        "not dense",
    ),
    "mean statistics": (
        lambda net, h: net.__dict__.setdefault("bn", nn.BatchNorm1d(8, momentum=None))(
            h
        ),
        "looks at numbers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_step_that_can_not_be_recorded_is_eager_and_the_run_says_why(
    name: str,
) -> None:
    between, reason = REFUSED[name]
    run = assert_same(lambda: Net(between))
    assert not is_replayed(run)
    assert any(reason in note for note in notes_of(run)), notes_of(run)


def test_a_batch_that_is_written_into_is_not_replayed() -> None:
    class Scaling(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(0.9))

    ends = []
    for engine in ("captured", "eager"):
        rows = X[:8].clone()
        model, run = train(engine, lambda: Scaling(6, 3), [(rows, Y[:8])] * 9)
        assert not is_replayed(run)
        ends += [bits(model.weight) + bits(rows)]
    assert ends[0] == ends[1]


def test_a_batch_that_is_turned_in_place_is_not_replayed() -> None:
    class Turning(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.t_().t_())

    run = assert_same(lambda: Turning(6, 3))
    assert any("no buffer" in note for note in notes_of(run)), notes_of(run)


class Learned(nn.Module):
    """A loss with a weight that the optimizer does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output * self.scale, target)


def test_a_parameter_of_the_loss_still_gets_its_gradients() -> None:
    losses = [Learned(), Learned()]
    _, run = train("captured", loss=losses[0])
    train("eager", loss=losses[1])
    assert bits(losses[0].scale.grad) == bits(losses[1].scale.grad)  # type: ignore[arg-type]
    assert any("what the optimizer has not" in note for note in notes_of(run))


@pytest.mark.parametrize(
    ("name", "batches"),
    [
        ("one sample", [(X[i : i + 1], Y[i : i + 1]) for i in range(6)]),
        ("an unaligned view", [(X.flatten()[1:49].view(8, 6), Y[:8])] * 6),
        ("a tensor with gaps", [(torch.cat([X, X], 1)[:8, 3:9], Y[:8])] * 6),
        ("an expanded tensor", [(X[:1].expand(8, 6), Y[:8])] * 6),
        ("an empty batch", [(X[:8], Y[:8])] * 6 + [(X[:0], Y[:0])]),
        ("several sizes", [(X[: i % 3 + 2], Y[: i % 3 + 2]) for i in range(9)]),
    ],
)
def test_batches_of_any_shape_give_the_bits_of_eager_steps(
    name: str, batches: Any
) -> None:
    loss = nn.CrossEntropyLoss(reduction="mean")
    run = assert_same(lambda: Net(lambda _, h: h.relu()), batches, loss=loss)
    assert is_replayed(run), (name, notes_of(run))


class Fields(nn.Module):
    """A model whose inputs are more than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor, given: Any, factor: float) -> Tensor:
        return self.layer(x + given["shift"][0]) * factor  # type: ignore[no-any-return]


def test_fields_that_are_no_tensors_are_part_of_a_batchs_kind() -> None:
    batches = [
        (X[:8], {"shift": [X[8:16].clone(), None, "a"]}, factor, Y[:8])
        for factor in (1, 1.0, True, 2.5) * 3
    ]
    run = assert_same(Fields, batches)
    assert is_replayed(run), notes_of(run)


def test_fields_cut_from_one_tensor_are_not_replayed() -> None:
    run = assert_same(lambda: nn.Linear(3, 3), [X.split(3, 1)[:2]] * 6, loss="mse")
    assert notes_of(run) == ["Steps are not replayed: its inputs share memory."]


def test_keys_of_batches_tell_apart_what_python_calls_equal() -> None:
    assert flatten_batch([X, 1])[1] != flatten_batch([X, True])[1]
    assert flatten_batch([X, 0.0])[1] != flatten_batch([X, -0.0])[1]
    assert flatten_batch([X, X])[1] != flatten_batch([X, X.clone()])[1]
    assert flatten_batch([X, {"a": 1}])[1] == flatten_batch([X.clone(), {"a": 1}])[1]


def test_a_batch_with_an_object_in_it_can_not_be_told() -> None:
    assert flatten_batch([X, object()])[1] is None
    assert flatten_batch([X.clone().requires_grad_(), Y])[1] is None
    run = assert_same(batches=[(X[:8].as_subclass(nn.Buffer), Y[:8])] * 6)
    assert any("plain tensors" in note for note in notes_of(run))


def test_batches_of_more_kinds_than_are_kept_are_eager() -> None:
    batches = [(X[:n], Y[:n]) for n in range(2, MOST_SHAPES + 5)]
    run = assert_same(batches=batches)
    assert any("kinds of batches" in note for note in notes_of(run))


def test_a_label_out_of_range_is_an_error_of_replays_too() -> None:
    batches = [(X[:8], Y[:8])] * 8 + [(X[:8], Y[:8] + 9)]
    for engine in ("captured", "eager"):
        with pytest.raises(IndexError, match="out of bounds"):
            train(engine, batches=batches)


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt("broken")])
@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6, 7])
def test_a_model_can_be_trained_after_an_error_in_any_step(
    call: int, error: BaseException
) -> None:
    hidden = threading.local()  # what is in there is not looked at
    hidden.calls, hidden.at = 0, call

    def fail(grad: Tensor) -> Tensor:
        hidden.calls += 1
        if hidden.calls == hidden.at:
            raise error
        return grad

    def between(_: Any, h: Tensor) -> Tensor:
        h.register_hook(fail)
        return h

    torch.manual_seed(2)
    model = Net(between)
    options: dict[str, Any] = {"loss": "cross_entropy", "progress": "off"}
    options["num_threads"] = 1  # none to be measured, on steps of its own
    batches = [(X[:8], Y[:8])] * 12
    is_trial = call in (4, 6)  # a step done once more, to be recorded
    forgiven = is_trial and isinstance(error, Exception)
    with nullcontext() if forgiven else pytest.raises(type(error), match="broken"):
        Trainer(model, engine="captured", **options).fit(batches, epochs=1)
    hidden.at = -1
    before = Net(between)
    before.load_state_dict(model.state_dict())
    for made, engine in ((model, "captured"), (before, "eager")):
        run = Trainer(made, engine=engine, **options).fit(batches, epochs=1)
        assert is_replayed(run) == (engine == "captured")
    assert bits(model.first.weight) == bits(before.first.weight)


class Changes(Callback):
    """Changes a model between steps, as users do."""

    def __init__(self, change: Callable[[FitState], None]) -> None:
        self.change = change

    def on_step(self, state: FitState) -> None:
        self.change(state)


def at(step: int, change: Callable[[Any], Any]) -> Callable[[FitState], None]:
    def run(state: FitState) -> None:
        if state.step == step:
            change(state.model)

    return run


def swap(model: Any) -> None:
    model[2] = nn.Tanh()


def move(model: Any) -> None:
    model[0].weight.data = model[0].weight.data.clone() * 0.5


def scale(model: Any) -> None:
    with torch.no_grad():
        model[0].weight.mul_(0.5)


def forget(model: Any) -> None:
    for param in model.parameters():
        param.grad = None


def patch(model: Any) -> None:
    model[2].forward = torch.tanh


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a module swapped": swap,
    "a layer frozen": lambda model: model[0].requires_grad_(False),
    "a layer's mode": lambda model: model[1].eval(),
    "an attribute": lambda model: setattr(model[1], "momentum", 0.5),
    "weights that moved": move,
    "weights in place": scale,
    "gradients forgotten": forget,
    "another forward": patch,
    "a hook of a module": lambda model: model[0].register_forward_hook(
        lambda *args: args[-1] * 0.5
    ),
    "a hook of a weight": lambda model: model[0].weight.register_hook(
        lambda grad: grad * 0.5
    ),
    "another seed": lambda model: torch.manual_seed(5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_callback_changes_is_seen_in_the_next_step(name: str) -> None:
    change = at(11, CHANGES[name])
    run = assert_same(callbacks=[lambda: Changes(change)])
    assert is_replayed(run), notes_of(run)


class ChangesLater(Callback):
    """Changes a layer before an update, when only gradients should be looked at."""

    def on_gradients(self, state: FitState) -> None:
        if state.step == 11:
            state.model[1].momentum = 0.5


def test_what_a_callback_changes_before_an_update_is_seen() -> None:
    run = assert_same(callbacks=[ChangesLater])
    assert is_replayed(run), notes_of(run)


def test_a_step_with_other_numbers_when_it_is_recorded_is_eager() -> None:
    hidden = threading.local()  # what is in there is not looked at
    hidden.calls = 0

    def between(_: Any, h: Tensor) -> Tensor:
        hidden.calls += 1
        return h * (hidden.calls % 2 + 1)

    _, run = train("captured", lambda: Net(between))
    assert notes_of(run) == [
        "Steps are not replayed: its numbers are others when it is recorded."
    ]


class Shy:
    """An object that can't be asked for its attributes."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("not open")


def test_a_model_with_an_object_that_can_not_be_read_is_eager() -> None:
    def make() -> nn.Module:
        model = plain()
        model.shy = Shy()  # type: ignore[assignment]
        return model

    run = assert_same(make)
    assert any("(not open)" in note for note in notes_of(run)), notes_of(run)


def test_a_model_that_changes_again_and_again_is_left_alone() -> None:
    def toggle(state: FitState) -> None:
        state.model[1].train(state.step % 2 == 0)

    run = assert_same(callbacks=[lambda: Changes(toggle)])
    assert "Steps are not replayed: the model changes between steps." in notes_of(run)


def test_gradients_that_a_callback_keeps_stay_what_they_were() -> None:
    kept: dict[str, list[Tensor]] = {"captured": [], "eager": []}
    for engine, grads in kept.items():

        def keep(state: FitState, grads: list[Tensor] = grads) -> None:
            grads.append(state.model[0].weight.grad)

        train(engine, callbacks=[lambda keep=keep: Changes(keep)])
    assert len(kept["eager"]) == 20
    assert list(map(bits, kept["captured"])) == list(map(bits, kept["eager"]))


def test_a_model_can_be_copied_saved_and_zeroed_after_a_replay() -> None:
    model, run = train("captured")
    assert is_replayed(run)
    for param in model.parameters():
        grad = param.grad
        assert grad.untyped_storage().nbytes() == grad.numel() * grad.element_size()
        assert not grad._is_view()
    pickle.loads(pickle.dumps(copy.deepcopy(model)))
    model.zero_grad(set_to_none=False)
    assert all(not param.grad.any() for param in model.parameters())


def test_one_fit_after_another_gives_the_bits_of_eager_ones() -> None:
    ends = []
    for engine in ("captured", "eager"):
        torch.manual_seed(2)
        model = plain()
        trainer = Trainer(model, loss="cross_entropy", engine=engine, progress="off")
        for _ in range(2):
            trainer.fit(DataLoader((X, Y), 8, shuffle=True), epochs=3)
        ends.append(bits(model[0].weight))  # type: ignore[index, arg-type]
    assert ends[0] == ends[1]


def test_trainings_in_threads_do_not_disturb_each_other() -> None:
    models = [copy.deepcopy(proto) for proto in [Net(lambda _, h: h.relu())] * 3]
    batches = list(zip(X.split(8), Y.split(8), strict=True))

    def work(model: nn.Module, engine: str) -> None:
        options: dict[str, Any] = {"num_threads": None, "seed": None}
        trainer = Trainer(
            model, loss="cross_entropy", engine=engine, progress="off", **options
        )
        trainer.fit(batches, epochs=6)

    threads = [
        threading.Thread(target=work, args=(model, "captured")) for model in models[:2]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    work(models[2], "eager")
    ends = {bits(model.last.weight) for model in models}
    assert len(ends) == 1


def count_objects(kind: type) -> int:
    gc.collect()
    return sum(issubclass(type(value), kind) for value in gc.get_objects())


def test_nothing_of_a_replay_is_left_but_the_gradients() -> None:
    before = count_objects(module.Replay)
    _, run = train("captured")
    assert is_replayed(run)
    assert count_objects(module.Replay) == before


def test_more_steps_do_not_take_more_objects() -> None:
    counts: list[int] = []

    class Counts(Callback):
        def on_epoch_end(self, state: FitState, record: Any) -> None:
            counts.append(count_objects(Tensor))

    model = Net(lambda _, h: h.relu())
    options: dict[str, Any] = {"callbacks": [Counts()], "progress": "off"}
    trainer = Trainer(model, loss="cross_entropy", engine="captured", **options)
    run = trainer.fit([(X[:8], Y[:8])] * 100, epochs=4)
    assert is_replayed(run)
    assert counts[1] == counts[2] == counts[3]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.autograd.detect_anomaly(check_nan=True), "anomalies"),
        (lambda: torch.autograd.graph.save_on_cpu(), "somebody else looks"),
        (lambda: FlopCounterMode(display=False), "somebody else looks"),
    ],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_who_looks_at_each_step_sees_eager_ones(make: Any, reason: str) -> None:
    with make():
        _, run = train("captured")
    assert not is_replayed(run)
    assert any(reason in note for note in notes_of(run)), notes_of(run)


def make_engine(notes: list[str], steps_to_come: int | None, **options: Any) -> Any:
    torch.manual_seed(2)
    model = plain()
    precision = Precision("float32", torch.device("cpu"))
    step = CriterionStep(make_criterion("cross_entropy"), BatchLayout(), precision)
    return CapturedEngine(
        model,
        step,
        torch.optim.SGD(model.parameters(), 0.1),
        precision=precision,
        settings=StepSettings(),
        steps_to_come=lambda: steps_to_come,
        is_watched=False,
        on_note=notes.append,
        **options,
    )


def test_few_steps_are_recorded_only_when_that_is_asked_for() -> None:
    for must_be_faster in (False, True):
        notes: list[str] = []
        engine = make_engine(notes, 10, must_be_faster=must_be_faster)
        for _ in range(6):
            engine.step([(X[:8], Y[:8])])
        assert (notes == []) == must_be_faster


def test_a_replay_that_is_no_faster_is_not_used_where_it_must_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.count(step=-1.0)  # each step takes less time than none
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    notes: list[str] = []
    engine = make_engine(notes, None, must_be_faster=True)
    for _ in range(6):
        engine.step([(X[:8], Y[:8])])
    assert notes == ["Steps are not replayed: a replay is no faster."]


def test_without_the_means_to_record_steps_are_eager(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HANDFUL_TORCH_PRIVATE", "recording")
    run = assert_same()
    assert notes_of(run) == [
        "Steps are not replayed: this PyTorch does not show what a step computes."
    ]
