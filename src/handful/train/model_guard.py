"""What a recorded step takes for granted of Python's side, and whether it still holds.

A replay computes what the recorded step did. What else decides that - a model's modes
and attributes, the variables of the functions that it calls - is noted here, and looked
at again wherever it may have changed.
"""

from __future__ import annotations

import collections
import dis
import functools
import gc
import operator
import pickle
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handful.torch_private import (
    has_module_hooks,
    has_tensor_hooks,
    read_global_hooks,
)

MOST_OBJECTS = 20_000
"""Objects that are looked at; what is further away is not."""

MOST_ITEMS = 1_000
"""Items of a list or dictionary that are looked at; of more, their number alone."""

MOST_NUMBERS = 4_096
"""Numbers of a NumPy array that are compared."""

SIDE_EFFECTS = frozenset(
    {"print", "input", "open", "write", "breakpoint", "warn", "warn_explicit", "sleep"}
    | {"time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "now"}
    | {"monotonic_ns", "process_time", "utcnow", "today", "urandom", "getrandbits"}
)
"""Functions built into Python whose calls a replay would leave out."""

_COMPILED = ("_compiled_call_impl", "_orig_mod")
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_STANDARD = frozenset({*sys.stdlib_module_names, "torch", "numpy", "handful"})


def has_hooks(model: nn.Module) -> bool:
    """Say whether calling a model calls functions of the user's, or is compiled."""
    return any(
        isinstance(m, torch.jit.ScriptModule)
        or has_module_hooks(m)
        or any(getattr(m, name, None) for name in _COMPILED)
        for m in model.modules()
    )


def why_not_recordable(model: nn.Module) -> str | None:
    """Return a clause that says why a model's steps can't be recorded, or None."""
    if has_hooks(model):
        return "the model has hooks or is compiled"
    if any(read_global_hooks()):
        return "there are hooks for all modules"
    if torch.is_anomaly_enabled():
        return "gradients are searched for anomalies"
    if sys.getprofile() is not None:
        return "a profiler watches what Python calls"
    for param in model.parameters():
        if has_tensor_hooks(param):
            return "a parameter has hooks"
        if type(param) is not nn.Parameter or param.layout != torch.strided:
            return "a parameter is not an ordinary one"
    return None


class Snapshot:
    """What decides what a step does, as it was when this was made.

    Looked at are modules and other objects with their attributes, lists, dictionaries,
    tensors and where they lie (not the numbers in them), and functions with what they
    refer to, as far as they are neither Python's nor PyTorch's.

    Args:
        roots: The model, and functions that a step calls.
        tensors: Further tensors: the optimizer's parameters.

    Attributes:
        reason: A clause that says why the step can't be replayed at all, or None.
    """

    def __init__(self, roots: Iterable[object], tensors: Iterable[Tensor]) -> None:
        self.reason: str | None = None
        self._lists: list[tuple[Callable[[], list[Any]], list[Any]]] = []
        self._empty: list[Any] = []
        self._tensors: list[Tensor] = []
        self._buffers: set[int] = set()
        self._seen: dict[int, object] = {}
        self._to_see = collections.deque([*roots, *tensors])
        while self._to_see and len(self._seen) < MOST_OBJECTS:
            value = self._to_see.popleft()
            if id(value) not in self._seen and not isinstance(value, _PLAIN):
                self._seen[id(value)] = value  # kept, so that no other has its id
                self._look_at(value)
        self._read_all = (_read_settings, functools.partial(_read_all, self._tensors))
        self._before = [read() for read in self._read_all]

    def has_changed(self) -> bool:
        """Say whether anything is not what it was."""
        if any(self._empty):
            return True
        if [read() for read in self._read_all] != self._before:
            return True
        return not all(_is_same(read(), before) for read, before in self._lists)

    def versions(self, inputs: Sequence[Tensor]) -> list[int]:
        """Return how often tensors were written into; a model's buffers may be.

        Args:
            inputs: Further tensors, such as those of the batch.
        """
        return [
            tensor._version
            for tensor in (*self._tensors, *inputs)
            if id(tensor) not in self._buffers and not tensor.is_inference()
        ]

    def _look_at(self, value: Any) -> None:
        kind = type(value)
        if isinstance(value, Tensor):
            self._tensors.append(value)
        elif isinstance(value, nn.Module):
            self._add_items(functools.partial(_items_of, vars(value)))
            self._to_see.append(kind)
            self._buffers.update(map(id, value._buffers.values()))
        elif isinstance(value, (dict, list, tuple, set, frozenset, collections.deque)):
            self._look_at_container(value)
        elif isinstance(value, (FunctionType, torch.jit.ScriptFunction)):
            self._look_at_function(value)
        elif isinstance(value, MethodType):
            self._to_see.extend((value.__func__, value.__self__))
        elif isinstance(value, (staticmethod, classmethod)):
            self._to_see.append(value.__func__)
        elif isinstance(value, property):
            self._to_see.append(value.fget)
        elif isinstance(value, functools.partial):
            self._to_see.extend((value.func, value.args, value.keywords))
        elif not self._look_at_state(value):
            self._look_at_object(value)

    def _look_at_container(self, value: Any) -> None:
        if not value:
            self._empty.append(value)  # most are: hooks, and more of that kind
        elif len(value) > MOST_ITEMS:
            self._add(lambda: [len(value)])
        elif isinstance(value, dict):
            self._add_items(functools.partial(_items_of, value))
        else:
            self._add_items(functools.partial(list, value))

    def _look_at_function(self, function: Any) -> None:
        if _is_compiled(function):
            self.reason = "it may call compiled code"
            return
        if not _is_foreign(function):
            return
        self._add_items(functools.partial(_cells_of, function))
        self._to_see.extend((function.__defaults__, function.__kwdefaults__))
        variables = function.__globals__
        names = _globals_of(function.__code__, variables)
        self._add_items(functools.partial(_named_of, variables, names))
        for name in names:
            value = variables[name]
            if isinstance(value, ModuleType):
                attributes = list(_names_of(function.__code__))
                self._add_items(functools.partial(_named_of, vars(value), attributes))

    def _look_at_state(self, value: Any) -> bool:
        """Note the numbers of arrays and the state of generators."""
        if isinstance(value, np.ndarray):
            if value.size <= MOST_NUMBERS and value.dtype != object:
                self._add(lambda: [value.tobytes()])
        elif isinstance(value, torch.Generator):
            self._add(lambda: [value.get_state().numpy().tobytes()])
        elif isinstance(value, random.Random):
            self._add(lambda: [repr(value.getstate())])
        elif isinstance(value, np.random.Generator):
            self._add(lambda: [pickle.dumps(value.bit_generator.state)])
        elif isinstance(value, np.random.RandomState):
            self._add(lambda: [pickle.dumps(value.get_state(legacy=False))])
        elif hasattr(type(value), "__next__"):
            self.reason = "it may go on with an iterator from step to step"
        else:
            return False
        return True

    def _look_at_object(self, value: Any) -> None:
        is_class = isinstance(value, type)
        foreign = _is_foreign(value if is_class else type(value))
        if isinstance(value, (ModuleType, BuiltinFunctionType)):
            return
        if not foreign and not isinstance(value, SimpleNamespace):
            return
        if is_class:
            self._to_see.extend(value.__bases__)
        else:
            self._to_see.append(type(value))
            slots = _slots_of(type(value))
            self._add_items(lambda: [getattr(value, slot, None) for slot in slots])
        if hasattr(value, "__dict__"):
            self._add_items(lambda: _items_of(value.__dict__))

    def _add_items(self, read: Callable[[], list[Any]]) -> None:
        self._to_see.extend(self._add(read))

    def _add(self, read: Callable[[], list[Any]]) -> list[Any]:
        before = read()
        self._lists.append((read, before))
        return before


@contextmanager
def effects_noticed(found: list[str]) -> Iterator[None]:
    """Note calls that a replay would leave out, such as ``print``.

    Args:
        found: Takes their names.
    """

    def look(frame: Any, event: str, called: Any) -> None:  # noqa: ARG001
        if event == "c_call" and getattr(called, "__name__", "") in SIDE_EFFECTS:
            found.append(called.__name__)

    before, collects = _python_generators(), gc.isenabled()
    gc.disable()  # what it calls is not the step's
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)
        if collects:
            gc.enable()
    if _python_generators() != before:
        found.append("random or numpy.random")


