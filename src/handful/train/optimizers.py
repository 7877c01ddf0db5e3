"""Optimisers by name or by object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from handful.errors import ArgumentError, TrainingError
from handful.train.choices import OPTIMIZERS, Choice, ChoiceLike, parse_optimizer

OptimizerLike: TypeAlias = (
    "ChoiceLike | Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer]"
)

DEFAULT_LR = 1e-3
"""The rate of an optimiser chosen by name, where none is given."""

_FUSED = ("adagrad", "adam", "adamw", "sgd")


def make_optimizer(value: Any, model: nn.Module, lr: float | None) -> Optimizer:
    """Return the optimiser of a model.

    Args:
        value: A name with arguments where wanted (``"sgd:momentum=0.9"``), an optimiser
            over the model's parameters, or a function that makes one of parameters.
        model: The model; parameters without ``requires_grad`` are left alone.
        lr: Learning rate; None for `DEFAULT_LR`, or for an object's own.

    Returns:
        The optimiser; its fused kernel where PyTorch has one for these parameters.

    Raises:
        ArgumentError: The name or an argument is wrong, or ``lr`` is given beside an
            object.
        TrainingError: No parameter can be trained.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise TrainingError(
            "model must have a parameter with requires_grad; it has none to train."
        )
    if isinstance(value, Optimizer) or callable(value):
        if lr is not None:
            raise ArgumentError(
                f"lr must be left out when optimizer is an object; got {lr!r}. "
                "The object has a rate of its own."
            )
        return value if isinstance(value, Optimizer) else value(parameters)
    choice = parse_optimizer(value)
    return _make_by_name(choice, parameters, DEFAULT_LR if lr is None else lr)


def describe_optimizer(value: Any) -> dict[str, Any] | str:
    """Return an optimiser as a setting that `make_optimizer` reads back, if it can."""
    if isinstance(value, Optimizer):
        return type(value).__name__
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    choice = parse_optimizer(value)
    return {"name": choice.name, **choice.args} if choice.args else choice.name


def kernel_name(optimizer: Optimizer) -> str:
    """Name an optimiser and the kind of kernel that it runs."""
    group = optimizer.param_groups[0]
    kind = next((k for k in ("fused", "foreach") if group.get(k)), "default")
    return f"{type(optimizer).__name__} ({kind})"


def _make_by_name(
    choice: Choice, parameters: list[nn.Parameter], lr: float
) -> Optimizer:
    kind = getattr(torch.optim, OPTIMIZERS[choice.name][0])
    args = {k: tuple(v) if isinstance(v, list) else v for k, v in choice.args.items()}
    if choice.name in _FUSED and _can_fuse(parameters):
        args["fused"] = True
    try:
        optimizer = kind(parameters, lr=lr, **args)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"optimizer {choice} cannot be made: {error}") from None
    assert isinstance(optimizer, Optimizer)
    return optimizer


def _can_fuse(parameters: list[nn.Parameter]) -> bool:
    return all(
        p.device.type in ("cpu", "cuda") and torch.is_floating_point(p)
        for p in parameters
    )
