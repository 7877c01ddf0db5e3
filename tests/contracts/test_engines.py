"""Every engine ends a training with the same bits: weights, losses, generators."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everyone writes it
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from handful import Callback, DataLoader, Trainer
from handful.data.columns import Columns
from handful.train.callbacks import FitState

g = torch.Generator().manual_seed(0)
ROWS = torch.randn(40, 12, generator=g)
LABELS = torch.randint(0, 3, (40,), generator=g)
IMAGES = torch.randn(24, 3, 8, 8, generator=g)
SIGNALS = torch.randn(24, 5, 8, generator=g)
TOKENS = torch.randint(0, 20, (24, 6), generator=g)
NEXT = TOKENS.roll(1, 1).masked_fill(TOKENS == 3, -1)
FEW_LABELS = LABELS[:24]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def disturbed() -> nn.Module:
    layers = [nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Linear(8, 3))


def cnn() -> nn.Module:
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    second = [nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.GELU()]
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(*first, *second, *last)


def frozen() -> nn.Module:
    model = mlp()
    model[0].requires_grad_(False)  # type: ignore[index]
    return model


def normed() -> nn.Module:
    norms = nn.utils.parametrizations
    layers = [norms.weight_norm(nn.Linear(12, 8)), nn.LayerNorm(8), nn.Tanh()]
    return nn.Sequential(*layers, norms.spectral_norm(nn.Linear(8, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(8, 6, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Tied(nn.Module):
    """A transformer whose last layer is its first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x))).transpose(1, 2)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Bilinear(12, 8, 6), nn.Linear(6, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.relu(self.mix(a, b)))


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv1d(5, 6, 3), nn.MaxPool1d(2, return_indices=True)
        self.back, self.head = nn.MaxUnpool1d(2), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled, indices = self.pool(self.conv(x))
        return self.head(self.back(pooled, indices).flatten(1))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(12, 8), nn.Tanh()), mlp()
        self.head[0] = nn.Linear(8, 8)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, x, use_reentrant=False))  # type: ignore[no-any-return]


class TwoResults(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(x), "extra": self.head.weight.square().sum()}


class Penalty(nn.Module):
    """Adds the square of its own slope, which is differentiated twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        output = self.body(x)
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        return output + slope.square().mean()


def loss_of_two(output: dict[str, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(output["logits"], target) + 0.01 * output["extra"]


class Descent(torch.optim.Optimizer):
    """An optimiser of the user's, which keeps gradients."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.05})
        self.kept: list[list[Tensor]] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        params = self.param_groups[0]["params"]
        self.kept = [*self.kept, [p.grad for p in params]][-3:]
        for param, *grads in zip(params, *self.kept, strict=True):
            param -= 0.05 * torch.stack(grads).mean(0)


@dataclass
class Case:
    """A training, but for its engine."""

    model: Callable[[], nn.Module] = disturbed
    data: Any = (ROWS, LABELS)
    options: dict[str, Any] = field(default_factory=dict)

    def train(self, engine: str, *callbacks: Callback, **fit: Any) -> Any:
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        model = self.model()
        options = {
            "loss": "cross_entropy",
            "lr": 0.01,
            "num_threads": 1,
            "memory_format": "contiguous",
            "progress": "off",
            **self.options,
        }
        if callable(options.get("optimizer")):
            options["optimizer"] = options["optimizer"](model.parameters())
            del options["lr"]
        trainer = Trainer(model, engine=engine, callbacks=callbacks, **options)
        size = 16 if len(self.data[0]) > 30 else 8
        loader = DataLoader(self.data, size, True, seed=4)
        run = trainer.fit(loader, **{"epochs": 4, **fit})
        return model, run, torch.get_rng_state()


def adam(**options: Any) -> Case:
    return Case(options=options)


