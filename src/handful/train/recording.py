"""Recording: the operations that a step's forward and backward call, as plain data.

A step is done as ever, and what PyTorch is asked to compute is written down: which
operation, on which parts of which memory, with which numbers. Two recordings of two
batches are the same program unless the step decides something by its data or counts
something; a step that reads numbers back to decide is refused outright. No tensor that
a step makes lives longer for being recorded.

How operations and memory are seen is private to PyTorch: where `torch_private` does not
find it, nothing can be recorded, and steps stay as they are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from handful.torch_private import find_recorder
from handful.train.kernel_calls import Ways
from handful.train.program import (
    Memory,
    Operation,
    Place,
    Program,
    address_of,
    find_places,
    traits_of,
)

READS = frozenset(
    {"item", "tolist", "numpy", "__array__", "data_ptr", "storage", "untyped_storage"}
    | {"_typed_storage", "__dlpack__", "to_dlpack", "__reduce_ex__", "__repr__"}
    | {"__format__", "__str__"}
)
"""Methods of a tensor by which Python gets at its numbers."""

READ_BELOW = frozenset({"_pack_padded_sequence", "_pad_packed_sequence"})
"""Functions that turn numbers of a tensor into sizes, unseen from Python."""

BY_SIZES = {"tensor_split": 1, "lstm": 1, "gru": 1, "rnn_tanh": 1, "rnn_relu": 1}
"""Functions that do so where this argument is a tensor of whole numbers."""

RESHAPES = frozenset({"set_", "resize_", "resize_as_"})
"""Operations that give a tensor other memory."""

ALIGNMENT = 64
"""Bytes between the beginnings of PyTorch's own tensors."""


def record(
    run: Callable[[], tuple[Any, ...]],
    inputs: Sequence[Tensor],
    fixed: Sequence[Tensor],
    ways: Ways | None = None,
) -> tuple[tuple[Any, ...], Program | str]:
    """Run a function and write down what it computes.

    Args:
        run: The function: it returns a tuple of tensors and of what is no tensor.
        inputs: Tensors that change from call to call.
        fixed: Tensors that stay where they are: parameters and buffers.
        ways: Finds the cheapest way to call each operation; None to leave it open.

    Returns:
        What the function returned, and the program, or a clause that says why there
        is none. The function has run once in either case.
    """
    writer = _Writer(inputs, fixed, ways)
    with _Reads(writer), _make_mode(writer):
        result = run()
    return result, writer.finish(result)


def record_calls(run: Callable[[], Any]) -> list[Recorded] | str:
    """Run a function and list the operations that it calls, on the tensors themselves.

    Args:
        run: The function.

    Returns:
        The operations in their order, or a clause that says why they can't be called
        again without the function. It has run once in either case.
    """
    calls = _Calls()
    with _Reads(calls), _make_mode(calls):
        run()
    return calls.reason or calls.found


def can_record() -> bool:
    """Say whether this PyTorch shows its operations, and tells when memory is free."""
    return find_recorder() is not None


def is_observed() -> bool:
    """Say whether somebody else looks at the operations of this thread's steps."""
    recorder = find_recorder()
    if recorder is None or recorder.count_modes():
        return True
    try:  # refused where somebody's functions are shown what autograd keeps
        with torch.autograd.graph.disable_saved_tensors_hooks("it is only tried"):
            return False
    except RuntimeError:
        return True


@dataclass(frozen=True)
class Recorded:
    """A call of an operation.

    Attributes:
        function: The operation, an overload of ``torch.ops``.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        returned: The tensors that it returned, in a list.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    returned: list[Any]


class _Calls:
    """Lists operations while they are called."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.found: list[Recorded] = []

    def refuse(self, reason: str) -> None:
        """Note that they can't be called again."""
        self.reason = self.reason or reason

    def read_arguments(self, _args: Any, _kwargs: Any) -> None:
        """Do nothing: a call keeps its arguments."""

    def write(
        self, function: Any, args: Any, kwargs: Any, _given: Any, returned: Any
    ) -> None:
        """Add a call."""
        values = returned if isinstance(returned, (list, tuple)) else [returned]
        is_number = any(
            value is not None and not isinstance(value, Tensor) for value in values
        )
        if is_number or traits_of(function).looks or traits_of(function).is_random:
            self.refuse("its update looks at numbers, or draws some")
        self.found.append(Recorded(function, tuple(args), dict(kwargs), list(values)))


