"""Replaying a recorded step with as little Python as can be.

What autograd finds out anew in each step is found out once: which operations there are,
and where their results lie. Tensors that are made in a step get memory that stays, so
that each view of one is made once, and an operation is a call with arguments that are
there. The operations are those that were recorded, in their order, so that the numbers
are the same to the last bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handful.torch_private import without_python
from handful.train.kernel_calls import OutCall, Way
from handful.train.program import Operation, Place, Program, find_places
from handful.train.replay_plan import (
    is_dense,
    is_made_by,
    make_plan,
    num_bytes,
    share_blocks,
)

COPIED_BYTES = 16_384
"""Inputs up to this size are copied into memory that stays, so that every view of them
is made once; of larger ones the copy costs more than that saves."""

Call = Callable[[], Any]


class Replay:
    """A program that can be run again and again on new inputs.

    Args:
        program: What was recorded.

    Attributes:
        is_released: Whether it has given its memory back for now.
    """

    def __init__(self, program: Program) -> None:
        # No tensor of a replay asks for a gradient. That gradients are possible at all
        # is part of what was recorded: some operations keep more for them.
        with torch.enable_grad():
            builder = self._make_builder(program)
            entries = builder.make_entries()
            results = [builder.resolve(value) for value in program.results]
        self._values = builder.values
        self._blocks = builder.blocks
        self.is_released = False
        self._inputs = builder.inputs
        self._copies = builder.copies
        self._blank = [None] * len(self._values)
        self._results = results
        self._open = [
            (position, value.index)
            for position, value in enumerate(results)
            if isinstance(value, Variable)
        ]
        self._makes = [builder.makes(value) for value in program.results]
        self._take_entries(entries)

    def _make_builder(self, program: Program) -> Builder:
        return Builder(program)

    def _take_entries(self, entries: list[Entry]) -> None:
        """Make the calls, once all else is there."""
        self._calls = [_make_call_of(entry, self._values) for entry in entries]

    def run(self, inputs: Sequence[Tensor]) -> list[Any]:
        """Run the program.

        Args:
            inputs: Tensors with the shapes, strides and dtypes of those recorded.

        Returns:
            The results. Tensors among them may be overwritten by the next run.
        """
        self.reserve()
        values = self._values
        for position, copy in self._copies:
            copy(inputs[position])
        for position, index in self._inputs:
            values[index] = inputs[position]
        for call in self._calls:
            call()
        results = self._results.copy()
        for position, index in self._open:
            results[position] = values[index]
        values[:] = self._blank
        return results

    @property
    def num_bytes(self) -> int:
        """Memory that stays from run to run."""
        return sum(size for _, size in self._blocks)

    def release(self) -> None:
        """Give memory back until the next run; the results lose their numbers."""
        for storage, _ in self._blocks:
            storage.resize_(0)
        self.is_released = True

    def reserve(self) -> None:
        """Take back the memory that was given back, if any was."""
        if not self.is_released:
            return
        for storage, size in self._blocks:
            storage.resize_(size)
        self.is_released = False

    def makes(self, position: int) -> bool:
        """Say whether a result is computed anew each time, in memory of the replay."""
        return self._makes[position]


class Variable:
    """Stands for a tensor that is another one in each run.

    Args:
        index: Its place among the values.
    """

    def __init__(self, index: int) -> None:
        self.index = index


@dataclass(frozen=True)
class Entry:
    """An operation with its arguments, as a replay does it.

    Attributes:
        operation: What was recorded.
        way: How it is called.
        args: Its arguments: tensors that are there, variables and plain values.
        kwargs: The same by name.
        outputs: Tensors that it writes its results into; empty where it makes them.
        makes: Number of a result, and the variable that keeps it.
        ends: Variables that nobody needs after it.
    """

    operation: Operation
    way: Way
    args: list[Any]
    kwargs: dict[str, Any]
    outputs: list[Tensor]
    makes: list[tuple[int, int]]
    ends: list[int]


class Builder:
    """Makes a program's entries, and the memory that they work in.

    Attributes:
        values: What the variables stand for; filled while the program runs.
        inputs: Positions of inputs that are variables, and the variables.
        copies: Positions of inputs that are copied, and what copies them.
        blocks: Memory that stays, and its bytes.
    """

    def __init__(self, program: Program) -> None:
        self.values: list[Any] = []
        self.inputs: list[tuple[int, int]] = []
        self.copies: list[tuple[int, Callable[[Tensor], Any]]] = []
        self.blocks: list[tuple[torch.UntypedStorage, int]] = []
        self._program = program
        self._plan = make_plan(program)
        self._variables: dict[Place, int] = {}
        self._ends: dict[int, list[int]] = {}  # variables, by who needs them last
        self._tensors: dict[Place, Tensor] = {}
        self._bases: dict[int, torch.UntypedStorage] = {}
        for index, memory in enumerate(program.memories):
            if memory.kind == "outside":
                assert memory.tensor is not None
                self._bases[index] = memory.tensor.untyped_storage()
        for index in self._plan.constants:
            self._compute_constant(program.operations[index])
        for position, place in enumerate(program.inputs):
            self._add_input(position, place)
        self._outs = self._find_outs()
        self._allocate()

    def make_entries(self) -> list[Entry]:
        """Return what is to be called, in its order."""
        made = (self._make_entry(index) for index in self._plan.order)
        return [entry for entry in made if entry is not None]

    def makes(self, value: Any) -> bool:
        """Say whether a value is a place whose numbers are made anew in each run."""
        if not isinstance(value, Place) or value.memory in self._plan.folded:
            return False
        return self._program.memories[value.memory].kind == "made"

    def resolve(self, value: Any) -> Any:
        """Return a value with a tensor, or a variable, for each place."""
        if isinstance(value, Place):
            if value.memory in self._bases:
                return self._tensor_at(value)
            return Variable(self._variables[value])
        if isinstance(value, tuple):
            return [self.resolve(item) for item in value]
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in value.items()}
        return value

    def _compute_constant(self, operation: Operation) -> None:
        """Call an operation whose result is the same in each run."""
        args, kwargs = self._stand_in(operation.args), self._stand_in(operation.kwargs)
        made = operation.function(*args, **kwargs)
        for place, value in zip(
            operation.outputs, made if operation.returns_many else [made], strict=True
        ):
            if place is not None and place.memory in self._plan.folded:
                self._bases[place.memory] = value.untyped_storage()

    def _stand_in(self, value: Any) -> Any:
        """Return a value with a tensor for each place, if only of the same shape."""
        if isinstance(value, Place):
            if value.memory in self._bases:
                return self._tensor_at(value)
            return torch.empty_strided(value.shape, value.stride, dtype=value.dtype)
        if isinstance(value, tuple):
            return [self._stand_in(item) for item in value]
        if isinstance(value, dict):
            return {key: self._stand_in(item) for key, item in value.items()}
        return value

    def _add_input(self, position: int, place: Place) -> None:
        # Where a tensor begins may decide the last bits, so that is not changed.
        is_aligned = self._program.memories[place.memory].alignment == 0
        is_small = num_bytes(place) <= COPIED_BYTES
        if not (is_aligned and is_small and is_dense(place)):
            self.inputs.append((position, self._add_variable(place)))
            return
        self._bases[place.memory] = take_memory(num_bytes(place))
        self.copies.append((position, self._tensor_at(place).copy_))

    def _find_outs(self) -> dict[int, OutCall]:
        """Return the operations that can write into memory that stays, and how."""
        outs = {}
        for index in self._plan.order:
            operation = self._program.operations[index]
            outputs = [place for place in operation.outputs if place is not None]
            made = is_made_by(self._program, index)
            if len(made) < len(operation.outputs) or not all(map(is_dense, outputs)):
                continue
            if isinstance(operation.way, OutCall):
                outs[index] = operation.way
        return outs

    def _allocate(self) -> None:
        """Give memory to what stays; the same to what is not needed together.

        A result has memory of its own, which may be kept when the rest is gone.
        """
        results = {place.memory for place in find_places(self._program.results)}
        wanted = []
        for index in self._outs:
            for place in self._program.operations[index].outputs:
                assert place is not None
                last = self._plan.last_use.get(place.memory, index)
                if place.memory in results:
                    self._add_block(num_bytes(place), [place.memory])
                else:
                    wanted.append((place.memory, num_bytes(place), index, last))
        blocks, sizes = share_blocks(wanted)
        for block, size in enumerate(sizes):
            self._add_block(size, [m for m, b in blocks.items() if b == block])

    def _add_block(self, size: int, memories: Sequence[int]) -> None:
        storage = take_memory(size)
        self.blocks.append((storage, size))
        self._bases.update(dict.fromkeys(memories, storage))

    def _make_entry(self, index: int) -> Entry | None:
        operation = self._program.operations[index]
        if index in self._outs:
            outputs = [self.resolve(place) for place in operation.outputs]
            return self._bind(index, self._outs[index], outputs)
        is_view = not operation.written and not is_made_by(self._program, index)
        new = [p for p in operation.outputs if p is not None and self._is_new(p)]
        if is_view and not new:
            return None
        way = operation.way
        if way is None or isinstance(way, OutCall):
            way = without_python(operation.function)
        return self._bind(index, way, [])

    def _is_new(self, place: Place) -> bool:
        return place.memory not in self._bases and place not in self._variables

    def _bind(self, index: int, way: Way, outputs: list[Any]) -> Entry:
        """Return an operation with its arguments, and what it makes and ends."""
        operation = self._program.operations[index]
        args, kwargs = self.resolve(operation.args), self.resolve(operation.kwargs)
        makes = [
            (number, self._add_variable(place))
            for number, place in enumerate(operation.outputs)
            if place is not None and self._is_new(place)
        ]
        ends = self._ends.pop(index, [])
        return Entry(operation, way, args, kwargs, outputs, makes, ends)

    def _add_variable(self, place: Place) -> int:
        index = self._variables[place] = len(self.values)
        self.values.append(None)
        last = self._plan.last_use.get(place.memory, -1)
        self._ends.setdefault(last, []).append(index)
        return index

    def _tensor_at(self, place: Place) -> Tensor:
        """Return the tensor of a place whose memory stays; the same one each time."""
        if place not in self._tensors:
            tensor = torch.empty(0, dtype=place.dtype)
            self._tensors[place] = tensor.set_(
                self._bases[place.memory], place.offset, place.shape, place.stride
            )
        return self._tensors[place]


def take_memory(size: int) -> torch.UntypedStorage:
    """Return memory of some bytes, where PyTorch would have it."""
    return torch.empty(size, dtype=torch.uint8).untyped_storage()


def _make_call_of(entry: Entry, values: list[Any]) -> Call:
    """Return a call of an entry, from Python."""
    way, args, kwargs = entry.way, entry.args, entry.kwargs
    call: Callable[..., Any]
    if isinstance(way, OutCall):
        call, kwargs = way.call, {**kwargs, **way.name_outputs(entry.outputs)}
    else:
        call = way
    open_args = [(i, a.index) for i, a in enumerate(args) if _is_variable(a)]
    is_nested = any(map(_holds_variable, [*args, *kwargs.values()]))
    if not (entry.makes or entry.ends or open_args or is_nested):
        return functools.partial(call, *args, **kwargs)
    make: Callable[..., Call] = _make_general
    if not is_nested:
        make = functools.partial(_make_call, open_args=open_args)
    return make(call, args, kwargs, values, entry.makes, entry.operation, entry.ends)


def _is_variable(value: Any) -> bool:
    return isinstance(value, Variable)


def _holds_variable(value: Any) -> bool:
    """Say whether a list holds a variable."""
    return isinstance(value, list) and any(
        _is_variable(item) or _holds_variable(item) for item in value
    )


def _make_call(
    call: Callable[..., Any],
    args: list[Any],
    kwargs: dict[str, Any],
    values: list[Any],
    makes: list[tuple[int, int]],
    operation: Operation,
    ends: list[int],
    *,
    open_args: list[tuple[int, int]],
) -> Call:
    """Return a call that fills in variables, and keeps what it makes as such."""
    bound = functools.partial(call, **kwargs) if kwargs else call
    many = operation.returns_many

    def run() -> None:
        for position, variable in open_args:
            args[position] = values[variable]
        made = bound(*args)
        for position, _ in open_args:
            args[position] = None
        for number, variable in makes:
            values[variable] = made[number] if many else made
        for variable in ends:
            values[variable] = None

    return run


def _make_general(
    call: Callable[..., Any],
    args: list[Any],
    kwargs: dict[str, Any],
    values: list[Any],
    makes: list[tuple[int, int]],
    operation: Operation,
    ends: list[int],
) -> Call:
    """Do what `_make_call` does, for variables within lists and by name."""
    many = operation.returns_many

    def fill(value: Any) -> Any:
        if isinstance(value, Variable):
            return values[value.index]
        return [fill(item) for item in value] if isinstance(value, list) else value

    def run() -> None:
        named = {key: fill(value) for key, value in kwargs.items()}
        made = call(*fill(args), **named)
        for number, variable in makes:
            values[variable] = made[number] if many else made
        for variable in ends:
            values[variable] = None

    return run
