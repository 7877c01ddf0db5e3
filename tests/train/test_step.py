"""Steps: what a criterion and a function of the user's make of a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from handful import Callback, Trainer
from handful.errors import ArgumentError, TrainingError
from handful.train.batches import BatchLayout
from handful.train.losses import make_criterion
from handful.train.precision import Precision
from handful.train.step import CriterionStep, CustomStep

CPU = torch.device("cpu")
torch.manual_seed(0)
X, Y = torch.randn(24, 3), torch.randn(24, 2)


def make_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def make_batches(size: int = 8) -> list[tuple[Tensor, Tensor]]:
    return list(zip(X.split(size), Y.split(size), strict=True))


def train(model: nn.Module, **options: Any) -> Any:
    settings = {"loss": "mse", "optimizer": "sgd", "lr": 0.1, "progress": "off"}
    settings["num_threads"] = 1
    epochs = options.pop("epochs", 2)
    return Trainer(model, **{**settings, **options}).fit(make_batches(), epochs=epochs)  # type: ignore[arg-type]


def make_custom(function: Any) -> CustomStep:
    return CustomStep(function, Precision("float32", CPU))


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (lambda loss: loss.item(), "step must return a mean loss, .* got float"),
        (lambda loss: loss.reshape(1), r"got the shape \(1,\)"),
        (lambda loss: None, "got None"),
        (lambda loss: {"weight": 3}, "got the keys weight"),
        (lambda loss: {"loss_sum": loss}, "weight of what step returns .* got None"),
        (
            lambda loss: {"loss_sum": loss, "weight": torch.ones(3)},
            r"weight of what step returns must be a number .* got the shape \(3,\)",
        ),
        (
            lambda loss: {"loss_sum": loss, "weight": 2, "hits_sum": torch.ones(2)},
            r"hits_sum of what step returns must be a number .* got the shape \(2,\)",
        ),
    ],
)
@pytest.mark.parametrize("part", ["mean", "total"])
def test_what_a_step_must_not_return_is_said(
    returned: Callable[[Tensor], Any], says: str, part: str
) -> None:
    step = make_custom(lambda model, batch: returned(model(batch[0]).mean()))
    with pytest.raises(TrainingError, match=says):
        getattr(step, part)(make_model(), (X, Y))


def test_a_key_that_nobody_reads_is_said_with_the_nearest() -> None:
    def step(model: nn.Module, batch: Any) -> dict[str, Any]:
        return {"loss_sum": model(batch[0]).sum(), "weight": 2, "ouput": 3}

    with pytest.raises(ArgumentError, match="Did you mean 'output'"):
        make_custom(step).mean(make_model(), (X, Y))


def test_totals_of_a_step_are_means_of_the_history() -> None:
    def step(model: nn.Module, batch: Any) -> dict[str, Any]:
        x, y = batch
        output = model(x)
        return {
            "loss_sum": (output - y).square().sum(),
            "weight": y.numel(),
            "error_sum": (output - y).abs().sum(),
            "samples_sum": len(x),
            "output": output,
            "target": y,
        }

    model = make_model()
    with torch.no_grad():
        before = (model(X) - Y).abs().mean().item()
    trainer = Trainer(
        model, step=step, optimizer="sgd", lr=1e-9, metrics=["mae"], progress="off"
    )
    record = trainer.fit(make_batches(), make_batches(5), epochs=1).history[0]
    assert record["train_error"] == pytest.approx(before, rel=1e-5)
    assert record["valid_error"] == pytest.approx(before, rel=1e-5)
    assert record["valid_mae"] == pytest.approx(before, rel=1e-5)
    assert record["train_samples"] == pytest.approx(0.5)


def test_a_step_without_weight_changes_no_gradient() -> None:
    def step(model: nn.Module, batch: Any) -> dict[str, Any]:
        mask = batch[1][:, 0] > 100
        losses = (model(batch[0]) - batch[1]).square().mean(1)
        return {"loss_sum": (losses * mask).sum(), "weight": mask.sum()}

    model = make_model()
    made = make_custom(step).mean(model, (X, Y))
    made.loss.backward()
    assert made.loss.isnan()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda output, target: (output - target).square(), r"the shape \(8, 2\)"),
        (lambda output, target: 3.0, "got float"),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_no_mean_is_said(loss: Any, says: str, accumulate: int) -> None:
    with pytest.raises(TrainingError, match=f"loss must return the batch's .*{says}"):
        train(make_model(), loss=loss, accumulate=accumulate)


def test_the_criterion_is_fitted_to_the_model_once() -> None:
    criterion = make_criterion("bce_with_logits:pos_weight=2;3")
    step = CriterionStep(criterion, BatchLayout(), Precision("float32", CPU))
    model, y = make_model().double(), (Y > 0).double()
    step.mean(model, (X.double(), y))
    fitted = step.criterion
    step.mean(model, (X.double(), y))
    assert step.criterion is fitted is not criterion


def gradients_by_hand(model: nn.Module, batch: Any) -> list[Tensor]:
    model.zero_grad()
    F.mse_loss(model(batch[0]), batch[1]).backward()
    return [p for p in model.parameters() if p.grad is not None]


def total_norm(params: list[Tensor]) -> float:
    return nn.utils.get_total_norm([p.grad for p in params]).item()  # type: ignore[misc]


def clip_both(params: list[Tensor]) -> None:
    nn.utils.clip_grad_value_(params, 0.05)
    nn.utils.clip_grad_norm_(params, 0.1)


@pytest.mark.parametrize(
    ("settings", "clip"),
    [
        ({"clip_norm": 0.3}, lambda params: nn.utils.clip_grad_norm_(params, 0.3)),
        (
            {"clip_value": 0.05, "log_norms": True},
            lambda params: nn.utils.clip_grad_value_(params, 0.05),
        ),
        ({"log_norms": True}, lambda params: None),
        ({"clip_value": 0.05, "clip_norm": 0.1}, clip_both),
    ],
)
def test_clipped_gradients_are_torchs_and_norms_those_before_clipping(
    settings: dict[str, Any], clip: Callable[[list[Tensor]], Any]
) -> None:
    by_hand, ours = make_model(), make_model()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, fused=True)
    norms = []
    for batch in make_batches() * 2:
        params = gradients_by_hand(by_hand, batch)
        norms.append(total_norm(params))
        clip(params)
        optimizer.step()
    run = train(ours, **settings)
    for one, other in zip(by_hand.parameters(), ours.parameters(), strict=True):
        assert torch.equal(one, other)
    expected = [np.mean(norms[:3]), np.mean(norms[3:])]
    assert [r["grad_norm"] for r in run.history] == pytest.approx(expected, rel=1e-6)
    assert max(norms) > 0.3


def test_norms_of_micro_batches_are_those_of_the_whole() -> None:
    whole = train(make_model(), clip_norm=0.2)
    parts = train(make_model(), clip_norm=0.2, micro_batch_size=3)
    expected = [r["grad_norm"] for r in whole.history]
    assert [r["grad_norm"] for r in parts.history] == pytest.approx(expected, rel=1e-5)


class StopAfter(Callback):
    """Ends the training as Ctrl-C does, after an epoch's record."""

    def on_epoch_end(self, state: Any, record: Any) -> None:
        if record["epoch"] == 3:
            raise KeyboardInterrupt("asked to stop")


