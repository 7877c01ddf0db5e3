"""Checks before the first update: what they refuse, and that nothing is changed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import (
    ConcatDataset,
    Dataset,
    StackDataset,
    Subset,
    TensorDataset,
)
from torch.utils.data import DataLoader as TorchDataLoader

from handful import Columns, DataLoader, Trainer
from handful.data.transforms import Normalize, ScaleBytes
from handful.errors import ArgumentError, TrainingError
from handful.train import labels as labels_module
from handful.train.checks import (
    check_finite_loss,
    check_last_batch,
    check_monitor,
    check_requires_grad,
    explain_dtype,
    note_untrained,
    notes_on_accumulation,
)
from handful.train.labels import check_labels, find_targets
from handful.train.loss_fit import check_output_width

NAN, INF = float("nan"), float("inf")
BAD = torch.tensor(NAN)


def clean_batch() -> list[Tensor]:
    return [torch.ones(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])]


# The first loss


def test_a_finite_loss_passes_whatever_the_batch_holds() -> None:
    check_finite_loss(torch.tensor(1.0), [torch.full((2,), NAN)])


def test_values_of_the_batch_are_counted_and_placed() -> None:
    batch = clean_batch()
    batch[0][2, 1], batch[0][4, 0], batch[0][4, 2] = INF, NAN, NAN
    with pytest.raises(
        TrainingError,
        match=r"first step, before any update; got nan\. batch\[0\] holds 2 NaN and "
        r"1 Inf, first in sample 2 of the batch\. Remove",
    ):
        check_finite_loss(BAD, batch)


def test_a_dict_batch_names_keys_and_every_wrong_tensor() -> None:
    batch = {"x": [torch.tensor([1.0, -INF])], "y": torch.tensor(NAN)}
    with pytest.raises(
        TrainingError,
        match=r"got inf\. batch\['x'\]\[0\] holds 1 Inf, first in sample 1 of the "
        r"batch; batch\['y'\] is 1 NaN\. Remove",
    ):
        check_finite_loss(torch.tensor(INF), batch)


def test_a_clean_batch_blames_the_model_and_gives_the_largest_value() -> None:
    batch = clean_batch()
    batch[0][0, 0] = -3e30
    with pytest.raises(
        TrainingError,
        match=r"no NaN or Inf \(its largest magnitude is 3e\+30, in batch\[0\]\), so "
        "the model or the loss makes it",
    ):
        check_finite_loss(BAD, batch)
    with pytest.raises(TrainingError, match="no NaN or Inf, so the model"):
        check_finite_loss(BAD, [torch.arange(3)])


def test_labels_that_are_all_ignored_are_named() -> None:
    labels = torch.full((4,), -100)
    loss = functional.cross_entropy(torch.ones(4, 2), labels)
    with pytest.raises(TrainingError, match=r"All of batch\[1\] is -100"):
        check_finite_loss(loss, [torch.ones(4, 2), labels])


# The last batch


def snapshot(model: nn.Module) -> dict[str, Any]:
    state = {k: v.numpy().tobytes() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    hooks = [len(m._forward_pre_hooks) for m in model.modules()]
    draws = torch.get_rng_state().numpy().tobytes(), random.getstate()
    return {"state": state, "modes": modes, "hooks": hooks, "draws": draws}


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))


def convolutional(size: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Upsample(size=(size, size)),
        nn.Conv2d(1, 3, 1),
        nn.BatchNorm2d(3),
    )


class Runs:
    """Runs a model on a first batch, and counts how often."""

    def __init__(self, model: nn.Module, size: int) -> None:
        self.model, self.size, self.count = model, size, 0

    def __call__(self) -> None:
        self.count += 1
        self.model(torch.ones(self.size, 4))


def check(model: nn.Module, samples: int, batch: int, drop: bool = False) -> Runs:
    """Check a model, and that it stays byte for byte as it was."""
    runs, before = Runs(model, min(samples, batch)), snapshot(model)
    try:
        check_last_batch(
            model, runs, num_samples=samples, batch_size=batch, drop_last=drop
        )
    finally:
        assert snapshot(model) == before
    return runs


def trains_on_one(model: nn.Module) -> bool:
    """Say what torch says: whether a batch of one sample can be trained on."""
    try:
        model(torch.ones(1, 4))
    except ValueError as error:
        return "more than 1 value per channel" not in str(error)
    return True


class Sequences(nn.Module):
    """BatchNorm over samples and positions together, in rows of channels."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.positions = positions
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x[:, :1].repeat(1, 3 * self.positions).reshape(-1, 3)
        return self.norm(rows)


