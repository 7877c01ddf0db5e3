"""The jobs of the training benchmark: each is one training in a process of its own.

A job first imports what its side needs and notes how long that took since its process
was started. It then reads the data and builds loader, model and trainer (preparation),
and trains. This file imports no package at its head, so that each side imports its own.
"""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from measure import answer

CHECKOUT = Path(__file__).resolve().parent.parent
TORCH = ("torch", "torch.optim", "torch._dynamo")
"""What a training in PyTorch needs; the first optimiser would import the last."""
NOT_INSTALLED = "not installed"
HANDFUL = (*TORCH, "handful:DataLoader", "handful:Trainer")


@dataclass(frozen=True)
class Kind:
    """A way to train.

    Attributes:
        label: How tables call it.
        prepare: Where its function is, ``module:name``.
        modules: What it imports, ``module`` or ``module:name``, timed.
        package: Whose version is stated, if it is another library.
        variables: Environment variables that it is started with.
        is_pinned: Whether only pinning it to a core keeps it to one thread.
        chooses_threads: Whether it chooses its number of threads by itself.
    """

    label: str
    prepare: str
    modules: tuple[str, ...] = TORCH
    package: str | None = None
    variables: tuple[tuple[str, str], ...] = ()
    is_pinned: bool = False
    chooses_threads: bool = False


def _keras(label: str, backend: str) -> Kind:
    variables = (("KERAS_BACKEND", backend),)
    modules = ("keras", "jax") if backend == "jax" else (*TORCH, "keras")
    prepare = "training_peers:prepare_keras"
    return Kind(label, prepare, modules, "keras", variables, backend == "jax")


def _peer(label: str, function: str, module: str, package: str) -> Kind:
    return Kind(label, f"training_peers:{function}", (*TORCH, module), package)


def _jax(label: str, function: str) -> Kind:
    function = f"training_jax:{function}"
    return Kind(label, function, ("jax", "jax.numpy"), "jax", is_pinned=True)


def _handful(label: str, function: str) -> Kind:
    function = f"training_loops:{function}"
    return Kind(label, function, HANDFUL, chooses_threads=True)


OURS = {
    "everything": _handful("handful", "prepare_everything"),
    "no-folder": _handful("handful, no run folder", "prepare_without_folder"),
    "off": _handful("handful, everything off", "prepare_off"),
    "population": Kind(
        "handful, 16 rates compared",
        "training_loops:prepare_population",
        (*HANDFUL, "handful:compare", "torch.func"),
        chooses_threads=True,
    ),
}
LOOPS = {
    "by-hand": Kind("the loop by hand", "training_loops:prepare_by_hand"),
    "images": Kind("the loop, PIL images", "training_loops:prepare_images"),
    "slices": Kind(
        "the loop over `X[perm[i:i + b]]`, no loader", "training_loops:prepare_slices"
    ),
}
PEERS = {
    "lightning": _peer(
        "Lightning, lean", "prepare_lightning", "lightning", "lightning"
    ),
    "lightning-default": _peer(
        "Lightning, as it comes", "prepare_lightning_default", "lightning", "lightning"
    ),
    "accelerate": _peer("Accelerate", "prepare_accelerate", "accelerate", "accelerate"),
    "skorch": _peer("skorch", "prepare_skorch", "skorch", "skorch"),
    "ignite": _peer("Ignite", "prepare_ignite", "ignite.engine", "pytorch-ignite"),
    "keras-torch": _keras("Keras on PyTorch", "torch"),
    "keras-jax": _keras("Keras on JAX", "jax"),
    "jax-step": _jax("JAX, `jit` per step", "prepare_jax_steps"),
    "jax-scan": _jax("JAX, `lax.scan` per epoch", "prepare_jax_scan"),
}
KINDS = {**OURS, **LOOPS, **PEERS}


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """Import, prepare and train as a specification says; time each.

    Args:
        spec: ``kind`` is a key of `KINDS`, ``started`` the time at which the process
            was started, in seconds since 1970; the rest is for
            `training_loops.read_work`.

    Returns:
        Seconds of each part, the final loss and accuracy, the threads used.
    """
    kind = KINDS[spec["kind"]]
    os.environ.update(kind.variables)
    if kind.is_pinned:
        _pin(spec["threads"])
    for name in kind.modules:
        _import(name)
    imports = time.time() - spec["started"]
    # Not counted: the readers of the data and this benchmark's own code.
    loops = importlib.import_module("training_loops")
    prepare = _import(kind.prepare)
    loops.set_up_torch(spec["threads"], spec["seed"])
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        began = time.perf_counter()
        fit = prepare(loops.read_work(spec, Path(folder)))
        prepared = time.perf_counter()
        outcome = fit()
        training = time.perf_counter() - prepared
        if spec.get("is_steady"):
            training = _measure_steps(spec, prepare, training, Path(folder, "more"))
    return {
        "imports": round(imports, 4),
        "preparation": round(prepared - began, 5),
        "training": round(training, 5),
        "threads": spec["threads"],
        **outcome,
    }


def _measure_steps(
    spec: dict[str, Any], prepare: Any, seconds: float, folder: Path
) -> float:
    """Return the seconds of 1,000 steps: of what a longer training takes longer.

    Args:
        spec: As for `train`.
        prepare: Prepares a training.
        seconds: What the training took that is asked for.
        folder: Where files may be written.
    """
    loops = importlib.import_module("training_loops")
    folder.mkdir()
    work = loops.read_work({**spec, "epochs": 4 * spec["epochs"]}, folder)
    fit = prepare(work)
    began = time.perf_counter()
    fit()
    longer = time.perf_counter() - began
    steps = 3 * spec["epochs"] * -(-len(work.train[1]) // work.batch_size)
    return (longer - seconds) / steps * 1000


def check_data(spec: dict[str, Any]) -> dict[str, Any]:
    """Read the data and say how many samples there are."""
    loops = importlib.import_module("training_loops")
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        work = loops.read_work(spec, Path(folder))
    num_valid = 0 if work.valid is None else len(work.valid[1])
    return {"train_samples": len(work.train[1]), "valid_samples": num_valid}


def probe(_spec: dict[str, Any]) -> dict[str, Any]:
    """Say which versions there are, and why a peer cannot take part."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "handful", *(p.package for p in PEERS.values())):
        try:
            versions[str(package)] = metadata.version(str(package))
        except metadata.PackageNotFoundError:
            continue
    missing = {}
    for name, kind in PEERS.items():
        absent = [m for m in kind.modules if util.find_spec(m.split(".")[0]) is None]
        if absent:
            missing[name] = NOT_INSTALLED
    return {"versions": versions, "missing": missing}


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


def _pin(threads: int) -> None:
    """Keep this process to as many cores as it may have threads."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:threads])


TASKS = {"train": train, "check": check_data, "probe": probe}


def do_task(spec: dict[str, Any]) -> dict[str, Any]:
    """Do the task that a specification names."""
    data = CHECKOUT / ".data"
    if data.is_dir():
        os.environ.setdefault("HANDFUL_DATA", str(data))
    return TASKS[spec["task"]](spec)


if __name__ == "__main__":
    answer(do_task)
