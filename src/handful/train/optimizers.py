"""Optimisers by name or by object."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from handful.errors import ArgumentError, unknown_choice
from handful.train.choices import OPTIMIZERS, Choice, ChoiceLike, parse_optimizer
from handful.train.param_groups import make_param_groups

OptimizerLike: TypeAlias = (
    "ChoiceLike | Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer]"
)

_STATES = {"adagrad": 1.0, "muon": 1.0, "adafactor": 0.1, "asgd": 1.0, "lbfgs": 200.0}
"""Numbers kept for each parameter, where there are not two as of Adam."""

DEFAULT_LR = 1e-3
"""The rate of an optimiser chosen by name, where none is given; see `default_lr`."""

_OWN_LRS = {"lbfgs": 1.0}  # The length of a quasi-Newton step: nothing to scale down.

# On the CPU the fused kernels were never slower than the others (one thread, 4 to 60
# tensors, 300 to 4 million elements): Adam, AdamW and Adagrad take a tenth to a half of
# the default's time, SGD a quarter to two thirds with momentum or weight decay; without
# either it takes half on 60 tensors, and on a few the same within 5 %.
_FUSED = ("adagrad", "adam", "adamw", "sgd")

# Those whose foreach kernels give the default's results bit for bit on the CPU and take
# less time (2 to 12 % on 4 tensors, 25 to 40 % on 60), as long as a model fits into the
# caches: from some 300 thousand elements on they take up to twice the default's time.
# ASGD, NAdam, RAdam and Adafactor round differently; Rprop gains nothing.
_FOREACH = ("adadelta", "adamax", "rmsprop")
_FOREACH_MOST_ELEMENTS = 100_000

_WHOLE = ("history_size", "max_eval", "max_iter", "ns_steps")
_WORDS = {
    "adjust_lr_fn": ("match_rms_adamw", "original"),
    "line_search_fn": ("strong_wolfe",),
}
# What the constructor gives the first state, whatever a group says.
_NOT_BY_GROUP = ("initial_accumulator_value",)


def make_optimizer(
    value: Any,
    model: nn.Module,
    lr: float | None,
    *,
    param_groups: Mapping[str, Mapping[str, Any]] | None = None,
    decay_biases_and_norms: bool = True,
) -> Optimizer:
    """Return the optimiser of a model.

    Args:
        value: A name with arguments where wanted (``"sgd:momentum=0.9"``), an optimiser
            over the model's parameters, or a function that makes one of parameters.
        model: The model; parameters without ``requires_grad`` are left alone.
        lr: Learning rate; None for `default_lr`, or for an object's own.
        param_groups: Options for some parameters, by patterns over their names; see
            `make_param_groups`. Only beside a name.
        decay_biases_and_norms: If false, weight decay leaves biases and normalisation
            layers alone; see `make_param_groups`. Only beside a name.

    Returns:
        The optimiser; of the kernels that PyTorch has for these parameters, the
        fastest.

    Raises:
        ArgumentError: The name, an argument, a group or an option is wrong, this
            optimiser can't take these parameters or groups, or ``lr`` or one of the
            groups' arguments is given beside an object.
        TrainingError: No parameter can be trained.
    """
    if isinstance(value, Optimizer) or callable(value):
        _refuse_beside_object(lr, param_groups, decay_biases_and_norms)
        groups = make_param_groups(model)  # finds out whether there is any to train
        return value if isinstance(value, Optimizer) else value(groups[0]["params"])
    choice = parse_optimizer(value)
    lr = default_lr(choice.name) if lr is None else lr
    kind, args = _check_arguments(choice, lr)
    if not decay_biases_and_norms:
        _check_has_decay(choice.name)
    groups = make_param_groups(
        model,
        groups=param_groups,
        decay_biases_and_norms=decay_biases_and_norms,
        lr=lr,
        options=[k for k in OPTIMIZERS[choice.name][1] if k not in _NOT_BY_GROUP],
    )
    _check_limits(choice.name, model, groups)
    _check_groups(choice, lr, groups)
    return _make(choice, kind, groups, lr, args | _choose_kernel(choice.name, model))


def default_lr(name: str) -> float:
    """Return the rate of an optimiser where none is given.

    Args:
        name: An optimiser's name.

    Returns:
        1.0 for ``lbfgs``, whose direction has a length of its own; else `DEFAULT_LR`.
    """
    return _OWN_LRS.get(name, DEFAULT_LR)


def check_optimizer_arguments(value: Any, lr: float | None = None) -> None:
    """Find a wrong name, argument or value before there is a model.

    Args:
        value: What `make_optimizer` takes. A name's arguments are tried on a parameter
            of no consequence; an optimiser or a function is not looked at.
        lr: Learning rate; None for `default_lr`.

    Raises:
        ArgumentError: The name, an argument or a value is wrong, or this version of
            torch lacks the optimiser.
    """
    if not (isinstance(value, Optimizer) or callable(value)):
        choice = parse_optimizer(value)
        _check_arguments(choice, default_lr(choice.name) if lr is None else lr)


def describe_optimizer(value: Any) -> dict[str, Any] | str:
    """Return an optimiser as a setting that `make_optimizer` reads back, if it can."""
    if isinstance(value, Optimizer):
        return type(value).__name__
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    choice = parse_optimizer(value)
    return {"name": choice.name, **choice.args} if choice.args else choice.name


def optimizer_states(value: Any) -> float:
    """Return how many numbers an optimiser keeps for each that it trains.

    Args:
        value: As for `make_optimizer`; 2 for a function of the user's, as Adam keeps.
    """
    args: Mapping[str, Any]
    if isinstance(value, Optimizer):
        name, args = type(value).__name__.lower(), value.defaults
    elif callable(value):
        return 2.0
    else:
        choice = parse_optimizer(value)
        name, args = OPTIMIZERS[choice.name][0].lower(), choice.args
    extra = float(sum(bool(args.get(key)) for key in ("amsgrad", "centered")))
    if name in ("sgd", "rmsprop"):
        return extra + (name == "rmsprop") + bool(args.get("momentum"))
    return extra + _STATES.get(name, 2.0)


def kernel_name(optimizer: Optimizer) -> str:
    """Name an optimiser and the kind of kernel that it runs."""
    group = optimizer.param_groups[0]
    kind = next((k for k in ("fused", "foreach") if group.get(k)), "default")
    return f"{type(optimizer).__name__} ({kind})"


def _refuse_beside_object(
    lr: float | None, param_groups: Any, decay_biases_and_norms: bool
) -> None:
    """Refuse what an optimiser that is already made can't be given."""
    if lr is not None:
        raise ArgumentError(
            f"lr must be left out when optimizer is an object; got {lr!r}. "
            "The object has a rate of its own."
        )
    if param_groups is not None or not decay_biases_and_norms:
        name = "decay_biases_and_norms" if param_groups is None else "param_groups"
        got = decay_biases_and_norms if param_groups is None else param_groups
        raise ArgumentError(
            f"{name} must be left out when optimizer is an object; got {got!r}. "
            "The object has groups of its own: give it those of make_param_groups."
        )


