"""The parts of PyTorch that are private to it: all of them stand here.

Everything else of handful calls what PyTorch documents. Each part is looked for when it
is first wanted: its signature is read, it is called on a few numbers, and what it does
is compared with the public way. Where it is missing or does something else, None is
returned in its place, and who asked goes the public way, to the same numbers:

============ ============================================ ===========================
part         what it is                                   the public way
============ ============================================ ===========================
backward     autograd's engine                            `torch.autograd.backward`
kernels      the optimisers' fused kernels                ``optimizer.step``
finite       the gradient scaler's look at all gradients  a look at each
recording    how operations, memory and hooks are seen    steps that aren't replayed
tree         values in the containers that it knows       lists, tuples, mappings
loader       the iterators of PyTorch's loader            its loader, wrapped
============ ============================================ ===========================

The environment variable ``HANDFUL_TORCH_PRIVATE`` names parts that are not to be used,
separated by commas; ``off`` stands for all of them.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import profiler
from torch.nn.modules import module as _modules

VARIABLE = "HANDFUL_TORCH_PRIVATE"
PARTS = ("backward", "kernels", "finite", "recording", "tree", "loader")

_FAILURES = (AttributeError, ImportError, TypeError, RuntimeError, ValueError)
_GLOBAL_HOOKS = (
    *("_global_forward_hooks", "_global_forward_pre_hooks"),
    *("_global_backward_hooks", "_global_backward_pre_hooks"),
)
_MODULE_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks"),
    *("_backward_hooks", "_backward_pre_hooks"),
)
_ALL_STEP_HOOKS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")


def is_off(part: str) -> bool:
    """Say whether a part is not to be used, by ``HANDFUL_TORCH_PRIVATE``."""
    named = os.environ.get(VARIABLE, "").replace(" ", "").split(",")
    return "off" in named or part in named


def find_backward() -> Callable[[Tensor, Tensor], Any] | None:
    """Return what goes backward from a loss, given it and a 1 of its kind.

    It adds gradients to the parameters' ``grad`` as `torch.autograd.backward` does,
    without the Python around it.
    """
    return None if is_off("backward") else _probe_backward()


def find_kernel(name: str) -> Callable[..., Any] | None:
    """Return a fused kernel: ``sgd``, ``adagrad``, ``adam`` or ``adamw``.

    Who asks compares its steps with the optimiser's own.
    """
    found = getattr(torch, f"_fused_{name}_", None)
    return None if is_off("kernels") or not _probe_step_hooks() else found


def has_step_hooks(optimizer: Any) -> bool:
    """Say whether functions of somebody's are called around an optimiser's step."""
    try:
        return bool(
            optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        )
    except AttributeError:
        return True


def has_hooks_of_all_steps() -> bool:
    """Say whether functions are called around the steps of all optimisers."""
    module = importlib.import_module("torch.optim.optimizer")
    return any(getattr(module, name, True) for name in _ALL_STEP_HOOKS)


def find_finite_check() -> Callable[[list[Tensor], Tensor, Tensor], Any] | None:
    """Return what looks at many tensors at once.

    It sets its second argument to 1 where any number is not finite, and multiplies all
    of them by the third, which is 1.
    """
    return None if is_off("finite") else _probe_finite_check()


@dataclass(frozen=True)
class Recorder:
    """How operations are seen.

    Attributes:
        mode: The base of modes that are shown each operation below autograd.
        watch: A weak reference to memory, which tells when it is free.
        count_modes: Counts the modes of this thread.
    """

    mode: Any
    watch: Any
    count_modes: Callable[[], int]


def find_recorder() -> Recorder | None:
    """Return how operations are seen; None where that, or a hook, can't be."""
    return None if is_off("recording") else _probe_recorder()


def has_module_hooks(module: nn.Module) -> bool:
    """Say whether calling a module calls functions of somebody's."""
    return any(getattr(module, name, None) for name in _MODULE_HOOKS)


def read_global_hooks() -> list[bool]:
    """Return, for each kind of hooks of all modules, whether there are any."""
    return [bool(getattr(_modules, name, None)) for name in _GLOBAL_HOOKS]


def has_tensor_hooks(tensor: Tensor) -> bool:
    """Say whether a gradient of a tensor's is shown to somebody."""
    return bool(tensor._backward_hooks) or bool(
        tensor.is_leaf and getattr(tensor, "_post_accumulate_grad_hooks", None)
    )


def leaves_of(value: Any) -> list[Any]:
    """Return the values in lists, tuples, mappings and PyTorch's further kinds."""
    return _walk(value) if is_off("tree") else _probe_tree()(value)


def schema_of(function: Any) -> Any:
    """Return the schema of an operation, an overload of ``torch.ops``."""
    return function._schema


def without_python(function: Any) -> Callable[..., Any]:
    """Return an operation without the Python before it, where that can be had."""
    return getattr(function, "_op", function)  # type: ignore[no-any-return]


def is_profiled() -> bool:
    """Say whether a profiler of PyTorch's is on; yes where nobody can tell."""
    return bool(getattr(profiler, "_is_profiler_enabled", True))


