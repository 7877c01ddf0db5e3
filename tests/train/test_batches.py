"""Batches: which field is what, where it lies, how many samples it has."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from handful import Trainer
from handful.errors import ArgumentError, TrainingError
from handful.train.batches import (
    BatchLayout,
    choose_device,
    count_samples,
    map_tensors,
    move_batch,
    split_samples,
)

CPU = torch.device("cpu")
META = torch.device("meta")
X, Z = torch.randn(6, 3), torch.randn(6, 2)
Y, W = torch.arange(6), torch.rand(6)


class Sample(NamedTuple):
    y: Tensor
    x: Tensor
    w: Tensor


class Attributed(OrderedDict[str, Any]):
    """A dictionary with attributes, which forbids update as some do."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError


@dataclass
class Mover:
    """A batch that moves itself."""

    x: Tensor

    def to(self, device: torch.device) -> Mover:
        return Mover(self.x.to(device))


@pytest.mark.parametrize(
    ("layout", "batch", "args", "kwargs", "target", "weights"),
    [
        (BatchLayout(), (X, Y), [X], {}, Y, None),
        (BatchLayout(), [X, Z, Y], [X, Z], {}, Y, None),
        (BatchLayout(0), (Y, X, Z), [X, Z], {}, Y, None),
        (BatchLayout(-2), (X, Y, Z), [X, Z], {}, Y, None),
        (BatchLayout(None, -1), (X, Y, W), [X], {}, Y, W),
        (BatchLayout(None, 0), (W, X, Y), [X], {}, Y, W),
        (BatchLayout(1, 2), (X, Y, W), [X], {}, Y, W),
        (BatchLayout(), {"x": X, "y": Y}, [X], {}, Y, None),
        (BatchLayout(), {"label": Y, "x": X, "z": Z}, [], {"x": X, "z": Z}, Y, None),
        (BatchLayout("a"), {"a": Y, "y": X}, [X], {}, Y, None),
        (BatchLayout(None, "w"), {"x": X, "y": Y, "w": W}, [X], {}, Y, W),
        (BatchLayout(None, "y"), {"x": X, "label": Y, "y": W}, [X], {}, Y, W),
        (BatchLayout("y", "w"), Sample(Y, X, W), [X], {}, Y, W),
        (BatchLayout(), Sample(Y, X, W), [Y, X], {}, W, None),
    ],
)
def test_a_layout_finds_inputs_target_and_weights(
    layout: BatchLayout, batch: Any, args: Any, kwargs: Any, target: Any, weights: Any
) -> None:
    found = layout.split(batch)
    assert [id(v) for v in found[0]] == [id(v) for v in args]
    assert {k: id(v) for k, v in found[1].items()} == {
        k: id(v) for k, v in kwargs.items()
    }
    assert found[2] is target
    assert found[3] is weights


@pytest.mark.parametrize(
    ("layout", "batch", "says"),
    [
        (BatchLayout(), X, "a batch must be a list or tuple .* got Tensor"),
        (BatchLayout(), (X,), "inputs, and a target; got tuple of length 1"),
        (BatchLayout(), [], "inputs, and a target; got list of length 0"),
        (
            BatchLayout(None, -1),
            (X, Y),
            r"inputs, a target and weights; .* \(input, target, weight\)",
        ),
        (BatchLayout(2), (X, Y), "target must be a position .* list of 2; got 2"),
        (BatchLayout("y"), (X, Y), "target must be a position .* got 'y'"),
        (BatchLayout("z"), Sample(Y, X, W), "target must be one of y, x, w, or a pos"),
        (BatchLayout(None, 5), (X, Y, W), "sample_weight must be a position"),
        (BatchLayout(1, -2), (X, Y, W), "different fields .* got 1 and -2, of 3"),
        (BatchLayout("y", "y"), {"x": X, "y": Y}, "different fields .* 'y' for both"),
        (BatchLayout(), {"x": X, "z": Z}, "target under target or .* got the keys x,"),
        (BatchLayout(), {"x": X, "y": Y, "label": Y}, "of which label and y could"),
        (BatchLayout("t"), {"x": X, "y": Y}, "its target under 't'; got the keys x, y"),
        (BatchLayout(0), {"x": X, "y": Y}, "its target under 0; got the keys x, y"),
        (BatchLayout(None, "w"), {"x": X, "y": Y}, "sample_weight must be a key"),
        (BatchLayout(), {"y": Y}, "must have an input beside its target"),
        (BatchLayout(None, "w"), {"y": Y, "w": W}, "must have an input beside"),
    ],
)
def test_a_batch_of_another_layout_is_said(
    layout: BatchLayout, batch: Any, says: str
) -> None:
    with pytest.raises(TrainingError, match=says):
        layout.split(batch)