def _check_arguments(choice: Choice, lr: float) -> tuple[Any, dict[str, Any]]:
    """Return an optimiser's class and its arguments, tried on a parameter."""
    kind = _find_class(choice.name)
    defaults = inspect.signature(kind).parameters
    args = {}
    for key, value in choice.args.items():
        if key not in defaults:
            raise ArgumentError(
                f"{key} of optimizer {choice.name!r} must be left out with torch "
                f"{torch.__version__}, which lacks it. Install a newer torch."
            )
        where = f"{key} of optimizer {choice.name!r}"
        args[key] = _check_value(where, key, value, defaults[key].default)
    probe = [torch.zeros(2, 2, device="cpu", requires_grad=True)]
    _make(choice, kind, probe, lr, args)
    return kind, args


def _make(
    choice: Choice, kind: Any, params: list[Any], lr: float, args: dict[str, Any]
) -> Optimizer:
    try:
        optimizer = kind(params, lr=lr, **args)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"optimizer {choice} cannot be made: {error}") from None
    assert isinstance(optimizer, Optimizer)
    return optimizer


def _find_class(name: str) -> Any:
    class_name = OPTIMIZERS[name][0]
    kind = getattr(torch.optim, class_name, None)
    if kind is None:
        raise ArgumentError(
            f"optimizer must be one that torch {torch.__version__} has; got {name!r}, "
            f"and torch.optim.{class_name} is not there. Install a newer torch."
        )
    return kind