def note_stepped(optimizer: Any) -> None:
    """Let PyTorch's schedulers know that an optimiser has done steps.

    They only look at it to warn of a wrong order.
    """
    optimizer._opt_called = True


@dataclass(frozen=True)
class WorkerParts:
    """What PyTorch's loader is made of, for worker processes.

    Attributes:
        iterator: The iterator over batches of workers, to be derived from.
        resume: The class of what stands for a new pass in the queues.
        no_batches: The classes of what comes in place of a batch.
        wrap_error: Makes an error that is sent to the main process, while one is
            handled.
        seconds: How long the iterator waits before it looks at its workers.
    """

    iterator: Any
    resume: Any
    no_batches: tuple[Any, ...]
    wrap_error: Callable[..., Any]
    seconds: float


def find_single_iterator() -> Any:
    """Return the class of PyTorch's iterator of one process, to be derived from."""
    return None if is_off("loader") else _probe_single_iterator()


def find_worker_parts() -> WorkerParts | None:
    """Return what PyTorch's loader is made of, for worker processes."""
    return None if is_off("loader") else _probe_worker_parts()


def length_said(loader: Any) -> int | None:
    """Return the length that a loader over an iterable data set last said."""
    return getattr(loader, "_IterableDataset_len_called", None)


@functools.cache
def _probe_backward() -> Callable[[Tensor, Tensor], Any] | None:
    """Compare the engine's gradients with those of the public way."""
    grads = []
    try:
        variable: Any = torch.autograd.Variable
        run = variable._execution_engine.run_backward

        def go_backward(loss: Tensor, one: Tensor) -> None:
            run((loss,), (one,), False, False, (), True, True)

        for backward in (torch.autograd.backward, go_backward):
            weight = torch.linspace(-1, 1, 6).reshape(2, 3).requires_grad_()
            values = torch.linspace(0, 1, 8).reshape(4, 2)
            loss = (values @ weight).square().mean()
            backward(loss, torch.ones_like(loss.detach()))
            grads.append(weight.grad)
    except _FAILURES:
        return None
    ours, theirs = grads
    is_same = ours is not None and theirs is not None and torch.equal(ours, theirs)
    return go_backward if is_same else None


@functools.cache
def _probe_step_hooks() -> bool:
    """Say whether hooks of an optimiser are seen: without them, and with each."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)

    def look(*_: Any) -> None:
        """Do nothing."""

    if has_step_hooks(optimizer):
        return False
    for register in (
        optimizer.register_step_pre_hook,
        optimizer.register_step_post_hook,
    ):
        with _registered(register, look):
            if not has_step_hooks(optimizer):
                return False
    return True


@functools.cache
def _probe_finite_check() -> Callable[[list[Tensor], Tensor, Tensor], Any] | None:
    """Try the call: it must find NaN and Inf, and leave all else alone."""
    check = getattr(torch, "_amp_foreach_non_finite_check_and_unscale_", None)
    values = torch.tensor([1.5, -0.0, 1e-45, 3e38])
    bad = (torch.tensor([0.0, torch.nan]), torch.tensor(-torch.inf))
    one, seen = torch.ones(1), []
    if check is None:
        return None
    try:
        for last in (torch.tensor(1.0), *bad):
            found, given = torch.zeros(1), values.clone()
            check([given, last], found, one)
            if not torch.equal(given.view(torch.int32), values.view(torch.int32)):
                return None
            seen.append(found.item())
    except _FAILURES:
        return None
    return check if seen == [0.0, 1.0, 1.0] else None


@functools.cache
def _probe_recorder() -> Recorder | None:
    """Try a mode, a reference to memory, and hooks of each kind."""
    try:
        modes = importlib.import_module("torch.utils._python_dispatch")
        memory = importlib.import_module("torch.multiprocessing.reductions")
        core: Any = importlib.import_module("torch._C")
        recorder = Recorder(
            modes.TorchDispatchMode,
            memory.StorageWeakRef,
            core._len_torch_dispatch_stack,
        )
        works = _sees_operations(recorder) and _tells_of_memory(recorder)
        return recorder if works and _sees_hooks() else None
    except _FAILURES:
        return None


def _sees_operations(recorder: Recorder) -> bool:
    seen = []

    base: Any = recorder.mode

    class Mode(base):  # type: ignore[misc]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(str(schema_of(func).name))
            return func(*args, **(kwargs or {}))

    values, before = torch.ones(2, requires_grad=True), recorder.count_modes()
    with Mode():
        inside = recorder.count_modes()
        torch.autograd.backward((values * 2).sum())
    is_counted = (inside, recorder.count_modes()) == (before + 1, before)
    is_seen = seen[:2] == ["aten::mul", "aten::sum"] and seen.count("aten::mul") == 2
    return is_counted and is_seen


def _tells_of_memory(recorder: Recorder) -> bool:
    values = torch.ones(2)
    view = values[1:]
    watch = recorder.watch(values.untyped_storage())
    del values
    before = watch.expired()
    del view
    return not before and bool(watch.expired())


def _sees_hooks() -> bool:
    """Say whether hooks of a module, of all modules and of a tensor are seen."""
    layer, weight = nn.Identity(), torch.zeros(1, requires_grad=True)
    in_module, everywhere = (
        nn.modules.module,
        functools.partial(has_module_hooks, layer),
    )
    looks: list[tuple[Callable[..., Any], Callable[[], bool]]] = [
        (layer.register_forward_hook, everywhere),
        (layer.register_forward_pre_hook, everywhere),
        (layer.register_full_backward_hook, everywhere),
        (layer.register_full_backward_pre_hook, everywhere),
        (in_module.register_module_forward_hook, _has_global_hooks),
        (in_module.register_module_forward_pre_hook, _has_global_hooks),
        (in_module.register_module_full_backward_hook, _has_global_hooks),
        (in_module.register_module_full_backward_pre_hook, _has_global_hooks),
        (weight.register_hook, lambda: has_tensor_hooks(weight)),
        (
            weight.register_post_accumulate_grad_hook,
            lambda: has_tensor_hooks(weight),
        ),
    ]

    def look(*_: Any) -> None:
        """Do nothing."""

    for register, is_seen in looks:
        before = is_seen()
        with _registered(register, look):
            if not is_seen():
                return False
        if is_seen() != before:
            return False
    return True


def _has_global_hooks() -> bool:
    # Others may be there already; then nothing is recorded anyway.
    return any(read_global_hooks())


@contextmanager
def _registered(
    register: Callable[..., Any], hook: Callable[..., Any]
) -> Iterator[None]:
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


def _walk(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _walk(item)]
    return [value]


@functools.cache
def _probe_tree() -> Callable[[Any], list[Any]]:
    """Compare PyTorch's way to take values apart with our own, on plain ones."""
    given = {"b": (1, [2, 3]), "a": 4}
    try:
        found = importlib.import_module("torch.utils._pytree").tree_leaves
        return found if found(given) == _walk(given) else _walk
    except _FAILURES:
        return _walk


