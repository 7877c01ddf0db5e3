"""A replay gives the bits of the step that was recorded, on other numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from handful.train.kernel_calls import Ways
from handful.train.program import Program
from handful.train.recording import record
from handful.train.replay import COPIED_BYTES, Replay
from handful.train.replay_proof import State, digest, find_written, try_replay

X = torch.linspace(-1, 1, 12).reshape(3, 4)
W = torch.linspace(-2, 1, 20).reshape(4, 5)
B = torch.zeros(4)


def replay_of(function: Callable[..., Any], *inputs: Tensor) -> Replay:
    def run() -> Any:
        return (function(*inputs),)

    program = record(run, inputs, [W, B], Ways())[1]
    assert isinstance(program, Program), program
    return Replay(program)


def through_views(x: Tensor) -> Tensor:
    y = x.T.clone()
    y[0] = y[1] * 2
    return torch.stack(y.unbind(0), 1).reshape(-1)[2:] + 1


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "products": lambda x: (x @ W).relu() @ W.T,
    "views": through_views,
    "an input as it is": lambda x: x,
    "a view of an input": lambda x: x.T[1:],
    "several results": lambda x: x.max(1).values + x.sort(1).values[:, 0],
    "lists": lambda x: torch.cat([x, x * 2, x.exp()], 1).split(3, 1)[1] * 2,
    "constants": lambda x: x + torch.ones_like(x).cumsum(1),
    "other dtypes": lambda x: (x > 0).double() + x.view(torch.int32).float(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("rows", [3, COPIED_BYTES // 16 + 1])
def test_a_replay_is_the_function_on_other_numbers(name: str, rows: int) -> None:
    function = FUNCTIONS[name]
    x = torch.linspace(-1, 1, 4 * rows).reshape(rows, 4)
    replay = replay_of(function, x)
    for factor in (1.0, -3.0, 0.5):
        (made,) = replay.run([x * factor])
        assert torch.equal(made, function(x * factor))


def test_an_unaligned_input_is_read_where_it_lies() -> None:
    flat = torch.linspace(-1, 1, 40)
    replay = replay_of(lambda x: x.exp(), flat[1:13].view(3, 4))
    (made,) = replay.run([flat[17:29].view(3, 4)])
    assert torch.equal(made, flat[17:29].view(3, 4).exp())


def test_a_replay_keeps_no_input() -> None:
    replay = replay_of(lambda x: x @ W, X.repeat(999, 1))
    replay.run([X.repeat(999, 1)])
    assert all(value is None for value in replay._values)


def test_memory_that_was_given_back_is_taken_again() -> None:
    replay = replay_of(lambda x: (x @ W).relu() @ W.T, X)
    assert replay.num_bytes > 0
    wanted = (X @ W).relu() @ W.T
    for _ in range(2):
        (made,) = replay.run([X])
        assert torch.equal(made, wanted)
        replay.release()
        assert replay.is_released
        assert made.untyped_storage().nbytes() == 0


def test_a_result_has_memory_of_its_own() -> None:
    replay = replay_of(lambda x: (x @ W).relu() @ W.T, X)
    (made,) = replay.run([X])
    assert replay.makes(0)
    assert made.untyped_storage().nbytes() == made.numel() * 4


def test_an_index_out_of_range_is_an_error_and_the_replay_goes_on() -> None:
    replay = replay_of(lambda x, rows: x[rows] * 2, X, torch.tensor([0, 2]))
    with pytest.raises(IndexError, match="out of"):
        replay.run([X, torch.tensor([0, 3])])
    (made,) = replay.run([X, torch.tensor([1, 1])])
    assert torch.equal(made, X[[1, 1]] * 2)


def test_a_trial_leaves_buffers_and_generators_as_they_were() -> None:
    def run(x: Tensor) -> Tensor:
        B.add_(1)
        return x + B + torch.rand(4)

    B.zero_()
    replay = replay_of(run, X)
    B.fill_(5.0)
    generator = torch.get_rng_state()
    trial = try_replay(replay, [X], State([B]))
    assert torch.equal(B, torch.full((4,), 5.0))
    assert torch.equal(torch.get_rng_state(), generator)
    made = run(X)
    assert trial.digests[0] == digest(made)
    assert trial.digests[1:] == [digest(B), digest(torch.get_rng_state())]
    assert trial.seconds > 0


def test_only_whole_buffers_may_be_written_into() -> None:
    whole, part = torch.zeros(4), torch.zeros(8)[:4]
    for tensor, found in ((whole, 1), (part, None), (X.clone(), None)):
        program = record(lambda t=tensor: (t.add_(1), X + 1), [X], [whole, part])[1]
        assert isinstance(program, Program)
        written = find_written(program, [whole, part])
        assert (None if written is None else len(written)) == found


def test_a_digest_tells_bits_and_shapes_apart() -> None:
    assert digest(X) == digest(X.T.contiguous().T)
    assert digest(X) != digest(X.view(4, 3))
    assert digest(torch.zeros(2)) != digest(-torch.zeros(2))
    assert digest(torch.full((2,), torch.nan)) == digest(torch.full((2,), torch.nan))
    assert digest(7) == 7
    big = torch.zeros(9)
    digest(big)
    big.untyped_storage().resize_(0)  # NumPy has not seen it
