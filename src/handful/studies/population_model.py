"""Many models as one: their weights stacked, one forward and backward for all.

`torch.func.vmap` runs a model on weights that have one more dimension in front, the
trials. The operations that come of it are recorded once and replayed, as steps of a
single training are (`handful.train.recording`)::

    row of all weights ──> views (K, ...) ──> vmap of the model ──> losses (K,)
                                                                        │
    row of gradients  <── gradients of the sum of the mean losses  <────┘

The sum of the losses has each trial's own gradients, since no trial's loss depends on
another's weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from handful.train.batches import BatchLayout
from handful.train.kernel_calls import Ways
from handful.train.losses import Criterion
from handful.train.model_guard import effects_noticed, why_not_recordable
from handful.train.recording import can_record, is_observed, record
from handful.train.replay import Replay
from handful.train.replay_proof import State, digest


class ApartError(Exception):
    """Trials can't train as one; the text is a clause that says why."""


class Stack:
    """The weights and buffers of models of one architecture, side by side.

    Args:
        models: The models, on the CPU, at their initial weights.

    Attributes:
        size: How many they are, K.
        weights: All weights in one row: those of each parameter of all trials together.
        owners: Of each weight in the row the trial that it is of, int64.
        params: Views of the row by the parameters' names, shape ``(K, ...)``.
        buffers: The models' buffers, shape ``(K, ...)``.

    Raises:
        ApartError: They can't be stacked.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.size = len(models)
        self._template = copy.deepcopy(models[0])
        _check_alike(models)
        for module in self._template.modules():
            if type(module) is nn.Linear:
                # The same product and sum; vmap makes fewer operations of it.
                setattr(module, "forward", _Linear(module))  # noqa: B010 (a method, to mypy)
        parts = [dict(model.named_parameters()) for model in models]
        stacked = {n: torch.stack([p[n].detach() for p in parts]) for n in parts[0]}
        self.weights = torch.cat([value.flatten() for value in stacked.values()])
        ranks = torch.arange(self.size)
        sizes = [value[0].numel() for value in stacked.values()]
        self.owners = torch.cat([ranks.repeat_interleave(size) for size in sizes])
        self.params: dict[str, Tensor] = {}
        start = 0
        for name, value in stacked.items():
            view = self.weights[start : start + value.numel()].view(value.shape)
            self.params[name] = view.detach().requires_grad_()
            start += value.numel()
        held = [dict(model.named_buffers()) for model in models]
        self.buffers = {n: torch.stack([b[n] for b in held]) for n in held[0]}

    def call(
        self,
        args: Sequence[Tensor],
        kwargs: Mapping[str, Tensor],
        *,
        is_shared: bool,
        is_training: bool,
    ) -> Any:
        """Return the outputs of all models, shape ``(K, b, ...)``.

        Args:
            args: The models' inputs, ``(b, ...)`` if shared, else ``(K, b, ...)``.
            kwargs: Those by name, likewise.
            is_shared: Whether all models are given the same.
            is_training: Whether they are in the mode of training.
        """
        self._template.train(is_training)

        def forward(params: Any, buffers: Any, args: Any, kwargs: Any) -> Any:
            return functional_call(self._template, (params, buffers), args, kwargs)

        dim = None if is_shared else 0
        call = vmap(forward, in_dims=(0, 0, dim, dim), randomness="error")
        return call(self.params, self.buffers, tuple(args), dict(kwargs))

    def call_one(self, params: Any, buffers: Any, args: Any, kwargs: Any) -> Any:
        """Return the output of one model of given weights, in `eval` mode."""
        self._template.eval()
        return functional_call(self._template, (params, buffers), args, kwargs)

    def read(self, index: int) -> dict[str, Tensor]:
        """Return a copy of a trial's weights and buffers by their names."""
        both = {**self.params, **self.buffers}
        return {name: value[index].detach().clone() for name, value in both.items()}

    @torch.no_grad()
    def write(self, index: int, values: Mapping[str, Tensor]) -> None:
        """Put a trial's weights and buffers back."""
        both = {**self.params, **self.buffers}
        for name, value in values.items():
            both[name][index].copy_(value)


class _Linear:
    """The forward of a Linear layer, as a product and a sum."""

    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        made = x @ self._layer.weight.t()
        return made if self._layer.bias is None else made + self._layer.bias


class StackedLoss:
    """Losses of all trials on a batch.

    Args:
        stack: The models.
        layout: Which fields of a batch are which.
        criterion: The loss, whose means are plain ones of single losses.
    """

    def __init__(self, stack: Stack, layout: BatchLayout, criterion: Criterion) -> None:
        self.stack = stack
        self._layout = layout
        self._criterion = criterion

    def measure(
        self,
        batch: Any,
        *,
        is_shared: bool,
        is_training: bool,
        spread: Tensor | None = None,
    ) -> tuple[Tensor, Any, float]:
        """Return sums of losses ``(K,)``, outputs, and what makes means of the sums.

        Args:
            batch: The batch; see `Stack.call`.
            is_shared: Whether all trials see it.
            is_training: Whether the models are in the mode of training.
            spread: Memory for the targets of all trials, if they are shared.

        Raises:
            ApartError: The means are not plain ones.
        """
        args, kwargs, target, weights = self._layout.split(batch)
        if weights is not None or not isinstance(target, Tensor):
            raise ApartError("their batches have weights, or more than one target")
        outputs = self.stack.call(
            args, kwargs, is_shared=is_shared, is_training=is_training
        )
        weight = self.weigh(batch, is_shared=is_shared)
        each, size = self._criterion.each, self.stack.size
        if each is not None and isinstance(outputs, Tensor):
            if is_shared:
                wanted = target.expand(size, *target.shape)
                target = wanted if spread is None else spread.copy_(wanted)
            losses, _ = each(outputs.flatten(0, 1), target.flatten(0, 1))
            return losses.view(size, -1).sum(1), outputs, weight
        mean = vmap(self._criterion.mean, in_dims=(0, None if is_shared else 0))
        return mean(outputs, target) * weight, outputs, weight

    def make_spread(self, batch: Any, *, is_shared: bool) -> Tensor | None:
        """Return memory for the targets of all trials, if they are shared."""
        target = self._layout.split(batch)[2]
        if not is_shared or not isinstance(target, Tensor):
            return None
        return target.new_empty((self.stack.size, *target.shape))

    def weigh(self, batch: Any, *, is_shared: bool) -> float:
        """Return what makes the mean of a batch's losses of their sum, for a trial.

        Raises:
            ApartError: It depends on the numbers of the batch.
        """
        target = self._layout.split(batch)[2]
        criterion = self._criterion.with_all_labels()
        weight = criterion.weigh(target if is_shared else target[0])
        if isinstance(weight, Tensor):
            raise ApartError("their loss weighs classes")
        return float(weight)


