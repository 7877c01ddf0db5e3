"""What is private to PyTorch is found, or done without, to the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data._utils.pin_memory import pin_memory

from handful import torch_private as private
from handful.data.one_process import OneProcessIterator
from handful.data.pinning import pin_batch
from handful.data.torch_path import SingleProcessIterator
from handful.train.backward import make_backward
from handful.train.kernels import FusedUpdate, make_update
from handful.train.nonfinite import StepGuard

FINDERS = {
    "backward": private.find_backward,
    "kernels": lambda: private.find_kernel("adam"),
    "finite": private.find_finite_check,
    "recording": private.find_recorder,
    "loader": private.find_single_iterator,
}

PROGRAM = """
import hashlib, sys, warnings
import torch
from torch import nn
from handful import DataLoader, Trainer

class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 22
    def __getitem__(self, index):
        return torch.rand(4) + index, torch.tensor(index % 3)

found = hashlib.sha256()
def add(values):
    for value in values:
        found.update(value.detach().numpy().tobytes())

if __name__ == "__main__":
    for options in (
        {"optimizer": "adam", "engine": "captured", "clip_norm": 1.0},
        {"optimizer": "sgd", "engine": "eager", "on_nonfinite": "skip"},
    ):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
        model.append(nn.Linear(8, 3))
        x, y = torch.randn(40, 4), torch.randint(3, (40,))
        x[7, 0] = torch.nan if "on_nonfinite" in options else 0.0
        loader = DataLoader((x, y), 8, shuffle=True, seed=3)
        trainer = Trainer(
            model, loss="cross_entropy", progress="off", num_threads=1, **options
        )
        with warnings.catch_warnings(record=True):
            trainer.fit(loader, epochs=4)
        add(model.state_dict().values())
    for workers in (0, 2):
        for seed in (None, 5):
            torch.manual_seed(2)
            def make():
                return DataLoader(
                    Numbers(), 4, shuffle=True, seed=seed, num_workers=workers
                )
            loader = make()
            iterator = iter(loader)
            add([batch[0] for batch in [next(iterator), next(iterator)]])
            state = loader.state_dict()
            add([batch[0] for batch in iterator])
            loader = make()
            loader.load_state_dict(state)
            add([torch.cat([batch[1].float() for batch in loader])])
            add([torch.get_rng_state()])
    print(found.hexdigest())
"""


def is_there(part: str) -> bool:
    """Say whether this PyTorch has a part, as far as the pinned one decides."""
    return FINDERS[part]() is not None


@pytest.mark.parametrize("part", FINDERS)
@pytest.mark.parametrize("named", ["off", "{}", "tree, {}"])
def test_a_part_is_not_used_where_the_environment_says_so(
    part: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_there(part)
    monkeypatch.setenv(private.VARIABLE, named.format(part))
    assert not is_there(part)
    monkeypatch.setenv(private.VARIABLE, "something else")
    assert is_there(part)


def run_program(value: str, folder: Any) -> str:
    """Run the program in a fresh process, and return what it says."""
    path = folder / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, private.VARIABLE: value, "HANDFUL_PLAYER": "off"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_weights_batches_and_draws_are_the_same_by_the_public_ways(
    tmp_path: Any,
) -> None:
    assert run_program("", tmp_path) == run_program("off", tmp_path)


def test_the_public_way_back_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = torch.ones((), requires_grad=True)
    assert make_backward(loss) is not torch.autograd.backward
    monkeypatch.setenv(private.VARIABLE, "backward")
    assert make_backward(loss) is torch.autograd.backward


def test_the_optimizers_own_step_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.Adam([weight], fused=True)
    weight.grad = torch.ones(3)
    optimizer.step()
    assert isinstance(make_update(optimizer), FusedUpdate)
    monkeypatch.setenv(private.VARIABLE, "kernels")
    assert make_update(optimizer) == optimizer.step


@pytest.mark.parametrize("value", [1.0, torch.nan, -torch.inf])
def test_numbers_that_are_not_finite_are_found_either_way(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = nn.Linear(2, 2)
    layer.weight.grad = torch.tensor([[0.5, -0.0], [value, 1e30]])
    layer.bias.grad = torch.zeros(2)
    for named in ("", "finite"):
        monkeypatch.setenv(private.VARIABLE, named)
        guard = StepGuard(layer, torch.optim.SGD(layer.parameters()))
        assert guard.allows(torch.tensor(1.0), 4) == (value == 1.0)


def test_a_look_at_the_parts_moves_no_generator() -> None:
    code = (
        "import torch; before = torch.get_rng_state();"
        "from handful import torch_private as p;"
        "p.find_backward(), p.find_kernel('adam'), p.find_finite_check();"
        "p.find_recorder(), p.find_single_iterator(), p.find_worker_parts();"
        "assert torch.equal(before, torch.get_rng_state());"
        "assert not any(p.read_global_hooks())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_own_iterator_stands_behind_pytorchs() -> None:
    assert not issubclass(SingleProcessIterator, OneProcessIterator)
    code = (
        "from handful.data.torch_path import SingleProcessIterator as S;"
        "from handful.data.one_process import OneProcessIterator as O;"
        "assert issubclass(S, O)"
    )
    environ = {**os.environ, private.VARIABLE: "loader"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environ, timeout=60)


class Pinned:
    """Says that it was pinned."""

    def __init__(self) -> None:
        self.is_pinned = False

    def pin_memory(self) -> Pinned:
        made = Pinned()
        made.is_pinned = True
        return made


Pair = namedtuple("Pair", ["first", "second"])


def describe(value: Any) -> Any:
    """Return containers with what their leaves are."""
    if isinstance(value, Pinned):
        return value.is_pinned
    if isinstance(value, dict):
        return type(value), {key: describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [describe(item) for item in value]
    return type(value), value


@pytest.mark.parametrize(
    "batch",
    [
        Pinned(),
        [Pinned(), Pinned()],
        (Pinned(), "text", 3),
        Pair(Pinned(), b"bytes"),
        {"a": Pinned(), "b": [Pinned()]},
        OrderedDict(a=(Pinned(),)),
        range(3),
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_batches_are_pinned_in_containers_as_pytorch_does(batch: Any) -> None:
    assert describe(pin_batch(batch)) == describe(pin_memory(batch))


def test_leaves_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"b": (1, [2, None]), "a": OrderedDict(z=3)}
    there = private.leaves_of(value)
    monkeypatch.setenv(private.VARIABLE, "tree")
    assert private.leaves_of(value) == there


def test_hooks_are_seen_wherever_they_are() -> None:
    weight, seen = torch.ones(1, requires_grad=True), list[Tensor]()
    assert not private.has_tensor_hooks(weight)
    weight.register_hook(seen.append)
    assert private.has_tensor_hooks(weight)
