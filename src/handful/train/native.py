"""Replaying a recorded step without Python: its operations are called from C++.

The operations, their arguments and their memory are those of `Replay`, so the numbers
are the same to the last bit; what goes away is the call from Python for each of them,
and, with the optimiser's update behind it, the Python between one step and the next.
Inputs are not copied: the memory that the step reads is pointed at the batch's.

::

    Python      a list of batches, rates          losses, gradients of the last
                     |                                ^
    C++              +--> step, step, step, ... ------+       (the lock is free)
"""

from __future__ import annotations

import functools
import weakref
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from handful.torch_private import schema_of
from handful.train.kernel_calls import OutCall
from handful.train.player_library import load_library
from handful.train.program import Place, Program
from handful.train.replay import Builder, Entry, Replay, Variable, take_memory


class PlayerError(RuntimeError):
    """A step can't be played natively; the message is a clause that says why."""


class Player:
    """A list of operations that C++ calls one after the other.

    Args:
        inputs: A tensor that lies in the memory of each input, which is exchanged.

    Raises:
        PlayerError: The library is not there.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        library = load_library()
        if library is None:
            raise PlayerError("the native player is not built")
        self._play, self._error = library.handful_play, library.handful_error
        self._error_kind = library.handful_error_kind
        self._ops = torch.ops.handful_player
        self.handle: int = self._ops.make()
        weakref.finalize(self, self._ops.drop, self.handle)
        self._num_inputs = len(inputs)
        self._kept: list[Any] = list(inputs)
        for tensor in inputs:
            self._ops.add_input(self.handle, tensor)

    def add(
        self,
        function: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        makes: Sequence[int] = (),
        ends: Sequence[int] = (),
    ) -> None:
        """Add an operation.

        Args:
            function: The operation, an overload of ``torch.ops``.
            args: Its arguments, with a `Variable` for what is another in each step.
            kwargs: The same by name.
            makes: The variable that keeps each result, -1 for none.
            ends: Variables that nobody needs after it.

        Raises:
            PlayerError: An argument is of a kind that can't be written down.
        """
        schema, written = schema_of(function), _Arguments()
        for index, argument in enumerate(schema.arguments):
            if index < len(args):
                written.add(args[index], str(argument.type))
            elif argument.name in kwargs:
                written.add(kwargs[argument.name], str(argument.type))
            else:
                written.kinds += "."
        self._ops.add(
            self.handle,
            schema.name,
            schema.overload_name,
            written.kinds,
            written.tensors,
            written.ints,
            written.floats,
            written.texts,
            list(makes),
            list(ends),
        )

    def add_guard(
        self,
        loss: Any,
        weight: Any,
        grads: Sequence[Any],
        buffers: Sequence[Tensor],
        *,
        is_random: bool,
    ) -> None:
        """Let steps end here, and leave nothing, where their numbers are not finite.

        Args:
            loss: The loss, a tensor without dimensions or a variable.
            weight: What it was divided by, likewise; None if that is never 0.
            grads: The gradients.
            buffers: What was written before; each fills its memory.
            is_random: Whether random numbers were drawn before.
        """
        found = _Arguments()
        values = [loss, weight, *grads]
        for value in values:
            found.add_item(value)
        self._ops.add_guard(
            self.handle, found.tensors, found.ints, list(buffers), is_random
        )

    def add_rate(self, slot: int) -> None:
        """Let a variable be a number that is given for each step."""
        self._ops.add_rate(self.handle, slot)

    def add_log(self, value: Any) -> None:
        """Note a number of each step: a tensor without dimensions, or a variable."""
        if isinstance(value, Variable):
            self._ops.add_log(self.handle, [], value.index)
        else:
            self._ops.add_log(self.handle, [value], -1)

    def play(
        self, steps: int, pointers: array[int], rates: array[float], logs: array[int]
    ) -> int:
        """Do some steps.

        Args:
            steps: How many.
            pointers: Addresses of the inputs of each step.
            rates: The rates of each step.
            logs: Where to write the noted numbers, one after the other.

        Returns:
            How many were done: fewer where one failed.
        """
        assert len(pointers) == steps * self._num_inputs
        done = self._play(
            self.handle,
            steps,
            pointers.buffer_info()[0],
            rates.buffer_info()[0],
            logs.buffer_info()[0],
        )
        return int(done)

    @property
    def error(self) -> Exception:
        """What went wrong in the last call, as PyTorch would have raised it."""
        kind = _ERRORS[self._error_kind()]
        return kind(self._error().decode(errors="replace"))

    @property
    def has_left_out(self) -> bool:
        """Whether the last call ended before an update, by a guard."""
        return bool(self._error_kind() == _LEFT_OUT)

    def read(self, slot: int) -> Tensor:
        """Return the tensor that a variable holds."""
        return self._ops.slot(self.handle, slot)  # type: ignore[no-any-return]

    def clear(self) -> None:
        """Forget what the variables hold."""
        self._ops.clear(self.handle)


class NativeReplay(Replay):
    """A program that C++ runs again and again on new inputs.

    Args:
        program: What was recorded.

    Raises:
        PlayerError: It can't be played natively.

    Attributes:
        program: What was recorded.
    """

    def _make_builder(self, program: Program) -> Builder:
        self.program = program
        self._builder = _PointingBuilder(program)
        return self._builder

    def _take_entries(self, entries: list[Entry]) -> None:
        self._entries = entries
        written = {m for entry in entries for m in entry.operation.written}
        memories = [self.program.memories[memory] for memory in sorted(written)]
        self._written = [
            m.tensor for m in memories if m.kind == "outside" and m.tensor is not None
        ]
        self._player = self.make_player()

    @property
    def num_values(self) -> int:
        """How many variables there are."""
        return len(self._values)

    def make_player(self) -> Player:
        """Return a player of the program, to which more may be added."""
        player = Player(self._builder.bases_of_inputs)
        for entry in self._entries:
            _add_entry(player, entry)
        return player

    def result(self, position: int) -> Any:
        """Return a result: a tensor that is there, a `Variable`, or a plain value."""
        return self._results[position]

    def run(self, inputs: Sequence[Tensor]) -> list[Any]:
        """Run the program; see `Replay.run`.

        Raises:
            Exception: An operation failed: what it raises.
        """
        self.reserve()
        pointers = array("Q", [tensor.data_ptr() for tensor in inputs])
        if not self._player.play(1, pointers, _NO_RATES, _NO_LOGS):
            raise self._player.error
        for tensor in self._written:
            torch.autograd.graph.increment_version(tensor)
        return self.read_results(self._player)

    def read_results(self, player: Player) -> list[Any]:
        """Return the results of a player's last step, and forget its variables."""
        results = self._results.copy()
        for position, index in self._open:
            results[position] = player.read(index)
        if self._values:
            player.clear()
        return results