def make_training_replay(
    loss: StackedLoss, batch: Any, fields: Sequence[Tensor], *, is_shared: bool
) -> tuple[Replay, Tensor, float]:
    """Record the step of all trials on batches of one shape.

    Args:
        loss: The losses.
        batch: The batch, of tensors whose memory stays.
        fields: Its tensors.
        is_shared: Whether all trials see the same batch.

    Returns:
        A replay whose result is the sums of the losses, shape ``(K,)``; the row into
        which it writes the gradients of their means; what makes means of the sums.

    Raises:
        ApartError: It can't be recorded.
    """
    params = list(loss.stack.params.values())
    row = torch.empty_like(loss.stack.weights)
    parts = torch.split(row, [param.numel() for param in params])
    places = [p.view(q.shape) for p, q in zip(parts, params, strict=True)]
    spread = loss.make_spread(batch, is_shared=is_shared)
    weight = loss.weigh(batch, is_shared=is_shared)
    shares = torch.full((loss.stack.size,), 1 / weight, dtype=row.dtype)

    def run() -> tuple[Tensor, ...]:
        with torch.enable_grad():
            sums = loss.measure(
                batch, is_shared=is_shared, is_training=True, spread=spread
            )[0]
            grads = torch.autograd.grad(sums, params, grad_outputs=shares)
        torch._foreach_copy_(places, list(grads))
        return (sums.detach(),)

    buffers = list(loss.stack.buffers.values())
    fixed = [*params, *buffers, *fields, row, shares]
    fixed += [] if spread is None else [spread]
    return _make_replay(run, fixed, [*buffers, row]), row, weight


def make_evaluation_replay(
    loss: StackedLoss, batch: Any, fields: Sequence[Tensor], *, is_shared: bool
) -> tuple[Replay, float]:
    """Record the validation of all trials on a batch.

    Returns:
        A replay whose results are sums of losses and outputs, and what makes means of
        the sums.

    Raises:
        ApartError: It can't be recorded.
    """

    def run() -> tuple[Any, ...]:
        with torch.no_grad():
            return loss.measure(batch, is_shared=is_shared, is_training=False)[:2]

    stack = loss.stack
    weight = loss.weigh(batch, is_shared=is_shared)
    fixed = [*stack.params.values(), *stack.buffers.values(), *fields]
    return _make_replay(run, fixed, list(stack.buffers.values())), weight


def check_recordable(models: Iterable[nn.Module]) -> None:
    """Check that models' steps can be recorded, as far as that is seen before.

    Raises:
        ApartError: They can't.
    """
    if not can_record() or is_observed():
        raise ApartError("this PyTorch does not show what a step computes")
    for model in models:
        reason = why_not_recordable(model)
        if reason is not None:
            raise ApartError(reason)


def _make_replay(
    run: Callable[[], tuple[Any, ...]], fixed: Sequence[Tensor], own: Sequence[Tensor]
) -> Replay:
    """Record a function twice, and compare its replay with it bit for bit."""
    state, effects = State(own), list[str]()
    run()  # what is imported or looked up the first time is none of its effects
    state.put_back()
    with effects_noticed(effects):
        wanted = [digest(value) for value in [*run(), *state.now()]]
    state.put_back()
    _, first = record(run, (), fixed)
    state.put_back()
    _, program = record(run, (), fixed, Ways())
    state.put_back()
    if effects:
        raise ApartError(f"a step calls {effects[0]}")
    if isinstance(first, str) or isinstance(program, str):
        raise ApartError(first if isinstance(first, str) else str(program))
    if not program.is_same(first):
        raise ApartError("a step is another one each time")
    replay = Replay(program)
    made = [digest(value) for value in [*replay.run(()), *state.now()]]
    state.put_back()
    if made != wanted:
        raise ApartError("a replay gave other numbers")
    return replay


def _check_alike(models: Sequence[nn.Module]) -> None:
    first = _describe(models[0])
    if any(_describe(model) != first for model in models[1:]):
        raise ApartError("their models differ")
    params = list(models[0].parameters())
    if not all(param.requires_grad for param in params):
        raise ApartError("some of their parameters are not trained")
    kinds = {param.dtype for param in params}
    if len(kinds) != 1 or not next(iter(kinds)).is_floating_point:
        raise ApartError("their parameters are of several dtypes")


def _describe(model: nn.Module) -> list[Any]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    kinds = [(type(module), module.extra_repr()) for module in model.modules()]
    return [*kinds, *((n, t.shape, t.dtype, t.requires_grad) for n, t in tensors)]