def _python_generators() -> Any:
    name, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), name, bytes(np.asarray(keys)), tuple(rest)


def _is_compiled(value: Any) -> bool:
    """Say whether a function was made by `torch.compile`, or is a scripted one.

    While a step is recorded such a function does not run as it was compiled.
    """
    if isinstance(value, torch.jit.ScriptFunction):
        return True
    original = getattr(value, "_torchdynamo_orig_callable", None)
    return original is not None and not getattr(value, "_torchdynamo_disable", False)


def _is_same(given: list[Any], before: list[Any]) -> bool:
    """Say whether two lists hold the same objects, or equal plain values."""
    if len(given) != len(before):
        return False
    if all(map(operator.is_, given, before)):
        return True
    return all(
        a is b or (type(a) is type(b) and isinstance(a, _PLAIN) and a == b)
        for a, b in zip(given, before, strict=True)
    )


def _read_settings() -> list[Any]:
    """Return torch's own settings that decide which operations a step calls."""
    return [
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.backends.mkldnn.enabled,
        *read_global_hooks(),
    ]


def _read_all(tensors: Iterable[Tensor]) -> list[Any]:
    return [
        (t.data_ptr(), t.requires_grad, t.shape, t.stride(), has_tensor_hooks(t))
        if t.layout == torch.strided
        else id(t)
        for t in tensors
    ]


