"""Averages of weights: torch's bits, and a model that gets its own back."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from handful.errors import ArgumentError, CheckpointError, TrainingError
from handful.train.averaging import AveragedWeights


class Tied(nn.Module):
    """Batch normalisation, one weight under two names, one frozen, one of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 6, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.decode = nn.Linear(6, 6)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(6, 2).double()
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)
        self.counts = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.encode(x)).relu() * self.frozen
        return self.head(self.decode(hidden).double())


class Replacing(nn.Module):
    """Puts a new tensor in its buffer's place at each call."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean + x.mean(0)
        return x


class WithExtra(nn.Linear):
    """A layer with state beside its tensors."""

    note: Any = "new"

    def get_extra_state(self) -> Any:
        return self.note

    def set_extra_state(self, state: Any) -> None:
        self.note = state


def make_model(seed: int = 0) -> Tied:
    torch.manual_seed(seed)
    return Tied()


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.Adam(trained, lr=0.05)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """Do one optimisation step on a batch that the seed decides."""
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(8, 6, generator=generator)).square().sum().backward()
    optimizer.step()


def trained(num_steps: int = 5, decay: float = 0.9) -> tuple[Tied, AveragedWeights]:
    model = make_model()
    averages, optimizer = AveragedWeights(model, decay), make_optimizer(model)
    for seed in range(num_steps):
        step(model, optimizer, seed)
        averages.update()
    return model, averages


def tensors(model: nn.Module) -> list[Tensor]:
    found = [*model.parameters(), *model.buffers()]
    return [tensor.detach().clone() for tensor in found]


def same_bits(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(
        a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("decay", [0.5, 0.99, 0.999])
def test_averages_have_the_bits_of_torchs(decay: float) -> None:
    model = make_model()
    del model.counts  # torch averages whole numbers as well, cut off
    optimizer, averages = make_optimizer(model), AveragedWeights(model, decay)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    for seed in range(20):
        step(model, optimizer, seed)
        averages.update()
        theirs.update_parameters(model)
        with averages.swapped_in():
            assert same_bits(tensors(model), tensors(theirs.module))
    assert averages.num_updates == int(theirs.n_averaged) == 20
    assert not same_bits(tensors(model), tensors(theirs.module))


def test_the_first_update_copies_the_weights() -> None:
    model, averages = trained(1)
    with averages.swapped_in():
        held = tensors(model)
    assert same_bits(held, tensors(model))


def test_parameters_of_whole_numbers_are_copied() -> None:
    model, averages = trained()
    with torch.no_grad():
        model.counts += 7
    averages.update()
    assert averages.state_dict()["counts"].tolist() == [8, 9]


def test_a_buffer_that_is_replaced_is_followed() -> None:
    model = Replacing()
    averages = AveragedWeights(model, 0.5)
    model(torch.ones(2, 3))
    averages.update()
    model(torch.ones(2, 3))
    assert averages.state_dict()["mean"].tolist() == [1, 1, 1]
    averages.update()
    assert averages.state_dict()["mean"].tolist() == [2, 2, 2]


def test_a_buffer_of_another_shape_is_refused() -> None:
    model = Replacing()
    averages = AveragedWeights(model, 0.5)
    model.mean = torch.zeros(1)
    with pytest.raises(
        TrainingError, match=r"buffer mean must keep its shape \(3,\) .*got \(1,\)"
    ):
        averages.update()


def test_a_model_without_buffers_or_parameters_is_averaged_all_the_same() -> None:
    for model in (nn.Linear(2, 2), nn.ReLU()):
        averages = AveragedWeights(model, 0.5)
        averages.update()
        averages.update()
        assert averages.num_updates == 2


def test_afterwards_the_model_has_its_own_bits_and_tensors() -> None:
    model, averages = trained()
    with torch.no_grad():
        model.encode.weight[0, 0] = math.nan
        model.encode.weight[0, 1] = -0.0
    before, objects = tensors(model), [*model.parameters(), *model.buffers()]
    addresses = [tensor.data_ptr() for tensor in objects]
    with averages.swapped_in():
        assert not same_bits(tensors(model), before)
    assert same_bits(tensors(model), before)
    now = [*model.parameters(), *model.buffers()]
    assert all(a is b for a, b in zip(now, objects, strict=True))
    assert [tensor.data_ptr() for tensor in now] == addresses


def test_training_goes_on_as_if_nothing_was_swapped() -> None:
    models = [make_model(), make_model()]
    optimizers = [make_optimizer(model) for model in models]
    averages = AveragedWeights(models[0], 0.9)
    for seed in range(6):
        for model, optimizer in zip(models, optimizers, strict=True):
            step(model, optimizer, seed)
        averages.update()
        with averages.swapped_in():
            models[0](torch.ones(4, 6))  # in train mode: it changes statistics
    assert same_bits(tensors(models[0]), tensors(models[1]))


def test_an_error_inside_gives_the_model_back() -> None:
    model, averages = trained()
    before = tensors(model)
    with pytest.raises(KeyboardInterrupt, match="stop"), averages.swapped_in():
        raise KeyboardInterrupt("stop")
    assert same_bits(tensors(model), before)
    averages.update()


def test_what_is_written_inside_reaches_neither_model_nor_averages() -> None:
    model, averages = trained()
    before, kept = tensors(model), list(averages.state_dict().values())
    with averages.swapped_in(), torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(7)
    assert same_bits(tensors(model), before)
    assert same_bits(list(averages.state_dict().values()), kept)


def test_a_buffer_that_is_replaced_inside_comes_back() -> None:
    model = Replacing()
    averages, own = AveragedWeights(model, 0.5), model.mean
    with averages.swapped_in():
        model(torch.ones(2, 3))
        assert model.mean is not own
    assert model.mean is own
    assert model.mean.tolist() == [0, 0, 0]


def test_swapping_inside_a_swap_changes_nothing() -> None:
    model, averages = trained()
    before = tensors(model)
    with averages.swapped_in():
        outer = tensors(model)
        with averages.swapped_in():
            assert same_bits(tensors(model), outer)
        assert same_bits(tensors(model), outer)
        with pytest.raises(TrainingError, match="must be called outside"):
            averages.update()
    assert same_bits(tensors(model), before)


def test_updating_inside_a_swap_is_refused() -> None:
    _, averages = trained()
    with (
        averages.swapped_in(),
        pytest.raises(TrainingError, match="update must be called outside swapped_in"),
    ):
        averages.update()


def test_a_plain_model_loads_the_state_strictly(tmp_path: Path) -> None:
    model, averages = trained()
    state = averages.state_dict()
    assert list(state) == list(model.state_dict())
    assert torch.equal(state["encode.weight"], state["decode.weight"])
    assert not torch.equal(state["encode.weight"], model.encode.weight)
    save_file(state, tmp_path / "averages.safetensors")
    plain = make_model(seed=1)
    plain.load_state_dict(load_file(tmp_path / "averages.safetensors"), strict=True)
    with averages.swapped_in():
        assert same_bits(tensors(plain), tensors(model))


def test_the_state_is_a_copy() -> None:
    model, averages = trained()
    state = averages.state_dict()
    before = copy.deepcopy(state)
    step(model, make_optimizer(model), 9)
    averages.update()
    assert same_bits(list(state.values()), list(before.values()))


def test_a_restored_average_goes_on_bit_for_bit() -> None:
    model, averages = trained()
    other = copy.deepcopy(model)
    own = tensors(other)
    restored = AveragedWeights(other, 0.9)
    restored.load_state_dict(averages.state_dict(), averages.progress)
    assert same_bits(tensors(other), own)
    assert restored.num_updates == 5
    for each, kept in ((model, averages), (other, restored)):
        step(each, make_optimizer(each), 7)
        kept.update()
    left, right = averages.state_dict(), restored.state_dict()
    assert same_bits(list(left.values()), list(right.values()))


@pytest.mark.parametrize("note", ["new", torch.tensor(5)])
def test_extra_state_stays_the_models(note: Any) -> None:
    model = WithExtra(2, 2)
    model.note = note
    averages = AveragedWeights(model, 0.5)
    state = averages.state_dict()
    assert state["_extra_state"] == note
    averages.load_state_dict({**state, "_extra_state": torch.tensor(8)}, {**PROGRESS})
    assert model.note == note


PROGRESS = {"num_updates": 3}


def test_a_state_of_another_shape_changes_nothing() -> None:
    model, averages = trained()
    kept, own = list(averages.state_dict().values()), tensors(model)
    state = {**averages.state_dict(), "decode.bias": torch.zeros(1)}
    with pytest.raises(
        CheckpointError,
        match=r"average of decode.bias must have .* \(6,\); got \(1,\)",
    ):
        averages.load_state_dict(state, PROGRESS)
    assert same_bits(list(averages.state_dict().values()), kept)
    assert same_bits(tensors(model), own)
    assert averages.num_updates == 5


def test_missing_and_unknown_names_are_listed() -> None:
    _, averages = trained()
    state = averages.state_dict()
    state["other"] = state.pop("frozen")
    with pytest.raises(CheckpointError, match=r"missing: frozen; unknown: other\."):
        averages.load_state_dict(state, PROGRESS)


@pytest.mark.parametrize("progress", [{}, {"num_updates": -1}, {"num_updates": True}])
def test_a_damaged_progress_is_refused(progress: dict[str, Any]) -> None:
    _, averages = trained()
    with pytest.raises(CheckpointError, match="must hold num_updates, a whole number"):
        averages.load_state_dict(averages.state_dict(), progress)


def test_new_layers_are_refused() -> None:
    model, averages = trained()
    model.extra = nn.Linear(2, 2)
    with (
        pytest.raises(
            TrainingError, match=r"model must keep the parameters .* 8 tensors; got 10"
        ),
        averages.swapped_in(),
    ):
        pass


@pytest.mark.parametrize("decay", [0, 1, 0.0, 1.0, -0.1, 1.1, math.nan, True, "0.9"])
def test_decay_must_be_between_0_and_1(decay: Any) -> None:
    with pytest.raises(ArgumentError, match="decay must be a number between 0 and 1"):
        AveragedWeights(nn.Linear(1, 1), decay)
