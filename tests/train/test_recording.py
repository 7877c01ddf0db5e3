"""Recordings are the step, tell two steps apart, and keep nothing alive."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handful import Trainer
from handful.train.program import Program, traits_of
from handful.train.recording import can_record, is_observed, record

g = torch.Generator().manual_seed(0)
X = torch.randn(4, 3, generator=g)
W = torch.randn(3, 2, generator=g)


def write_down(function: Any, *inputs: Tensor) -> Program | str:
    return record(lambda: (function(*inputs),), inputs, [W])[1]


def programs(function: Any) -> list[Any]:
    return [write_down(function, X + n) for n in range(2)]


def test_two_recordings_of_other_numbers_are_the_same_program() -> None:
    one, other = programs(lambda x: (x @ W).relu().sum())
    assert [operation.name for operation in one.operations] == ["mm", "relu", "sum"]
    assert one.is_same(other)


def test_a_number_of_pythons_tells_programs_apart() -> None:
    counts = iter(range(9))
    one, other = programs(lambda x: x * next(counts))
    assert not one.is_same(other)


def test_small_constants_are_compared_by_their_numbers() -> None:
    one, other = programs(lambda x: x + torch.tensor([1.0, 2.0, 3.0]))
    assert one.is_same(other)
    values = iter([1.0, 2.0])
    one, other = programs(lambda x: x + torch.tensor([next(values)]))
    assert not one.is_same(other)


def test_not_a_number_is_the_same_in_two_programs() -> None:
    one, other = programs(lambda x: torch.where(x > 0, x, float("nan")))
    assert one.is_same(other)


def test_the_numbers_of_a_step_are_those_without_a_recording() -> None:
    (made,), program = record(lambda: ((X @ W).softmax(1),), [X], [W])
    assert torch.equal(made, (X @ W).softmax(1))
    assert isinstance(program, Program)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x * x.sum().item(), "reads numbers back"),
        (lambda x: x * float(x.sum()), "looks at numbers"),
        (lambda x: x[x > 0], "looks at numbers"),
        (lambda x: x.unique(), "looks at numbers"),
        (lambda x: x + len(torch.nonzero(x)), "looks at numbers"),
        (lambda x: x + len(f"{x}"), "numbers"),
        (lambda x: x + torch.from_numpy(np.from_dlpack(x)), "numbers"),
        (lambda x: torch.tensor_split(x, torch.tensor([1]))[0], "reads numbers back"),
        (lambda x: torch.view_as_complex(x.repeat(1, 2).view(4, 3, 2)).conj(), "conj"),
        (lambda x: x.to_sparse(), "not dense"),
        (lambda x: x.clone().resize_(2, 2), "other memory"),
        (lambda x: torch._assert_async(x.sum() < 99) or x, "checks numbers"),
        (lambda x: torch.ones(2), "leaves a field of the batch out"),
    ],
)
def test_what_depends_on_numbers_is_refused(function: Any, reason: str) -> None:
    said = write_down(function, X.clone())
    assert isinstance(said, str)
    assert reason in said


def test_packed_sequences_are_refused_though_their_lengths_were_the_same() -> None:
    rnn, lengths = nn.GRU(3, 2, batch_first=True), torch.tensor([2, 2])

    def run(x: Tensor) -> Tensor:
        pack = nn.utils.rnn.pack_padded_sequence
        return rnn(pack(x, lengths, batch_first=True))[1]  # type: ignore[no-any-return]

    said = write_down(run, torch.ones(2, 4, 3))
    assert isinstance(said, str)
    assert "reads numbers back" in said


def test_inputs_that_share_memory_are_refused() -> None:
    said = write_down(lambda a, b: a + b, X[:2], X[2:])
    assert said == "its inputs share memory"


def test_a_recording_keeps_no_tensor_of_the_step_alive() -> None:
    made: list[weakref.ref[Tensor]] = []

    def run(x: Tensor) -> Tensor:
        first = x * 2
        made.append(weakref.ref(first))
        return first.exp().sum()

    program = write_down(run, X)
    assert isinstance(program, Program)
    assert made[0]() is None
    kept = [memory for memory in program.memories if memory.tensor is not None]
    assert [memory.kind for memory in kept] == ["input"]


def test_batch_norm_says_that_it_writes_into_its_statistics() -> None:
    function = torch.ops.aten.native_batch_norm.default
    assert [index for index, _ in traits_of(function).writes] == [3, 4]
    bn = nn.BatchNorm1d(3)
    fixed = [*bn.parameters(), *bn.buffers()]
    program = record(lambda: (bn(X),), [X], fixed)[1]
    assert isinstance(program, Program)
    places = [p for o in program.operations for p in o.written]
    tensors = [program.memories[index].tensor for index in places]
    assert {t.data_ptr() for t in tensors if t is not None} == {
        b.data_ptr() for b in bn.buffers()
    }


def test_who_looks_at_operations_is_noticed() -> None:
    assert not is_observed()
    with torch.autograd.graph.save_on_cpu():
        assert is_observed()


def test_without_what_is_private_to_pytorch_a_run_is_eager(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HANDFUL_TORCH_PRIVATE", "recording")
    assert not can_record()
    trainer = Trainer(
        nn.Linear(3, 2), loss="mse", engine="captured", progress="off", num_threads=1
    )
    run = trainer.fit([(X, X[:, :2].clone())] * 6, epochs=1)
    assert [e["message"] for e in run.events if e["kind"] == "engine"] == [
        "Steps are not replayed: this PyTorch does not show what a step computes."
    ]
    assert run.status == "finished"