_ERRORS = (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError)
_LEFT_OUT = -1
_NO_RATES = array("d", [0.0])
_NO_LOGS = array("Q", [0])


class _PointingBuilder(Builder):
    """A builder whose inputs lie in memory that is exchanged for the batch's."""

    bases_of_inputs: list[Tensor]

    def _add_input(self, position: int, place: Place) -> None:
        if not position:
            self.bases_of_inputs = []
        last = sum((n - 1) * s for n, s in zip(place.shape, place.stride, strict=True))
        size = torch.empty(0, dtype=place.dtype).element_size()
        self._bases[place.memory] = take_memory((place.offset + last + 1) * size)
        self.bases_of_inputs.append(self._tensor_at(place))


class _Arguments:
    """Arguments of an operation, written down for C++ one kind after the other."""

    def __init__(self) -> None:
        self.kinds = ""
        self.tensors: list[Tensor] = []
        self.ints: list[int] = []
        self.floats: list[float] = []
        self.texts: list[str] = []

    def add(self, value: Any, kind: str) -> None:
        """Add an argument of a kind, as schemas name it."""
        if isinstance(value, (list, tuple)):
            self._add_list(value, kind)
            return
        write = _WRITERS.get(type(value))
        if write is None and isinstance(value, Tensor):
            write = _write_tensor
        if write is None:
            raise PlayerError(f"it has an argument of the type {type(value).__name__}")
        write(self, value, kind)

    def _add_list(self, values: Sequence[Any], kind: str) -> None:
        if "Tensor" in kind:
            self.kinds += "O" if "Optional[Tensor]" in kind else "T"
            self.ints.append(len(values))
            for value in values:
                self.add_item(value)
        elif "float" in kind:
            self.kinds += "D"
            self.ints.append(len(values))
            self.floats += map(float, values)
        elif "bool" in kind or "int" in kind:
            self.kinds += "B" if "bool" in kind else "I"
            self.ints += [len(values), *map(int, values)]
        else:
            raise PlayerError(f"it has an argument of the type {kind}")

    def add_item(self, value: Any) -> None:
        """Add a tensor, a variable, or none, of a list."""
        if isinstance(value, Variable):
            self.ints.append(value.index)
        elif value is None:
            self.ints.append(-2)
        else:
            self.ints.append(-1)
            self.tensors.append(value)


