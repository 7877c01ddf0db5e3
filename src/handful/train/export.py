"""A model as a program of its own: exported, read back, compared, then written.

::

    model, inputs --> torch.export --> bytes --> read back --> same outputs? --> file
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handful.errors import ArgumentError, TrainingError
from handful.runs.files import write_atomic
from handful.torch_private import leaves_of
from handful.train.evaluation import evaluation_mode
from handful.train.generators import seeded_generators

EXPORT_SUFFIX = ".pt2"
"""Ending of the files that `torch.export.save` writes."""

FLOAT32_RTOL, FLOAT32_ATOL = 1e-4, 1e-5
"""How far float32 outputs may be apart: `eval` may take fused kernels, an exported
program takes the plain ones. Other dtypes have `torch.testing.assert_close`'s own."""


@dataclass(frozen=True)
class _Call:
    """The arguments of one call of a model: all by position, or all by name."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.args, *self.kwargs.values()]

    @property
    def rows(self) -> int:
        return len(self.tensors[0])

    def map(self, change: Callable[[Tensor], Tensor]) -> _Call:
        args = tuple(change(tensor) for tensor in self.args)
        return _Call(args, {name: change(t) for name, t in self.kwargs.items()})

    def with_rows(self, rows: int) -> _Call:
        """Return a call with that many rows, repeated from the first one on."""
        index = torch.arange(rows) % self.rows
        return self.map(lambda tensor: tensor[index.to(tensor.device)])

    def run(self, model: Callable[..., Any]) -> Any:
        with seeded_generators(0, "export"):
            return model(*self.args, **self.kwargs)


def export_model(
    model: nn.Module,
    inputs: Sequence[Tensor] | Mapping[str, Tensor],
    path: str | Path,
    *,
    dynamic_batch: bool = True,
) -> Path:
    """Export a model with `torch.export`, and check what the file computes.

    The model is exported as it is in `eval` mode; its own mode is restored. Before the
    file is written, its bytes are read back and compared with the model: on ``inputs``,
    then on them again or, if ``dynamic_batch``, on another number of their rows. The
    file is as torch writes it and holds no data: its example inputs are zeros. It is
    loaded with ``torch.export.load(path).module()``, for the device of the model. While
    this works, warnings, logging and standard error are silent in the whole process.

    Args:
        model: The model.
        inputs: Its inputs by position or by name, on its device, each of shape
            ``(N, …)`` with the same N of at least 1.
        path: The file, ``.pt2``; replaced where it exists.
        dynamic_batch: Whether the file takes batches of any size, N alone otherwise.

    Returns:
        The file.

    Raises:
        ArgumentError: The file's ending is another, its folder is missing, or
            ``inputs`` are no such tensors.
        TrainingError: The model cannot be exported, or the exported one computes
            something else.
        OSError: The file could not be written; one that was there is as it was.

    Example:
        >>> path = export_model(nn.Linear(2, 3), [torch.ones(4, 2)], "linear.pt2")
        >>> torch.export.load(path).module()(torch.ones(7, 2)).shape
        torch.Size([7, 3])
    """
    to = _check_path(Path(path))
    call = _check_inputs(inputs)
    with evaluation_mode(model), _quiet():
        _check_runs(model, call)
        try:
            content = _export_checked(model, call, dynamic_batch)
        except Exception as error:
            smaller = dynamic_batch and _exports_fixed(model, call)
            raise TrainingError(_describe_failure(error, call, smaller)) from error
    write_atomic(to, content)
    return to


def _check_path(path: Path) -> Path:
    if path.suffix.lower() != EXPORT_SUFFIX:
        raise ArgumentError(
            f"path must end in {EXPORT_SUFFIX}; got {str(path)!r}. "
            "save_weights writes weights alone."
        )
    if not path.parent.is_dir():
        raise ArgumentError(
            f"path must lie in a folder that exists; got {str(path)!r}. "
            f"Make {str(path.parent)!r} first."
        )
    return path


def _check_inputs(inputs: Sequence[Tensor] | Mapping[str, Tensor]) -> _Call:
    if isinstance(inputs, Mapping):
        call = _Call((), dict(inputs))
    else:
        # A tensor is a sequence of its rows to Python, and one input to its user.
        call = _Call((inputs,) if isinstance(inputs, Tensor) else tuple(inputs), {})
    kinds = [
        tuple(item.shape) if isinstance(item, Tensor) else type(item).__name__
        for item in call.tensors
    ]
    lengths = {kind[0] if isinstance(kind, tuple) and kind else 0 for kind in kinds}
    if len(lengths) != 1 or lengths == {0}:
        raise ArgumentError(
            "inputs must be tensors with the same number of rows, at least one; got "
            f"{', '.join(map(str, kinds)) or 'none'}."
        )
    return call


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's own remarks on an export from the user: errors say what matters."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _check_runs(model: nn.Module, call: _Call) -> None:
    try:
        call.run(model)
    except Exception as error:
        raise TrainingError(
            f"the model cannot be run on the inputs: {_first_line(error)}. "
            "Give a batch of inputs as in training, on the model's device."
        ) from error


def _export_checked(model: nn.Module, call: _Call, dynamic_batch: bool) -> bytes:
    """Return the content of a file that computes what the model does."""
    content = _export(model, call, dynamic_batch)
    exported = torch.export.load(io.BytesIO(content)).module()
    # A second call also shows a model that is another one each time.
    again = call.with_rows(3 if call.rows != 3 else 5) if dynamic_batch else call
    for given in (call, again):
        _check_same(model, exported, given)
    return content


def _export(model: nn.Module, call: _Call, dynamic_batch: bool) -> bytes:
    # torch.export takes a size of 1, and of 0, for constant.
    example = (call.with_rows(2) if dynamic_batch else call).map(torch.zeros_like)
    shapes = None
    if dynamic_batch:
        sizes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
        batch = torch.export.Dim("batch")
        for tensor in example.tensors:
            sizes[tensor] = {0: batch}
        shapes = sizes.dynamic_shapes(model, example.args, example.kwargs)  # type: ignore[no-untyped-call]
    program = torch.export.export(
        model, example.args, example.kwargs, dynamic_shapes=shapes, strict=False
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _check_same(model: nn.Module, exported: nn.Module, call: _Call) -> None:
    expected = leaves_of(call.run(model))
    found = leaves_of(call.run(exported))
    if len(found) != len(expected):
        raise _DifferenceError(
            f"on {call.rows} rows the file returns {len(found)} outputs, the model "
            f"{len(expected)}"
        )
    for own, other in zip(expected, found, strict=True):
        _check_close(own, other, call.rows)


def _check_close(own: Any, other: Any, rows: int) -> None:
    is_float32 = isinstance(own, Tensor) and own.dtype is torch.float32
    rtol, atol = (FLOAT32_RTOL, FLOAT32_ATOL) if is_float32 else (None, None)
    try:
        torch.testing.assert_close(other, own, rtol=rtol, atol=atol, equal_nan=True)
    except AssertionError as error:
        reason = " ".join(str(error).split())
        raise _DifferenceError(
            f"on {rows} rows the file's outputs are not the model's: {reason}"
        ) from None


class _DifferenceError(Exception):
    """An exported model computes something else than the model."""


def _exports_fixed(model: nn.Module, call: _Call) -> bool:
    try:
        _export_checked(model, call, dynamic_batch=False)
    except Exception:
        return False
    return True


def _describe_failure(error: Exception, call: _Call, fixed_works: bool) -> str:
    if fixed_works:
        return (
            f"the model cannot be exported for batches of any size: {_reason(error)}. "
            f"dynamic_batch=False exports it for {call.rows} rows alone."
        )
    if _depends_on_data(error):
        remedy = "Choose by torch.where or torch.cond there, which are exported."
    elif isinstance(error, _DifferenceError):
        remedy = "Let forward depend on its inputs alone, not on Python's state."
    else:
        remedy = "Write forward with torch's operations on tensors alone."
    return f"the model cannot be exported: {_reason(error)}. {remedy}"


def _reason(error: Exception) -> str:
    if _depends_on_data(error):
        return "forward decides by a value in the data (data-dependent control flow)"
    if "Constraints violated" in str(error):
        return "forward makes the number of rows a constant, by a loop or a fixed shape"
    return _first_line(error)


def _depends_on_data(error: Exception) -> bool:
    # By name: the module of the class takes a second to import.
    return type(error).__name__ == "GuardOnDataDependentSymNode"


def _first_line(error: Exception) -> str:
    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return text.strip().rstrip(".")
