"""The plan of a replay: what is computed, and where it lies."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from handful.train.program import Place, Program
from handful.train.recording import record
from handful.train.replay_plan import is_dense, make_plan, num_bytes, share_blocks

X = torch.linspace(-1, 1, 12).reshape(3, 4)

SPANS = st.lists(
    st.tuples(st.integers(1, 5000), st.integers(0, 12)), min_size=1, max_size=25
)


def program_of(function: Any, *inputs: Tensor) -> Program:
    program = record(lambda: (function(*inputs),), inputs, [])[1]
    assert isinstance(program, Program), program
    return program


def names_of(program: Program, indices: Any) -> list[str]:
    return [program.operations[index].name for index in indices]


@given(SPANS)
def test_memories_that_are_needed_together_have_blocks_of_their_own(
    spans: list[tuple[int, int]],
) -> None:
    sizes = [(i, size, i, i + length) for i, (size, length) in enumerate(spans)]
    blocks, totals = share_blocks(sizes)
    for memory, size, made, needed in sizes:
        assert totals[blocks[memory]] >= size
        for other, _, its_made, its_needed in sizes:
            together = made <= its_needed and its_made <= needed
            if other != memory and together:
                assert blocks[memory] != blocks[other]


def test_a_chain_of_equal_memories_takes_two_blocks() -> None:
    _, totals = share_blocks([(i, 640, i, i + 1) for i in range(50)])
    assert totals == [640, 640]


def test_what_no_result_needs_is_left_out() -> None:
    def run(x: Tensor) -> Tensor:
        x.exp()
        return x + 1

    program = program_of(run, X)
    assert names_of(program, make_plan(program).order) == ["add"]


def test_what_may_find_an_index_out_of_range_is_kept() -> None:
    def run(x: Tensor, rows: Tensor) -> Tensor:
        torch.index_select(x, 0, rows)
        return x + 1

    program = program_of(run, X, torch.tensor([0, 2]))
    assert names_of(program, make_plan(program).order) == ["index_select", "add"]


def test_constants_are_computed_once() -> None:
    program = program_of(lambda x: x + (torch.ones_like(x) * 3).sqrt(), X)
    plan = make_plan(program)
    assert names_of(program, plan.constants) == ["ones_like", "mul", "sqrt"]
    assert names_of(program, plan.order) == ["add"]


def test_what_is_drawn_is_no_constant_however_it_is_divided() -> None:
    program = program_of(lambda x: x * (torch.empty(4).bernoulli_(0.5) / 0.5), X)
    plan = make_plan(program)
    assert names_of(program, plan.order) == ["bernoulli_", "div", "mul"]


def place(shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Place:
    return Place(0, offset, shape, stride, torch.float32)


def test_a_dense_tensor_has_no_gaps_and_begins_at_the_beginning() -> None:
    assert is_dense(place((2, 3), (3, 1)))
    assert is_dense(place((2, 3), (1, 2)))
    assert is_dense(place((1, 3), (99, 1)))
    assert not is_dense(place((2, 3), (4, 1)))
    assert not is_dense(place((2, 3), (0, 1)))
    assert not is_dense(place((2, 3), (3, 1), offset=1))
    assert not is_dense(place((0, 3), (3, 1)))
    assert num_bytes(place((2, 3), (3, 1))) == 24