def _write_tensor(to: _Arguments, value: Any, _kind: str) -> None:
    to.kinds += "t"
    to.tensors.append(value)


def _write_variable(to: _Arguments, value: Any, _kind: str) -> None:
    to.kinds += "u"
    to.ints.append(value.index)


def _write_int(to: _Arguments, value: Any, kind: str) -> None:
    if "float" in kind:
        _write_float(to, float(value), kind)
        return
    to.kinds += "w" if "Tensor" in kind else "i"
    to.ints.append(int(value))


def _write_bool(to: _Arguments, value: Any, _kind: str) -> None:
    to.kinds += "b"
    to.ints.append(int(value))


def _write_float(to: _Arguments, value: Any, kind: str) -> None:
    to.kinds += "W" if "Tensor" in kind else "d"
    to.floats.append(value)


def _write_text(to: _Arguments, value: Any, _kind: str, letter: str = "s") -> None:
    to.kinds += letter
    to.texts.append(str(value))


def _write_none(to: _Arguments, _value: Any, _kind: str) -> None:
    to.kinds += "n"


def _write_dtype(to: _Arguments, value: Any, _kind: str) -> None:
    to.kinds += "y"
    to.tensors.append(torch.empty(0, dtype=value))


def _write_layout(to: _Arguments, value: Any, kind: str) -> None:
    if value is not torch.strided:
        raise PlayerError(f"it has an argument of the layout {value}")
    _write_int(to, 0, kind)


_FORMATS = {
    torch.contiguous_format: 0,
    torch.preserve_format: 1,
    torch.channels_last: 2,
    torch.channels_last_3d: 3,
}


def _write_format(to: _Arguments, value: Any, kind: str) -> None:
    _write_int(to, _FORMATS[value], kind)


_WRITERS: dict[type, Callable[[_Arguments, Any, str], None]] = {
    Tensor: _write_tensor,
    Variable: _write_variable,
    bool: _write_bool,
    int: _write_int,
    float: _write_float,
    str: _write_text,
    type(None): _write_none,
    torch.dtype: _write_dtype,
    torch.device: functools.partial(_write_text, letter="v"),
    torch.layout: _write_layout,
    torch.memory_format: _write_format,
}


def _add_entry(player: Player, entry: Entry) -> None:
    """Add a replay's entry to a player."""
    way, kwargs = entry.way, entry.kwargs
    if isinstance(way, OutCall):
        names = (a.name for a in schema_of(way.overload).arguments if a.is_out)
        outputs = dict(zip(names, entry.outputs, strict=True))
        function, kwargs = way.overload, {**kwargs, **way.more, **outputs}
    else:
        function = entry.operation.function
    last = max((number for number, _ in entry.makes), default=-1)
    makes = [-1] * (last + 1)
    for number, variable in entry.makes:
        makes[number] = variable
    player.add(function, entry.args, kwargs, makes, entry.ends)
