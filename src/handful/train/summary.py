"""Summary: a model's layers, the shapes they give, and what a training holds."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from handful.errors import ArgumentError
from handful.train.generators import all_generators_preserved

MOST_ROWS = 40
"""Layers that a rendered summary lists; deeper levels are folded to keep to it."""


@dataclass(frozen=True)
class LayerRow:
    """One module of a model.

    Attributes:
        name: Its full name in the model, ``""`` for the model itself.
        type: Name of its class.
        shapes: Shapes of the tensors that its first call returned, such as
            ``"(32, 10)"``; empty if it was not called or returned none.
        parameters: Number of its own parameters, not of its submodules', without those
            that an earlier row has.
        trainable_parameters: How many of them require gradients.
        tied_parameters: Number of its own parameters that an earlier row has.
        calls: How often one forward pass calls it.
        output_bytes: Memory of what it returned, over all calls, in bytes: none for
            views of its inputs and inputs that it wrote into.
    """

    name: str
    type: str
    shapes: str
    parameters: int
    trainable_parameters: int
    tied_parameters: int
    calls: int
    output_bytes: int

    @property
    def depth(self) -> int:
        """How deep it lies in the model, 0 for the model itself."""
        return len(self.name.split(".")) if self.name else 0

    @property
    def trainable(self) -> str:
        """``"yes"``, ``"no"`` or ``"partly"``; empty without parameters of its own."""
        if self.trainable_parameters == self.parameters:
            return "yes" if self.parameters else ""
        return "partly" if self.trainable_parameters else "no"


@dataclass(frozen=True)
class ModelSummary:
    """A model's layers and the memory that training it holds; ``str`` is a table.

    Parameters and buffers that several modules share are counted once.

    Attributes:
        rows: The modules in the order of `torch.nn.Module.named_modules`, the model
            first.
        batch_size: Samples in the batch that the shapes and activations are of.
        optimizer_states: Values that the optimiser keeps for each trainable one.
        parameters: Number of parameters.
        trainable_parameters: How many of them require gradients.
        parameter_bytes: Memory of the parameters, in bytes.
        buffer_bytes: Memory of the buffers, in bytes.
        gradient_bytes: Memory of the gradients: as much as the trainable parameters'.
        optimizer_bytes: Memory of the optimiser's state, an estimate:
            ``optimizer_states`` times the trainable parameters'.
        activation_bytes: Memory of what the forward pass keeps for the backward pass,
            an estimate: the outputs of the innermost layers called. What is computed
            between layers is not seen, and some outputs are not kept.
        is_lazy: Whether the model has lazy layers without shapes, whose parameters are
            not counted; no layer was called then.
    """

    rows: tuple[LayerRow, ...]
    batch_size: int
    optimizer_states: float
    parameters: int
    trainable_parameters: int
    parameter_bytes: int
    buffer_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    is_lazy: bool = False

    @property
    def total_bytes(self) -> int:
        """All of it together, in bytes."""
        held = self.parameter_bytes + self.buffer_bytes + self.gradient_bytes
        return held + self.optimizer_bytes + self.activation_bytes

    def render(self, width: int = 80) -> str:
        """Return the summary as plain text: a table of layers, then the memory.

        Args:
            width: Most characters a line of the table, 60 or more; longer names, types
                and shapes are cut.
        """
        shown, rest = _fold(self.rows)
        header = ("layer", "type", "output shape", "parameters", "trainable")
        lines = _align([header, *map(_cells, shown)], max(width, 60))
        return "\n".join([*lines, *rest, "", *_memory_lines(self)])

    def __str__(self) -> str:
        return self.render()


def summarize_model(
    model: nn.Module,
    forward: Callable[[], Any],
    *,
    batch_size: int,
    optimizer_states: float = 2.0,
) -> ModelSummary:
    """Run a model once and say what its layers give and what training it holds.

    The model runs in the modes that it is in, without gradients; see `left_as_found`
    for what is put back. One with lazy layers whose shapes are not known yet is not
    run, for that would give them their weights.

    Args:
        model: The model.
        forward: Runs the model on a first batch; its result is not used.
        batch_size: Samples in that batch.
        optimizer_states: Values that the optimiser keeps for each trainable one: 2 for
            Adam, 1 for SGD with momentum, 0 for SGD without.

    Returns:
        The summary.

    Raises:
        ArgumentError: ``optimizer_states`` is below 0 or not finite.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> summary = summarize_model(
        ...     model, lambda: model(torch.zeros(32, 4)), batch_size=32
        ... )
        >>> summary.rows[1].shapes, summary.parameters, summary.activation_bytes
        ('(32, 8)', 67, 2432)
    """
    if not (math.isfinite(optimizer_states) and optimizer_states >= 0):
        raise ArgumentError(
            "optimizer_states must be a finite number from 0 on; "
            f"got {optimizer_states!r}. Adam keeps 2 values for each trainable one."
        )
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    seen = {name: _Calls() for name, _ in model.named_modules()}
    unsized = has_lazy_layers(model)
    if not unsized:
        with left_as_found(model), ExitStack() as stack:
            for name, module in model.named_modules():
                hook = functools.partial(_record_call, seen[name])
                handle = module.register_forward_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            forward()
    rows = tuple(_make_rows(model, seen))
    trained = _count_bytes(p for p in model.parameters() if p.requires_grad)
    return ModelSummary(
        rows=rows,
        batch_size=batch_size,
        optimizer_states=optimizer_states,
        parameters=sum(row.parameters for row in rows),
        trainable_parameters=sum(row.trainable_parameters for row in rows),
        parameter_bytes=_count_bytes(model.parameters()),
        buffer_bytes=_count_bytes(model.buffers()),
        gradient_bytes=trained,
        optimizer_bytes=round(optimizer_states * trained),
        activation_bytes=sum(row.output_bytes for row in _innermost(rows)),
        is_lazy=unsized,
    )


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Turn gradients off, and put back on leaving what running a model changes.

    Put back are the buffers (running statistics among them), the embeddings that
    ``max_norm`` rescales, and the global generators of torch, NumPy and Python. Code
    compiled by `torch.compile` runs as it was written, so that hooks see every layer.
    What a model keeps elsewhere, such as a counter of its own, is not known here.
    """
    written = [value for value in _written_by_forward(model) if _is_whole(value)]
    copies = [value.detach().clone() for value in written]
    buffers = [(module, _own_buffers(module)) for module in model.modules()]
    with ExitStack() as stack:
        stack.enter_context(all_generators_preserved())
        stack.enter_context(torch.no_grad())
        if any(map(_is_compiled, model.modules())):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        finally:
            for value, copied in zip(written, copies, strict=True):
                value.copy_(copied)
            for module, own in buffers:
                for name in _own_buffers(module).keys() - own.keys():
                    setattr(module, name, None)
                for name, buffer in own.items():
                    setattr(module, name, buffer)