@pytest.mark.parametrize(
    "model",
    [
        dense(),
        dense().eval(),
        convolutional(1),
        convolutional(2),
        Sequences(1),
        Sequences(2),
        nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)).eval(),
        nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.InstanceNorm2d(1, affine=True)),
        nn.Sequential(nn.GroupNorm(2, 4)),
    ],
)
def test_exactly_the_models_that_torch_refuses_are_refused(model: nn.Module) -> None:
    refused = False
    try:
        check(model, 9, 4)
    except TrainingError:
        refused = True
    assert refused is not trains_on_one(model)


def test_the_sentence_names_layer_samples_batch_size_and_remedies() -> None:
    with pytest.raises(
        TrainingError,
        match=r"BatchNorm1d layer '2' needs more than one value a channel in training; "
        r"got 1,001 samples and batch_size=100, whose last batch is of one\. Leave it "
        r'out with last_batch="drop" .*another batch_size, such as 101\.',
    ):
        check(dense(), 1001, 100)


def test_the_batch_size_proposed_leaves_no_batch_of_one() -> None:
    with pytest.raises(TrainingError, match=r"such as 5\."):
        check(dense(), 13, 3)  # 13 % 4 is 1 as well


@pytest.mark.parametrize("drop", [True, False])
def test_batches_of_one_are_refused_whether_dropped_or_not(drop: bool) -> None:
    with pytest.raises(TrainingError, match=r"got batch_size=1\. Take 2 or more"):
        check(dense(), 10, 1, drop)
    assert check(convolutional(2), 10, 1, drop).count == 1


def test_a_single_sample_is_refused_for_what_it_is() -> None:
    with pytest.raises(TrainingError, match="got 1 sample in all"):
        check(dense(), 1, 5)


@pytest.mark.parametrize(
    ("model", "samples", "batch", "drop"),
    [
        (dense(), 10, 5, False),
        (dense(), 11, 5, True),
        (nn.Linear(4, 2), 11, 5, False),
        (dense().eval(), 11, 5, False),
        (nn.Sequential(nn.LazyLinear(4), nn.BatchNorm1d(4)), 11, 5, False),
    ],
)
def test_nothing_runs_where_nothing_can_go_wrong(
    model: nn.Module, samples: int, batch: int, drop: bool
) -> None:
    runs = Runs(model, batch)
    check_last_batch(model, runs, num_samples=samples, batch_size=batch, drop_last=drop)
    assert runs.count == 0


# Labels


def test_the_first_wrong_label_is_placed_and_all_are_counted() -> None:
    labels = torch.tensor([2, 1, -100, 7, 0, -1, 2])
    with pytest.raises(
        TrainingError,
        match=r"labels must lie in 0 … 2, the classes of the model's output; got "
        r"-1 … 7 in train: 7 at position 3 is the first of 2 outside among 7\. Number",
    ):
        check_labels(labels, num_classes=3, where="train")


def test_labels_in_range_or_ignored_pass() -> None:
    check_labels(torch.tensor([0, -100, 2]), num_classes=3, where="train")
    check_labels(np.full((4, 2), 9), num_classes=3, where="train", ignore_index=9)
    check_labels(torch.tensor([0.5, 9.0]), num_classes=3, where="train")
    check_labels(np.array([True, False]), num_classes=1, where="train")
    check_labels(np.zeros((0, 2), np.int64), num_classes=1, where="train")
    check_labels(np.zeros((2, 0), np.int64), num_classes=1, where="train")
    check_labels(np.array([0, 255], np.uint8), num_classes=256, where="train")


def test_the_range_given_is_that_of_the_labels() -> None:
    with pytest.raises(TrainingError, match=r"got 5 … 6 in valid: 5 at position 0 is"):
        check_labels(np.array([5, 6], np.uint8), num_classes=5, where="valid")


