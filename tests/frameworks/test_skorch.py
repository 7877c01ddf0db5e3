"""skorch: a loader of ours as the iterator of its nets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

from handful import DataLoader

skorch = pytest.importorskip("skorch", reason="the package skorch is missing")

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def make_net(kind: type, **settings: Any) -> Any:
    torch.manual_seed(0)
    return skorch.NeuralNetClassifier(
        lambda: nn.Linear(4, 2),
        criterion=nn.CrossEntropyLoss,
        lr=0.1,
        max_epochs=3,
        batch_size=8,
        iterator_train=kind,
        iterator_valid=kind,
        verbose=0,
        **settings,
    )


def losses(net: Any) -> list[Any]:
    return [
        [part["train_loss"] for part in epoch["batches"] if "train_loss" in part]
        for epoch in net.history
    ]


@pytest.mark.parametrize("shuffle", [False, True])
def test_losses_equal_those_with_pytorchs_loader(shuffle: bool) -> None:
    theirs, ours = (
        make_net(kind, iterator_train__shuffle=shuffle).fit(X, Y)
        for kind in (TorchDataLoader, DataLoader)
    )
    assert losses(ours) == losses(theirs)
    assert len(losses(ours)[0]) > 1
    assert np.array_equal(ours.predict_proba(X), theirs.predict_proba(X))


def test_tensor_data_sets_take_the_batched_path() -> None:
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    theirs, ours = (
        make_net(kind, iterator_train__shuffle=True, train_split=None).fit(data, None)
        for kind in (TorchDataLoader, DataLoader)
    )
    assert ours.get_iterator(data, training=True).path.startswith("batched")
    assert losses(ours) == losses(theirs)


def test_seed_shard_and_transform_are_arguments_like_any() -> None:
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))

    def halve(batch: list[Any]) -> list[Any]:
        return [batch[0] / 2, batch[1]]

    net = make_net(
        DataLoader,
        train_split=None,
        iterator_train__shuffle=True,
        iterator_train__seed=3,
        iterator_train__shard=(0, 2),
        iterator_train__batch_transform=halve,
    )
    net.fit(data, None)
    assert len(net.history[0, "batches"]) == 4
    loader = net.get_iterator(data, training=True)
    assert (loader.seed, loader.shard) == (3, (0, 2))
    expected = DataLoader(data, 8, shuffle=True, seed=3, shard=(0, 2))
    for (x, _), (whole, _) in zip(loader, expected, strict=True):
        assert torch.equal(x, whole / 2)


def test_every_epoch_has_an_order_of_its_own() -> None:
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    seen: list[list[float]] = []

    class Recorder(skorch.callbacks.Callback):  # type: ignore[misc, name-defined]
        def on_epoch_begin(self, net: Any, **_: Any) -> None:
            seen.append([])

        def on_batch_begin(self, net: Any, batch: Any, **_: Any) -> None:
            seen[-1] += batch[0][:, 0].tolist()

    net = make_net(
        DataLoader,
        train_split=None,
        callbacks=[Recorder()],
        iterator_train__shuffle=True,
        iterator_train__seed=3,
    )
    net.fit(data, None)
    assert len(seen) == 3
    assert seen[0] != seen[1] != seen[2]
    assert sorted(seen[0]) == sorted(seen[1]) == sorted(seen[2])
