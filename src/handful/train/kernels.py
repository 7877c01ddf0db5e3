"""Fused optimiser kernels, called without the optimiser's Python around them.

On a small model ``optimizer.step()`` spends most of its time gathering lists and
sorting them by device; the kernel takes a tenth of it. Here they are gathered once.
What is called is private to PyTorch, see `torch_private`: a few steps are compared with
those of the optimiser's own before it is used, and that is called where the two don't
agree.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from handful.torch_private import find_kernel, has_hooks_of_all_steps, has_step_hooks

Update = Callable[[], Any]
"""Updates the parameters from their gradients, once."""


class FusedUpdate:
    """What ``optimizer.step()`` does, by calls of the fused kernels.

    Args:
        optimizer: The optimiser.
        groups: Of each of its groups, the update, which says whether it could, and what
            says whether the optimiser has changed since.
    """

    def __init__(self, optimizer: Optimizer, groups: list[_GroupUpdate]) -> None:
        self._optimizer = optimizer
        self._state, self._groups = optimizer.state, optimizer.param_groups
        self._num_groups = len(groups)
        self._updates = [update for update, _ in groups]
        self._changes = [has_changed for _, has_changed in groups]

    def __call__(self) -> None:
        """Update the parameters, once."""
        if not self._is_optimizers():
            self._optimizer.step()
            return
        with torch.no_grad():
            for index, update in enumerate(self._updates):
                if not update():
                    _step_rest(self._optimizer, index)
                    return

    def is_current(self) -> bool:
        """Say whether the kernels would be called, as far as gradients don't decide."""
        return self._is_optimizers() and not any(f() for f in self._changes)

    def _is_optimizers(self) -> bool:
        """Say whether no state was loaded, no group added: the lists are its own."""
        optimizer = self._optimizer
        return (
            optimizer.state is self._state
            and optimizer.param_groups is self._groups
            and len(self._groups) == self._num_groups
            and _is_plain_step(optimizer)
        )


def make_update(optimizer: Optimizer) -> Update:
    """Return the cheapest way to do what ``optimizer.step()`` does, bit for bit.

    The optimiser keeps its state as ever: its ``state_dict`` and its groups' rates can
    be read and set at any time.

    Args:
        optimizer: The optimiser; it has done a step or loaded a state before.

    Returns:
        A call of the fused kernels where the optimiser uses them, its state is there
        and nothing hooks into its step; else its own ``step``.
    """
    name = type(optimizer).__name__
    if not _is_plain(optimizer) or find_kernel(name.lower()) is None:
        return optimizer.step
    if not _kernels_agree(name):
        return optimizer.step
    updates = []
    for group in optimizer.param_groups:
        update = _make_group_update(optimizer, group)
        if update is None:
            return optimizer.step
        updates.append(update)
    return FusedUpdate(optimizer, updates)


def _step_rest(optimizer: Optimizer, index: int) -> None:
    """Let the optimiser itself update the groups from ``index`` on."""
    groups = optimizer.param_groups
    optimizer.param_groups = groups[index:]
    try:
        optimizer.step()
    finally:
        optimizer.param_groups = groups


def _is_plain(optimizer: Optimizer) -> bool:
    """Say whether an optimiser is exactly PyTorch's, fused and without hooks."""
    return (
        type(optimizer) in _KERNELS
        and "step" not in vars(optimizer)
        and not has_step_hooks(optimizer)
        and not has_hooks_of_all_steps()
        and all(
            group.get("fused")
            and not group.get("differentiable")
            # Adam with this flag is AdamW, whose own groups have it as well.
            and (type(optimizer) is not Adam or not group.get("decoupled_weight_decay"))
            for group in optimizer.param_groups
        )
        and all(
            isinstance(value, (bool, int, float, tuple, list, type(None)))
            for group in optimizer.param_groups
            for name, value in group.items()
            if name != "params"
        )
    )


def _is_plain_step(optimizer: Optimizer) -> bool:
    """Say whether nothing has come to hook into a step since it was looked at."""
    return "step" not in vars(optimizer) and not has_step_hooks(optimizer)


_GroupUpdate = tuple[Callable[[], bool], Callable[[], bool]]