@pytest.mark.parametrize(
    "optimizer", ["lbfgs:max_iter=4", "lbfgs:max_iter=5,line_search_fn=strong_wolfe"]
)
def test_lbfgs_fits_a_regression_and_goes_on_bit_for_bit(
    tmp_path: Path, optimizer: str
) -> None:
    target = X @ torch.tensor([[1.0, -2], [0.5, 0], [3, 1]]) + 0.3
    loader = [(X, target)]

    def fit(folder: str, *callbacks: Callback, resume: bool = False) -> Any:
        model = make_model()
        trainer = Trainer(
            model,
            loss="mse",
            optimizer=optimizer,
            lr=0.5,
            callbacks=callbacks,
            progress="off",
            num_threads=1,
        )
        run = trainer.fit(loader, epochs=8, run_dir=tmp_path / folder, resume=resume)
        return model, run

    model, run = fit("whole")
    losses = run.steps["loss"]
    assert len(losses) == 8
    assert losses[-1] < 0.2 * losses[0]
    with pytest.raises(KeyboardInterrupt, match="asked to stop"):
        fit("parts", StopAfter())
    resumed, later = fit("parts", resume=True)
    assert later.steps["loss"].tolist() == losses.tolist()
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_lbfgs_finds_the_minimum_of_rosenbrocks_function() -> None:
    class Valley(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))

        def forward(self) -> Tensor:
            a, b = self.place
            return (1 - a) ** 2 + 100 * (b - a**2) ** 2

    model = Valley()
    trainer = Trainer(
        model,
        step=lambda model, batch: model(),
        optimizer="lbfgs:line_search_fn=strong_wolfe",
        progress="off",
    )
    trainer.fit([torch.zeros(1)] * 4, epochs=1)
    assert (model.place.detach() - 1).abs().max() < 1e-3


