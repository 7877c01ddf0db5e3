"""Programs: what a step computes, as plain data.

Memory is told apart by where it lies, and a tensor is a `Place` in it: that is all that
operations know of each other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from handful.torch_private import schema_of
from handful.train.kernel_calls import Way

UNDECLARED = {
    **dict.fromkeys(("native_batch_norm", "cudnn_batch_norm"), (3, 4)),
    **dict.fromkeys(("miopen_batch_norm", "batch_norm_gather_stats"), (3, 4)),
    "batch_norm_gather_stats_with_counts": (3, 4),
    "batch_norm_update_stats": (1, 2),
    "rrelu_with_noise": (1,),
}
"""Positions of arguments that an operation writes into without saying so."""

MOST_CONSTANT = 4096
"""Numbers that a tensor from elsewhere may have, to be compared with the next one."""


@dataclass(frozen=True)
class Place:
    """A tensor: a part of a memory.

    Attributes:
        memory: Position in `Program.memories`.
        offset: Its first number, in numbers from the memory's beginning.
        shape: Its shape.
        stride: Its strides, in numbers.
        dtype: Its dtype.
    """

    memory: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Memory:
    """A block of memory that tensors lie in.

    Attributes:
        kind: ``outside`` for the model's and others that were there before, ``input``
            for the batch's, ``made`` for what an operation returned.
        source: The position among the inputs, or that of the operation and of the
            result among its results; None for what was there before.
        num_bytes: Its size.
        tensor: A tensor that lies in it; None where it was made in the step.
        offset: Where its places are counted from, in bytes.
        alignment: What its address leaves when divided by 64, of an input.
    """

    kind: str
    source: Any
    num_bytes: int
    tensor: Tensor | None
    offset: int = 0
    alignment: int = 0

    def is_same(self, other: Memory) -> bool:
        """Say whether another recording's memory is this one."""
        if (self.kind, self.num_bytes) != (other.kind, other.num_bytes):
            return False
        if self.kind != "outside":
            return bool(self.source == other.source)
        here, there = self.tensor, other.tensor
        assert here is not None
        assert there is not None
        return address_of(here) == address_of(there) or _is_same_constant(here, there)


@dataclass
class Operation:
    """A call of one of PyTorch's operations; nothing changes but its way.

    Attributes:
        function: The operation, an overload of ``torch.ops``.
        args: Its positional arguments, with a `Place` for each tensor.
        kwargs: Its keyword arguments likewise.
        outputs: A `Place` for each tensor that it returned, None for none.
        returns_many: Whether it returned a list or a tuple.
        way: The cheapest way to call it, if one was looked for.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Place | None, ...]
    returns_many: bool
    way: Way | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """Its name, without that of the overload."""
        return traits_of(self.function).name

    @functools.cached_property
    def places(self) -> list[Place]:
        """The tensors among its arguments."""
        return list(find_places((self.args, self.kwargs)))

    @functools.cached_property
    def written(self) -> list[int]:
        """Memories that it writes into, of those that it is given."""
        found: list[int] = []
        for index, name in traits_of(self.function).writes:
            given = self.args[index] if index < len(self.args) else None
            value = self.kwargs.get(name, given)
            found += [place.memory for place in find_places(value)]
        return found

    @property
    def is_view_in_place(self) -> bool:
        """Whether it changes only how a tensor is read, as ``transpose_`` does."""
        return traits_of(self.function).is_view_in_place

    @property
    def is_pure(self) -> bool:
        """Whether all that it does is to return tensors in memory of their own."""
        if self.written or self.is_view_in_place or self.is_random:
            return False
        given = {place.memory for place in self.places}
        return all(p is not None and p.memory not in given for p in self.outputs)

    @property
    def is_random(self) -> bool:
        """Whether it draws from a generator."""
        return traits_of(self.function).is_random


@dataclass(frozen=True)
class Traits:
    """What is known of an operation without calling it.

    Attributes:
        name: Its name, without that of the overload.
        writes: Position and name of each argument that it writes into.
        is_view_in_place: Whether it changes only how a tensor is read.
        is_random: Whether it draws from a generator.
        looks: Whether what it returns, or its size, depends on the numbers.
    """

    name: str
    writes: tuple[tuple[int, str], ...]
    is_view_in_place: bool
    is_random: bool
    looks: bool


@functools.cache
def traits_of(function: Any) -> Traits:
    """Return what is known of an operation, an overload of ``torch.ops``."""
    schema, tags = schema_of(function), function.tags
    name = str(schema.name.partition("::")[2])
    is_view = torch.Tag.inplace_view in tags
    undeclared = UNDECLARED.get(name, ())
    writes = [
        (index, str(argument.name))
        for index, argument in enumerate(schema.arguments)
        if index in undeclared
        or (argument.alias_info is not None and argument.alias_info.is_write)
    ]
    return Traits(
        name,
        () if is_view else tuple(writes),
        is_view,
        torch.Tag.nondeterministic_seeded in tags,
        torch.Tag.dynamic_output_shape in tags
        or torch.Tag.data_dependent_output in tags,
    )


@dataclass
class Program:
    """What a step does, operation by operation.

    Attributes:
        operations: The operations in their order.
        memories: The memories that they read and write.
        inputs: The tensors that change from call to call.
        results: What the function returned, with a `Place` for each tensor.
    """

    operations: list[Operation]
    memories: list[Memory]
    inputs: tuple[Place, ...]
    results: tuple[Any, ...]

    def is_same(self, other: Program) -> bool:
        """Say whether another recording has the same operations on the same memory."""
        return (
            self.operations == other.operations
            and (self.inputs, self.results) == (other.inputs, other.results)
            and len(self.memories) == len(other.memories)
            and all(map(Memory.is_same, self.memories, other.memories))
        )


def address_of(tensor: Tensor) -> int:
    """Return what tells a tensor's memory from any other that is still there."""
    if tensor.layout != torch.strided:
        return -id(tensor)
    return tensor.untyped_storage().data_ptr() or -id(tensor)


def _is_same_constant(one: Tensor, other: Tensor) -> bool:
    return (
        one.numel() <= MOST_CONSTANT
        and one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(one, other)
    )


def find_places(value: Any) -> Iterator[Place]:
    """Yield the places in lists, tuples and dictionaries."""
    if isinstance(value, Place):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from find_places(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from find_places(item)
