"""Parameter groups: options of the optimiser for some of a model's parameters."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

from torch import nn

from handful.errors import ArgumentError, TrainingError, unknown_choice
from handful.train.choices import check_lr

_NUM_NAMES_SHOWN = 6


def make_param_groups(
    model: nn.Module,
    *,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    decay_biases_and_norms: bool = True,
    lr: float | None = None,
    options: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Sort a model's parameters into groups for an optimiser.

    A parameter gets the options of every pattern that matches its name, in the order
    of ``groups``: of an option given twice, the later one holds. Parameters with the
    same options share a group. Groups stand in the order of their first parameters,
    and parameters in the model's order. Without options there is one group, that of
    ``model.parameters()``.

    Args:
        model: The model. Parameters without ``requires_grad`` are left out; a tied
            parameter comes once and answers to each of its names.
        groups: Patterns over the names of ``model.named_parameters()`` (``*``, ``?``
            and ``[...]`` as in `fnmatch`; a ``*`` matches dots as well, and case
            counts), and for each the options of a group: ``lr``, ``weight_decay`` and
            so on, or ``lr_factor``, a multiple of ``lr`` above 0.
        decay_biases_and_norms: If false, biases and the parameters of normalisation
            layers get ``weight_decay=0.0``, unless a pattern says otherwise. Biases
            are those whose own name ends in ``bias`` or begins with ``bias_``;
            normalisation layers those with ``Norm`` in the name of their class or one
            of its bases.
        lr: The optimiser's learning rate, which ``lr_factor`` multiplies.
        options: The options that the optimiser takes beside the rate; None for any.

    Returns:
        What an optimiser of `torch.optim` takes as its first argument: dictionaries of
        ``params``, a list, and the options that are the group's own. ``lr_factor`` has
        become ``lr``.

    Raises:
        ArgumentError: A pattern matches no parameter, an option is unknown, or a rate
            is wrong.
        TrainingError: No parameter can be trained.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        >>> made = make_param_groups(model, groups={"1.*": {"lr_factor": 10}}, lr=0.01)
        >>> [(len(group["params"]), group.get("lr")) for group in made]
        [(2, None), (2, 0.1)]
    """
    rules = _read_rules(groups, lr, options)
    names = _names_of_parameters(model)
    _check_patterns(rules, names)
    exempt = set() if decay_biases_and_norms else _exempt_parameters(model, names)
    made: list[dict[str, Any]] = []
    for param, own_names in names.items():
        if param.requires_grad:
            own = {"weight_decay": 0.0} if param in exempt else {}
            _add_to_group(made, param, own | _merge_options(rules, own_names))
    if not made:
        raise TrainingError(
            "model must have a parameter with requires_grad; it has none to train."
        )
    return made


def _read_rules(
    groups: Mapping[str, Mapping[str, Any]] | None,
    lr: float | None,
    options: Collection[str] | None,
) -> dict[str, dict[str, Any]]:
    if groups is None:
        return {}
    if not isinstance(groups, Mapping):
        raise ArgumentError(
            f"param_groups must map patterns to options; got {groups!r}. "
            "Write {'head.*': {'lr_factor': 10}}."
        )
    rules = {}
    for pattern, given in groups.items():
        where = f"param_groups[{pattern!r}]"
        if not isinstance(pattern, str) or not isinstance(given, Mapping):
            raise ArgumentError(
                f"{where} must map a pattern to options; got {given!r}. "
                "Write {'head.*': {'lr_factor': 10}}."
            )
        _check_option_names(where, given, options)
        rules[pattern] = _read_options(where, given, lr)
    return rules


def _check_option_names(
    where: str, given: Mapping[str, Any], options: Collection[str] | None
) -> None:
    if "params" in given:
        raise ArgumentError(
            f"{where} must leave out 'params'; got one. The pattern says which they "
            "are."
        )
    if options is not None:
        known = ("lr", "lr_factor", *options)
        for key in given:
            if key not in known:
                raise unknown_choice(f"an option of {where}", key, known)
    if "lr" in given and "lr_factor" in given:
        raise ArgumentError(
            f"{where} must have lr or lr_factor; got both. lr_factor is a multiple of "
            "the optimiser's lr: leave one out."
        )


def _read_options(
    where: str, given: Mapping[str, Any], lr: float | None
) -> dict[str, Any]:
    """Return a pattern's options as torch takes them."""
    read = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    if "lr" in read:
        read["lr"] = check_lr(read["lr"], name=f"lr of {where}")
    if "lr_factor" in read:
        factor = _check_factor(where, read.pop("lr_factor"))
        if lr is None:
            raise ArgumentError(
                f"lr must be given beside the lr_factor of {where}; got None. The "
                "factor multiplies it."
            )
        read["lr"] = check_lr(lr * factor, name=f"lr times the lr_factor of {where}")
    return read


def _check_factor(where: str, factor: Any) -> float:
    is_number = isinstance(factor, Real) and not isinstance(factor, bool)
    if not (is_number and math.isfinite(factor) and factor > 0):
        raise ArgumentError(
            f"lr_factor of {where} must be a finite number above 0; got {factor!r}. "
            "To keep parameters as they are, set their requires_grad to False."
        )
    return float(factor)


def _names_of_parameters(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    names: dict[nn.Parameter, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        names.setdefault(param, []).append(name)
    return names


def _check_patterns(
    rules: Mapping[str, Any], names: Mapping[nn.Parameter, list[str]]
) -> None:
    every = [name for own in names.values() for name in own]
    for pattern in rules:
        if not any(fnmatchcase(name, pattern) for name in every):
            shown = ", ".join(every[:_NUM_NAMES_SHOWN])
            more = ", …" if len(every) > _NUM_NAMES_SHOWN else ""
            raise ArgumentError(
                f"param_groups must have patterns that match parameters; got "
                f"{pattern!r}, which matches none of {len(every)}: {shown}{more}. "
                "A pattern must match a whole name: write 'head.*', not 'head'."
            )


def _exempt_parameters(
    model: nn.Module, names: Mapping[nn.Parameter, list[str]]
) -> set[nn.Parameter]:
    biases = {p for p, own in names.items() if any(_is_bias(name) for name in own)}
    norms = {
        param
        for module in model.modules()
        if any("Norm" in kind.__name__ for kind in type(module).__mro__)
        for param in module.parameters(recurse=False)
    }
    return biases | norms


def _is_bias(name: str) -> bool:
    """Say whether a name is a bias's: ``in_proj_bias``, and an RNN's ``bias_hh_l0``."""
    own = name.rpartition(".")[2]
    return own.endswith("bias") or own.startswith("bias_")


def _merge_options(
    rules: Mapping[str, Mapping[str, Any]], names: Collection[str]
) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for pattern, given in rules.items():
        if any(fnmatchcase(name, pattern) for name in names):
            merged |= given
    return merged


def _add_to_group(
    groups: list[dict[str, Any]], param: nn.Parameter, options: dict[str, Any]
) -> None:
    for group in groups:
        if {k: v for k, v in group.items() if k != "params"} == options:
            group["params"].append(param)
            return
    groups.append({"params": [param], **options})