@pytest.mark.parametrize(
    ("layout", "batch", "args"),
    [
        (BatchLayout(), X, [X]),
        (BatchLayout(), (X,), [X]),
        (BatchLayout(), (X, Y), [X]),
        (BatchLayout(), {"x": X}, [X]),
        (BatchLayout(None, "w"), {"x": X, "w": W}, [X]),
        (BatchLayout(None, "w"), {"x": X, "y": Y, "w": W}, [X]),
    ],
)
def test_inputs_are_found_without_a_target_too(
    layout: BatchLayout, batch: Any, args: Any
) -> None:
    found = layout.inputs(batch)
    assert found[0][0] is args[0]
    assert len(found[0]) == 1
    assert found[1] == {}


def test_moving_keeps_lists_tuples_named_tuples_and_dictionaries() -> None:
    batch = [
        X,
        (Z, Y),
        Sample(Y, X, W),
        {"a": X, "text": ["one", "two"], "none": None, "number": 3},
        Attributed(x=X, y=Y),
        Mover(X),
    ]
    moved = move_batch(batch, META)
    kinds = [Tensor, tuple, Sample, dict, Attributed, Mover]
    assert [type(value) for value in moved] == kinds
    assert moved[2].x.device == moved[4].x.device == moved[5].x.device == META
    assert moved[3]["a"].device == META
    assert moved[3]["text"] == ["one", "two"]
    assert moved[1][0].device == META
    assert X.device == CPU
    assert batch[4].x is X  # type: ignore[union-attr]


def test_what_is_there_already_stays_the_same_tensor() -> None:
    assert move_batch((X, Y), CPU)[0] is X


def test_map_tensors_reaches_every_tensor_and_keeps_the_rest() -> None:
    made = map_tensors(torch.neg, {"a": (X, None), "b": ["text", Sample(Y, X, W)]})
    assert torch.equal(made["a"][0], -X)
    assert made["a"][1] is None
    assert made["b"][0] == "text"
    assert torch.equal(made["b"][1].w, -W)


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X, Y),
        (X[:, :0], {"a": Y[:2]}),  # those of the batch itself come first
        {"x": X, "text": ["a"] * 6},
        {"x": X, "temperature": torch.tensor(2.0)},
        {"table": torch.zeros(3, 3), "x": X},
        [X, [{"boxes": torch.zeros(2, 4)}] * 6],
        ({"x": X}, {"y": Y}),
        ((X, Z), None),
        Sample(Y, X, W),
        (np.zeros((6, 2)), None),
    ],
)
def test_samples_are_counted_by_a_tensor_of_the_batch(batch: Any) -> None:
    assert count_samples(batch) == 6


@pytest.mark.parametrize("batch", [(), "text", ["a", "b"], torch.tensor(1.0), None])
def test_a_batch_without_a_tensor_cannot_be_counted(batch: Any) -> None:
    with pytest.raises(TrainingError, match="a batch must hold a tensor, whose first"):
        count_samples(batch)


def test_parts_hold_their_samples_of_every_field() -> None:
    texts = list("abcdef")
    batch = {
        "x": X,
        "pair": (X, Z),
        "named": Sample(Y, X, W),
        "text": texts,
        "array": np.arange(6),
        "boxes": [torch.full((k + 1, 4), float(k)) for k in range(6)],
        "table": torch.zeros(3, 3),
        "name": "abcdef",
        "y": Y,
    }
    parts = list(split_samples(batch, 4))
    assert [len(part["y"]) for part in parts] == [4, 2]
    first, last = parts
    assert last["text"] == ["e", "f"]
    assert last["array"].tolist() == [4, 5]
    assert [len(box) for box in last["boxes"]] == [5, 6]
    assert torch.equal(last["pair"][1], Z[4:])
    assert torch.equal(last["named"].x, X[4:])
    assert isinstance(last["named"], Sample)
    assert last["table"].shape == (3, 3)
    assert last["name"] == "abcdef"
    assert first["x"].data_ptr() == X.data_ptr()