CASES = {
    "mlp": Case(mlp),
    "images": Case(cnn, (IMAGES, FEW_LABELS)),
    "images, channels last": Case(
        cnn, (IMAGES, FEW_LABELS), {"memory_format": "channels_last"}
    ),
    "GRU": Case(lambda: Recurrent(nn.GRU), (SIGNALS, FEW_LABELS)),
    "LSTM": Case(lambda: Recurrent(nn.LSTM), (SIGNALS, FEW_LABELS)),
    "transformer": Case(
        Tied,
        (TOKENS, NEXT),
        {"loss": nn.CrossEntropyLoss(ignore_index=-1, label_smoothing=0.1)},
    ),
    "transformer in bf16": Case(Tied, (TOKENS, TOKENS), {"precision": "bf16"}),
    "frozen layers": Case(frozen),
    "norms": Case(normed),
    "a dictionary of inputs": Case(
        TwoInputs, Columns(a=ROWS, b=ROWS[:, :8].contiguous(), y=LABELS)
    ),
    "sample weights": Case(
        mlp, Columns(x=ROWS, y=LABELS, w=ROWS[:, 0].abs()), {"sample_weight": "w"}
    ),
    "class weights": Case(
        mlp, options={"loss": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]))}
    ),
    "labels of several": Case(
        mlp, (ROWS, (ROWS[:, :3] > 0).float()), {"loss": "bce_with_logits"}
    ),
    "mse": Case(mlp, (ROWS, ROWS[:, :3].contiguous()), {"loss": "mse"}),
    "mae": Case(mlp, (ROWS, ROWS[:, :3].contiguous()), {"loss": "mae"}),
    "huber": Case(mlp, (ROWS, ROWS[:, :3].contiguous()), {"loss": "huber"}),
    "pooling undone": Case(Pooled, (SIGNALS, FEW_LABELS)),
    "checkpoints within": Case(Checkpointed),
    "a loss of two results": Case(TwoResults, options={"loss": loss_of_two}),
    "gradients of gradients": Case(Penalty),
    "float64": Case(lambda: mlp().double(), (ROWS.double(), LABELS)),
    "adamw, step": adam(optimizer="adamw", schedule="step:step_size=1"),
    "momentum, cosine": adam(
        optimizer="sgd:momentum=0.9,nesterov=true", schedule="cosine:unit=step"
    ),
    "rmsprop, plateau": adam(optimizer="rmsprop", schedule="plateau:patience=0"),
    "adagrad, one cycle": adam(optimizer="adagrad", schedule="one_cycle"),
    "lbfgs": Case(
        mlp,
        options={"optimizer": "lbfgs:max_iter=2", "train_metrics": ["accuracy"]},
    ),
    "the user's optimizer": adam(optimizer=Descent),
    "clipped norm": adam(clip_norm=0.1),
    "clipped values": adam(clip_value=0.01, log_norms=True),
    "averaged weights": adam(ema=0.9),
    "bf16": adam(precision="bf16"),
    "observed": adam(train_metrics=["accuracy"]),
    "two threads": adam(num_threads=2),
    "two batches a step, and the rest": adam(accumulate=2),
    "two batches a step, clipped": adam(accumulate=2, clip_norm=0.1, log_norms=True),
    "two batches a step, observed": adam(accumulate=2, train_metrics=["accuracy"]),
    "batches a step with weights": Case(
        mlp,
        Columns(x=ROWS, y=LABELS, w=ROWS[:, 0].abs()),
        {"sample_weight": "w", "accumulate": 2},
    ),
    "batches a step, some without a label": Case(
        Tied,
        (TOKENS, NEXT),
        {"loss": nn.CrossEntropyLoss(ignore_index=-1), "accumulate": 2},
    ),
    "batches a step, averaged weights": adam(accumulate=2, ema=0.9),
    "images in parts": Case(cnn, (IMAGES, FEW_LABELS), {"micro_batch_size": 3}),
    "parts": adam(micro_batch_size=4),
    "parts of several batches, momentum": adam(
        micro_batch_size=6, accumulate=2, optimizer="sgd:momentum=0.9"
    ),
}


def bits(value: Tensor) -> bytes:
    return bytes(value.detach().flatten().clone().view(torch.uint8).numpy())


def assert_same(given: Any, wanted: Any) -> None:
    """Compare two trainings; only the time may be another."""
    (model, run, generator), (other, eager, its_generator) = given, wanted
    for name, value in other.state_dict().items():
        assert bits(model.state_dict()[name]) == bits(value), name
    for param, its_param in zip(model.parameters(), other.parameters(), strict=True):
        assert (param.grad is None) == (its_param.grad is None)
        assert param.grad is None or bits(param.grad) == bits(its_param.grad)
    assert run.steps.tobytes() == eager.steps.tobytes()
    assert untimed(run) == untimed(eager)
    assert torch.equal(generator, its_generator)


def untimed(run: Any) -> str:
    return repr([{k: v for k, v in r.items() if k != "seconds"} for r in run.history])


def notes_of(run: Any) -> list[str]:
    return [event["message"] for event in run.events if event["kind"] == "engine"]


def is_replayed(run: Any) -> bool:
    return any("are replayed" in note for note in notes_of(run))


