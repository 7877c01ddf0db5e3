"""The cheapest way to call an operation that was recorded.

An operation can be reached by several names: as an overload in ``torch.ops``, and
often as a function of ``torch``, whose way into C++ is shorter. Many can write their
result into memory that is there. Each way is compared with the recorded one before it
is taken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor

from handful.torch_private import schema_of, without_python

_FAILURES = (TypeError, RuntimeError, ValueError, NotImplementedError, Warning)

_FAILED = object()

_SAME_AS = {
    "relu": (functools.partial(torch.clamp_min, min=0), "clamp_min", {"min": 0}),
}
"""Calls that do the same as an operation, and can write into given tensors: the call,
the name of its operation, and arguments that this is given besides."""

_RESIZES = ("_loss", "binary_cross_entropy")
"""Ends of names of operations that use what they write into for results in between."""


@dataclass(frozen=True)
class OutCall:
    """A call that writes its results into tensors that it is given.

    Attributes:
        call: The function.
        names: Its arguments for the results; one name for several takes a tuple.
        overload: The operation behind it, an overload of ``torch.ops``.
        more: Arguments of that by name, beside those of the one that was recorded.
    """

    call: Callable[..., Any]
    names: tuple[str, ...]
    overload: Any
    more: Mapping[str, Any] = field(default_factory=dict)

    def name_outputs(self, outputs: Sequence[Tensor]) -> dict[str, Any]:
        """Return tensors to write into as keyword arguments."""
        if len(self.names) == 1 and len(outputs) > 1:
            return {self.names[0]: tuple(outputs)}
        return dict(zip(self.names, outputs, strict=True))


Way = Callable[..., Any] | OutCall
"""How an operation is called: to return new tensors, or to write into given ones."""


class Ways:
    """Finds the cheapest way to call each operation, once for all that are alike."""

    def __init__(self) -> None:
        self._known: dict[Any, Way] = {}

    def choose(self, function: Any, args: Any, kwargs: Any, returned: Any) -> Way:
        """Return the cheapest way to do what an operation did.

        Args:
            function: The operation, an overload that returns new tensors.
            args: Its arguments.
            kwargs: The same by name.
            returned: What it returned, which every way is compared with.
        """
        key = function, _describe(args), _describe(kwargs)
        if key not in self._known:
            self._known[key] = _choose(function, args, kwargs, returned)
        return self._known[key]


def _describe(value: Any) -> Any:
    """Return what operations that are alike share: all but the numbers in tensors."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple([_describe(item) for item in value])
    if isinstance(value, dict):
        return tuple([(key, _describe(item)) for key, item in value.items()])
    return repr(value)


def _choose(function: Any, args: Any, kwargs: Any, returned: Any) -> Way:
    out = _choose_out(function, args, kwargs, _listed(returned))
    if out is not None:
        return out
    short = _find_short(function)
    if short is not None and have_same_bits(_try(short, args, kwargs), returned):
        return short
    return without_python(function)


def _try(call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Return what a call does; what equals nothing if it fails."""
    try:
        return call(*args, **kwargs)
    except _FAILURES:
        return _FAILED


def _choose_out(
    function: Any, args: Any, kwargs: Any, wanted: Sequence[Any]
) -> OutCall | None:
    """Return the cheapest call that gives the same numbers in tensors it is given."""
    ways = _find_out_calls(function)
    if not ways or _name(function).endswith(_RESIZES):
        return None
    if not all(isinstance(value, Tensor) for value in wanted):
        return None
    for way in ways:
        buffers = [torch.empty_like(value) for value in wanted]
        if any(a.stride() != b.stride() for a, b in zip(buffers, wanted, strict=True)):
            return None
        made = _try(way.call, args, {**kwargs, **way.name_outputs(buffers)})
        if made is not _FAILED and have_same_bits(buffers, wanted):
            return way
    return None


@functools.cache
def _find_out_calls(function: Any) -> list[OutCall]:
    """Return the ways to call an operation's twin, the cheapest first."""
    name = _name(function)
    if name in _SAME_AS:
        call, other, more = _SAME_AS[name]
        overload = getattr(torch.ops.aten, other).out
        return [OutCall(call, ("out",), overload, more)]
    out = _find_out(function)
    short = _find_short(function)
    if out is None:
        return []
    return [out] if short is None else [replace(out, call=short, names=("out",)), out]


def _find_short(function: Any) -> Callable[..., Any] | None:
    """Return torch's function of an operation's name; one in Python may do else."""
    short = getattr(torch, _name(function), None)
    return short if isinstance(short, BuiltinFunctionType) else None


def _find_out(function: Any) -> OutCall | None:
    """Return an operation's overload that writes into given tensors.

    None if there is none, or only one that PyTorch made of the operation and a copy.
    """
    wanted = [(a.name, str(a.type)) for a in schema_of(function).arguments]
    packet = function.overloadpacket
    for name in packet.overloads():
        overload = getattr(packet, name)
        arguments = schema_of(overload).arguments
        outs = tuple(a.name for a in arguments if a.is_out)
        rest = [(a.name, str(a.type)) for a in arguments if not a.is_out]
        fits = len(outs) == len(schema_of(function).returns) and rest == wanted
        if fits and torch.Tag.generated not in overload.tags:
            return OutCall(without_python(overload), outs, overload)
    return None


def _name(function: Any) -> str:
    return str(schema_of(function).name.partition("::")[2])


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def have_same_bits(given: Any, wanted: Any) -> bool:
    """Say whether two results are the same tensors bit for bit, laid out alike.

    Args:
        given: A tensor, or a list of tensors and of what is no tensor.
        wanted: The same.
    """
    one, other = _listed(given), _listed(wanted)
    if len(one) != len(other):
        return False
    return all(_is_same(a, b) for a, b in zip(one, other, strict=True))


def _is_same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return a is b or bool(a == b)
    if (a.shape, a.stride(), a.dtype) != (b.shape, b.stride(), b.dtype):
        return False
    return torch.equal(_bits(a), _bits(b))


def _bits(value: Tensor) -> Tensor:
    return value.detach().flatten().contiguous().view(torch.uint8)
