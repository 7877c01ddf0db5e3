"""Metrics with torchmetrics' interface: a double of it, and the library itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handful.errors import ArgumentError
from handful.train.metrics import make_metrics, start_metrics
from handful.train.torch_metrics import TorchMetric, is_torch_metric


class MeanBias:
    """The least that the interface asks for, and notes of how it was used."""

    higher_is_better: bool | None = False

    def __init__(self) -> None:
        self.reset()
        self.device = "none"
        self.moves = 0

    def reset(self) -> None:
        self.total, self.samples = torch.zeros(()), 0

    def to(self, device: torch.device) -> MeanBias:
        self.device, self.moves = device.type, self.moves + 1
        self.total = self.total.to(device)
        return self

    def update(self, preds: Tensor, target: Tensor) -> None:
        assert not preds.requires_grad
        self.total = self.total + (preds - target).sum()
        self.samples += len(target)

    def compute(self) -> Any:
        return self.total / self.samples


class Bare:
    """A metric that cannot be moved, and gives whatever it is told to."""

    def __init__(self, value: Any, higher_is_better: bool | None = None) -> None:
        self.value, self.higher_is_better = value, higher_is_better

    def reset(self) -> None: ...

    def update(self, preds: Tensor, target: Tensor) -> None: ...

    def compute(self) -> Any:
        return self.value


class Collection(nn.ModuleDict):
    """A collection by its interface: `items`, and no direction of its own."""

    def __init__(self, members: dict[str, Any]) -> None:
        super().__init__()
        self._members = members

    def items(self) -> Any:
        return self._members.items()

    def update(self, preds: Tensor, target: Tensor) -> None: ...  # type: ignore[override]

    def compute(self) -> Any: ...

    def reset(self) -> None: ...


def measure_twice(metric: Any) -> float:
    (progress,) = start_metrics(make_metrics([metric]))
    progress.update(torch.tensor([1.0, 2.0], requires_grad=True), torch.zeros(2))
    progress.update(torch.tensor([6.0]), torch.zeros(1))
    return progress.compute()


def test_an_object_is_updated_by_output_and_target_and_read_once() -> None:
    assert measure_twice(MeanBias()) == 3.0


def test_the_object_itself_is_never_touched() -> None:
    given = MeanBias()
    given.update(torch.full((5,), 100.0), torch.zeros(5))
    assert measure_twice(given) == 3.0
    assert measure_twice(given) == 3.0
    assert (float(given.total), given.samples, given.device) == (500.0, 5, "none")


def test_a_copy_moves_once_to_the_device_of_the_first_output() -> None:
    (progress,) = start_metrics(make_metrics([MeanBias()]))
    for _ in range(3):
        progress.update(torch.zeros(2, device="meta"), torch.zeros(2, device="meta"))
    used = progress._metric  # type: ignore[attr-defined]
    assert (used.device, used.moves) == ("meta", 1)


def test_without_samples_the_object_is_not_asked() -> None:
    (progress,) = start_metrics(make_metrics([Bare("never read")]))
    progress.update(torch.zeros(0), torch.zeros(0))
    assert math.isnan(progress.compute())


@pytest.mark.parametrize("value", [2, 2.0, torch.tensor(2), torch.tensor([[2.0]])])
def test_one_number_of_any_kind_is_the_value(value: Any) -> None:
    assert measure_twice(Bare(value)) == 2.0


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (torch.zeros(3, 3), r"a tensor of shape \(3, 3\)"),
        (torch.zeros(0), r"a tensor of shape \(0,\)"),
        ({"a": 1.0}, "a dict"),
        (None, "a NoneType"),
    ],
)
def test_something_else_than_a_number_names_the_metric(value: Any, got: str) -> None:
    match = f"metric 'bare' must give one number; got {got}. Choose an average"
    with pytest.raises(ArgumentError, match=match):
        measure_twice(Bare(value))


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("MulticlassAccuracy", "multiclass_accuracy"),
        ("BinaryAUROC", "binary_auroc"),
        ("BinaryF1Score", "binary_f1_score"),
        ("R2Score", "r2_score"),
        ("SSIMScore", "ssim_score"),
        ("Bare", "bare"),
    ],
)
def test_the_class_gives_the_name(class_name: str, name: str) -> None:
    value = type(class_name, (Bare,), {})(0.0)
    assert [metric.name for metric in make_metrics([value])] == [name]


@pytest.mark.parametrize("direction", [True, False, None])
def test_the_object_says_which_way_it_improves(direction: bool | None) -> None:
    (metric,) = make_metrics({"auroc": Bare(0.0, direction)})
    assert (metric.name, metric.higher_is_better) == ("auroc", direction)


def test_a_collection_gives_all_its_metrics_under_their_names() -> None:
    both = Collection({"MeanBias": MeanBias(), "v/Other": Bare(7.0, True)})
    for values in (both, [both]):
        names = [metric.name for metric in make_metrics(values)]
        assert names == ["mean_bias", "v/other"]
    named = make_metrics({"set": both})
    assert [metric.name for metric in named] == ["set_mean_bias", "set_v/other"]
    assert [metric.higher_is_better for metric in named] == [False, True]


def test_an_entry_of_a_collection_must_be_a_metric() -> None:
    with pytest.raises(ArgumentError, match=r"got 'inner', a Collection. Give it by"):
        make_metrics(Collection({"inner": Collection({})}))


def test_two_objects_of_one_class_need_names() -> None:
    with pytest.raises(ArgumentError, match="got 'bare' twice"):
        make_metrics([Bare(1), Bare(2)])
    made = make_metrics({"one": Bare(1), "two": Bare(2)})
    assert [progress.name for progress in start_metrics(made)] == ["one", "two"]


def test_a_mapping_renames_a_wrapped_object() -> None:
    (metric,) = make_metrics({"b": TorchMetric("a", MeanBias(), None)})
    assert metric.name == "b"


@pytest.mark.parametrize(
    "value", [MeanBias, {"update": 1}, "accuracy", nn.Linear(1, 1), None, set()]
)
def test_other_objects_are_not_metrics(value: Any) -> None:
    assert not is_torch_metric(value)


def test_torchmetrics_own_metrics_keep_their_values() -> None:
    library = pytest.importorskip("torchmetrics", reason="torchmetrics is missing")
    auroc = library.classification.BinaryAUROC()
    output, target = torch.randn(50), torch.randint(2, (50,))
    (progress,) = start_metrics(make_metrics({"auroc": auroc}))
    for part in (slice(0, 20), slice(20, 50)):
        progress.update(output[part], target[part])
    assert progress.compute() == pytest.approx(float(auroc(output, target)))


def test_torchmetrics_own_collections_give_all_their_values() -> None:
    library = pytest.importorskip("torchmetrics", reason="torchmetrics is missing")
    both = library.MetricCollection(
        [library.MeanSquaredError(), library.regression.R2Score()]
    )
    ours = make_metrics(["mse", "r2"])
    theirs = make_metrics(both)
    assert {m.name: m.higher_is_better for m in theirs} == {
        "mean_squared_error": False,
        "r2_score": True,
    }
    output, target = torch.randn(30), torch.randn(30)
    values = []
    for progress in start_metrics([*ours, *theirs]):
        progress.update(output, target)
        values.append(progress.compute())
    by_name = dict(zip([m.name for m in (*ours, *theirs)], values, strict=True))
    assert by_name["mean_squared_error"] == pytest.approx(by_name["mse"], rel=1e-5)
    assert by_name["r2_score"] == pytest.approx(by_name["r2"], rel=1e-5)


def test_a_matrix_of_torchmetrics_is_refused_with_a_sentence() -> None:
    library = pytest.importorskip("torchmetrics", reason="torchmetrics is missing")
    matrix = library.classification.BinaryConfusionMatrix()
    (progress,) = start_metrics(make_metrics([matrix]))
    progress.update(torch.randn(4), torch.tensor([0, 1, 1, 0]))
    with pytest.raises(ArgumentError, match="'binary_confusion_matrix' must give one"):
        progress.compute()
