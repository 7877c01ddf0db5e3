"""What a step depends on in Python is seen, and seen to change."""

from __future__ import annotations

import collections
import functools
import gc
import itertools
import random
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handful.train.model_guard import (
    Snapshot,
    effects_noticed,
    has_hooks,
    why_not_recordable,
)


class Counter:
    """An object without a dictionary."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Tally:
    """A class that counts."""

    count = 0


TOTAL = {"count": 0}
NUMBER = 0


class Net(nn.Module):
    """A model with everything that may change beside its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.count = 0
        self.counts: list[Any] = [0, {"a": [1]}]
        self.queue = collections.deque([1], maxlen=2)
        self.names = {"a"}
        self.counter = Counter()
        self.config = types.SimpleNamespace(rate=0.5)
        self.array = np.zeros(3)
        self.drawn = random.Random(1)
        self.generator = np.random.default_rng(1)
        self.old = np.random.RandomState(1)
        self.torch_generator = torch.Generator()
        self.scale = torch.ones(3)
        self.call = functools.partial(scaled, cache={})
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor, cache: list[int] = []) -> Tensor:  # noqa: B006
        cache.append(1) if len(cache) > 1 else None
        return self.layer(x) * TOTAL["count"] * Tally.count * NUMBER  # type: ignore[no-any-return]


def scaled(x: Tensor, cache: dict[str, Tensor]) -> Tensor:
    return x * len(cache)


def bump_global(_: Net) -> None:
    global NUMBER
    NUMBER += 1


def bump_class(_: Net) -> None:
    Tally.count += 1


def move(net: Net) -> None:
    net.layer.weight.data = net.layer.weight.data.clone()


CHANGES: dict[str, Callable[[Net], Any]] = {
    "a number": lambda net: setattr(net, "count", 1),
    "a number's type": lambda net: setattr(net, "count", False),
    "a new attribute": lambda net: setattr(net, "other", 1),
    "an item": lambda net: net.counts.__setitem__(0, 1),
    "an item within": lambda net: net.counts[1]["a"].append(2),
    "a queue": lambda net: net.queue.append(2),
    "a set": lambda net: net.names.add("b"),
    "a slot": lambda net: setattr(net.counter, "count", 1),
    "a namespace": lambda net: setattr(net.config, "rate", 1.0),
    "an array": lambda net: net.array.__setitem__(0, 1.0),
    "Python's generator": lambda net: net.drawn.random(),
    "NumPy's generator": lambda net: net.generator.random(),
    "NumPy's old generator": lambda net: net.old.rand(),
    "torch's generator": lambda net: torch.rand(1, generator=net.torch_generator),
    "a tensor replaced": lambda net: setattr(net, "scale", torch.ones(3)),
    "a cache of a partial": lambda net: net.call.keywords["cache"].update(a=1),
    "a default": lambda net: type(net).forward.__defaults__[0].append(1),  # type: ignore[index]
    "a global": lambda net: TOTAL.update(count=TOTAL["count"] + 1),
    "a number of the file": bump_global,
    "a class": bump_class,
    "a mode": lambda net: net.layer.eval(),
    "a weight that moved": move,
    "a frozen weight": lambda net: net.layer.weight.requires_grad_(False),
    "a weight's hook": lambda net: net.layer.weight.register_hook(lambda g: g),
    "a hook": lambda net: net.layer.register_forward_hook(lambda *_: None),
    "a buffer replaced": lambda net: setattr(net, "seen", torch.zeros(3)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen(name: str) -> None:
    net = Net()
    snapshot = Snapshot([net], net.parameters())
    assert not snapshot.has_changed()
    CHANGES[name](net)
    assert snapshot.has_changed()


def test_numbers_in_tensors_are_no_change() -> None:
    net = Net()
    snapshot = Snapshot([net], net.parameters())
    with torch.no_grad():
        net.layer.weight.add_(1)
        net.seen.add_(1)
    assert not snapshot.has_changed()


def test_variables_of_a_closure_are_looked_at() -> None:
    count = 0

    def loss(output: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return output * count

    snapshot = Snapshot([loss], [])
    loss(torch.ones(1))
    assert snapshot.has_changed()


@pytest.mark.parametrize("setting", ["deterministic", "dtype", "anomaly"])
def test_settings_of_torch_are_looked_at(setting: str) -> None:
    snapshot = Snapshot([nn.Linear(2, 2)], [])
    try:
        if setting == "deterministic":
            torch.use_deterministic_algorithms(mode=True)
        elif setting == "dtype":
            torch.set_default_dtype(torch.float64)
        else:
            torch.autograd.set_detect_anomaly(mode=True)
        assert snapshot.has_changed()
    finally:
        torch.use_deterministic_algorithms(mode=False)
        torch.set_default_dtype(torch.float32)
        torch.autograd.set_detect_anomaly(mode=False)


def test_writes_are_counted_but_for_buffers() -> None:
    net, batch = Net(), torch.zeros(2)
    snapshot = Snapshot([net], net.parameters())
    before = snapshot.versions([batch])
    net.seen.add_(1)
    assert snapshot.versions([batch]) == before
    for write in (net.scale.add_, batch.add_):
        before = snapshot.versions([batch])
        write(1)
        assert snapshot.versions([batch]) != before


def test_an_iterator_and_compiled_code_are_reasons() -> None:
    net = Net()
    net.ids = itertools.count()
    assert Snapshot([net], []).reason == (
        "it may go on with an iterator from step to step"
    )
    net.ids = torch.compile(torch.relu, backend="eager")
    assert Snapshot([net], []).reason == "it may call compiled code"
    net.ids = torch.compiler.disable(scaled)
    assert Snapshot([net], []).reason is None


def test_what_can_be_recorded_has_no_reason_against_it() -> None:
    net = Net()
    assert why_not_recordable(net) is None
    assert not has_hooks(net)


def test_hooks_are_reasons() -> None:
    net = Net()
    handle = net.layer.weight.register_post_accumulate_grad_hook(lambda _: None)
    assert why_not_recordable(net) == "a parameter has hooks"
    handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert why_not_recordable(net) == "there are hooks for all modules"
    finally:
        handle.remove()
    net.layer.register_full_backward_hook(lambda *_: None)
    assert why_not_recordable(net) == "the model has hooks or is compiled"


def collect() -> None:
    """Do what a collection of garbage does in the middle of a step."""
    nodes = [[i] for i in range(2000)]
    for node in nodes:
        node.append(node)  # type: ignore[arg-type]


def test_what_a_collection_of_garbage_calls_is_not_the_steps() -> None:
    def report(phase: str, info: Any) -> None:
        time.perf_counter()

    found: list[str] = []
    gc.callbacks.append(report)
    try:
        with effects_noticed(found):
            for _ in range(5):
                collect()
    finally:
        gc.callbacks.remove(report)
    assert found == []
    assert gc.isenabled()


def draw() -> None:
    random.random()


def draw_by_numpy() -> None:
    np.random.rand()


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (functools.partial(print, end=""), ["print"]),
        (time.perf_counter, ["perf_counter"]),
        (draw, ["random or numpy.random"]),
        (draw_by_numpy, ["random or numpy.random"]),
        (lambda: torch.ones(2) + 1, []),
    ],
)
def test_calls_with_effects_are_noted(
    call: Callable[[], Any], names: list[str]
) -> None:
    def run() -> None:
        if isinstance(call, functools.partial):
            print(end="")  # noqa: T201 - what is looked for
        else:
            call()

    found: list[str] = []
    with effects_noticed(found):
        if call is time.perf_counter:
            time.perf_counter()
        run()
    assert found[:1] == names
