"""The parsers of settings: configuration files, and values of the command line."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fuzzing.mutations import mutate_bytes, mutate_words
from fuzzing.parser import Parser
from handful.cli.config import read_config
from handful.cli.settings import (
    check_device,
    check_loss,
    check_optimizer,
    check_schedule,
    normalize_recipe,
)
from handful.cli.train_flags import split_names
from handful.recipes.own_data import OwnData, parse_own_data
from handful.studies.axes import check_vary, split_vary
from handful.studies.budget import parse_budget, parse_target
from handful.train.choices import (
    LOSSES,
    OPTIMIZERS,
    SCHEDULES,
    check_batch_size,
    check_epochs,
    check_lr,
    check_seed,
)
from handful.train.options import OPTIONS, check_metrics

_CONFIGS = (
    b"recipe: wine\nepochs: 5\nbatch_size: full\nlr: 1e-2\nseed: 7\n",
    b"optimizer: {name: sgd, momentum: 0.9}\nschedule: 'step:step_size=3'\n",
    b"early_stopping: {patience: 5, min_delta: 0.01}\nmetrics: [accuracy]\n",
    b"param_groups: {'0.*': {lr_factor: 0.5}}\nnum_threads: auto\nema: 0.9\n",
    b"data: {fingerprint: abc, schema: {columns: [{name: a}]}}\nloss: mse\n",
    b"format: 1\nmonitor: valid_loss\nclip_norm: 1.0\n# end\ntarget: 1\n",
)


def _config_seeds(_: Path) -> list[bytes]:
    return list(_CONFIGS)


def _read_config(folder: Path, data: bytes) -> None:
    path = folder / "c.yaml"
    path.write_bytes(data)
    read_config(path)


def _vary(text: str) -> Any:
    name, values = split_vary(text)
    return check_vary({name: values})


def _number(check: Callable[..., Any]) -> Callable[[str], Any]:
    return lambda text: check(text, name="--flag")


def _option(name: str) -> Callable[[str], Any]:
    is_list = name == "train_metrics"
    return lambda text: OPTIONS[name].check(
        split_names(text) if is_list else text, name=name
    )


CHECKS: tuple[Callable[[str], Any], ...] = (
    *(check_optimizer, check_optimizer, check_schedule, check_schedule, check_loss),
    *(_vary, _vary, _vary, parse_budget, parse_target, parse_own_data, check_device),
    *(normalize_recipe, lambda text: OwnData(text, "y").recipe),
    *map(_number, (check_batch_size, check_epochs, check_lr, check_seed)),
    lambda text: check_metrics(split_names(text), name="--metrics"),
    *(_option(name) for name, option in OPTIONS.items() if not option.is_code),
)
"""What reads a value of a flag."""

_VALUES = (
    *("sgd:momentum=0.9,nesterov=true", "adam:betas=0.9;0.99", "adafactor:eps=none;1"),
    *("step:step_size=10", "cosine:warmup=500,unit=step", "multistep:milestones=2;4"),
    *("plateau:patience=3,factor=0.5", "one_cycle:pct_start=0.3", "huber:delta=1.5"),
    *("cross_entropy:weight=1;2", "batch-size=1,10,full", "lr=0.1,1e-3"),
    *("optimizer=adam,sgd:momentum=0.9,nesterov=true", "backend=numpy,torch"),
    *("20epochs", "5000steps", "1e6samples", "60s", "valid_loss<=0.3"),
    *("data:a.csv:y", "cuda:1", "./mine.py:net", "full", "12", "0.001", "accuracy,f1"),
)


def _value_seeds(_: Path) -> list[bytes]:
    return [
        bytes([place]) + text.encode()
        for text in _VALUES
        for place in range(len(CHECKS))
    ]


_WORDS = tuple(
    word.encode()
    for word in (
        *LOSSES,
        *OPTIMIZERS,
        *SCHEDULES,
        *{arg for _, args in OPTIMIZERS.values() for arg in args},
        *{arg for args in SCHEDULES.values() for arg in args},
        *(":", ":", ",", "=", "=", ";", "-", ".", " ", "e", "none", "true", "full"),
        *(
            "0",
            "1",
            "-1",
            "1e999",
            "nan",
            "inf",
            "9" * 400,
            "9" * 5000,
            "0.5",
            "1e-400",
        ),
        *("epochs", "steps", "s", "<=", ">=", "batch_size", "lr", "data:", "é", "\0"),
    )
)


def _mutate_value(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[:1] + mutate_words(rng, data[1:], _WORDS)


def _read_value(_: Path, data: bytes) -> None:
    """Check a value; its first byte says whose."""
    place = data[0] if data else 0
    CHECKS[place % len(CHECKS)](data[1:].decode("utf-8", "surrogateescape"))


PARSERS = (
    Parser(
        name="config",
        what="configuration files (`--config`)",
        make_seeds=_config_seeds,
        read=_read_config,
        mutate=mutate_bytes,
    ),
    Parser(
        name="values",
        what="values of flags, budgets, targets and axes",
        make_seeds=_value_seeds,
        read=_read_value,
        mutate=_mutate_value,
    ),
)
"""Those that read settings."""