@functools.cache
def _probe_single_iterator() -> Any:
    """Read a batch by PyTorch's iterator of one process, as it is derived from."""
    module = importlib.import_module("torch.utils.data.dataloader")
    found = getattr(module, "_SingleProcessDataLoaderIter", None)
    if found is None:
        return None
    names = {"_sampler_iter", "_pin_memory", "_base_seed", "_num_yielded"}
    names |= {"_dataset_fetcher", "_IterableDataset_len_called"}
    try:
        values = torch.arange(3.0)
        loader: Any = torch.utils.data.DataLoader(
            values,  # type: ignore[arg-type]
            generator=torch.Generator(),
        )
        iterator = found(loader)
        if not names <= set(vars(iterator)):
            return None
        fetched = iterator._dataset_fetcher.fetch(next(iterator._sampler_iter))
        is_right = torch.equal(fetched, values[:1]) and callable(iterator._next_data)
    except _FAILURES:
        return None
    return found if is_right else None


@functools.cache
def _probe_worker_parts() -> WorkerParts | None:
    """Read the signatures and the attributes of PyTorch's iterator of workers.

    To run it takes processes, which nobody wants to start for a trial.
    """
    try:
        loading = importlib.import_module("torch.utils.data.dataloader")
        worker = importlib.import_module("torch.utils.data._utils.worker")
        shared = importlib.import_module("torch.utils.data._utils")
        errors = importlib.import_module("torch._utils")
        iterator = loading._MultiProcessingDataLoaderIter
        parts = WorkerParts(
            iterator,
            worker._ResumeIteration,
            (errors.ExceptionWrapper, worker._IterableDatasetStopIteration),
            errors.ExceptionWrapper,
            float(shared.MP_STATUS_CHECK_INTERVAL),
        )
        loop = set(inspect.signature(worker._worker_loop).parameters)
        is_same = all(
            list(inspect.signature(getattr(iterator, name)).parameters)[1:] == names
            for name, names in _WORKER_METHODS.items()
        )
    except (*_FAILURES, KeyError):
        return None
    made = set(iterator.__init__.__code__.co_names)
    made |= set(iterator._reset.__code__.co_names)
    begins = "_get_iterator" in loading.DataLoader.__iter__.__code__.co_names
    is_whole = made >= _WORKER_NAMES and loop >= _LOOP_NAMES
    return parts if is_same and is_whole and begins else None


_WORKER_METHODS = {
    "_reset": ["loader", "first_iter"],
    "_next_index": [],
    "_next_data": [],
    "_try_put_index": [],
    "_get_data": [],
    "_process_data": ["data", "worker_idx"],
    "_try_get_data": ["timeout"],
}
_WORKER_NAMES = {
    *("_send_idx", "_rcvd_idx", "_task_info", "_worker_queue_idx_cycle"),
    *("_workers", "_in_order"),
}
_LOOP_NAMES = {"dataset", "worker_id", "init_fn", "data_queue"}
