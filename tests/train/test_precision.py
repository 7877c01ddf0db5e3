"""Mixed precision: autocast, the scale of losses, and steps that are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.datasets import load_digits
from torch import Tensor, nn

from handful import Callback, DataLoader, Trainer
from handful.errors import ArgumentError, TrainingError
from handful.train.precision import MOST_SKIPPED, Precision
from handful.train.torch_schedule import TorchSchedule

CPU = torch.device("cpu")
torch.manual_seed(0)
X, Y = torch.randn(32, 3), torch.randn(32, 2)
HUGE = torch.full((8, 3), 1e6)  # Inf in fp16


def make_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def make_batches() -> list[tuple[Tensor, Tensor]]:
    return list(zip(X.split(8), Y.split(8), strict=True))


def make_trainer(model: nn.Module, **options: Any) -> Trainer:
    settings = {"loss": "mse", "optimizer": "sgd", "lr": 0.05, "progress": "off"}
    return Trainer(model, **{**settings, "num_threads": 1, **options})


class Weights(Callback):
    """Keeps the weights after every step."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_step(self, state: Any) -> None:
        params = [p.detach().flatten() for p in state.model.parameters()]
        self.seen.append(torch.cat(params))


@pytest.fixture(scope="module")
def digits() -> tuple[DataLoader, DataLoader]:
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target)
    train = DataLoader((x[:1200], y[:1200]), batch_size=60, shuffle=True)
    return train, DataLoader((x[1200:], y[1200:]), batch_size=200)


def make_classifier(kind: str) -> nn.Module:
    torch.manual_seed(2)
    if kind == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
        )
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_half_precision_learns_digits_as_well_as_float32(
    kind: str, digits: tuple[DataLoader, DataLoader]
) -> None:
    accuracies = {}
    for precision in ("float32", "bf16", "fp16"):
        model = make_classifier(kind)
        trainer = Trainer(
            model,
            loss="cross_entropy",
            lr=0.01,
            precision=precision,
            metrics=["accuracy"],
            progress="off",
            num_threads=1,
        )
        run = trainer.fit(*digits, epochs=6)
        accuracies[precision] = run.history[-1]["valid_accuracy"]
        assert all(p.dtype == torch.float32 for p in model.parameters())
        assert ("skipped_steps" in run.history[-1]) == (precision == "fp16")
    assert min(accuracies.values()) > 0.89
    assert max(accuracies.values()) - min(accuracies.values()) < 0.03


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_predictions_are_the_models_under_autocast_as_float32(precision: str) -> None:
    model = make_model()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    predicted = make_trainer(model, precision=precision).predict(make_batches())
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        expected = model(X)
    assert expected.dtype == dtype
    assert predicted.dtype == torch.float32
    assert torch.equal(predicted, expected.float())
    plain = make_trainer(model).predict(make_batches())
    assert not torch.equal(predicted, plain)


def test_predictions_of_a_model_in_half_precision_stay_so() -> None:
    model = make_model().bfloat16()
    predicted = make_trainer(model).predict([X.bfloat16()])
    assert predicted.dtype == torch.bfloat16


def test_every_output_of_several_becomes_float32() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Any:
            out = self.line(x)
            return {"a": out, "b": (out, [out.argmax(1)]), "c": None}

    model = Several()
    made = Precision("bf16", CPU).forward(model, [X], {})
    assert made["a"].dtype == made["b"][0].dtype == torch.float32
    assert made["b"][1][0].dtype == torch.int64
    predicted = make_trainer(model, precision="bf16").predict([X[:20], X[20:]])
    assert predicted["a"].shape == (32, 2)
    assert isinstance(predicted["b"], tuple)
    assert isinstance(predicted["b"][1], list)
    assert predicted["c"] is None


