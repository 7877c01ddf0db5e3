"""Whole steps played natively: forward, backward, clipping and update, many a call.

What a step does once its gradients are there is recorded as it is done once: the calls
of the fused kernels, and what clips before them. They stand behind forward and backward
in a player of their own. The rates are numbers that each step is given; everything else
that the optimiser's groups say must stay as it is.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from handful.torch_private import schema_of
from handful.train.engine import Played
from handful.train.kernels import FusedUpdate
from handful.train.native import NativeReplay, PlayerError
from handful.train.program import Place
from handful.train.recording import Recorded
from handful.train.replay import Variable

Gradients = Sequence["tuple[nn.Parameter, int, Tensor | None]"]
"""Parameter, position of its gradient among a replay's results, and the tensor that it
has to be copied into, if any."""


class WholeStep:
    """A step of one kind of batches, played natively from its batch to its update.

    Args:
        replay: Forward and backward.
        grads: Where each gradient is found; each parameter's ``grad`` is the one that
            ``calls`` were recorded with.
        calls: What the step did behind them.
        norm: What of that is the norm of the gradients; None for nothing.
        optimizer: The optimiser.
        update: Its update by the fused kernels.
        samples: Samples of a batch.
        buffers: What forward changes beside its results, to be put back where loss or
            gradients are not finite: such a step is not done. None to do all steps.

    Raises:
        PlayerError: It can't be played natively.

    Attributes:
        has_left_out: Whether the last call ended before a step that is not to be done.
        seconds: The least time of a step so far.
    """

    def __init__(
        self,
        replay: NativeReplay,
        grads: Gradients,
        calls: Sequence[Recorded],
        norm: Tensor | None,
        *,
        optimizer: Optimizer,
        update: FusedUpdate,
        samples: int,
        buffers: Sequence[Tensor] | None = None,
    ) -> None:
        self._replay, self._grads, self._samples = replay, grads, samples
        self._optimizer, self._update = optimizer, update
        self._options = self._read_options()
        self._player = replay.make_player()
        self._num_variables = replay.num_values
        self.seconds = float("inf")
        self.has_left_out = False
        self._written = list(buffers or [])
        known = self._add_copies()
        if buffers is not None:
            self._add_guard(buffers, known)
        self._add_calls(calls, known)
        self._kept = calls  # so that its tensors stay
        self._weight = replay.result(1)
        self._dtypes: list[torch.dtype] = []
        self._has_norm = norm is not None
        for position in (0, 1):
            place = replay.program.results[position]
            if isinstance(place, Place):
                self._add_log(replay.result(position), place.dtype)
        if norm is not None:
            self._add_log(known.get(id(norm), norm), norm.dtype)

    @property
    def error(self) -> Exception:
        """What went wrong in the last call, where fewer steps were done."""
        return self._player.error

    def is_current(self) -> bool:
        """Say whether the optimiser is still as it was, but for its rates."""
        return self._update.is_current() and self._read_options() == self._options

    def play(
        self, inputs: Sequence[Sequence[Tensor]], rates: Sequence[Sequence[float]]
    ) -> Played:
        """Do some steps; the last one's gradients are the parameters' from then on.

        Args:
            inputs: The tensors of each step's batch.
            rates: The rate of each of the optimiser's groups, for each step.

        Returns:
            What was done: fewer steps where one failed.
        """
        count = len(inputs)
        self._replay.reserve()
        pointers = array("Q", [t.data_ptr() for tensors in inputs for t in tensors])
        numbers = array("d", [rate for row in rates[:count] for rate in row])
        logs = [torch.empty(count, dtype=dtype) for dtype in self._dtypes]
        addresses = array("Q", [log.data_ptr() for log in logs])
        started = time.perf_counter()
        done = self._player.play(count, pointers, numbers, addresses)
        self.has_left_out = done < count and self._player.has_left_out
        if done == count:
            seconds = (time.perf_counter() - started) / count
            self.seconds = min(self.seconds, seconds)
        return self._tell(logs, done)

    def _tell(self, logs: list[Tensor], done: int) -> Played:
        if done:
            results = self._replay.read_results(self._player)
            for param, position, copy in self._grads:
                grad = results[position] if copy is None else copy
                if param.grad is not grad:
                    param.grad = grad
                torch.autograd.graph.increment_version(param)
            for buffer in self._written:
                torch.autograd.graph.increment_version(buffer)
        self._player.clear()
        logs = [log[:done] for log in logs]
        norms = logs.pop() if self._has_norm else None
        weights = logs[1] if len(logs) > 1 else self._weight
        return Played(logs[0], weights, self._samples, norms)

    def _read_options(self) -> list[dict[str, Any]]:
        """Return what the optimiser's groups say, but for their rates."""
        return [
            {name: v for name, v in group.items() if name not in ("params", "lr")}
            for group in self._optimizer.param_groups
        ]

    def _add_copies(self) -> dict[int, Any]:
        """Let gradients be copied that must be; return where each one is then."""
        known: dict[int, Any] = {}
        for param, position, copy in self._grads:
            found = self._replay.result(position)
            if copy is not None:
                self._player.add(torch.ops.aten.copy_.default, [copy, found], {})
                found = copy
            if param.grad is not None:
                known[id(param.grad)] = found
        return known

    def _add_guard(self, buffers: Sequence[Tensor], known: dict[int, Any]) -> None:
        """Let a step end before its update where its numbers are not finite."""
        grads = [p.grad for p, _, _ in self._grads if p.grad is not None]
        weight = self._replay.result(1)
        self._player.add_guard(
            self._replay.result(0),
            None if isinstance(weight, (int, float)) else weight,
            [known.get(id(grad), grad) for grad in grads],
            buffers,
            is_random=any(o.is_random for o in self._replay.program.operations),
        )

    def _add_calls(self, calls: Sequence[Recorded], known: dict[int, Any]) -> None:
        rates = 0
        for call in calls:
            kwargs = dict(call.kwargs)
            if "_fused_" in schema_of(call.function).name:
                rates += 1
                kwargs["lr"] = self._add_variable()
                self._player.add_rate(kwargs["lr"].index)
            args = _replace(call.args, known)
            given = {id(t) for t in _tensors_in((call.args, call.kwargs))}
            makes = [self._keep(value, given, known) for value in call.returned]
            self._player.add(call.function, args, _replace(kwargs, known), makes)
        if rates != len(self._optimizer.param_groups):
            raise PlayerError("its update is not one call of a kernel for each group")

    def _keep(self, value: Any, given: set[int], known: dict[int, Any]) -> int:
        """Return the variable that keeps a result; -1 for one that was given."""
        if not isinstance(value, Tensor) or id(value) in given:
            return -1
        variable = known[id(value)] = self._add_variable()
        return variable.index

    def _add_log(self, value: Any, dtype: torch.dtype) -> None:
        self._player.add_log(value)
        self._dtypes.append(dtype)

    def _add_variable(self) -> Variable:
        self._num_variables += 1
        return Variable(self._num_variables - 1)


def _replace(value: Any, known: dict[int, Any]) -> Any:
    """Return arguments with variables for the tensors that are others in each step."""
    if isinstance(value, Tensor):
        return known.get(id(value), value)
    if isinstance(value, (list, tuple)):
        return [_replace(item, known) for item in value]
    if isinstance(value, dict):
        return {key: _replace(item, known) for key, item in value.items()}
    return value


def _tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors_in(item)]
    return []