def test_two_samples_in_two_dictionaries_are_not_taken_for_a_list() -> None:
    batch = ({"a": X[:2], "b": Z[:2]}, {"y": Y[:2]})
    parts = list(split_samples(batch, 1))
    assert [p[0]["a"].shape[0] for p in parts] == [1, 1]
    assert [int(p[1]["y"]) for p in parts] == [0, 1]
    pair = list(split_samples([X[:2], Y[:2]], 1))
    assert [int(part[1]) for part in pair] == [0, 1]
    nested = list(split_samples(({"x": X[:2]}, ({"a": Y[:2]}, {"b": Z[:2]})), 1))
    assert [part[1][0]["a"].tolist() for part in nested] == [[0], [1]]


def test_a_batch_that_is_small_enough_stays_whole_and_empty_ones_too() -> None:
    batch = (X, Y)
    assert list(split_samples(batch, 6)) == [batch]
    empty = (X[:0], Y[:0])
    assert list(split_samples(empty, 2)) == [empty]


def test_packed_sequences_are_not_cut_through() -> None:
    packed = pack_sequence([torch.ones(2, 1), torch.ones(1, 1)])
    assert isinstance(move_batch((packed, Y[:2]), CPU)[0], PackedSequence)
    with pytest.raises(TrainingError, match=r"micro_batch_size must be None .* Packed"):
        list(split_samples((packed, Y[:2]), 1))


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_torch_lacks_is_refused(device: str) -> None:
    with pytest.raises(ArgumentError, match="device must be 'auto' or one that torch"):
        choose_device(device)
    assert choose_device("cpu") == CPU


class TwoHeads(nn.Module):
    """Keywords in, a dictionary out; one input is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x: Tensor, text: list[str]) -> dict[str, Tensor]:
        assert len(text) == len(x)
        return {"a": self.line(x), "b": self.line(x).sum(1)}


def nested_loss(output: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
    first = (output["a"] - target["a"]).square().mean()
    return first + (output["b"] - target["b"]).abs().mean()


@pytest.mark.parametrize("setting", ["accumulate", "micro_batch_size"])
def test_nested_targets_and_texts_train_the_same_in_parts_and_at_once(
    setting: str,
) -> None:
    def make_batch(part: slice) -> dict[str, Any]:
        return {
            "x": X[part],
            "text": list("abcdef")[part],
            "target": {"a": Z[part], "b": W[part]},
        }

    ends, losses = [], []
    whole, halves = (
        [make_batch(slice(6))],
        [make_batch(slice(4)), make_batch(slice(4, 6))],
    )
    for loader, given in (
        (whole, {}),
        (halves if setting == "accumulate" else whole, {setting: 4}),
    ):
        torch.manual_seed(0)
        model = TwoHeads()
        trainer = Trainer(
            model, loss=nested_loss, optimizer="sgd", lr=0.1, progress="off", **given
        )
        run = trainer.fit(loader, halves, epochs=2)
        ends.append(model.line.weight.detach())
        losses.append(run.history[-1]["valid_loss"])
    torch.testing.assert_close(*ends)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_loss_over_a_tuple_of_targets_counts_the_samples_of_the_batch() -> None:
    def loss(output: Tensor, target: tuple[Tensor, list[str]]) -> Tensor:
        return (output[:, 0] - target[0]).square().mean()

    loader = [(X[:4], (W[:4], ["t"] * 4)), (X[4:], (W[4:], ["t"] * 2))]
    model = nn.Linear(3, 1)
    with torch.no_grad():
        expected = loss(model(X), (W, []))
    trainer = Trainer(model, loss=loss, progress="off")
    assert trainer.evaluate(loader)["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_a_named_tuple_reaches_a_step_of_the_users_as_one() -> None:
    def step(model: nn.Module, batch: Sample) -> Tensor:
        return (model(batch.x)[:, 0] - batch.w).square().mean()

    trainer = Trainer(nn.Linear(3, 1), step=step, micro_batch_size=4, progress="off")
    run = trainer.fit([Sample(Y, X, W)], epochs=2)
    assert run.history[1]["train_loss"] < run.history[0]["train_loss"]
