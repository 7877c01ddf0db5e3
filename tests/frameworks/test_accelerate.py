"""Accelerate: a loader of ours, prepared.

Accelerate takes a loader apart and makes one of PyTorch's class of its data set, its
batch sampler and its ``collate_fn``; what is checked is that nothing is lost by that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

from handful import DataLoader
from handful.data.order import epoch_permutation

accelerate = pytest.importorskip(
    "accelerate", reason="the package accelerate is missing"
)

DATA = TensorDataset(
    torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60)
)

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "split batches": {"split_batches": True},
    "dispatched": {"dispatch_batches": True},
    "seedable sampler": {"use_seedable_sampler": True, "data_seed": 5},
}


@pytest.fixture(autouse=True)
def _new_state() -> Iterator[None]:
    """Forget what Accelerate keeps for the whole process."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def prepare(loader: Any, **settings: Any) -> Any:
    configuration = accelerate.utils.DataLoaderConfiguration(**settings)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=configuration)
    return accelerator.prepare(loader)


def train(loader: Any, *, skip: int = 0) -> list[float]:
    """Train for two epochs, the first from a batch on; return the losses."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    torch.manual_seed(1)
    for epoch in range(2):
        rest = accelerate.skip_first_batches(loader, 0 if epoch else skip)
        for x, y in rest if skip else loader:
            loss = ((model(x).squeeze(1) - y / 30) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_losses_equal_those_with_pytorchs_loader(
    settings: dict[str, Any], shuffle: bool, skip: int
) -> None:
    found = [
        train(prepare(kind(DATA, 8, shuffle=shuffle), **settings), skip=skip)
        for kind in (TorchDataLoader, DataLoader)
    ]
    assert len(found[0]) == 16 - skip
    assert found[0] == found[1]


@pytest.mark.parametrize("shuffle", [False, True])
def test_skipping_batches_of_an_unprepared_loader_equals_pytorchs(
    shuffle: bool,
) -> None:
    found = [
        train(kind(DATA, 8, shuffle=shuffle), skip=3)
        for kind in (TorchDataLoader, DataLoader)
    ]
    assert found[0] == found[1]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_torchdatas_loader_takes_ours_apart_as_well() -> None:
    pytest.importorskip("torchdata", reason="the package torchdata is missing")
    found = []
    for kind in (TorchDataLoader, DataLoader):
        loader = prepare(kind(DATA, 8, shuffle=True), use_stateful_dataloader=True)
        found.append(train(loader))
    assert found[0] == found[1]


def test_a_prepared_loader_keeps_the_shard() -> None:
    loader = prepare(DataLoader(DATA, 8, seed=3, shard=(1, 2)))
    seen = torch.cat([batch[1] for batch in loader]).tolist()
    assert seen == list(range(1, 60, 2))


def test_a_prepared_loader_keeps_the_seeded_order() -> None:
    loader = prepare(DataLoader(DATA, 8, shuffle=True, seed=3))
    seen = torch.cat([batch[1] for batch in loader])
    assert torch.equal(seen, epoch_permutation(60, seed=3, epoch=0))


def test_prepared_epochs_have_orders_of_their_own() -> None:
    loader = prepare(DataLoader(DATA, 8, shuffle=True, seed=3))
    for epoch in range(3):
        seen = torch.cat([batch[1] for batch in loader])
        assert torch.equal(seen, epoch_permutation(60, seed=3, epoch=epoch))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_prepared_loader_keeps_the_batch_transform(settings: dict[str, Any]) -> None:
    def halve(batch: list[Any]) -> list[Any]:
        return [batch[0] / 2, batch[1]]

    loader = prepare(DataLoader(DATA, 8, batch_transform=halve), **settings)
    seen = torch.cat([batch[0] for batch in loader])
    assert torch.equal(seen, DATA.tensors[0] / 2)