def test_outputs_that_cannot_be_put_together_are_said() -> None:
    class Lengths(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return torch.zeros(len(x), len(x))

    class Text(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return "text"

    trainer = make_trainer(Lengths())
    with pytest.raises(TrainingError, match=r"same shape .* got \(12,\) and \(20,\)"):
        trainer.predict([X[:20], X[20:]])
    with pytest.raises(TrainingError, match=r"model must return tensors, .* got str"):
        make_trainer(Text()).predict([X])


@pytest.mark.parametrize(
    ("name", "device", "says"),
    [
        ("fp8", "cpu", "precision must be one of bf16, float32, fp16; got 'fp8'"),
        ("fp16", "meta", "precision 'fp16' needs the device cpu or cuda; got 'meta'"),
        ("bf16", "meta", "precision must be 'float32' on the device 'meta'; got 'bf1"),
    ],
)
def test_a_precision_that_cannot_be_is_refused(
    name: str, device: str, says: str
) -> None:
    with pytest.raises(ArgumentError, match=says):
        Precision(name, torch.device(device))


def train_by_hand(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any, dtype: torch.dtype
) -> None:
    """Train as the documentation of torch.amp does."""
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    for x, y in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            output = model(x)
        loss = F.mse_loss(output.float(), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd:momentum=0.9", torch.optim.SGD, {"momentum": 0.9, "fused": True}),
        ("adam", torch.optim.Adam, {"fused": True}),
        ("rmsprop", torch.optim.RMSprop, {}),
    ],
)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_equal_those_of_a_loop_by_hand(
    precision: str, name: str, kind: Any, options: Any
) -> None:
    batches = make_batches()
    batches = [*batches, (HUGE, Y[:8]), *batches] if precision == "fp16" else batches
    by_hand, ours = make_model(), make_model()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    optimizer = kind(by_hand.parameters(), lr=0.05, **options)
    train_by_hand(by_hand, optimizer, batches, dtype)
    trainer = make_trainer(ours, optimizer=name, precision=precision, clip_norm=0.5)
    run = trainer.fit(batches, epochs=1)
    for one, other in zip(by_hand.parameters(), ours.parameters(), strict=True):
        assert torch.equal(one, other)
    assert run.history[0].get("skipped_steps", 0) == (precision == "fp16")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_overflow_changes_no_weight_and_holds_the_schedule(accumulate: int) -> None:
    good = make_batches()
    loader = [*good[:2], (HUGE, Y[:8]), good[2], good[3], good[0]]
    model, weights = make_model(), Weights()
    trainer = make_trainer(
        model,
        precision="fp16",
        schedule="exponential:gamma=0.5,unit=step",
        optimizer="sgd:momentum=0.9",
        callbacks=[weights],
        log_norms=True,
        accumulate=accumulate,
        ema=0.5,
    )
    run = trainer.fit(loader, good, epochs=1)
    skipped = 2 // accumulate
    seen = weights.seen
    steps = len(loader) // accumulate
    for step in range(1, steps):
        assert torch.equal(seen[step], seen[step - 1]) == (step == skipped), step
    record = run.history[0]
    assert record["skipped_steps"] == 1
    assert np.isfinite([record["train_loss"], record["grad_norm"]]).all()
    assert not np.isfinite(run.steps["loss"][skipped])
    updates = [step - (step > skipped) for step in range(steps)]
    assert run.steps["lr"] == pytest.approx([0.05 * 0.5**n for n in updates])


def test_a_scheduler_of_torch_does_not_go_on_either() -> None:
    good = make_batches()
    schedule = TorchSchedule(
        lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        unit="step",
    )
    trainer = make_trainer(make_model(), precision="fp16", schedule=schedule)
    run = trainer.fit([good[0], (HUGE, Y[:8]), good[1], good[2]], epochs=1)
    assert run.steps["lr"] == pytest.approx([0.05, 0.025, 0.025, 0.0125])


def test_overflows_in_every_step_end_the_training_with_the_remedies() -> None:
    loader = [make_batches()[0], *[(HUGE, Y[:8])] * (MOST_SKIPPED + 5)]
    weights = Weights()
    trainer = make_trainer(make_model(), precision="fp16", callbacks=[weights])
    with pytest.raises(TrainingError, match=r"NaN in 51 steps in a row, .* Lower lr"):
        trainer.fit(loader, epochs=1)
    assert len(weights.seen) == 1 + MOST_SKIPPED
    assert torch.equal(weights.seen[0], weights.seen[-1])


def test_as_many_overflows_with_an_update_in_between_go_on() -> None:
    good, bad = make_batches()[0], (HUGE, Y[:8])
    loader = [good, *[bad] * MOST_SKIPPED, good, *[bad] * 3]
    run = make_trainer(make_model(), precision="fp16").fit(loader, epochs=1)
    assert run.history[0]["skipped_steps"] == MOST_SKIPPED + 3


class StopAfter(Callback):
    """Ends the training as Ctrl-C does, after an epoch's record."""

    def on_epoch_end(self, state: Any, record: Any) -> None:
        if record["epoch"] == 2:
            raise KeyboardInterrupt("asked to stop")


def test_a_run_in_fp16_goes_on_bit_for_bit_with_its_scale(tmp_path: Path) -> None:
    loader = [*make_batches(), (HUGE, Y[:8])]

    def fit(name: str, *callbacks: Callback, resume: bool = False) -> Any:
        model = make_model()
        trainer = make_trainer(
            model,
            precision="fp16",
            optimizer="adam",
            schedule="exponential:gamma=0.9,unit=step",
            callbacks=callbacks,
        )
        run = trainer.fit(loader, epochs=4, run_dir=tmp_path / name, resume=resume)
        return model, run

    whole, run = fit("whole")
    with pytest.raises(KeyboardInterrupt, match="asked to stop"):
        fit("parts", StopAfter())
    resumed, later = fit("parts", resume=True)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert later.history[-1]["skipped_steps"] == run.history[-1]["skipped_steps"] == 4
    assert later.steps["lr"].tolist() == run.steps["lr"].tolist()


def test_the_state_counts_overflows_in_a_row_too() -> None:
    one, other = Precision("fp16", CPU), Precision("fp16", CPU)
    param = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([param], lr=0.1)

    def overflow(precision: Precision) -> bool:
        param.grad = torch.full((2,), torch.inf)
        precision.scale(torch.tensor(1.0))
        return precision.update(optimizer, optimizer.step)

    for _ in range(MOST_SKIPPED):
        assert not overflow(one)
    other.load_state_dict(one.state_dict())
    assert other.state_dict() == one.state_dict()
    assert other.skipped == MOST_SKIPPED
    assert other.state_dict()["scaler"]["scale"] == 65536 / 2**MOST_SKIPPED
    with pytest.raises(TrainingError, match="51 steps in a row"):
        overflow(other)
    assert torch.equal(param.detach(), torch.ones(2))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_micro_batches_clipping_and_norms_work_under_autocast(precision: str) -> None:
    small = [(0.1 * x, 0.1 * y) for x, y in make_batches()]  # no overflow at first
    ends, norms = [], []
    for given, size in (("float32", None), (precision, None), (precision, 3)):
        model = make_model()
        trainer = make_trainer(
            model, precision=given, micro_batch_size=size, clip_norm=0.3
        )
        run = trainer.fit(small, epochs=3)
        assert run.history[-1].get("skipped_steps", 0) == 0
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        norms.append([r["grad_norm"] for r in run.history])
    assert norms[1] == pytest.approx(norms[0], rel=0.02)
    assert norms[2] == pytest.approx(norms[0], rel=0.02)
    assert (ends[1] - ends[0]).abs().max() < 0.01
    assert (ends[2] - ends[1]).abs().max() < 0.005
    assert not torch.equal(ends[0], ends[1])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("is_sum", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_of_ones_own_runs_under_autocast_with_a_loss_in_float32(
    precision: str, is_sum: bool, accumulate: int
) -> None:
    seen = set()

    def step(model: nn.Module, batch: Any) -> Any:
        output = model(batch[0])
        seen.add(output.dtype)
        loss = (output - batch[1].to(output.dtype)).abs().mean()
        assert loss.dtype == output.dtype
        return {"loss_sum": 8 * loss, "weight": 8, "output": output} if is_sum else loss

    model = make_model()
    trainer = make_trainer(
        model, loss=None, step=step, precision=precision, accumulate=accumulate
    )
    run = trainer.fit(make_batches(), epochs=5)
    assert seen == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"]
    # The first scale, 65536, is Inf in fp16; half of it is not.
    assert run.history[-1].get("skipped_steps", 0) == (precision == "fp16")


def test_weights_in_fp16_cannot_be_scaled_for() -> None:
    model = make_model().half()

    def step(model: nn.Module, batch: Any) -> Tensor:
        output: Tensor = model(batch[0].half())
        return output.float().square().mean()

    trainer = make_trainer(model, loss=None, step=step, precision="fp16")
    with pytest.raises(TrainingError, match=r"needs weights in float32; got .*half"):
        trainer.fit(make_batches(), epochs=1)


def test_numbers_of_batches_and_named_outputs_are_put_together() -> None:
    class Named(NamedTuple):
        scores: Tensor
        loss: Tensor

    class Scored(nn.Module):
        def forward(self, x: Tensor) -> Named:
            return Named(x.sum(1), x.sum())

    predicted = make_trainer(Scored()).predict([X[:20], X[20:]])
    assert isinstance(predicted, Named)
    assert torch.equal(predicted.scores, X.sum(1))
    assert torch.equal(predicted.loss, torch.stack([X[:20].sum(), X[20:].sum()]))