class _Reads(TorchFunctionMode):
    """Notices by which methods Python gets at numbers."""

    def __init__(self, writer: _Writer | _Calls) -> None:
        super().__init__()
        self._writer = writer

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in READS or name in READ_BELOW or _has_sizes(name, args):
            self._writer.refuse(f"its step reads numbers back ({name})")
        return func(*args, **(kwargs or {}))


def _has_sizes(name: str, args: Any) -> bool:
    """Say whether a function is given sizes as a tensor."""
    at = BY_SIZES.get(name, len(args))
    sizes = args[at] if at < len(args) else None
    return isinstance(sizes, Tensor) and not sizes.is_floating_point()


class _Writer:
    """Writes a program while it runs."""

    def __init__(
        self, inputs: Sequence[Tensor], fixed: Sequence[Tensor], ways: Ways | None
    ) -> None:
        self._reason: str | None = None
        self._ways = ways
        self._operations: list[Operation] = []
        self._memories: list[Memory] = []
        self._known: dict[int, tuple[int, Any]] = {}  # the memory, and who has it
        recorder = find_recorder()
        assert recorder is not None, "asked for before by can_record"
        self._watch = recorder.watch
        self._fixed = {address_of(tensor): tensor for tensor in fixed}
        self._own = {id(tensor) for tensor in fixed}
        for index, tensor in enumerate(inputs):
            if address_of(tensor) in {*self._known, *self._fixed}:
                self.refuse("its inputs share memory")
            self._add("input", index, tensor)
        self._inputs = tuple(self._place(tensor) for tensor in inputs)

    def refuse(self, reason: str) -> None:
        """Note that there can't be a program."""
        self._reason = self._reason or reason
        self._operations, self._ways = [], None

    def finish(self, result: tuple[Any, ...]) -> Program | str:
        """Return the program, or why there is none."""
        results = self.read(result)
        if self._reason is not None:
            return self._reason
        program = Program(self._operations, self._memories, self._inputs, results)
        used = {place.memory for o in self._operations for place in o.places}
        used |= {place.memory for place in find_places(results)}
        if not {place.memory for place in self._inputs} <= used:
            return "its step leaves a field of the batch out, or reads it unseen"
        return program

    def read(self, value: Any) -> Any:
        """Return a value with places for its tensors."""
        if isinstance(value, Tensor):
            if self._find(value) is None:
                self._add_outside(value)
            return self._place(value)
        if isinstance(value, (list, tuple)):
            return tuple([self.read(item) for item in value])
        if isinstance(value, dict):
            return {key: self.read(item) for key, item in value.items()}
        return math.nan if value != value else value  # one NaN equals itself in a tuple

    def read_arguments(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return arguments with places for their tensors."""
        if self._reason is not None:
            return (), {}
        try:
            return self.read(args), self.read(kwargs)
        except _UNREADABLE as error:
            self.refuse(f"its step has tensors that can't be described ({error})")
            return (), {}

    def write(
        self, function: Any, args: Any, kwargs: Any, given: Any, returned: Any
    ) -> None:
        """Add an operation.

        Args:
            function: The operation.
            args: Its arguments.
            kwargs: The same by name.
            given: Both as `read_arguments` returned them before it was called.
            returned: What it returned.
        """
        if self._reason is not None:
            return
        try:
            operation = self._describe(function, given, returned)
        except _UNREADABLE as error:
            self.refuse(f"its step has tensors that can't be described ({error})")
            return
        reason = _why_refused(operation, args, returned)
        if reason is not None:
            self.refuse(f"{reason} ({function})")
            return
        if self._ways is not None and operation.is_pure:
            operation.way = self._ways.choose(function, args, kwargs, returned)
        self._operations.append(operation)

    def _describe(self, function: Any, given: Any, returned: Any) -> Operation:
        many = isinstance(returned, (list, tuple))
        outputs: list[Place | None] = []
        for number, value in enumerate(returned if many else [returned]):
            if not isinstance(value, Tensor):
                outputs.append(None)
                continue
            if self._find(value) is None:
                self._add("made", (len(self._operations), number), value)
            outputs.append(self._place(value))
        args, kwargs = given
        return Operation(function, args, kwargs, tuple(outputs), many)

    def _find(self, tensor: Tensor) -> int | None:
        """Return the memory that a tensor lies in; None if it is not known."""
        memory, owner = self._known.get(address_of(tensor), (None, None))
        if isinstance(owner, self._watch) and owner.expired():
            return None  # another one lies there now
        return memory

    def _add_outside(self, tensor: Tensor) -> None:
        is_leaf = tensor.requires_grad and tensor.is_leaf and torch.is_grad_enabled()
        if is_leaf and id(tensor) not in self._own:
            self.refuse("its step gives a gradient to what the optimizer has not")
        self._add("outside", None, self._fixed.get(address_of(tensor), tensor))

    def _add(self, kind: str, source: Any, tensor: Tensor) -> None:
        index, address = len(self._memories), address_of(tensor)
        if tensor.layout != torch.strided:
            self.refuse("its step has tensors that are not dense")
            self._known[address] = index, tensor
            self._memories.append(Memory(kind, source, 0, tensor))
            return
        storage = tensor.untyped_storage()
        is_made = kind == "made" and storage.nbytes() > 0
        self._known[address] = index, self._watch(storage) if is_made else tensor
        if kind != "input":
            kept = None if kind == "made" else tensor.detach()
            self._memories.append(Memory(kind, source, int(storage.nbytes()), kept))
            return
        # The next batch may be cut from another place of a larger memory.
        offset = int(tensor.storage_offset()) * tensor.element_size()
        where = tensor.data_ptr() % ALIGNMENT
        memory = Memory(kind, source, 0, tensor.detach(), offset, where)
        self._memories.append(memory)

    def _place(self, tensor: Tensor) -> Place:
        memory = self._known[address_of(tensor)][0]
        shape, dtype = tuple(tensor.shape), tensor.dtype
        if tensor.layout != torch.strided:
            return Place(memory, 0, shape, (), dtype)
        if tensor.is_conj() or tensor.is_neg():
            self.refuse("its step has tensors that are read as conjugates")
        before = self._memories[memory].offset // tensor.element_size()
        offset = int(tensor.storage_offset()) - before
        return Place(memory, offset, shape, tuple(tensor.stride()), dtype)


_UNREADABLE = (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError)


def _why_refused(operation: Operation, args: Any, returned: Any) -> str | None:
    """Return a clause that says why an operation can't be replayed, or None."""
    many = operation.returns_many
    is_number = any(
        value is not None and not isinstance(value, Tensor)
        for value in (returned if many else [returned])
    )
    looks = traits_of(operation.function).looks
    if operation.name == "index":  # only masks give as many numbers as they have ones
        looks = any(t is not None and t.dtype in _MASKS for t in args[1])
    if is_number or looks:
        return "its step looks at numbers"
    if operation.name in RESHAPES:
        return "its step gives a tensor other memory"
    if not any(operation.outputs) and not operation.written:
        return "its step checks numbers"
    return None


_MASKS = (torch.bool, torch.uint8)


def _make_mode(writer: _Writer | _Calls) -> Any:
    """Return a mode that writes down each operation below autograd."""
    recorder = find_recorder()
    assert recorder is not None, "asked for before by can_record"

    base: Any = recorder.mode

    class Mode(base):  # type: ignore[misc]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs, look = kwargs or {}, sys.getprofile()
            sys.setprofile(None)  # what is called here is none of the step's own
            try:
                given = writer.read_arguments(args, kwargs)
                returned = func(*args, **kwargs)
                writer.write(func, args, kwargs, given, returned)
            finally:
                sys.setprofile(look)
            return returned

    return Mode()
