"""Hugging Face data sets: the batches that PyTorch makes of them, read in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Subset

from handful import DataLoader

datasets = pytest.importorskip("datasets", reason="the package datasets is missing")


def make() -> Any:
    """Make a data set of twelve rows with columns of many types."""
    features = {
        "id": datasets.Value("int32"),
        "score": datasets.Value("float64"),
        "pair": datasets.List(datasets.Value("uint8"), length=2),
        "flag": datasets.Value("bool"),
        "label": datasets.ClassLabel(names=["x", "y", "z"]),
    }
    rows = range(12)
    values = {
        "id": list(rows),
        "score": [i / 3 for i in rows],
        "pair": [[i, i + 1] for i in rows],
        "flag": [i % 2 == 0 for i in rows],
        "label": [i % 3 for i in rows],
    }
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def make_one(values: list[Any]) -> Any:
    return datasets.Dataset.from_dict({"only": values}).with_format("torch")


CASES: dict[str, Callable[[], Any]] = {
    "torch": lambda: make().with_format("torch"),
    "numpy": lambda: make().with_format("numpy"),
    "no format": lambda: make().remove_columns("pair"),
    "chosen columns": lambda: make().with_format("torch", columns=["label", "id"]),
    "shuffled": lambda: make().with_format("torch").shuffle(seed=3),
    "selected": lambda: make().with_format("torch").select([5, 1, 9, 9]),
    "joined": lambda: datasets.concatenate_datasets([make(), make()]).with_format(
        "torch"
    ),
    "subset": lambda: Subset(make().with_format("torch"), [3, 4, 1]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_equal_pytorchs(name: str, shuffle: bool) -> None:
    seen = []
    for kind in (TorchDataLoader, DataLoader):
        torch.manual_seed(0)
        seen.append(list(kind(CASES[name](), batch_size=5, shuffle=shuffle)))
    assert DataLoader(CASES[name]()).path.startswith("batched")
    for one, other in zip(*seen, strict=True):
        assert list(one) == list(other)
        for column in one:
            assert one[column].dtype is other[column].dtype
            assert torch.equal(one[column], other[column])


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (lambda: make(), "column 'pair' holds lists"),
        (lambda: make_one(["a", "b"]), "column 'only' must hold numbers"),
        (lambda: make_one([1, None]), "column 'only' must not have nulls"),
        (lambda: make().with_transform(lambda batch: batch), "format 'custom'"),
        (
            lambda: make().with_format("torch", dtype=torch.float64),
            "arguments of its format",
        ),
    ],
)
def test_others_go_through_pytorch(dataset: Callable[[], Any], reason: str) -> None:
    loader = DataLoader(dataset(), batch_size=3)
    assert loader.path.startswith("pytorch: ")
    assert reason in loader.path