@pytest.mark.parametrize("name", CASES)
def test_replayed_steps_end_with_the_bits_of_eager_ones(name: str) -> None:
    case = CASES[name]
    eager, captured = case.train("eager", epochs=5), case.train("captured", epochs=5)
    assert is_replayed(captured[1]), notes_of(captured[1])
    assert not notes_of(eager[1])
    assert_same(captured, eager)


NOT_WHOLE = {
    "rmsprop, plateau": "the optimiser has no fused kernel",
    "lbfgs": "it evaluates a step several times",
    "the user's optimizer": "its update is Python",
    "observed": "the output of each step is wanted",
    "two batches a step, observed": "the output of each step is wanted",
}
"""Trainings whose steps are not played as a whole, and why."""


@pytest.mark.usefixtures("native_player")
@pytest.mark.parametrize("name", CASES)
def test_natively_played_steps_end_with_the_bits_of_eager_ones(name: str) -> None:
    case = CASES[name]
    eager, native = case.train("eager", epochs=8), case.train("captured", epochs=8)
    notes = notes_of(native[1])
    assert any("are replayed natively" in note for note in notes), notes
    is_whole = any("are played as a whole" in note for note in notes)
    assert is_whole == (name not in NOT_WHOLE), notes
    assert_same(native, eager)


def test_an_input_that_is_its_own_target_is_replayed() -> None:
    def train(engine: str) -> Any:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(12, 4), nn.Linear(4, 12))
        options: dict[str, Any] = {"loss": "mse", "progress": "off", "num_threads": 1}
        batches = [(rows, rows) for rows in ROWS.split(8)]
        run = Trainer(model, engine=engine, **options).fit(batches, epochs=3)
        return model, run, torch.get_rng_state()

    captured = train("captured")
    assert is_replayed(captured[1]), notes_of(captured[1])
    assert_same(captured, train("eager"))


class StopsAt(Callback):
    """Asks for the end after some step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, state: FitState) -> None:
        if state.step == self.step:
            state.stop = "enough"


@pytest.mark.parametrize("step", [3, 7, 13])
@pytest.mark.parametrize("player", ["python", "native"])
def test_a_stopped_replay_goes_on_to_the_bits_of_an_eager_run(
    player: str, step: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if player == "native":
        request.getfixturevalue("native_player")
    case = adam(optimizer="sgd:momentum=0.9", schedule="cosine:unit=step")
    whole = case.train("eager", epochs=8)
    path = tmp_path / "run"
    stopped = case.train("captured", StopsAt(step), epochs=8, run_dir=path)
    assert len(stopped[1].steps) == step
    resumed = case.train("captured", epochs=8, run_dir=path, resume=True)
    for name, value in whole[0].state_dict().items():
        assert bits(resumed[0].state_dict()[name]) == bits(value), name
    assert is_replayed(resumed[1]), notes_of(resumed[1])


MODELS = ("mlp", "images", "GRU", "transformer", "frozen layers", "norms")
MORE = ("a dictionary of inputs", "sample weights", "gradients of gradients")
OPTIMIZERS = ("adam", "adamw:amsgrad=true", "sgd:momentum=0.9", "adagrad", "rmsprop")
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "a rate a step, clipped": {"schedule": "cosine:unit=step", "clip_norm": 0.1},
    "a rate an epoch, averaged": {"schedule": "step:step_size=2", "ema": 0.9},
    "clipped values": {"clip_value": 0.01, "log_norms": True},
    "two batches a step": {"accumulate": 2},
    "parts": {"micro_batch_size": 5},
    "two groups": {"param_groups": {"*bias": {"lr": 0.02}}},
}


@pytest.mark.slow
@pytest.mark.usefixtures("native_player")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", [*MODELS, *MORE])
def test_every_model_with_every_optimizer_ends_with_the_same_bits(
    name: str, optimizer: str, setting: str, tmp_path: Path
) -> None:
    case, more = CASES[name], {"optimizer": optimizer, **SETTINGS[setting]}
    case = Case(case.model, case.data, {**case.options, **more})
    eager = case.train("eager", epochs=8)
    assert_same(case.train("captured", epochs=8), eager)

    stopped = case.train("captured", StopsAt(10), epochs=8, run_dir=tmp_path / "run")
    assert len(stopped[1].steps) == 10
    resumed = case.train("captured", epochs=8, run_dir=tmp_path / "run", resume=True)
    for key, value in eager[0].state_dict().items():
        assert bits(resumed[0].state_dict()[key]) == bits(value), key