def test_another_ignored_label_makes_the_default_one_wrong() -> None:
    with pytest.raises(TrainingError, match=r"got -100 … 1 in train: -100 at posit"):
        check_labels(
            torch.tensor([-1, 1, -100]), num_classes=2, where="train", ignore_index=-1
        )


@pytest.mark.parametrize("chunk", [1, 6, 7, 2**22])
def test_a_memory_map_of_images_is_read_in_parts(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels_module, "_CHUNK_ELEMENTS", chunk)
    path = tmp_path / "labels.npy"
    labels = np.arange(24, dtype=np.int32).reshape(6, 2, 2) % 5
    labels[4, 1, 0] = labels[5, 0, 0] = 11
    np.save(path, labels)
    with pytest.raises(
        TrainingError,
        match=r"got 0 … 11 in x: 11 at position \(4, 1, 0\) .* of 2 outside among 24",
    ):
        check_labels(np.load(path, mmap_mode="r"), num_classes=5, where="x")


# Targets

X = torch.arange(40.0).reshape(10, 4)
Y = torch.arange(10) % 3


class Own(Dataset[Any]):
    """A data set of the user's own."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ((X, Y), None),
        ((X, Y), -1),
        ((Y, X), 0),
        (TensorDataset(X, Y), None),
        (Columns(X, Y), 1),
        (Columns(x=X, y=Y), None),
        (Columns(x=X, found=Y), "found"),
        (StackDataset(X, Y), None),
        (StackDataset(x=X, label=Y), None),
    ],
)
def test_targets_in_an_array_are_found_without_a_copy(data: Any, field: Any) -> None:
    loader = DataLoader(data, batch_size=4, shuffle=True, seed=0)
    found = find_targets(loader, field)
    assert found is not None
    assert torch.equal(found, Y)
    assert found.data_ptr() == Y.data_ptr()


def test_targets_of_a_memory_map_share_its_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", Y.numpy())
    labels = np.load(tmp_path / "y.npy", mmap_mode="r")
    found = find_targets(DataLoader((X, labels), batch_size=4))
    assert found is not None
    assert found.data_ptr() == labels.ctypes.data


def test_the_weights_are_not_taken_for_the_targets() -> None:
    loader = DataLoader((X, Y, torch.ones(10)), batch_size=4)
    found = find_targets(loader, sample_weight=-1)
    assert found is not None
    assert torch.equal(found, Y)


def test_targets_of_a_subset_are_those_of_its_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = Subset(TensorDataset(X, Y), [7, 1, 2])
    found = find_targets(DataLoader(part, batch_size=2))
    assert found is not None
    assert found.tolist() == [1, 1, 2]
    both = ConcatDataset([part, TensorDataset(X, Y)])
    found = find_targets(DataLoader(both, batch_size=2))
    assert found is not None
    assert found.tolist() == [1, 1, 2, *Y.tolist()]
    monkeypatch.setattr(labels_module, "_MOST_GATHERED_BYTES", 3 * 8 - 1)
    assert find_targets(DataLoader(part, batch_size=2)) is None


@pytest.mark.parametrize(
    "loader",
    [
        TorchDataLoader(TensorDataset(X, Y), 4),
        DataLoader(Own(), 4),
        DataLoader((X, Y), 4, sampler=[1, 2]),
        DataLoader((X, Y), 4, collate_fn=len),
        DataLoader(X, 4),
        DataLoader((X,), 4),
        DataLoader(Columns(x=X, z=Y), 4),
        DataLoader((X, Y), 4, batch_transform=lambda batch: batch),
        DataLoader((X, Y.float()), 4, batch_transform=Normalize(0, 1, column=1)),
        DataLoader((X, Y), 4, batch_transform=Normalize(0, 1, column=9)),
        [(X, Y)],
    ],
)
def test_no_targets_are_found_where_a_batch_may_have_others(loader: Any) -> None:
    assert find_targets(loader) is None


def test_a_transform_of_the_inputs_leaves_the_targets() -> None:
    loader = DataLoader((X.byte(), Y), 4, batch_transform=ScaleBytes())
    assert find_targets(loader) is not None


def test_a_field_that_a_batch_has_not_gives_none() -> None:
    assert find_targets(DataLoader((X, Y), 4), "target") is None
    assert find_targets(DataLoader((X, Y), 4), 2) is None


# Output, target and loss

LOGITS = torch.linspace(-2, 2, 12).reshape(4, 3)
LABELS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("loss", "output", "target", "match"),
    [
        (
            "mse",
            LOGITS[:, :1],
            LOGITS[:, 0],
            r"'mse' needs an output and a target of the same shape; got output \(4, 1\)"
            r" and target \(4,\)\. Use output\.squeeze\(1\) or target\.unsqueeze\(1\):",
        ),
        ("mae", LOGITS[:, 0], LOGITS[:, :1], r"Use target\.squeeze\(1\) or outp"),
        ("huber", LOGITS, LOGITS[:2], "Reshape one of them: a silent broadcast"),
        ("bce_with_logits", LOGITS, LABELS, "same shape.*Use cross_entropy for sever"),
        ("bce_with_logits", LOGITS, LOGITS.long(), r"floating dtype; got torch\.int64"),
        ("mse", LOGITS, LOGITS.int(), r"got torch\.int32\. Convert .* \.float\(\)"),
        ("smooth_l1", LOGITS, LOGITS.bool(), r"floating dtype; got torch\.bool"),
        ("mae", LOGITS, LOGITS.bool(), r"floating dtype; got torch\.bool"),
        ("mse", (LOGITS, LOGITS), LOGITS, "needs an output that is a tensor; got tup"),
        ("mse", LOGITS, [1.0], "needs a target that is a tensor; got list"),
        ("cross_entropy", LOGITS[0], LABELS, r"needs an output of shape \(batch, clas"),
        ("cross_entropy", LOGITS[:, 0], LOGITS[:, 0], r"\(batch, classes\); got \(4,"),
        ("cross_entropy", LOGITS[:, :1], LABELS * 0, "one output for classes, shape"),
        ("nll", LOGITS[:, :1], LABELS * 0, "Use bce_with_logits or two outputs"),
        ("cross_entropy", LOGITS, LABELS.float(), r"integer labels.*torch\.float32 of"),
        ("cross_entropy", LOGITS, LABELS.int(), r"dtype torch\.int64; got torch\.int3"),
        (
            "cross_entropy",
            LOGITS,
            LABELS[:, None],
            r"\(4, 1\)\. Use target\.squeeze\(1",
        ),
        (
            "cross_entropy",
            LOGITS,
            LOGITS.long(),
            r"Use target\.argmax\(1\) if it is on",
        ),
        (
            "cross_entropy",
            LOGITS,
            LABELS[:3],
            r"labels of shape \(4,\).*got \(3,\)\. G",
        ),
        ("nll", LOGITS, LABELS.float(), r"dtype torch\.int64; got torch\.float32"),
        ("cross_entropy", LOGITS, LABELS + 1, "lie in 0 … 2, .*; got 1 … 3. Number"),
        ("cross_entropy", LOGITS, LABELS - 1, "labels must lie in 0 … 2, .* -1 … 1"),
    ],
)
def test_what_does_not_fit_the_loss_is_refused(
    loss: str, output: Any, target: Any, match: str
) -> None:
    with pytest.raises(TrainingError, match=match):
        check_output_width(output, target, loss)


@pytest.mark.parametrize(
    ("loss", "output", "target"),
    [
        ("mse", LOGITS, LOGITS.double()),
        ("mae", LOGITS, LOGITS.long()),
        ("poisson_nll", LOGITS, LOGITS.long()),
        ("cross_entropy", LOGITS, LABELS),
        ("cross_entropy", LOGITS, LABELS.byte()),
        ("cross_entropy", LOGITS, LOGITS.softmax(1)),
        ("cross_entropy", LOGITS, torch.tensor([0, -100, 2, -100])),
        ("cross_entropy", LOGITS, torch.full((4,), -100)),
        ("cross_entropy", LOGITS.reshape(2, 3, 2), LABELS.reshape(2, 2)),
        ("nll", LOGITS.log_softmax(1), LABELS),
        (functional.mse_loss, LOGITS, LABELS),
        (None, "anything", None),
    ],
)
def test_what_fits_the_loss_passes_without_a_word(
    loss: object, output: Any, target: Any
) -> None:
    assert check_output_width(output, target, loss) is None


def test_another_ignored_label_passes() -> None:
    labels = torch.tensor([0, 9, 9, 1])
    assert check_output_width(LOGITS, labels, "nll", ignore_index=9) is None


def test_byte_labels_of_images_are_refused_as_torch_refuses_them() -> None:
    output, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="expected scalar type Long"):
        functional.cross_entropy(output, labels)
    with pytest.raises(TrainingError, match=r"int64; got torch\.uint8"):
        check_output_width(output, labels, "cross_entropy")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_probabilities_as_outputs_are_warned_of(dtype: torch.dtype) -> None:
    shares = LOGITS.softmax(1).to(dtype)
    warning = check_output_width(shares, LABELS, "cross_entropy")
    assert warning is not None
    assert "seems to end in a softmax" in warning
    assert "leave the softmax out" in warning
    warning = check_output_width(shares, LABELS, "nll")
    assert warning is not None
    assert "use log_softmax" in warning


@pytest.mark.parametrize(
    "output", [LOGITS.sigmoid(), LOGITS - LOGITS.mean(1, keepdim=True) + 1 / 3]
)
def test_outputs_in_range_or_of_sum_one_alone_are_not_warned_of(output: Tensor) -> None:
    assert check_output_width(output, LABELS, "cross_entropy") is None


def test_outputs_that_require_gradients_are_read_without_them() -> None:
    output = LOGITS.clone().requires_grad_()
    assert check_output_width(output, LABELS, "cross_entropy") is None
    assert output.grad is None


# The value to watch


def test_a_value_that_is_measured_can_be_watched() -> None:
    check_monitor("valid_loss", ["train_loss", "valid_loss"])
    check_monitor("mine", iter(["mine"]))


@pytest.mark.parametrize(
    ("name", "available", "match"),
    [
        (
            "valid_loss",
            ["train_loss"],
            r"monitor must be one of train_loss; got 'valid_loss'\..*none\.$",
        ),
        (
            "valid_accuracy",
            ["train_loss", "valid_loss", "valid_top5_accuracy"],
            r"Add 'accuracy' to metrics\.$",
        ),
        ("valid_los", ["train_loss", "valid_loss"], r"Did you mean 'valid_loss'\?$"),
        ("train_f1", ["valid_f1", "valid_loss"], r"Did you mean 'valid_f1'\?$"),
        ("train_f1", ["train_loss"], r"Add 'f1' to train_metrics\.$"),
        ("accuracy", ["train_loss"], r"Give validation data: there are none\.$"),
        (
            "mine",
            ["train_loss", "train_mae", "train_mae"],
            r"one of train_loss, train_mae; got",
        ),
    ],
)
def test_a_value_that_is_not_measured_is_refused_with_a_hint(
    name: str, available: list[str], match: str
) -> None:
    with pytest.raises(ArgumentError, match=match):
        check_monitor(name, available)


# A loss without a graph


def test_a_loss_with_a_graph_passes() -> None:
    check_requires_grad(nn.Linear(1, 1)(torch.ones(1, 1)).mean())


def test_a_loss_without_a_graph_is_said() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(TrainingError, match=r"without a gradient\. .*without detach"):
        check_requires_grad(model(torch.ones(1, 1)).mean().detach())
    with torch.no_grad():
        loss = model(torch.ones(1, 1)).mean()
        with pytest.raises(TrainingError, match=r"Train outside torch\.no_grad\(\)"):
            check_requires_grad(loss)


# Inputs of another dtype than the weights


def error_of(model: nn.Module, *args: Tensor) -> Exception:
    with pytest.raises((RuntimeError, ValueError), match=r"type|indices") as caught:
        model(*args)
    return caught.value


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.uint8, torch.int64, torch.int32]
)
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Linear(3, 2), (4, 3)),
        (nn.Conv2d(3, 2, 1), (4, 3, 1, 1)),
        (nn.LSTM(3, 2), (4, 2, 3)),
    ],
)
def test_inputs_of_another_dtype_than_the_weights_are_named(
    model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    value = torch.zeros(shape, dtype=dtype)
    said = explain_dtype(error_of(model, value), [value], model)
    assert isinstance(said, TrainingError)
    assert f"torch.float32; got {dtype} in inputs[0]. Convert" in str(said)
    assert ".to(torch.float32)" in str(said)


def test_tokens_are_not_blamed_for_the_dtype_of_another_input() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layer = nn.Embedding(3, 2), nn.Linear(3, 2)

        def forward(self, tokens: Tensor, values: Tensor) -> Tensor:
            made: Tensor = self.embed(tokens) + self.layer(values)
            return made

    model, tokens = Two(), torch.zeros(4, dtype=torch.int64)
    values = torch.zeros(4, 3).double()
    error = error_of(model, tokens, values)
    said = explain_dtype(error, [tokens, values], model)
    assert "torch.float64 in inputs[1]" in str(said)
    assert explain_dtype(error, [tokens, values.float()], model) is None


def test_whole_numbers_that_the_error_names_are_blamed_first() -> None:
    model, image = nn.Linear(3, 2), torch.zeros(4, 3, dtype=torch.uint8)
    inputs = {"time": torch.zeros(4).double(), "image": image}
    said = explain_dtype(error_of(model, image), inputs, model)
    assert "torch.uint8 in inputs['image']" in str(said)


def test_other_errors_of_a_model_are_left_alone() -> None:
    model, embed = nn.Linear(3, 2), nn.Embedding(3, 2)
    wrong_width, fractions = torch.zeros(4, 5).double(), torch.zeros(4).double()
    shapes = RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x5 and 3x2)")
    assert explain_dtype(shapes, [wrong_width], model) is None
    assert explain_dtype(error_of(embed, fractions), [fractions], embed) is None
    value = torch.zeros(4, 3).double()
    assert explain_dtype(error_of(model, value), [value.float()], model) is None
    assert explain_dtype(error_of(model, value), [value], nn.ReLU()) is None


# Accumulation


def test_layers_that_see_micro_batches_apart_are_named() -> None:
    model = nn.Sequential(
        *(nn.BatchNorm1d(4) for _ in range(5)), nn.Dropout(0.1), nn.SyncBatchNorm(4)
    )
    assert notes_on_accumulation(model) == (
        "Several micro-batches will not equal one batch: BatchNorm ('0', '1', '2' and "
        "3 more) normalises each by itself and dropout ('5') draws other masks."
    )


def test_dropout_between_the_layers_of_a_single_one_is_none() -> None:
    layer = nn.GRU(4, 4)
    layer.dropout = 0.5  # torch warns of it when it is given at once
    assert notes_on_accumulation(layer) is None


@pytest.mark.parametrize(
    ("layer", "is_noted"),
    [
        (nn.Linear(4, 4), False),
        (nn.LayerNorm(4), False),
        (nn.InstanceNorm1d(4), False),
        (nn.Dropout(0.0), False),
        (nn.Dropout2d(0.3), True),
        (nn.AlphaDropout(0.3), True),
        (nn.Dropout(0.5).eval(), False),
        (nn.BatchNorm2d(4), True),
        (nn.BatchNorm2d(4).eval(), False),
        (nn.BatchNorm2d(4, track_running_stats=False).eval(), True),
        (nn.LSTM(4, 4, num_layers=2, dropout=0.2), True),
        (nn.LSTM(4, 4, num_layers=2), False),
        (nn.MultiheadAttention(4, 2, dropout=0.1), True),
        (nn.MultiheadAttention(4, 2), False),
    ],
)
def test_only_active_layers_of_these_kinds_are_noted(
    layer: nn.Module, is_noted: bool
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), layer)
    assert (notes_on_accumulation(model) is not None) is is_noted


def test_parameters_that_nobody_updates_are_named() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    loss = nn.Bilinear(1, 1, 1)
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    note = note_untrained({"model": model, "loss": loss}, optimizer)
    assert note is not None
    assert "them: 'model.0.weight', 'model.0.bias', 'loss.weight' and 1 more." in note


def test_frozen_parameters_are_not_missed() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    assert note_untrained({"model": model}, optimizer) is None


def test_a_loss_with_parameters_of_its_own_is_noted_in_the_run() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return ((output - target) * self.scale).square().mean()

    data = [(torch.ones(4, 2), torch.ones(4, 1))]
    trainer = Trainer(nn.Linear(2, 1), loss=Scaled(), progress="off")
    events = trainer.fit(data, max_steps=1).events
    assert [e["message"] for e in events if "loss.scale" in e["message"]]
