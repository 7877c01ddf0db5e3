"""Checks: what is known to be wrong before the first update, each in a sentence.

They leave the model, the generators and the loader as they found them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from handful.errors import ArgumentError, TrainingError, unknown_choice
from handful.train.choices import METRICS
from handful.train.labels import IGNORED_LABEL
from handful.train.summary import has_lazy_layers, left_as_found

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DROPOUTS = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)
_SPOKEN_DTYPES = {
    torch.uint8: ("byte", "unsigned char", "uint8"),
    torch.int8: ("'char'", "got char", "(signed char", "chart", "int8"),
    torch.int16: ("short", "int16"),
    torch.int32: ("int ", "int)", "'int'", "inttensor", "int32"),
    torch.int64: ("long", "int64"),
    torch.bool: ("bool",),
}
"""How torch's errors name the dtypes that aren't floating, in small letters."""

_SPOKEN_SHAPES = (
    *("shapes cannot be multiplied", "channels, but got", "input.size(-1) must be"),
    *("size mismatch", "must match the size of tensor", "Given normalized_shape"),
)
"""How torch's errors speak of inputs whose shape a layer can't take."""


def check_finite_loss(loss: Tensor, batch: Any) -> None:
    """Check the loss of the first batch, before any update; waits for the device.

    Args:
        loss: The batch's mean loss, without dimensions.
        batch: The batch that it is of.

    Raises:
        TrainingError: It is NaN or infinite. The sentence names the tensors of the
            batch that hold such values and their first sample, counted from 0 in the
            batch; or says that the model makes it.
    """
    value = loss.detach().item()
    if math.isfinite(value):
        return
    start = f"loss must be finite at the first step, before any update; got {value:g}. "
    tensors = list(name_tensors(batch, "batch"))
    found = [
        text for name, item in tensors if (text := _describe_nonfinite(name, item))
    ]
    if found:
        raise TrainingError(
            f"{start}{'; '.join(found)}. Remove these samples or fill in the values."
        )
    for name, item in tensors:
        if item.dtype is torch.int64 and bool((item == IGNORED_LABEL).all()):
            raise TrainingError(
                f"{start}All of {name} is {IGNORED_LABEL}, the label that is ignored, "
                "and no label is left for a mean. Leave such samples out."
            )
    raise TrainingError(
        f"{start}The batch holds no NaN or Inf{_describe_largest(tensors)}, so the "
        "model or the loss makes it. Look at the initial weights and for a division, "
        "log or exp in the model; scale inputs and targets that are large."
    )


def check_requires_grad(loss: Tensor) -> None:
    """Check that the first loss has a graph to go backward through.

    Args:
        loss: The batch's loss, without dimensions.

    Raises:
        TrainingError: It was computed without gradients.
    """
    if loss.requires_grad:
        return
    if not torch.is_grad_enabled():
        remedy = "Train outside torch.no_grad() and torch.inference_mode()."
    else:
        remedy = (
            "Compute it from the model's output without detach(), item() or numpy(), "
            "and leave requires_grad on for some weights."
        )
    raise TrainingError(
        "loss must depend on weights that require gradients; got one without a "
        f"gradient. {remedy}"
    )


def explain_dtype(
    error: BaseException, args: Any, model: nn.Module
) -> TrainingError | None:
    """Return a sentence for an error of a model that got inputs of another dtype.

    Args:
        error: What the model's first forward raised.
        args: The model's inputs: a tensor, or lists, tuples and dictionaries of such.
        model: The model.

    Returns:
        The error to raise in its place, which names the first input that is of another
        dtype than the floating weights, whole numbers included. None where the error
        is not of dtypes or no input is.
    """
    said = str(error)
    wanted = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    if wanted is None or not _says_dtypes(error):
        return None
    suspects = [
        (name, value.dtype)
        for name, value in name_tensors(args, "inputs")
        if value.dtype is not wanted and _may_be_blamed(value.dtype, said)
    ]
    if not suspects:
        return None
    name, got = min(suspects, key=lambda suspect: suspect[1].is_floating_point)
    return TrainingError(
        f"inputs must be of the dtype of the model's weights, {wanted}; got {got} in "
        f"{name}. Convert them with .to({wanted}). torch said: {said}"
    )


def explain_shape(error: BaseException, args: Any) -> TrainingError | None:
    """Return a sentence for an error of a model that got inputs of another shape.

    Args:
        error: What the model's forward raised.
        args: The model's inputs: a tensor, or lists, tuples and dictionaries of such.

    Returns:
        The error to raise in its place; None where the error is not of shapes.
    """
    said = " ".join(str(error).split())
    if not any(word in said for word in _SPOKEN_SHAPES):
        return None
    shapes = [f"{tuple(v.shape)} in {n}" for n, v in name_tensors(args, "inputs")]
    return TrainingError(
        f"inputs must have a shape that the model takes; got {', '.join(shapes)}. Let "
        f"the model's first layer fit the data. torch said: {said}"
    )


def _says_dtypes(error: BaseException) -> bool:
    said = str(error).lower()
    if not isinstance(error, (RuntimeError, ValueError)) or "indices" in said:
        return False  # indices of an embedding are whole numbers, whatever its weights
    words = "dtype", "data type", "datatype", "input type", "scalar type"
    return any(word in said for word in (*words, "not implemented for '"))


def _may_be_blamed(dtype: torch.dtype, said: str) -> bool:
    """Say whether an error may be of inputs of a dtype.

    Whole numbers may be tokens that belong so: the error has to name their dtype.
    """
    names = _SPOKEN_DTYPES.get(dtype)
    return names is None or any(name in said.lower() for name in names)


def check_last_batch(
    model: nn.Module,
    forward: Callable[[], Any],
    *,
    num_samples: int,
    batch_size: int,
    drop_last: bool,
) -> None:
    """Check that no batch of one sample reaches a BatchNorm layer that can't take it.

    Where a batch of one sample is to come, the model runs once in the modes that it is
    in, those of the training; see `handful.train.summary.left_as_found` for what is put
    back. A layer can't take it if it takes statistics of the batch and each sample has
    one value a channel: all of ``(N, C)``, and images of ``(N, C, 1, 1)``. The model is
    not run where it has no such layer, or lazy layers without shapes.

    Args:
        model: The model.
        forward: Runs the model on a first batch of ``min(batch_size, num_samples)``
            samples.
        num_samples: Samples in an epoch.
        batch_size: Samples in a batch.
        drop_last: Whether a smaller last batch is left out.

    Raises:
        TrainingError: A layer would raise an error in the middle of an epoch.
    """
    rest = num_samples % batch_size
    is_alone = batch_size == 1 or (rest == 1 and not drop_last)
    norms = {name: m for name, m in model.named_modules() if _takes_statistics(m)}
    if not (is_alone and norms) or has_lazy_layers(model):
        return
    sizes = num_samples, batch_size
    with left_as_found(model), ExitStack() as stack:
        for name, module in norms.items():
            hook = functools.partial(_refuse_one_value, name, sizes)
            stack.callback(module.register_forward_pre_hook(hook).remove)
        forward()


def check_monitor(name: str, available: Iterable[str]) -> None:
    """Check that the value to watch is among those that each epoch measures.

    Args:
        name: The value: ``"valid_loss"``.
        available: What is measured.

    Raises:
        ArgumentError: It is not. The sentence lists what there is and the nearest.
    """
    names = sorted(dict.fromkeys(available))
    if name in names:
        return
    bare = name.removeprefix("valid_").removeprefix("train_")
    needs_valid = name.startswith("valid_") or name in ("loss", *METRICS)
    hint = ""
    if needs_valid and not any(n.startswith("valid_") for n in names):
        hint = " Give validation data: there are none."
    elif bare in METRICS and not {f"valid_{bare}", f"train_{bare}"} & set(names):
        where = "train_metrics" if name.startswith("train_") else "metrics"
        hint = f" Add {bare!r} to {where}."
    raise ArgumentError(f"{unknown_choice('monitor', name, names)}{hint}")


def notes_on_accumulation(model: nn.Module) -> str | None:
    """Return why several micro-batches can't equal one batch, None if they can.

    Args:
        model: The model, in the modes that it trains in.

    Returns:
        A sentence that names the layers: those that take statistics of each
        micro-batch, and those that draw masks for each.
    """
    modules = list(model.named_modules())
    norms = [
        name
        for name, m in modules
        if _takes_statistics(m) or (isinstance(m, nn.SyncBatchNorm) and m.training)
    ]
    drops = [name for name, m in modules if m.training and _dropout_rate(m) > 0]
    reasons = []
    if norms:
        reasons.append(f"BatchNorm ({_list_names(norms)}) normalises each by itself")
    if drops:
        reasons.append(f"dropout ({_list_names(drops)}) draws other masks")
    if not reasons:
        return None
    return f"Several micro-batches will not equal one batch: {' and '.join(reasons)}."


def note_untrained(
    modules: Mapping[str, nn.Module], optimizer: Optimizer
) -> str | None:
    """Return which parameters have gradients and are nobody's to update.

    Args:
        modules: Modules whose parameters should be trained, by what they are called.
        optimizer: The optimiser.

    Returns:
        A sentence that names them, None if there are none.
    """
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    names = [
        f"{called}.{name}"
        for called, module in modules.items()
        for name, param in module.named_parameters()
        if param.requires_grad and id(param) not in known
    ]
    if not names:
        return None
    return (
        f"Not trained, since the optimizer does not have them: {_list_names(names)}. "
        "Give the Trainer an optimizer that has them, or set requires_grad to false, "
        "which also saves their gradients."
    )


def name_tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in mappings, lists and tuples, each with what leads to it."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (Mapping, list, tuple)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from name_tensors(item, f"{name}[{key!r}]")


def _describe_nonfinite(name: str, value: Tensor) -> str:
    if value.layout is not torch.strided or value.is_nested:
        return ""
    wrong = ~value.isfinite()
    if not bool(wrong.any()):
        return ""
    num_nan = int(value.isnan().sum())
    parts = ((num_nan, "NaN"), (int(wrong.sum()) - num_nan, "Inf"))
    counts = " and ".join(f"{count:,} {kind}" for count, kind in parts if count)
    if value.ndim == 0:
        return f"{name} is {counts}"
    samples = wrong.flatten(1).any(1) if wrong.ndim > 1 else wrong
    first = int(samples.nonzero()[0])
    return f"{name} holds {counts}, first in sample {first} of the batch"


def _describe_largest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    sizes = [
        (float(value.abs().max()), name)
        for name, value in tensors
        if value.is_floating_point() and value.layout is torch.strided and value.numel()
    ]
    if not sizes:
        return ""
    largest, name = max(sizes)
    return f" (its largest magnitude is {largest:.3g}, in {name})"


def _takes_statistics(module: nn.Module) -> bool:
    """Say whether a module is a BatchNorm that uses the batch's own statistics."""
    if not isinstance(module, _BATCH_NORMS):
        return False
    return module.training or module.running_mean is None


