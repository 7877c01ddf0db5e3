"""Evaluating and predicting: a model over a loader, without gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from handful.errors import TrainingError
from handful.train.batches import (
    BatchLayout,
    count_samples,
    move_batch,
    split_samples,
)
from handful.train.engine import StepResult
from handful.train.losses import Weight
from handful.train.memory_errors import (
    check_can_split,
    describe_request,
    is_out_of_memory,
)
from handful.train.metric_totals import IGNORED_TARGET, check_tensor
from handful.train.metrics import start_metrics
from handful.train.precision import Precision
from handful.train.step import Step, StepOutput
from handful.train.step_log import StepLog
from handful.train.torch_metrics import TorchMetricSum


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set a model to `eval` and autograd off; put every module back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def evaluate_model(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    step: Step,
    metrics: Sequence[Any],
    device: torch.device,
    average: str = "samples",
    on_out_of_memory: str = "raise",
) -> dict[str, float]:
    """Measure a model on all batches of a loader.

    Args:
        model: The model, on ``device``.
        loader: Gives batches.
        step: Computes a batch's loss.
        metrics: What to measure beside it; see `start_metrics`.
        device: Where to compute.
        average: ``"samples"`` to weigh each batch's loss by its samples, ``"batches"``
            for the plain mean of batch losses.
        on_out_of_memory: ``"split"`` to send a batch that does not fit into memory
            through the model in parts, whose sums are added up; ``"raise"``.

    Returns:
        ``loss``, further totals of a user's step, and each metric by its name.

    Raises:
        TrainingError: The loader gives no batch, a user's step gives no output for
            metrics, or a batch does not fit into memory.
    """
    step, log = step.for_evaluation(), StepLog(average)
    sums = start_metrics(metrics)
    is_empty = True
    with evaluation_mode(model):
        for batch in loader:
            moved = move_batch(batch, device)
            asked: str | None = None
            try:
                made = step.mean(model, moved)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                asked = describe_request(error)
            else:
                observe_output(sums, made)
                loss, weight, totals = made.loss.detach(), made.weight, made.sums
            if asked is not None:
                size = count_samples(moved)
                check_can_split(size, asked, on_out_of_memory)
                loss, weight, totals = _add_parts(model, moved, size // 2, step, sums)
            log.add(StepResult(loss, weight, samples=0, sums=totals), 0.0)
            is_empty = False
    if is_empty:
        raise _no_batch(loader)
    log.flush()
    values = {k.removeprefix("train_"): v for k, v in log.means().items()}
    for metric in sums:
        values[metric.name] = metric.compute()
    return values


def _add_parts(
    model: nn.Module, batch: Any, size: int, step: Step, sums: Sequence[Any]
) -> tuple[Tensor, Weight, dict[str, Tensor]]:
    """Measure a batch in parts; return its mean loss, its weight and its totals."""
    loss_sum: Any = 0.0
    weight: Weight = 0
    totals: dict[str, Tensor] = {}
    waiting = list(split_samples(batch, size))[::-1]
    while waiting:
        part = waiting.pop()
        try:
            made = step.total(model, part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            asked = describe_request(error)
            made = None
        if made is None:
            count = count_samples(part)
            check_can_split(count, asked, "split")
            waiting += list(split_samples(part, count // 2))[::-1]
            continue
        observe_output(sums, made)
        loss_sum = loss_sum + made.loss.detach()
        weight = weight + made.weight
        totals |= {k: v + totals.get(k, 0) for k, v in made.sums.items()}
    return loss_sum / weight, weight, totals


def observe_output(sums: Sequence[Any], made: StepOutput) -> None:
    """Add a batch's outputs to metrics.

    The label that the loss ignores becomes -100, which the named metrics leave out;
    objects of torchmetrics have an ``ignore_index`` of their own and get the target as
    it is.

    Args:
        sums: The accumulations; see `start_metrics`.
        made: What the step says of the batch.

    Raises:
        TrainingError: A user's step gave no output or target, or the output is not
            one tensor and a metric by name or of torchmetrics is to be measured.
    """
    if not sums:
        return
    if made.output is None or made.target is None:
        raise TrainingError(
            "step must return output and target beside loss_sum and weight for metrics "
            "to be measured; it returned none. Add them, or leave metrics out."
        )
    output = made.output.detach() if isinstance(made.output, Tensor) else made.output
    masked = _mask_ignored(made.target, made.ignore_index)
    for metric in sums:
        if isinstance(metric, TorchMetricSum):
            check_tensor("output", output)
            metric.update(output, made.target)
        else:
            metric.update(output, masked)


def _mask_ignored(target: Any, ignored: int) -> Any:
    """Return a target whose ignored labels are -100; itself where they are already."""
    if ignored == IGNORED_TARGET or not isinstance(target, Tensor):
        return target
    if target.is_floating_point():
        return target
    return target.long().masked_fill(target == ignored, IGNORED_TARGET)


def predict_model(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layout: BatchLayout,
    precision: Precision,
    device: torch.device,
) -> Any:
    """Return a model's outputs for all batches of a loader.

    Args:
        model: The model, on ``device``.
        loader: Gives batches, with a target or without.
        layout: Which fields of a batch are not inputs.
        precision: What the model computes in.
        device: Where to compute.

    Returns:
        The outputs, on the CPU: a tensor of shape ``(N, …)``, or the tuple, list or
        dictionary of such that the model returns. The dtype is the model's; under
        autocast what is half precision becomes float32. A number without dimensions
        becomes one a batch.

    Raises:
        TrainingError: The loader gives no batch, or outputs can't be put together.
    """
    outputs = []
    with evaluation_mode(model):
        for batch in loader:
            args, kwargs = layout.inputs(move_batch(batch, device))
            output = precision.forward(model, args, kwargs)
            outputs.append(move_batch(output, torch.device("cpu")))
    if not outputs:
        raise _no_batch(loader)
    return _join(outputs)


def _no_batch(loader: Iterable[Any]) -> TrainingError:
    said = "the loader must give at least one batch; it gave none."
    if isinstance(loader, Iterator):
        said += (
            " A generator can be gone through only once: give a list or a loader, "
            "which begin anew each time."
        )
    return TrainingError(said)


def _join(parts: list[Any]) -> Any:
    """Put the outputs of batches together, one by one where there are several."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return _join_tensors(parts)
    if isinstance(first, Mapping):
        return {key: _join([part[key] for part in parts]) for key in first}
    if not isinstance(first, (list, tuple)):
        raise TrainingError(
            "model must return tensors, or tuples, lists or dictionaries of tensors, "
            f"to be predicted with; got {type(first).__name__}."
        )
    joined = [_join(list(column)) for column in zip(*parts, strict=True)]
    if hasattr(first, "_make"):
        return first._make(joined)
    return tuple(joined) if isinstance(first, tuple) else joined


def _join_tensors(parts: list[Tensor]) -> Tensor:
    if parts[0].ndim == 0:
        return torch.stack(parts)
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise TrainingError(
            "outputs of all batches must have the same shape behind the samples; got "
            f"{' and '.join(map(str, sorted(shapes)))}. Pad all batches to one length."
        )
    return torch.cat(parts)