def has_lazy_layers(model: nn.Module) -> bool:
    """Say whether a model has lazy layers whose shapes the first batch will decide."""
    return any(map(is_lazy, (*model.parameters(), *model.buffers())))


def find_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in what a module took or returned, in order.

    Tuples, lists, mappings and dataclasses are searched, at any depth.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from find_tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from find_tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from find_tensors(getattr(value, field.name))


def format_bytes(count: int) -> str:
    """Return a number of bytes for reading: ``"512 B"``, ``"1.2 MiB"``."""
    power = sum(count / 1024**p >= 1023.95 for p in range(4))
    unit = ("B", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{count / 1024**power:.{min(power, 1)}f} {unit}"


@dataclass
class _Calls:
    """What a module's calls returned."""

    calls: int = 0
    shapes: str = ""
    output_bytes: int = 0


def _record_call(
    seen: _Calls, _module: nn.Module, args: Any, kwargs: Any, output: Any
) -> None:
    outputs = list(find_tensors(output))
    if seen.calls == 0:
        seen.shapes = ", ".join(str(tuple(value.shape)) for value in outputs)
    seen.calls += 1
    held = {_locate(value)[0] for value in find_tensors((args, kwargs))}
    made = dict(map(_locate, outputs))
    seen.output_bytes += sum(size for at, size in made.items() if at not in held)


def _locate(value: Tensor) -> tuple[int, int]:
    """Return where a tensor's memory begins and its bytes, the same for all views."""
    if value.layout is not torch.strided or value.numel() == 0:
        return id(value), value.numel() * value.element_size()
    memory = value.untyped_storage()
    return memory.data_ptr(), memory.nbytes()


def _make_rows(model: nn.Module, seen: Mapping[str, _Calls]) -> Iterator[LayerRow]:
    counted: set[int] = set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if not is_lazy(p)]
        new = [p for p in own if id(p) not in counted]
        counted.update(map(id, new))
        numbers = sum(p.numel() for p in new)
        yield LayerRow(
            name=name,
            type=type(module).__name__,
            parameters=numbers,
            trainable_parameters=sum(p.numel() for p in new if p.requires_grad),
            tied_parameters=sum(p.numel() for p in own) - numbers,
            **dataclasses.asdict(seen[name]),
        )