def _refuse_one_value(
    name: str, sizes: tuple[int, int], module: nn.Module, args: tuple[Any, ...]
) -> None:
    """Raise an error if a layer sees one value a channel of each sample."""
    num_samples, batch_size = sizes
    values = args[0] if args else None
    if not isinstance(values, Tensor) or values.ndim < 2:
        return
    if values.numel() // max(values.shape[1], 1) != min(sizes):
        return
    layer = f"{type(module).__name__} layer {name!r}"
    start = f"{layer} needs more than one value a channel in training; "
    if batch_size == 1:
        raise TrainingError(
            f"{start}got batch_size=1. Take 2 or more, and leave out a last batch of "
            'one (last_batch="drop"), or put GroupNorm in its place.'
        )
    if num_samples == 1:
        raise TrainingError(f"{start}got 1 sample in all. Give more samples.")
    other = next(b for b in range(batch_size + 1, 2**62) if num_samples % b != 1)
    raise TrainingError(
        f"{start}got {num_samples:,} samples and batch_size={batch_size}, whose last "
        'batch is of one. Leave it out with last_batch="drop" (drop_last=True in a '
        f"DataLoader), or take another batch_size, such as {other}."
    )


def _dropout_rate(module: nn.Module) -> float:
    if isinstance(module, _DROPOUTS):
        return module.p
    if isinstance(module, nn.RNNBase):
        return module.dropout if module.num_layers > 1 else 0.0
    return module.dropout if isinstance(module, nn.MultiheadAttention) else 0.0


def _list_names(names: list[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:3])
    return f"{listed} and {len(names) - 3} more" if len(names) > 3 else listed
