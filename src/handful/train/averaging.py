"""Exponential moving average of a model's weights, kept beside the model.

::

    optimizer.step()          the model's weights      w
    averages.update()         their average            a <- a + (1 - decay) (w - a)
    with averages.swapped_in():
        evaluate(model)       the model holds a; w and its buffers lie aside
    optimizer.step()          w again, bit for bit
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from handful.errors import ArgumentError, CheckpointError, TrainingError

__all__ = ["AveragedWeights"]

_Slot: TypeAlias = "tuple[dict[str, Any], str]"
"""Where a module keeps a buffer: its dictionary and the name in it."""


class AveragedWeights:
    """The exponential moving average of a model's parameters.

    After step t the average is ``a_t = decay a_(t-1) + (1 - decay) w_t``; the first
    update copies the weights (Polyak & Juditsky 1992 average with equal weights, this
    forgets old ones). Parameters get the bits of torch's ``AveragedModel`` with
    ``get_ema_multi_avg_fn(decay)`` and ``use_buffers=False``: each average has its
    parameter's own dtype and device. Buffers, such as the statistics of a batch
    normalisation, and parameters that hold whole numbers are copied, not averaged.

    The model's parameters are listed once, when this is made: move the model to its
    device and add its layers before. Buffers may be replaced by the model at any time,
    but must keep their shapes.

    Args:
        model: The model that is trained; it is not copied.
        decay: Weight of the past in ``(0, 1)``, such as 0.999.

    Raises:
        ArgumentError: ``decay`` is no number in that range.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> averages = AveragedWeights(model, decay=0.75)
        >>> for weight in (0.0, 1.0):
        ...     _ = nn.init.constant_(model.weight, weight)
        ...     averages.update()
        >>> with averages.swapped_in():
        ...     model.weight.item()
        0.25
        >>> model.weight.item()
        1.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = _check_decay(decay)
        self.num_updates = 0
        self._parameters = list(model.parameters())
        self._buffer_slots = _find_buffers(model)
        self._own_buffers = [owner[name] for owner, name in self._buffer_slots]
        self._averages = _clone(self._parameters)
        self._buffers = _clone(self._own_buffers)
        self._lerped, self._copied = _group(self._averages, self._parameters)
        self._is_swapped_in = False

    @property
    def progress(self) -> dict[str, int]:
        """What `load_state_dict` needs beside the tensors: ``num_updates``."""
        return {"num_updates": self.num_updates}

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's weights into the average, after an optimisation step.

        Nothing is read back from the device.

        Raises:
            TrainingError: The model holds the averages, in `swapped_in`, or a buffer
                has another shape than when this was made.
        """
        if self._is_swapped_in:
            raise TrainingError(
                "update must be called outside swapped_in: the model holds the "
                "averages, which would be averaged with themselves."
            )
        if self.num_updates:
            for averages, weights in self._lerped:
                torch._foreach_lerp_(averages, weights, 1 - self.decay)
            _copy(*self._copied)
        else:
            _copy(self._averages, self._parameters)
        _copy(self._buffers, self._model_buffers())
        self.num_updates += 1

    def note_updates(self, count: int) -> None:
        """Take note of updates that were done on the averages' own tensors.

        Args:
            count: How many.
        """
        self.num_updates += count

    @property
    def tensors(self) -> list[Tensor]:
        """The averages, and the buffers' copies: what `update` writes into."""
        return [*self._averages, *self._buffers]

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Let the model hold the averages for a while.

        Values are exchanged inside the model's own tensors, which stay the same
        objects at the same addresses, so that optimisers and captured graphs remain
        valid. Afterwards, also after an error, the model has its own weights and
        buffers again, bit for bit; what was written to it in between is lost. It takes
        the memory of one more copy of the model. Inside another `swapped_in` it does
        nothing.

        Raises:
            TrainingError: The model has other parameters, or a buffer another shape,
                than when this was made.
        """
        if self._is_swapped_in:
            yield
            return
        with self._kept_aside():
            with torch.no_grad():
                _copy(self._parameters, self._averages)
                _copy(self._model_buffers(), self._buffers)
            yield

    def state_dict(self) -> dict[str, Any]:
        """Return the averages as the model's own state, for a plain model to load.

        Returns:
            Copies of all that the model's ``state_dict`` holds, under the same names:
            averaged parameters, tied ones under each name, and persistent buffers as of
            the last update. A module's extra state is the model's own.
        """
        with self.swapped_in():
            return {name: _copy_of(v) for name, v in self.model.state_dict().items()}

    def load_state_dict(
        self, state: Mapping[str, Any], progress: Mapping[str, Any]
    ) -> None:
        """Go on from averages that `state_dict` returned; the model stays as it is.

        Args:
            state: The averages, on any device.
            progress: What `progress` was then.

        Raises:
            CheckpointError: A name is missing or unknown, a shape differs, or
                ``progress`` has no ``num_updates`` from 0 on. Nothing was changed.
        """
        own = self.model.state_dict()
        _check_state(state, own)
        num_updates = _read_num_updates(progress)
        tensors = {
            name: state[name] if _is_loaded(name, value) else value
            for name, value in own.items()
        }
        with self._kept_aside(), torch.no_grad():
            self.model.load_state_dict(tensors)
            _copy(self._averages, self._parameters)
            _copy(self._buffers, self._model_buffers())
        self.num_updates = num_updates

    @contextmanager
    def _kept_aside(self) -> Iterator[None]:
        """Put the model's values back afterwards, into the tensors that it has now."""
        self._check_parameters()
        slots, buffers = self._buffer_slots, self._model_buffers()
        own = [*self._parameters, *buffers]
        values = _clone(own)
        self._is_swapped_in = True
        try:
            yield
        finally:
            self._is_swapped_in = False
            for (owner, name), buffer in zip(slots, buffers, strict=True):
                owner[name] = buffer
            with torch.no_grad():
                _copy(own, values)

    def _model_buffers(self) -> list[Tensor]:
        # Looked up each time: a module may put a new tensor in a buffer's place.
        buffers = [owner[name] for owner, name in self._buffer_slots]
        known = self._own_buffers
        if any(now is not was for now, was in zip(buffers, known, strict=True)):
            self._check_buffers(buffers)
            self._own_buffers = buffers
        return buffers

    def _check_buffers(self, buffers: list[Any]) -> None:
        # Copying would stretch a smaller tensor to the shape without a word.
        for (_, name), now, copied in zip(
            self._buffer_slots, buffers, self._buffers, strict=True
        ):
            shape = tuple(now.shape) if isinstance(now, Tensor) else now
            if shape != tuple(copied.shape):
                raise TrainingError(
                    f"buffer {name} must keep its shape {tuple(copied.shape)} while "
                    f"weights are averaged; got {shape}. Register it with its last "
                    "shape."
                )

    def _check_parameters(self) -> None:
        now = list(map(id, self.model.parameters()))
        if now != list(map(id, self._parameters)):
            raise TrainingError(
                "model must keep the parameters that it had when its averages were "
                f"made, {len(self._parameters)} tensors; got {len(now)}, or others. "
                "Add or replace layers before making AveragedWeights."
            )