def _innermost(rows: Iterable[LayerRow]) -> Iterator[LayerRow]:
    """Yield the layers that called no other; parametrizations make weights only."""
    called = [
        r for r in rows if r.calls and "parametrizations" not in r.name.split(".")
    ]
    parents: set[str] = set()
    for row in called:
        parts = row.name.split(".") if row.name else []
        parents.update(".".join(parts[:end]) for end in range(len(parts)))
    return (row for row in called if row.name not in parents)


def _count_bytes(values: Iterable[Tensor]) -> int:
    return sum(v.numel() * v.element_size() for v in values if not is_lazy(v))


def _written_by_forward(model: nn.Module) -> Iterator[Tensor]:
    yield from model.buffers()
    for module in model.modules():
        if getattr(module, "max_norm", None) is not None:
            yield from module.parameters(recurse=False)


def _own_buffers(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_buffers(recurse=False, remove_duplicate=False))


def _is_whole(value: Tensor) -> bool:
    """Say whether each element has memory of its own, and so can be written."""
    if is_lazy(value) or value.layout is not torch.strided:
        return False
    return all(n < 2 or s for n, s in zip(value.shape, value.stride(), strict=True))


def _is_compiled(module: nn.Module) -> bool:
    compiled = getattr(module, "_compiled_call_impl", None)
    return compiled is not None or hasattr(module, "_orig_mod")


def _fold(rows: tuple[LayerRow, ...]) -> tuple[list[LayerRow], tuple[str, ...]]:
    """Return the rows to show, deeper ones added to theirs, and a line on the rest."""
    depths = sorted(row.depth for row in rows)
    # A level is shown if all of it fits; the first one in any case.
    limit = depths[-1] if len(rows) <= MOST_ROWS else max(depths[MOST_ROWS] - 1, 1)
    shown = [row for row in rows if row.depth <= limit][:MOST_ROWS]
    shown = [_with_inner(row, rows) if row.depth == limit else row for row in shown]
    if len(shown) == len(rows):
        return shown, ()
    hidden = sum(r.parameters for r in rows) - sum(r.parameters for r in shown)
    also = f" with {hidden:,} parameters" if hidden else ", counted in those above"
    return shown, (f"… {len(rows) - len(shown):,} more{also}",)


def _with_inner(row: LayerRow, rows: Iterable[LayerRow]) -> LayerRow:
    inner = [row, *(r for r in rows if r.name.startswith(f"{row.name}."))]
    return dataclasses.replace(
        row,
        parameters=sum(r.parameters for r in inner),
        trainable_parameters=sum(r.trainable_parameters for r in inner),
        tied_parameters=sum(r.tied_parameters for r in inner),
    )


def _cells(row: LayerRow) -> tuple[str, ...]:
    last = row.name.rpartition(".")[2] or "model"
    times = f" x{row.calls}" if row.calls > 1 else ""
    number = f"{row.parameters:,}"
    if row.tied_parameters:
        number = f"{number} + tied" if row.parameters else "tied"
    is_quiet = row.calls or row.type in ("ModuleList", "ModuleDict")
    shapes = row.shapes or ("-" if is_quiet else "not called")
    return "  " * row.depth + last, row.type + times, shapes, number, row.trainable


def _align(table: list[tuple[str, ...]], width: int) -> list[str]:
    """Return lines of cells in columns, the first three cut to fit; numbers right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths[:3]) > 8:
        widths[widths.index(max(widths[:3]))] -= 1
    lines = []
    for cells in table:
        pairs = list(zip(cells, widths, strict=True))
        left = [t.ljust(w) if len(t) <= w else t[: w - 1] + "…" for t, w in pairs]
        left[3] = cells[3].rjust(widths[3])
        lines.append("  ".join(left).rstrip())
    return lines


def _memory_lines(summary: ModelSummary) -> Iterator[str]:
    states = f"(estimate: {summary.optimizer_states:g} values for each trainable one)"
    batch = f"(estimate: outputs of layers at batch_size={summary.batch_size})"
    number = f"({summary.parameters:,}, {summary.trainable_parameters:,} trainable)"
    block = (
        ("parameters", summary.parameter_bytes, number),
        ("buffers", summary.buffer_bytes, ""),
        ("gradients", summary.gradient_bytes, ""),
        ("optimiser state", summary.optimizer_bytes, states),
        ("activations", summary.activation_bytes, batch),
        ("total", summary.total_bytes, ""),
    )
    for label, count, remark in block:
        yield f"{label:<15}  {format_bytes(count):>10}  {remark}".rstrip()
    if summary.is_lazy:
        yield (
            "Lazy layers are not counted: their shapes come with the first batch. "
            "Run the model once for the whole."
        )
