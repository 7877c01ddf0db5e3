"""Metrics and predictions against scikit-learn and plain calculations."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from handful.errors import ArgumentError, TrainingError
from handful.train.choices import METRICS, metric_improves_upward
from handful.train.evaluation import observe_output
from handful.train.metrics import Metric, make_metrics, start_metrics
from handful.train.predictions import prediction_table, write_table
from handful.train.step import StepOutput

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)


def measure(
    metric: Any, output: Tensor, target: Tensor, sizes: Sequence[int] = ()
) -> float:
    """Return a metric over batches of these sizes, of all samples without them."""
    parts = list(sizes) or [len(target)]
    (progress,) = start_metrics(make_metrics([metric]))
    for batch in zip(output.split(parts), target.split(parts), strict=True):
        progress.update(*batch)
    return progress.compute()


def draw_classes(seed: int, samples: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(samples, classes, generator=generator)
    return output, torch.randint(classes, (samples,), generator=generator)


def draw_numbers(
    seed: int, *shape: int, mean: float = 0.0, spread: float = 1.0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = mean + spread * torch.randn(shape, generator=generator).double()
    noise = spread * torch.randn(shape, generator=generator).double()
    return target + noise, target


def expect_classes(name: str, truth: Any, answer: Any, average: str) -> float:
    if name == "accuracy":
        return float(np.mean(np.asarray(truth) == np.asarray(answer)))
    if name == "balanced_accuracy":
        recalls = [np.mean(answer[truth == label] == label) for label in set(truth)]
        return float(np.mean(recalls))
    function = getattr(sklearn_metrics, f"{name}_score")
    return float(function(truth, answer, average=average, zero_division=0))


CLASS_METRICS = ["accuracy", "balanced_accuracy", "precision", "recall", "f1"]


@pytest.mark.parametrize("name", CLASS_METRICS)
@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, sizes=SIZES, classes=st.integers(2, 7))
def test_metrics_of_classes_equal_scikit_learns(
    name: str, seed: int, sizes: list[int], classes: int
) -> None:
    output, target = draw_classes(seed, sum(sizes), classes)
    expected = expect_classes(name, target.numpy(), output.argmax(1).numpy(), "macro")
    assert measure(name, output, target, sizes) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", CLASS_METRICS)
@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, sizes=SIZES, column=st.booleans())
def test_metrics_of_one_logit_equal_scikit_learns(
    name: str, seed: int, sizes: list[int], column: bool
) -> None:
    output, target = draw_classes(seed, sum(sizes), 2)
    output, target = output[:, 0], target.float()
    truth, answer = target.int().numpy(), (output > 0).int().numpy()
    expected = expect_classes(name, truth, answer, "binary")
    if column:
        output, target = output[:, None], target[:, None]
    assert measure(name, output, target, sizes) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, sizes=SIZES, labels=st.integers(2, 4))
def test_metrics_of_several_labels_equal_scikit_learns(
    name: str, seed: int, sizes: list[int], labels: int
) -> None:
    output, noise = draw_numbers(seed, sum(sizes), labels)
    truth = (noise > 0.3).int()
    expected = expect_classes(
        name, truth.numpy(), (output > 0).int().numpy(), average="micro"
    )
    result = measure(name, output, truth.float(), sizes)
    assert result == pytest.approx(expected, abs=1e-12)


def test_balanced_accuracy_is_scikit_learns_where_classes_are_uneven() -> None:
    output, target = draw_classes(3, 200, 3)
    target = torch.where(torch.arange(200) < 150, 0, target)
    expected = sklearn_metrics.balanced_accuracy_score(target, output.argmax(1))
    assert measure("balanced_accuracy", output, target, [150, 50]) == pytest.approx(
        expected, abs=1e-12
    )
    logits, truth = output[:, 0], (target == 0).float()
    expected = sklearn_metrics.balanced_accuracy_score(truth, logits > 0)
    assert measure("balanced_accuracy", logits, truth) == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, sizes=SIZES)
def test_top5_accuracy_equals_scikit_learns(seed: int, sizes: list[int]) -> None:
    output, target = draw_classes(seed, sum(sizes), 12)
    expected = sklearn_metrics.top_k_accuracy_score(
        target, output, k=5, labels=range(12)
    )
    result = measure("top5_accuracy", output, target, sizes)
    assert result == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("outputs", [(), (1,), (3,)])
@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, sizes=SIZES)
def test_metrics_of_errors_equal_scikit_learns(
    outputs: tuple[int, ...], seed: int, sizes: list[int]
) -> None:
    output, target = draw_numbers(seed, sum(sizes), *outputs)
    mae = sklearn_metrics.mean_absolute_error(target, output)
    mse = sklearn_metrics.mean_squared_error(target, output)
    assert measure("mae", output, target, sizes) == pytest.approx(mae)
    assert measure("mse", output, target, sizes) == pytest.approx(mse)
    assert measure("rmse", output, target, sizes) == pytest.approx(math.sqrt(mse))


@pytest.mark.parametrize("outputs", [(), (1,), (3,)])
@settings(deadline=None, max_examples=40)
@given(
    seed=SEEDS,
    sizes=SIZES.filter(lambda sizes: sum(sizes) > 1),
    mean=st.sampled_from([0.0, -3.0, 1e6, 1e9]),
)
def test_r2_equals_scikit_learns_far_from_zero_too(
    outputs: tuple[int, ...], seed: int, sizes: list[int], mean: float
) -> None:
    # Multiples of 1/1024, so that moving them by the mean rounds nothing.
    output, target = (
        x.mul(1024).round().div(1024) for x in draw_numbers(seed, sum(sizes), *outputs)
    )
    expected = sklearn_metrics.r2_score(target, output)
    result = measure("r2", output + mean, target + mean, sizes)
    assert result == pytest.approx(expected, rel=1e-9)


def test_r2_of_float32_targets_far_from_zero_keeps_its_digits() -> None:
    output, target = draw_numbers(5, 5000, 2, mean=1e6)
    output, target = output.float(), target.float()
    expected = sklearn_metrics.r2_score(target.double(), output.double())
    result = measure("r2", output, target, [1] * 1000 + [4000])
    assert result == pytest.approx(expected, rel=1e-10)


def test_r2_of_constant_targets_is_one_where_all_is_exact_and_else_zero() -> None:
    target = torch.full((7, 2), 0.1)
    other = target + torch.tensor([0.0, 1.0])
    assert measure("r2", target, target, [3, 3, 1]) == 1
    assert measure("r2", other, target, [3, 3, 1]) == 0.5


def test_r2_of_one_sample_is_not_a_number() -> None:
    assert math.isnan(measure("r2", torch.ones(1), torch.ones(1)))


@pytest.mark.parametrize("name", ["mae", "mse", "rmse", "r2"])
def test_errors_that_are_not_numbers_stay_so(name: str) -> None:
    output, target = torch.tensor([1.0, math.nan, 2.0]), torch.ones(3)
    assert math.isnan(measure(name, output, target))


def test_accuracy_of_answers_known_by_hand() -> None:
    output = torch.tensor([[3.0, 1, 0], [0, 1, 2], [5, 4, 0]])
    assert measure("accuracy", output, torch.tensor([0, 2, 1])) == pytest.approx(2 / 3)
    output, target = torch.tensor([[2.0], [-1], [0.5]]), torch.tensor([[1.0], [0], [0]])
    assert measure("accuracy", output, target) == pytest.approx(2 / 3)


def test_errors_are_averaged_within_a_sample_and_over_samples() -> None:
    output, target = torch.tensor([[1.0, 3], [0, 0]]), torch.zeros(2, 2)
    assert measure("mae", output, target) == 1
    assert measure("mse", output, target) == 2.5
    assert measure("mse", torch.tensor([2.0, 1]), torch.zeros(2)) == 2.5


@pytest.mark.parametrize("name", [*CLASS_METRICS, "top5_accuracy"])
@pytest.mark.parametrize("shape", [(6, 5), (4, 2, 3)])
def test_targets_of_tokens_to_ignore_count_nowhere(
    name: str, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(1)
    output = torch.randn(shape[0], 7, *shape[1:], generator=generator)
    target = torch.randint(7, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < 0.4] = -100
    kept = target != -100
    flat_output, flat_target = output.movedim(1, -1)[kept], target[kept]
    result = measure(name, output, target, [1, 0, shape[0] - 1])
    assert result == pytest.approx(measure(name, flat_output, flat_target), abs=1e-12)


@pytest.mark.parametrize("name", [*CLASS_METRICS, "top5_accuracy"])
def test_targets_that_are_all_ignored_give_no_number(name: str) -> None:
    output, target = torch.randn(2, 7, 3), torch.full((2, 3), -100)
    assert math.isnan(measure(name, output, target))


def test_a_label_beyond_the_classes_is_refused_not_dropped() -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        measure("f1", torch.zeros(2, 3), torch.tensor([0, 3]))


@pytest.mark.parametrize("name", METRICS)
def test_without_samples_every_metric_is_not_a_number(name: str) -> None:
    (progress,) = start_metrics(make_metrics([name]))
    assert math.isnan(progress.compute())
    progress.update(torch.zeros(0, 7), torch.zeros(0))
    assert math.isnan(progress.compute())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_of_half_precision_do_not_overflow(dtype: torch.dtype) -> None:
    output, target = torch.full((4,), 1024, dtype=dtype), torch.zeros(4, dtype=dtype)
    assert measure("mse", output, target) == 1024**2
    assert measure("mae", output, target.float()) == 1024


def test_differences_of_bytes_do_not_wrap() -> None:
    output, target = (torch.tensor([v], dtype=torch.uint8) for v in (1, 3))
    assert measure("mae", output, target) == 2


def batch_for(name: str, samples: int) -> tuple[Tensor, Tensor]:
    if name in ("mae", "mse", "rmse", "r2"):
        return draw_numbers(samples, samples, 2)
    return draw_classes(samples, samples, 7)


@pytest.mark.parametrize("name", METRICS)
def test_hundreds_of_batches_give_the_value_of_one(name: str) -> None:
    output, target = batch_for(name, 700)
    one = measure(name, output, target)
    assert measure(name, output, target, [1] * 700) == pytest.approx(one, rel=1e-10)


def test_memory_of_an_accumulation_is_bounded() -> None:
    (progress,) = start_metrics(make_metrics(["r2"]))
    lengths = []
    for _ in range(1000):
        progress.update(torch.ones(1), torch.ones(1))
        lengths.append(len(progress._totals))  # type: ignore[attr-defined]
    assert max(lengths) <= 256


@pytest.mark.parametrize("name", METRICS)
def test_a_value_read_on_the_way_changes_nothing(name: str) -> None:
    output, target = batch_for(name, 40)
    (progress,) = start_metrics(make_metrics([name]))
    for part in (slice(0, 15), slice(15, 40)):
        progress.update(output[part], target[part])
        assert progress.compute() == progress.compute()
    assert progress.compute() == pytest.approx(measure(name, output, target))


def test_accumulations_of_one_metric_are_independent() -> None:
    metrics = make_metrics(["mae"])
    (first,), (second,) = start_metrics(metrics), start_metrics(metrics)
    first.update(torch.ones(2), torch.zeros(2))
    second.update(torch.zeros(2), torch.zeros(2))
    assert (first.compute(), second.compute()) == (1, 0)


class ReadBacks(TorchDispatchMode):
    """Notes the operations that read a device: numbers, sizes that data decide."""

    WAITING = ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if any(name in str(func) for name in self.WAITING):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", METRICS)
def test_updates_read_nothing_back(name: str) -> None:
    output, target = batch_for(name, 4)
    (progress,) = start_metrics(make_metrics([name]))
    with ReadBacks() as reads:
        for _ in range(300):
            progress.update(output, target)
        assert not reads.seen
        progress.compute()
        assert reads.seen


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", METRICS)
def test_updates_never_wait_for_the_gpu(name: str) -> None:
    output, target = batch_for(name, 40)
    there = output.cuda(), target.cuda()
    (progress,) = start_metrics(make_metrics([name]))
    progress.update(*there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(300):
            progress.update(*there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert progress.compute() == pytest.approx(measure(name, output, target))


def test_an_accumulation_keeps_no_graph_of_the_training() -> None:
    output = torch.zeros(3, requires_grad=True)
    (progress,) = start_metrics(make_metrics(["mse"]))
    progress.update(output * 2, torch.ones(3))
    assert not progress._totals[0].requires_grad  # type: ignore[attr-defined]


def test_a_metric_of_the_users_own_sums_finishes_and_combines() -> None:
    bias = Metric("bias", lambda output, target: (output - target).sum())
    spread = Metric(
        "range",
        lambda output, target: torch.stack([output.amin(), output.amax()]),
        finish=lambda totals, samples: float(totals[1] - totals[0]) / samples,
        combine=lambda totals: torch.stack([totals[:, 0].amin(), totals[:, 1].amax()]),
    )
    assert make_metrics([bias, spread]) == (bias, spread)
    output = torch.tensor([1.0, -2.0, 6.0])
    assert measure(bias, output, torch.zeros(3), [1, 2]) == pytest.approx(5 / 3)
    assert measure(spread, output, torch.zeros(3), [1, 2]) == pytest.approx(8 / 3)


@pytest.mark.parametrize(
    ("total", "match"),
    [
        (
            lambda output, target: 0.5,
            "`total` of metric 'own' must return a tensor; got 0.5",
        ),
        (
            lambda output, target: output,
            r"'own' must return one shape .*; got \(1,\) after \(2,\)",
        ),
        (
            lambda output, target: torch.ones(3),
            r"'own' must have `finish`.* shape \(3,\)",
        ),
    ],
)
def test_wrong_totals_name_the_metric(total: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        measure(Metric("own", total), torch.ones(3), torch.ones(3), [2, 1])


@pytest.mark.parametrize("name", ["mae", "mse", "rmse", "r2"])
def test_errors_of_unlike_shapes_are_not_broadcast(name: str) -> None:
    message = r"output \(3, 1\) and target \(3,\)"
    with pytest.raises(TrainingError, match=message):
        measure(name, torch.zeros(3, 1), torch.zeros(3))


@pytest.mark.parametrize(
    ("output", "target"), [((3, 1), (3,)), ((3, 4), (2,)), ((3,), (3, 1)), ((3, 4), ())]
)
@pytest.mark.parametrize("name", CLASS_METRICS)
def test_classes_of_unlike_shapes_are_refused(
    name: str, output: tuple[int, ...], target: tuple[int, ...]
) -> None:
    metric = make_metrics([name])[0]
    assert isinstance(metric, Metric)
    with pytest.raises(TrainingError, match="metrics need an output of shape"):
        metric.total(torch.zeros(output), torch.zeros(target, dtype=torch.long))


def test_top5_accuracy_of_five_classes_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"more than five classes; got .*\(2, 5\)"):
        measure("top5_accuracy", torch.zeros(2, 5), torch.tensor([0, 1]))


def test_every_name_is_made_and_knows_which_way_it_improves() -> None:
    metrics = make_metrics(METRICS)
    assert [metric.name for metric in metrics] == list(METRICS)
    falling = [metric.name for metric in metrics if not metric.higher_is_better]
    assert falling == ["mae", "mse", "rmse"]


@pytest.mark.parametrize(
    ("name", "upward"),
    [
        ("valid_loss", False),
        ("train_loss", False),
        ("train_rmse", False),
        ("valid_accuracy", True),
        ("train_f1", True),
        ("r2", True),
    ],
)
def test_monitored_names_improve_one_way(name: str, upward: bool) -> None:
    assert metric_improves_upward(name) is upward


def test_monitoring_an_unknown_name_shows_the_nearest() -> None:
    with pytest.raises(ArgumentError, match="Did you mean 'valid_accuracy'"):
        metric_improves_upward("valid_acuracy")


def test_a_mapping_renames_names_and_metrics() -> None:
    own = Metric("own", lambda output, target: output.sum(), higher_is_better=True)
    first, second = make_metrics({"right": "accuracy", "mine": own})
    assert (first.name, second.name) == ("right", "mine")
    assert first.higher_is_better
    assert second.higher_is_better
    (progress,) = start_metrics([first])
    assert progress.name == "right"


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (["acuracy"], "metrics must be one of .*Did you mean 'accuracy'"),
        (["mae", "mse", "mae"], "names that differ; got 'mae' twice"),
        ({"loss": "mae"}, "another than 'loss'"),
        ({"": "mae"}, "must be text; got ''"),
        ({3: "mae"}, "must be text; got 3"),
        ("accuracy", "must be a list or a mapping; got 'accuracy'"),
        (None, "must be a list or a mapping; got None"),
        (Metric("own", torch.add), "must be a list or a mapping"),
        ([torch.nn.L1Loss], "got the class L1Loss. Call a class"),
        ([3], "must be a name, a Metric or an object of torchmetrics; got 3"),
    ],
)
def test_metrics_that_are_none_are_refused(values: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        make_metrics(values)


def test_class_predictions_have_labels_and_probabilities(tmp_path: Path) -> None:
    outputs = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    table = prediction_table(outputs, torch.tensor([1, 1]))
    write_table(tmp_path / "p.csv", outputs, table)
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == ["1", "0"]
    expected = float(torch.softmax(outputs, 1)[1, 0])
    assert float(rows[1]["probability"]) == pytest.approx(expected)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_classes_with_names_are_named_beside_their_labels(
    tmp_path: Path, suffix: str
) -> None:
    outputs = torch.tensor([[0.0, 1.0, 5.0], [3.0, 0.0, 0.0], [0.0, 2.0, 1.0]])
    names = ("red", "light, blue", "green")
    table = prediction_table(outputs, torch.tensor([2, 1, -100]), names)
    path = tmp_path / f"p.{suffix}"
    if suffix == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        write_table(path, outputs, table)
        rows = parquet.read_table(path).to_pylist()
    else:
        write_table(path, outputs, table)
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == ["green", "red", "light, blue"]
    assert [row["expected"] for row in rows] == ["green", "light, blue", ""]
    assert [int(row["prediction"]) for row in rows] == [2, 0, 1]
    chances = outputs.softmax(1)
    for place, name in enumerate(names):
        found = [float(row[f"probability_{name}"]) for row in rows]
        assert found == pytest.approx(chances[:, place].tolist())


def test_names_that_are_not_one_for_each_class_are_not_used() -> None:
    outputs, targets = torch.zeros(2, 3), torch.tensor([0, 1])
    plain = ["sample", "target", "prediction", "probability"]
    for names in ((), ("a", "b"), ("a", "a", "b")):
        assert list(prediction_table(outputs, targets, names)) == plain


def test_number_predictions_have_a_column_for_each_number() -> None:
    table = prediction_table(torch.zeros(2, 2), torch.ones(2, 2))
    names = ["sample", "target_0", "target_1", "prediction_0", "prediction_1"]
    assert list(table) == names
    one = prediction_table(torch.zeros(2, 1), torch.ones(2, 1))
    assert list(one) == ["sample", "target", "prediction"]


def test_npy_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing")
    outputs = torch.randn(4, 3)
    table = prediction_table(outputs, torch.tensor([0, 1, 2, 0]))
    for name in ("p.npy", "p.parquet"):
        write_table(tmp_path / name, outputs, table)
    assert np.array_equal(np.load(tmp_path / "p.npy"), outputs.numpy())
    read = parquet.read_table(tmp_path / "p.parquet").to_pydict()
    assert read["prediction"] == outputs.argmax(1).tolist()


def test_bfloat16_predictions_are_written_as_float32(tmp_path: Path) -> None:
    outputs = torch.randn(4, 3).bfloat16()
    for targets in (torch.tensor([0, 1, 2, 0]), None):
        table = prediction_table(outputs, targets)
        for name in ("p.npy", "p.csv"):
            write_table(tmp_path / name, outputs, table)
    read = np.load(tmp_path / "p.npy")
    assert read.dtype == np.float32
    assert np.array_equal(read, outputs.float().numpy())
    with (tmp_path / "p.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert float(row["prediction_0"]) == float(outputs[0, 0])


IGNORING = ["accuracy", "top5_accuracy", "balanced_accuracy", "precision", "recall"]


@pytest.mark.parametrize("name", [*IGNORING, "f1"])
@pytest.mark.parametrize(
    ("ignored", "dtype"), [(-1, torch.int64), (255, torch.int64), (255, torch.uint8)]
)
def test_labels_that_the_loss_ignores_count_in_no_metric(
    name: str, ignored: int, dtype: torch.dtype
) -> None:
    output, target = draw_classes(3, 40, 7)
    expected = measure(name, output[:30], target[:30])
    target[30:] = ignored
    target = target.to(dtype)
    sums = start_metrics(make_metrics([name]))
    loss = torch.tensor(0.0)
    observe_output(sums, StepOutput(loss, 1, output, target, ignore_index=ignored))
    assert sums[0].compute() == pytest.approx(expected)
    assert (target[30:] == ignored).all()


def test_objects_of_torchmetrics_get_the_target_as_it_is() -> None:
    class Seen:
        seen: Tensor
        higher_is_better = True

        def update(self, output: Tensor, target: Tensor) -> None:
            type(self).seen = target

        def compute(self) -> float:
            return 0.0

        def reset(self) -> None:
            pass

    output, target = draw_classes(0, 6, 3)
    target[0] = -1
    sums = start_metrics(make_metrics([Seen()]))
    made = StepOutput(torch.tensor(0.0), 1, output, target, ignore_index=-1)
    observe_output(sums, made)
    assert Seen.seen is target


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("output", [(torch.ones(3), 1), {"logits": torch.ones(3)}])
def test_an_output_of_several_tensors_is_said(name: str, output: Any) -> None:
    sums = start_metrics(make_metrics([name]))
    made = StepOutput(torch.tensor(0.0), 3, output, torch.ones(3))
    says = r"one tensor as output; got (tuple|dict)\. Use a step that returns"
    with pytest.raises(TrainingError, match=says):
        observe_output(sums, made)


def test_unknown_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"must be one of .csv, .npy, .parquet"):
        write_table(tmp_path / "p.txt", torch.zeros(1, 1), {})
    assert not list(tmp_path.glob("p*"))