def test_lbfgs_takes_micro_batches_and_clips() -> None:
    loader = [(X.double(), Y.double())]
    losses = []
    for size in (None, 5):
        trainer = Trainer(
            make_model().double(),
            loss="mse",
            optimizer="lbfgs:max_iter=3,line_search_fn=strong_wolfe",
            clip_norm=0.2,
            micro_batch_size=size,
            progress="off",
        )
        run = trainer.fit(loader, epochs=3)
        losses.append(run.steps["loss"].tolist())
        assert run.history[0]["grad_norm"] > 0.2
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_total_that_only_some_micro_batches_give_is_kept() -> None:
    def step(model: nn.Module, batch: Any) -> dict[str, Any]:
        made = {"loss_sum": model(batch[0]).square().sum(), "weight": 8}
        return {**made, "hits_sum": 4} if torch.equal(batch[0], X[:8]) else made

    run = train(make_model(), loss=None, step=step, accumulate=3, epochs=1)
    assert run.history[0]["train_hits"] == pytest.approx(4 / 24)


@pytest.mark.parametrize("loss", ["cross_entropy:ignore_index=-1", "object"])
def test_ignored_labels_count_neither_in_the_loss_nor_in_metrics(loss: Any) -> None:
    if loss == "object":
        loss = nn.CrossEntropyLoss(ignore_index=-1)
    labels = torch.tensor([0, 1, -1, -1, 1, -1])
    loader, counted = [(X[:6], labels)], labels >= 0
    trainer = Trainer(
        make_model(),
        loss=loss,
        metrics=["accuracy"],
        train_metrics=["accuracy"],
        progress="off",
    )
    found = trainer.evaluate(loader)
    answers = make_model()(X[:6]).argmax(1)
    expected = (answers == labels)[counted].float().mean().item()
    assert found["accuracy"] == pytest.approx(expected)
    run = trainer.fit(loader, epochs=1)
    assert run.history[0]["train_accuracy"] == pytest.approx(expected)


def test_a_generator_that_has_run_dry_is_said() -> None:
    trainer = Trainer(make_model(), loss="mse", progress="off")
    for gone_through in (trainer.evaluate, trainer.predict):
        batches = (batch for batch in make_batches())
        gone_through(batches)
        with pytest.raises(TrainingError, match="generator can be gone through only"):
            gone_through(batches)
    with pytest.raises(TrainingError, match=r"at least one batch; it gave none\.$"):
        trainer.evaluate([])
    with pytest.raises(TrainingError, match="generator can be gone through only"):
        trainer.fit(make_batches(), valid=iter(make_batches()), epochs=2)


def test_inputs_of_another_dtype_than_the_weights_are_said() -> None:
    trainer = Trainer(make_model(), loss="mse", progress="off")
    says = r"torch\.float32; got torch\.float64 in inputs\[0\]"
    for use in (trainer.evaluate, lambda loader: trainer.fit(loader, epochs=1)):
        with pytest.raises(TrainingError, match=says):
            use([(X.double(), Y)])


class Refusing(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not today")


def test_other_errors_of_the_model_stay_what_they_are() -> None:
    trainer = Trainer(Refusing(3, 1), loss="mse", progress="off")
    with pytest.raises(RuntimeError, match="not today") as caught:
        trainer.evaluate([(X, Y)])
    assert type(caught.value) is RuntimeError


def test_inputs_of_another_width_are_named_with_their_shape() -> None:
    trainer = Trainer(make_model(), loss="mse", progress="off")
    with pytest.raises(TrainingError, match=r"takes; got \(24, 2\) in inputs\[0\]"):
        trainer.evaluate([(X[:, :2], Y)])