def _make_group_update(
    optimizer: Optimizer, group: dict[str, Any]
) -> _GroupUpdate | None:
    """Return the update of one group, which says whether it could; None if it can't.

    Beside it what says whether the optimiser has changed, so that it can't.
    """
    params: list[Tensor] = [p for p in group["params"] if p.requires_grad]
    kinds = {(p.device, p.dtype) for p in params}
    if len(kinds) != 1 or len(params) != len(group["params"]):
        return None
    states = [optimizer.state.get(p) or {} for p in params]
    num_params, has_momentum = len(params), bool(group.get("momentum"))
    strided = [p for p in params if not p.is_contiguous()]
    kernel = find_kernel(type(optimizer).__name__.lower())
    run = _KERNELS[type(optimizer)](kernel, params, states, group)
    if run is None:
        return None
    held = [(s, n, v) for s in states for n, v in s.items() if isinstance(v, Tensor)]
    owners, names, values = zip(*held, strict=True) if held else ((), (), ())

    def has_changed() -> bool:
        return (
            len(group["params"]) != num_params
            or bool(group.get("momentum")) != has_momentum
            or (optimizer.state.get(params[0]) or states[0]) is not states[0]
            or (optimizer.state.get(params[-1]) or states[-1]) is not states[-1]
            or (bool(states[0]) and params[0] not in optimizer.state)
            or not all(map(operator.is_, map(dict.get, owners, names), values))
        )

    def update() -> bool:
        grads = [p.grad for p in params]
        for grad in grads:
            if grad is None or grad.is_sparse:
                return False
        changed = has_changed()
        # The kernels go through both in the order in which they lie in memory.
        for param in strided:
            if param.grad is not None and param.grad.stride() != param.stride():
                param.grad = torch.empty_like(param).copy_(param.grad)
                changed = True
        if changed:  # the optimiser's own step takes over, with the gradients laid out
            return False
        run(grads)
        return True

    return update, has_changed


Run = Callable[[Any], None]


def _adam(
    kernel: Any, params: list[Tensor], states: list[Any], group: dict[str, Any]
) -> Run | None:
    names = ["exp_avg", "exp_avg_sq", "step"]
    if group["amsgrad"]:
        names.append("max_exp_avg_sq")
    if not all(isinstance(s.get(n), Tensor) for s in states for n in names):
        return None
    averages, squares, steps = ([s[n] for s in states] for n in names[:3])
    count_up = _count_together(states, steps)
    largest = [s["max_exp_avg_sq"] for s in states] if group["amsgrad"] else []

    def run(grads: list[Tensor]) -> None:
        count_up()
        beta1, beta2 = group["betas"]
        kernel(
            params,
            grads,
            averages,
            squares,
            largest,
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
        )

    return run


def _count_together(states: list[Any], steps: list[Tensor]) -> Callable[[], Any]:
    """Return what adds 1 to every count of steps, by one call for all of them.

    The optimiser keeps a tensor of one number for each parameter. They become views of
    one tensor, which is counted up at once: that takes a tenth of the time.
    """
    together = torch.stack(steps)
    steps[:] = together.unbind()
    for state, step in zip(states, steps, strict=True):
        state["step"] = step
    return functools.partial(together.add_, 1)


def _sgd(
    kernel: Any, params: list[Tensor], states: list[Any], group: dict[str, Any]
) -> Run | None:
    buffers: list[Tensor] = []
    if group["momentum"] != 0:
        if not all(isinstance(s.get("momentum_buffer"), Tensor) for s in states):
            return None
        buffers = [s["momentum_buffer"] for s in states]

    def run(grads: list[Tensor]) -> None:
        kernel(
            params,
            grads,
            buffers,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            is_first_step=False,
        )

    return run


def _adagrad(
    kernel: Any, params: list[Tensor], states: list[Any], group: dict[str, Any]
) -> Run | None:
    if not all(isinstance(s.get(n), Tensor) for s in states for n in ("sum", "step")):
        return None
    sums, steps = ([s[n] for s in states] for n in ("sum", "step"))
    count_up = _count_together(states, steps)

    def run(grads: list[Tensor]) -> None:
        count_up()
        kernel(
            params,
            grads,
            sums,
            steps,
            lr=group["lr"],
            lr_decay=group["lr_decay"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )

    return run


_KERNELS: dict[type[Optimizer], Callable[..., Run | None]] = {
    Adam: _adam,
    AdamW: _adam,
    SGD: _sgd,
    Adagrad: _adagrad,
}

_PROBES: dict[type[Optimizer], dict[str, Any]] = {
    Adam: {"weight_decay": 0.1},
    AdamW: {"weight_decay": 0.1},
    SGD: {"momentum": 0.9, "weight_decay": 0.1},
    Adagrad: {"lr_decay": 0.1, "weight_decay": 0.1},
}


@functools.cache
def _kernels_agree(name: str) -> bool:
    """Compare a few steps of the kernels with the optimiser's own, on the CPU."""
    kind = next(kind for kind in _KERNELS if kind.__name__ == name)
    values = torch.linspace(-1, 1, 40)
    ours, theirs = ([values[:30].clone(), values[30:].clone()] for _ in range(2))
    try:
        _probe(kind, theirs, direct=False)
        _probe(kind, ours, direct=True)
    except (AttributeError, TypeError, RuntimeError, KeyError, ValueError):
        return False
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def _probe(kind: type[Optimizer], values: list[Tensor], *, direct: bool) -> None:
    """Do four steps on some values, three of them by the kernels."""
    params = [v.requires_grad_() for v in values]
    optimizer = kind(params, lr=0.1, fused=True, **_PROBES[kind])  # type: ignore[call-arg]
    update: Update = optimizer.step
    for step in range(4):
        for param in params:
            param.grad = param.detach() * (step + 1)
        update()
        if direct and step == 0:
            group = _make_group_update(optimizer, optimizer.param_groups[0])
            if group is None:
                raise RuntimeError("the optimiser's state is not where it was")
            update = torch.no_grad()(group[0])
    for param in params:
        param.requires_grad_(False)
