"""Exported models: files that compute what the model does, or no file and a reason."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from handful.errors import ArgumentError, TrainingError
from handful.train.export import export_model


class Recurrent(nn.Module):
    """A GRU of two layers and its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, num_layers=2, batch_first=True, dropout=0.5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


class Attentive(nn.Module):
    """Self-attention over the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0].mean(1)


def make_encoder() -> nn.Module:
    """Make a layer that takes a fused kernel in `eval`."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def make_perceptron() -> nn.Module:
    """Make a perceptron that behaves otherwise in training."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 2)
    )


def make_convolution() -> nn.Module:
    """Make a convolution over the last dimension."""
    return nn.Sequential(
        nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": make_perceptron,
    "convolution": make_convolution,
    "gru": Recurrent,
    "attention": Attentive,
    "encoder": make_encoder,
}


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_file_computes_what_the_model_does_for_any_batch(
    tmp_path: Path, name: str, rows: int
) -> None:
    torch.manual_seed(1)
    model = MODELS[name]()
    model(torch.randn(8, 3, 4))  # statistics of BatchNorm other than the initial ones
    path = export_model(model, [torch.randn(rows, 3, 4)], tmp_path / "m.pt2")
    assert path == tmp_path / "m.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.load(path).module()
    model.eval()
    for size in (1, 2, 5, 9):
        x = torch.randn(size, 3, 4)
        torch.testing.assert_close(exported(x), model(x), rtol=1e-4, atol=1e-5)


def test_modes_and_generators_stay_as_they_were(tmp_path: Path) -> None:
    model = make_perceptron()
    model[2].eval()
    weight = model[1].weight.detach().clone()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    export_model(model, [torch.ones(2, 3, 4)], tmp_path / "m.pt2")
    assert model.training
    assert not model[2].training
    assert model[3].training
    assert torch.equal(model[1].weight, weight)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


class Pair(nn.Module):
    """Takes two inputs, returns a dictionary."""

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"sum": left + right, "rows": (left * right).sum(1)}


def test_inputs_may_come_by_position_and_by_name(tmp_path: Path) -> None:
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    more, others = torch.randn(6, 3), torch.randn(6, 3)
    export_model(Pair(), (x, y), tmp_path / "a.pt2")
    exported = torch.export.load(tmp_path / "a.pt2").module()
    assert torch.equal(exported(more, others)["sum"], more + others)
    export_model(Pair(), {"right": y, "left": x}, tmp_path / "b.pt2")
    exported = torch.export.load(tmp_path / "b.pt2").module()
    found = exported(left=more, right=others)
    assert torch.equal(found["rows"], (more * others).sum(1))


def test_one_tensor_given_bare_is_one_input(tmp_path: Path) -> None:
    path = export_model(nn.Linear(3, 2), torch.ones(4, 3), tmp_path / "m.pt2")
    assert torch.export.load(path).module()(torch.ones(2, 3)).shape == (2, 2)


def test_same_tensor_may_be_given_twice(tmp_path: Path) -> None:
    x = torch.randn(2, 3)
    path = export_model(Pair(), [x, x], tmp_path / "m.pt2")
    exported = torch.export.load(path).module()
    assert torch.equal(exported(x, x + 1)["sum"], x + (x + 1))


def test_file_holds_no_data(tmp_path: Path) -> None:
    x = torch.randint(1, 9, (2, 5))
    for dynamic in (True, False):
        path = tmp_path / f"{dynamic}.pt2"
        export_model(nn.Embedding(9, 2), [x], path, dynamic_batch=dynamic)
        args, kwargs = torch.export.load(path).example_inputs  # type: ignore[misc]
        assert args[0].shape == x.shape
        assert not args[0].any()
        assert not kwargs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_exported(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Linear(3, 2).to(dtype)
    path = export_model(model, [torch.ones(2, 3, dtype=dtype)], tmp_path / "m.pt2")
    assert (
        torch.export.load(path).module()(torch.ones(3, 3, dtype=dtype)).dtype is dtype
    )


def test_dropout_that_stays_on_is_compared_with_the_same_draws(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.5, training=True)

    assert export_model(Noisy(), [torch.ones(4, 30)], tmp_path / "m.pt2").exists()


class Deciding(nn.Module):
    """Its way depends on the sum of the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class RowByRow(nn.Module):
    """Loops over the rows in Python."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([row * 2 for row in x])


class Counting(nn.Module):
    """Returns something else on each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Foreign(nn.Module):
    """Leaves torch on its way."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() * 2)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            Deciding(),
            r"exported: forward decides by a value in the data \(data-dependent "
            r"control flow\)\. Choose by torch\.where or torch\.cond",
        ),
        (Foreign(), r"exported: \.numpy\(\) is not supported .*\. Write forward with"),
        (
            Counting(),
            r"on [34] rows the file's outputs are not the model's: .*\. Let forward",
        ),
    ],
)
@pytest.mark.parametrize("dynamic_batch", [True, False])
def test_model_that_cannot_be_exported_gets_a_reason_and_no_file(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    model: nn.Module,
    says: str,
    dynamic_batch: bool,
) -> None:
    path = tmp_path / "m.pt2"
    path.write_text("old")
    with pytest.raises(TrainingError, match=says) as raised:
        export_model(model, [torch.ones(4, 3)], path, dynamic_batch=dynamic_batch)
    assert "\n" not in str(raised.value)
    assert path.read_text() == "old"
    assert capfd.readouterr() == ("", "")
    assert model.training


def test_model_bound_to_one_batch_size_is_told_of_the_fixed_export(
    tmp_path: Path,
) -> None:
    x = torch.randn(4, 3)
    says = (
        r"for batches of any size: forward makes the number of rows a constant, .*\. "
        r"dynamic_batch=False exports it for 4 rows alone\.$"
    )
    with pytest.raises(TrainingError, match=says):
        export_model(RowByRow(), [x], tmp_path / "m.pt2")
    path = export_model(RowByRow(), [x], tmp_path / "m.pt2", dynamic_batch=False)
    exported = torch.export.load(path).module()
    assert torch.equal(exported(x), x * 2)
    with pytest.raises(AssertionError, match="Guard failed"):
        exported(torch.ones(5, 3))


def test_fixed_batch_of_one_row_is_exported(tmp_path: Path) -> None:
    x = torch.randn(1, 3)
    path = export_model(RowByRow(), [x], tmp_path / "m.pt2", dynamic_batch=False)
    assert torch.equal(torch.export.load(path).module()(x), x * 2)


def test_inputs_that_the_model_does_not_take_are_blamed(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"cannot be run on the inputs: mat1 and"):
        export_model(nn.Linear(3, 2), [torch.ones(2, 7)], tmp_path / "m.pt2")


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        ([], "got none"),
        ([torch.ones(2, 3), torch.ones(3, 3)], r"got \(2, 3\), \(3, 3\)"),
        ([torch.tensor(1.0)], r"got \(\)"),
        ([torch.ones(0, 3)], r"got \(0, 3\)"),
        (["text"], "got str"),
        ({"x": None}, "got NoneType"),
    ],
)
def test_inputs_must_be_tensors_of_equal_length(
    tmp_path: Path, inputs: object, got: str
) -> None:
    with pytest.raises(ArgumentError, match=f"^inputs must be tensors .*{got}"):
        export_model(nn.Linear(3, 2), inputs, tmp_path / "m.pt2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("m.pt", r"path must end in \.pt2; got .* save_weights writes weights"),
        (
            "no/m.pt2",
            r"path must lie in a folder that exists; got .* Make '.*no' first",
        ),
    ],
)
def test_path_is_checked_before_the_work(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        export_model(nn.Linear(3, 2), [], tmp_path / name)


def test_logging_and_warnings_stay_as_they_were(tmp_path: Path) -> None:
    before = logging.root.manager.disable, list(warnings.filters)
    with pytest.raises(TrainingError, match="data-dependent"):
        export_model(Deciding(), [torch.ones(2, 3)], tmp_path / "m.pt2")
    assert (logging.root.manager.disable, list(warnings.filters)) == before
