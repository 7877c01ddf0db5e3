"""Losses: names, arguments, and what their means are divided by."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from handful import DataLoader, Trainer
from handful.errors import ArgumentError, TrainingError
from handful.train.choices import LOSSES
from handful.train.loss_fit import check_output_width
from handful.train.losses import divide, make_criterion

torch.manual_seed(0)
OUTPUT = torch.randn(5, 4)
LABELS = torch.tensor([0, 3, -100, 1, -100])


def test_every_name_makes_a_loss_that_says_its_setting_and_reads_it_back() -> None:
    for name in LOSSES:
        made = make_criterion(name)
        assert made.name == made.setting == name
    made = make_criterion("cross_entropy:label_smoothing=0.1,ignore_index=7")
    assert made.name == "cross_entropy"
    assert made.ignore_index == 7
    assert make_criterion(made.setting).setting == made.setting  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("mes", "loss must be one of .*Did you mean 'mse'"),
        ("mse:delta=1", "loss 'mse' takes no arguments; got 'delta'"),
        ("huber:delta=-1", "loss huber:delta=-1 cannot be made: .*non-positive"),
        ("smooth_l1:beta=-1", "cannot be made: .*negative values for beta"),
        ("cross_entropy:label_smoothing=2", "cannot be made: .*between 0.0 and 1.0"),
        ("cross_entropy:ignore_index=a", "cannot be made: .*ignore_index"),
        ("cross_entropy:weight=a;b", "cannot be made: "),
        (3, "loss must be a name or a callable of .*; got 3"),
        (nn.MSELoss, "loss must be a name or a callable of .*; got <class"),
        (nn.MSELoss(reduction="sum"), "reduction='mean'; got 'sum'"),
        (functools.partial(F.mse_loss, reduction="none"), "'mean'; got 'none'"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_at_once(setting: Any, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        Trainer(nn.Linear(1, 1), loss=setting)


@pytest.mark.parametrize(
    "setting", ["cross_entropy:weight=1;2", "nll:weight=1;2", "mse", "cross_entropy"]
)
def test_a_loss_is_made_whatever_the_default_dtype(setting: str) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        made = make_criterion(setting).fitted(torch.zeros(1, 2))
        target = torch.zeros(1, 2) if setting == "mse" else torch.tensor([1])
        assert made.mean(torch.zeros(1, 2), target).dtype is torch.float64
    finally:
        torch.set_default_dtype(before)


class _OwnLoss(nn.MSELoss):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).mean()


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        *((name, name) for name in LOSSES),
        ("cross_entropy:label_smoothing=0.1", "cross_entropy"),
        (nn.CrossEntropyLoss(ignore_index=255), "cross_entropy"),
        (nn.MSELoss(), "mse"),
        (nn.SmoothL1Loss(), "smooth_l1"),
        (F.l1_loss, "mae"),
        (F.cross_entropy, "cross_entropy"),
        (functools.partial(F.huber_loss, delta=2.0), "huber"),
        (_OwnLoss(), None),
        (nn.KLDivLoss(reduction="batchmean"), None),
        (lambda output, target: output.mean(), None),
    ],
)
def test_a_loss_has_its_kind_as_a_name_and_as_an_object(
    loss: Any, kind: str | None
) -> None:
    assert make_criterion(loss).kind == kind


@pytest.mark.parametrize(
    ("loss", "target", "says"),
    [
        (nn.MSELoss(), torch.zeros(5), r"same shape; got output \(5, 1\)"),
        (F.l1_loss, torch.zeros(5), r"Use output\.squeeze\(1\)"),
        (nn.BCEWithLogitsLoss(), torch.zeros(5), r"loss 'bce_with_logits' needs"),
    ],
)
def test_an_objects_output_and_target_are_checked_by_its_kind(
    loss: Any, target: Tensor, says: str
) -> None:
    kind = make_criterion(loss).kind
    with pytest.raises(TrainingError, match=says):
        check_output_width(torch.zeros(5, 1), target, kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.bool])
def test_labels_of_another_dtype_are_refused_for_an_object(dtype: torch.dtype) -> None:
    kind = make_criterion(nn.CrossEntropyLoss()).kind
    with pytest.raises(TrainingError, match=r"labels.*\.long\(\)"):
        check_output_width(OUTPUT, torch.zeros(5).to(dtype), kind)


def test_class_labels_are_weighed_by_the_weights_of_those_not_ignored() -> None:
    assert make_criterion("cross_entropy").weigh(LABELS) == 3
    made = make_criterion("cross_entropy:weight=1;2;3;4,ignore_index=3")
    assert made.weigh(torch.tensor([0, 3, 2, 1])) == 1 + 3 + 2
    tokens = torch.tensor([[0, 1], [3, 3]])
    assert made.weigh(tokens) == 3
    assert make_criterion("cross_entropy").weigh(tokens.softmax(1, torch.float)) == 2
    assert make_criterion("mse").weigh(torch.zeros(5, 3)) == 5


def test_labels_of_bytes_choose_their_weights_and_wrap_around_nowhere() -> None:
    labels = torch.tensor([2, 0, 1], dtype=torch.uint8)
    made = make_criterion("cross_entropy:weight=1;2;4")
    assert made.weigh(labels) == 7
    total, weight = made.total(OUTPUT[:3, :3], labels)
    expected = F.cross_entropy(
        OUTPUT[:3, :3], labels.long(), weight=torch.tensor([1.0, 2, 4])
    )
    torch.testing.assert_close(total / weight, expected)
    # As a byte, -100 is 156.
    plain = make_criterion("cross_entropy")
    assert plain.weigh(torch.tensor([156, 1], dtype=torch.uint8)) == 2


def test_counting_all_labels_gives_the_same_and_keeps_weights_of_classes() -> None:
    labels = torch.tensor([[0, 3], [2, 1]])
    plain = make_criterion("cross_entropy")
    counting = plain.with_all_labels()
    assert counting.weigh(labels) == plain.weigh(labels) == 4
    assert isinstance(counting.weigh(labels), int)
    weighted = make_criterion("cross_entropy:weight=1;2;3;4")
    assert weighted.with_all_labels() is weighted
    assert make_criterion("mse").with_all_labels().weigh(torch.zeros(3, 2)) == 3


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (nn.CrossEntropyLoss(ignore_index=1), torch.tensor([0, 1, 3, 1, 2])),
        (F.cross_entropy, LABELS),
        (functools.partial(F.cross_entropy, label_smoothing=0.3), LABELS),
        (nn.KLDivLoss(reduction="batchmean"), OUTPUT.softmax(1)),
        (nn.MultiMarginLoss(), torch.tensor([0, 1, 3, 1, 2])),
        (nn.MultiLabelSoftMarginLoss(), (OUTPUT > 0).float()),
        (F.binary_cross_entropy_with_logits, (OUTPUT > 0).float()),
        (lambda output, target: (output - target).abs().max(), OUTPUT * 2),
    ],
)
def test_total_divided_by_its_weight_is_the_mean(loss: Any, target: Tensor) -> None:
    made = make_criterion(loss)
    total, weight = made.total(OUTPUT, target)
    torch.testing.assert_close(total / weight, loss(OUTPUT, target))


def test_a_subclass_that_computes_otherwise_is_weighed_by_its_samples() -> None:
    class Sharpened(nn.CrossEntropyLoss):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            return super().forward(2 * input, target) + 1

    class Same(nn.CrossEntropyLoss):
        pass

    made = make_criterion(Sharpened())
    assert made.each is None
    assert made.weigh(LABELS) == 5
    assert make_criterion(Same()).weigh(LABELS) == 3


def test_sample_weights_give_the_weighted_mean_and_its_gradient() -> None:
    weights = torch.tensor([1.0, 0, 2, 3, 0.5])
    made = make_criterion("cross_entropy:weight=1;2;3;4")
    loss, weight = made.weighted(OUTPUT, LABELS, weights)
    each = F.cross_entropy(
        OUTPUT, LABELS, weight=torch.tensor([1.0, 2, 3, 4]), reduction="none"
    )
    torch.testing.assert_close(weight, torch.tensor(1.0 + 0 + 3 * 2))
    torch.testing.assert_close(loss, (each * weights).sum() / weight)
    column, _ = made.weighted(OUTPUT, LABELS, weights[:, None])
    assert torch.equal(column, loss)


def test_weights_that_are_all_zero_give_no_mean_and_no_gradient() -> None:
    output = OUTPUT.clone().requires_grad_()
    made = make_criterion("mse")
    loss, weight = made.weighted(output, torch.zeros(5, 4), torch.zeros(5))
    loss.backward()
    assert weight == 0
    assert loss.isnan()
    assert torch.equal(output.grad, torch.zeros(5, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [0, torch.tensor(0)])
def test_a_sum_without_weight_has_no_mean_and_zero_gradients(weight: Any) -> None:
    total = torch.tensor(3.0, requires_grad=True)
    mean = divide(total, weight)
    mean.backward()
    assert mean.isnan()
    assert total.grad == 0
    assert divide(torch.tensor(3.0), weight + 2) == 1.5


def test_zero_weights_in_one_batch_leave_the_weights_of_the_model() -> None:
    x, y = torch.randn(4, 2), torch.randn(4, 1)
    model = nn.Linear(2, 1)
    loader = [(x, y, torch.ones(4)), (x, y, torch.zeros(4)), (x, y, torch.ones(4))]
    trainer = Trainer(
        model, loss="mse", optimizer="sgd", sample_weight=-1, progress="off"
    )
    run = trainer.fit(loader, epochs=1)
    assert torch.isfinite(model.weight).all()
    losses = run.steps["loss"]
    assert run.history[0]["train_loss"] == pytest.approx((losses[0] + losses[2]) / 2)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (torch.ones(3), r"shape \(5,\), a weight for each sample .* got \(3,\)"),
        (torch.ones(5, 2), r"got \(5, 2\)"),
        ([1.0] * 5, "got list"),
    ],
)
def test_sample_weights_of_another_shape_are_refused(weights: Any, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        make_criterion("cross_entropy").weighted(OUTPUT, LABELS, weights)


def test_sample_weights_need_a_loss_of_single_samples() -> None:
    made = make_criterion(lambda output, target: output.mean())
    with pytest.raises(ArgumentError, match="sample_weight needs a loss of single"):
        made.total(OUTPUT, LABELS, torch.ones(5))


def test_weights_of_classes_follow_the_dtype_of_the_model() -> None:
    made = make_criterion("cross_entropy:weight=0.1;0.2;0.3;0.4")
    assert made.fitted(OUTPUT).mean.weight.dtype == torch.float32  # type: ignore[attr-defined]
    fitted = made.fitted(OUTPUT.double())
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    assert torch.equal(fitted.mean.weight, weight)  # type: ignore[attr-defined]
    assert fitted.setting == made.setting
    plain = make_criterion("mse")
    assert plain.fitted(OUTPUT.double()) is plain


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("cross_entropy:weight=1;2;3", "weight of loss 'cross_entropy' .* 4 outputs"),
        ("bce_with_logits:pos_weight=1;2", "pos_weight of loss .* 4 outputs; got 2"),
    ],
)
def test_weights_must_be_as_many_as_the_outputs(setting: str, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        make_criterion(setting).fitted(OUTPUT)
    make_criterion("bce_with_logits:pos_weight=2").fitted(OUTPUT)


def train(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> dict[str, Any]:
    trainer = Trainer(model, progress="off", lr=0.05, num_threads=None, **options)
    loader = DataLoader((x, y), batch_size=16, shuffle=True)
    return trainer.fit(loader, loader, epochs=20).history[-1]


def test_binary_multi_label_several_outputs_and_sequences_are_learnt_by_name() -> None:
    x = torch.randn(128, 3)
    is_right = (x.sum(1, keepdim=True) > 0).float()
    last = train(
        nn.Linear(3, 1), x, is_right, loss="bce_with_logits", metrics=["accuracy"]
    )
    assert last["valid_accuracy"] > 0.9
    flat = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    last = train(flat, x, is_right[:, 0], loss="bce_with_logits", metrics=["accuracy"])
    assert last["valid_accuracy"] > 0.9
    several = (x > 0).float()
    last = train(
        nn.Linear(3, 3), x, several, loss="bce_with_logits", metrics=["f1", "accuracy"]
    )
    assert last["valid_f1"] > 0.9
    numbers = x @ torch.randn(3, 2) + 1
    last = train(nn.Linear(3, 2), x, numbers, loss="mse", metrics=["r2"])
    assert last["valid_r2"] > 0.95
    tokens = (x > 0).long().masked_fill(torch.rand(128, 3) < 0.2, -100)
    tagger = nn.Sequential(nn.Linear(3, 6), nn.Unflatten(1, (2, 3)))
    last = train(tagger, x, tokens, loss="cross_entropy", metrics=["accuracy"])
    assert last["valid_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("width", "target", "loss", "says"),
    [
        (1, torch.zeros(8), "mse", "same shape; got output .8, 1. and target .8,"),
        (3, torch.zeros(8, 2), "bce_with_logits", "same shape"),
        (3, torch.zeros(8, dtype=torch.int32), "cross_entropy", "dtype torch.int64"),
        (3, torch.full((8,), 3), "cross_entropy", r"labels must lie in 0 … 2"),
        (3, torch.zeros(8, 2), "cross_entropy", "a probability for each class"),
    ],
)
def test_a_target_that_does_not_fit_is_said_before_the_first_update(
    width: int, target: Tensor, loss: str, says: str
) -> None:
    trainer = Trainer(nn.Linear(2, width), loss=loss, progress="off")
    with pytest.raises(TrainingError, match=says):
        trainer.fit([(torch.randn(8, 2), target)], epochs=1)