def _items_of(value: Any) -> list[Any]:
    return [*value.keys(), *value.values()]


def _named_of(variables: dict[str, Any], names: Iterable[str]) -> list[Any]:
    return [variables.get(name) for name in names]


def _cells_of(function: FunctionType) -> list[Any]:
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not filled yet
            found.append(None)
    return found


def _names_of(code: CodeType) -> Iterator[str]:
    """Yield the names that a function and those written in it may look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_of(constant)


def _globals_of(code: CodeType, variables: dict[str, Any]) -> list[str]:
    """List the variables of its file that a function refers to, less the standard."""
    names = [
        name
        for name in _names_of(code)
        if name in variables and not _is_standard(variables[name])
    ]
    if not names:  # as a rule, and taking code apart takes time
        return []
    referred = set(_referred_by(code))
    return [name for name in dict.fromkeys(names) if name in referred]


def _referred_by(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname.endswith(("_GLOBAL", "_NAME")):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _referred_by(constant)


def _is_standard(value: Any) -> bool:
    """Say whether a value is a module, class or function of Python's or PyTorch's."""
    if isinstance(value, ModuleType):
        return not _is_foreign_name(value.__name__)
    is_code = isinstance(value, (type, FunctionType, BuiltinFunctionType))
    return is_code and not _is_foreign(value) and not _is_compiled(value)


def _slots_of(kind: type) -> list[str]:
    found = []
    for parent in kind.__mro__:
        slots = vars(parent).get("__slots__", ())
        found += [slots] if isinstance(slots, str) else list(slots)
    return [name for name in found if not name.startswith("__")]


def _is_foreign(value: Any) -> bool:
    return _is_foreign_name(getattr(value, "__module__", None) or "builtins")


def _is_foreign_name(name: Any) -> bool:
    return str(name).partition(".")[0] not in _STANDARD
