"""Snapshots: copies that share nothing with the training, in memory used again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handful.train.checkpoint import Checkpoint
from handful.train.snapshot import copy_checkpoint


class Tied(nn.Module):
    """A layer whose weight is used twice, and statistics that are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("none", torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.norm(self.second(self.first(x)))
        return made


def make(model: nn.Module, optimizer: Any) -> Checkpoint:
    return Checkpoint(model.state_dict(), optimizer.state_dict(), {"step": 1})


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def storages(checkpoint: Checkpoint) -> set[int]:
    found = tensors([dict(checkpoint.model), dict(checkpoint.optimizer)])
    return {t.untyped_storage().data_ptr() for t in found if t.numel()}


def step(model: nn.Module, optimizer: Any) -> None:
    loss = model(torch.randn(6, 4)).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step(
        *([lambda: loss] if isinstance(optimizer, torch.optim.LBFGS) else [])
    )


def equal(one: Any, other: Any) -> bool:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=1, history_size=2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_copy_is_equal_and_shares_nothing_as_the_training_goes_on(name: str) -> None:
    model = Tied()
    optimizer = OPTIMIZERS[name](model.parameters())
    copies: list[Checkpoint] = []
    spare: Checkpoint | None = None
    for turn in range(6):
        if turn:  # the optimiser has no state before
            step(model, optimizer)
        live = make(model, optimizer)
        copied = copy_checkpoint(live, spare)
        assert equal(dict(live.model), dict(copied.model))
        assert not turn or equal(live.optimizer["state"], copied.optimizer["state"])
        assert not storages(live) & storages(copied)
        frozen = [t.clone() for t in tensors(dict(copied.model))]
        step(model, optimizer)
        assert equal(frozen, dict(copied.model))
        copies.append(copied)
        spare = copies.pop(0) if len(copies) == 2 else None
        if copies and spare is not None:
            assert not storages(copies[0]) & storages(spare)


def test_the_memory_of_an_earlier_copy_is_used_again() -> None:
    model = Tied()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    step(model, optimizer)
    first = copy_checkpoint(make(model, optimizer), None)
    before = storages(first)
    step(model, optimizer)
    second = copy_checkpoint(make(model, optimizer), first)
    assert storages(second) == before
    assert equal(dict(second.model), model.state_dict())


def test_what_has_changed_its_shape_or_kind_gets_memory_of_its_own() -> None:
    model: Any = nn.ParameterDict({"a": torch.zeros(3), "b": torch.zeros(2)})
    optimizer = OPTIMIZERS["adam"](model.parameters())
    old = copy_checkpoint(make(model, optimizer), None)
    model["a"] = nn.Parameter(torch.ones(5))
    model["b"] = nn.Parameter(torch.ones(2, dtype=torch.float64))
    model["c"] = nn.Parameter(torch.ones(()))
    live = make(model, optimizer)
    copied = copy_checkpoint(live, old)
    assert equal(dict(live.model), dict(copied.model))
    assert copied.model["b"].dtype == torch.float64
    del model["a"]
    assert "a" not in copy_checkpoint(make(model, optimizer), copied).model


def test_tensors_in_lists_and_tuples_are_copied_too() -> None:
    one, two = torch.zeros(2), torch.zeros(3)
    state = {"state": {0: {"pair": (one, None), "list": [two, 1]}}, "param_groups": []}
    copied = copy_checkpoint(Checkpoint({}, state, {}), None).optimizer["state"][0]
    one.fill_(9)
    two.fill_(9)
    assert copied["pair"][0].tolist() == [0, 0]
    assert copied["pair"][1] is None
    assert copied["list"][0].tolist() == [0, 0, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("limit", [0, 2**30])
def test_large_states_of_an_accelerator_are_copied_to_the_host(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handful.train.snapshot.ACCELERATOR_BYTES", limit)
    model = nn.Linear(4, 4, device="cuda")
    optimizer = OPTIMIZERS["adam"](model.parameters())
    model(torch.randn(6, 4, device="cuda")).sum().backward()
    optimizer.step()
    copied: Checkpoint | None = None
    for _ in range(2):
        copied = copy_checkpoint(make(model, optimizer), copied)
        assert copied.model["weight"].is_cpu == (limit == 0)
        assert torch.equal(copied.model["weight"].cpu(), model.weight.cpu())
        optimizer.step()
