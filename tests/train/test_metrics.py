"""Metrics, losses and predictions against plain calculations."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from handful.errors import ArgumentError
from handful.train.metrics import Metric, make_metrics
from handful.train.predictions import prediction_table, write_table


def total(name: str, output: torch.Tensor, target: torch.Tensor) -> float:
    return float(make_metrics([name])[0].total(output, target))


def test_accuracy_counts_right_answers_of_several_classes() -> None:
    output = torch.tensor([[3.0, 1, 0], [0, 1, 2], [5, 4, 0]])
    assert total("accuracy", output, torch.tensor([0, 2, 1])) == 2


def test_accuracy_of_two_classes_reads_the_sign_of_the_logit() -> None:
    output, target = torch.tensor([[2.0], [-1], [0.5]]), torch.tensor([[1.0], [0], [0]])
    assert total("accuracy", output, target) == 2


def test_errors_are_averaged_within_a_sample_and_summed_over_samples() -> None:
    output, target = torch.tensor([[1.0, 3], [0, 0]]), torch.zeros(2, 2)
    assert total("mae", output, target) == 2
    assert total("mse", output, target) == 5
    assert total("mse", torch.tensor([2.0, 1]), torch.zeros(2)) == 5


def test_metrics_of_the_users_own_pass() -> None:
    own = Metric("ones", lambda output, target: target.new_ones(()))
    assert make_metrics([own]) == (own,)


def test_class_predictions_have_labels_and_probabilities(tmp_path: Path) -> None:
    outputs = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    table = prediction_table(outputs, torch.tensor([1, 1]))
    write_table(tmp_path / "p.csv", outputs, table)
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == ["1", "0"]
    expected = float(torch.softmax(outputs, 1)[1, 0])
    assert float(rows[1]["probability"]) == pytest.approx(expected)


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


def test_unknown_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"must be one of .csv, .npy, .parquet"):
        write_table(tmp_path / "p.txt", torch.zeros(1, 1), {})
    assert not list(tmp_path.glob("p*"))