def _check_decay(decay: object) -> float:
    if not isinstance(decay, int | float) or not 0 < decay < 1:
        raise ArgumentError(
            f"decay must be a number between 0 and 1, both excluded; got {decay!r}. "
            "Common values are 0.99 for short trainings and 0.999 for long ones."
        )
    return float(decay)


def _find_buffers(model: nn.Module) -> list[_Slot]:
    """List each module's buffers once."""
    return [
        (module._buffers, name)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def _clone(tensors: list[Any]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _copy(targets: list[Any], sources: list[Any]) -> None:
    if targets:  # torch refuses empty lists
        torch._foreach_copy_(targets, sources)


def _group(
    averages: list[Tensor], weights: list[nn.Parameter]
) -> tuple[list[tuple[list[Any], list[Any]]], tuple[list[Any], list[Any]]]:
    """Split pairs into lists of one device and dtype to average, and those to copy.

    One list takes one fused kernel on an accelerator only where its tensors are alike.
    """
    lerped: dict[tuple[torch.device, torch.dtype], tuple[list[Any], list[Any]]] = {}
    copied: tuple[list[Any], list[Any]] = ([], [])
    for average, weight in zip(averages, weights, strict=True):
        pair = copied
        if weight.is_floating_point() or weight.is_complex():
            pair = lerped.setdefault((weight.device, weight.dtype), ([], []))
        pair[0].append(average)
        pair[1].append(weight)
    return list(lerped.values()), copied


def _copy_of(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _is_loaded(name: str, value: Any) -> bool:
    """Say whether an entry of a state holds values; extra state stays the model's."""
    return isinstance(value, Tensor) and name.rpartition(".")[2] != "_extra_state"


def _check_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        raise CheckpointError(
            "averages must have the model's names; "
            f"missing: {', '.join(missing) or 'none'}; "
            f"unknown: {', '.join(unknown) or 'none'}. Load them into the model that "
            "they were made from."
        )
    for name, value in own.items():
        if _is_loaded(name, value):
            _check_tensor(name, state[name], value)


def _check_tensor(name: str, loaded: Any, own: Tensor) -> None:
    shape = tuple(loaded.shape) if isinstance(loaded, Tensor) else repr(loaded)
    if shape != tuple(own.shape):
        raise CheckpointError(
            f"the average of {name} must have the model's shape {tuple(own.shape)}; "
            f"got {shape}. Load it into the model that it was made from."
        )


def _read_num_updates(progress: Mapping[str, Any]) -> int:
    number = progress.get("num_updates")
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise CheckpointError(
            "the progress of averages must hold num_updates, a whole number from 0 on; "
            f"got {number!r}. The checkpoint is damaged."
        )
    return number