def _check_value(where: str, key: str, value: Any, default: Any) -> Any:
    """Return an argument's value as torch takes it, if it is of the default's kind."""
    if value is None and default is None:
        return None
    if key in _WORDS:
        if value not in _WORDS[key]:
            raise unknown_choice(where, value, _WORDS[key])
        return value
    if isinstance(default, tuple):
        return _check_numbers(where, value, default)
    if isinstance(default, bool):
        is_right, kind = isinstance(value, bool), "true or false"
    elif key in _WHOLE:
        is_right = isinstance(value, int) and not isinstance(value, bool) and value > 0
        kind = "a whole number from 1 on"
    else:
        is_right, kind = _is_number(value), "a finite number"
    if not is_right:
        raise ArgumentError(f"{where} must be {kind}; got {value!r}.")
    return value


def _check_numbers(
    where: str, value: Any, default: tuple[Any, ...]
) -> tuple[float | None, ...]:
    if (
        not isinstance(value, (list, tuple))
        or len(value) != len(default)
        or not all(
            _is_number(one) or one is usual is None
            for one, usual in zip(value, default, strict=True)
        )
    ):
        raise ArgumentError(
            f"{where} must be {len(default)} finite numbers; got {value!r}. "
            f"Torch's own are {default}."
        )
    return tuple(value)


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _check_has_decay(name: str) -> None:
    if "weight_decay" not in OPTIMIZERS[name][1]:
        raise ArgumentError(
            f"decay_biases_and_norms must be left out with optimizer {name!r}; got "
            "False. This optimiser has no weight decay."
        )


def _check_limits(name: str, model: nn.Module, groups: list[dict[str, Any]]) -> None:
    """Refuse parameters and groups that an optimiser can't take."""
    if name == "lbfgs" and len(groups) > 1:
        raise ArgumentError(
            f"param_groups must make one group for optimizer 'lbfgs'; got "
            f"{len(groups)}. L-BFGS takes one step along all parameters together: "
            "leave the groups out."
        )
    if name == "muon":
        wrong = [
            f"{key} {tuple(param.shape)}"
            for key, param in model.named_parameters()
            if param.requires_grad and param.ndim != 2
        ]
        if wrong:
            raise ArgumentError(
                f"optimizer 'muon' must be given 2-D parameters only; got "
                f"{', '.join(wrong)}. Freeze these, choose another optimiser, or give "
                "a function that makes an optimiser for all of them."
            )


def _check_groups(choice: Choice, lr: float, groups: list[dict[str, Any]]) -> None:
    """Try the arguments that hold for each group, as torch tries the optimiser's."""
    for group in groups:
        options = {k: v for k, v in group.items() if k != "params"}
        try:
            rate = options.pop("lr", lr)
            _check_arguments(Choice(choice.name, {**choice.args, **options}), rate)
        except ArgumentError as error:
            raise ArgumentError(
                f"param_groups make a group with {options}: {error}"
            ) from None


def _choose_kernel(name: str, model: nn.Module) -> dict[str, bool]:
    """Return the argument that makes an optimiser run its fastest kernel."""
    params = [p for p in model.parameters() if p.requires_grad]
    if name in _FUSED and _can_fuse(params) and not _has_sparse_gradients(model):
        return {"fused": True}
    if name in _FOREACH and _is_small_on_cpu(params):
        return {"foreach": True}
    return {}


def _can_fuse(parameters: list[nn.Parameter]) -> bool:
    return all(
        p.device.type in ("cpu", "cuda") and torch.is_floating_point(p)
        for p in parameters
    )


def _has_sparse_gradients(model: nn.Module) -> bool:
    """Say whether a layer gives gradients that the fused kernels refuse."""
    return any(
        isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse
        for module in model.modules()
    )


def _is_small_on_cpu(parameters: list[nn.Parameter]) -> bool:
    return (
        all(p.device.type == "cpu" and torch.is_floating_point(p) for p in parameters)
        and sum(p.numel() for p in parameters) <= _FOREACH_MOST_ELEMENTS
    )
