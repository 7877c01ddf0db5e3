"""Engines: how one optimisation step is done on its micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from handful.errors import ArgumentError
from handful.train.backward import Backward, make_backward
from handful.train.batches import count_samples
from handful.train.kernels import Update, make_update
from handful.train.losses import Weight
from handful.train.nonfinite import StepGuard
from handful.train.precision import Precision
from handful.train.step import Step, StepOutput


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What happens to the gradients of a step.

    Attributes:
        clip_norm: Most that the norm of all gradients together may be; None for any.
        clip_value: Most that a gradient's entry may be; None for any.
        wants_norm: Whether the norm is to be measured though nothing is clipped.
    """

    clip_norm: float | None = None
    clip_value: float | None = None
    wants_norm: bool = False


@dataclass(slots=True)
class StepResult:
    """What one optimisation step did; nothing in it has been read from the device.

    Attributes:
        loss: Mean loss before the update, without dimensions, detached.
        weight: What the mean was divided by.
        samples: Samples of the step.
        grad_norm: Norm of all gradients before clipping, or None.
        sums: Further totals of a user's step, by name.
        was_taken: Whether the weights were updated.
        is_finite: Whether loss and gradients were; False where a guard left the step
            out.
    """

    loss: Tensor
    weight: Weight
    samples: int
    grad_norm: Tensor | None = None
    sums: dict[str, Tensor] = field(default_factory=dict)
    was_taken: bool = True
    is_finite: bool = True


@dataclass(slots=True)
class Played:
    """What several steps did; nothing in it has been read from the device.

    Attributes:
        losses: Mean loss of each before its update, shape ``(S,)``.
        weights: What each mean was divided by, shape ``(S,)``, or all of them.
        samples: Samples of each step.
        grad_norms: Norm of each step's gradients before clipping, shape ``(S,)``.
    """

    losses: Tensor
    weights: Weight
    samples: int
    grad_norms: Tensor | None = None

    @property
    def num_steps(self) -> int:
        """How many steps were done."""
        return len(self.losses)


class Engine(Protocol):
    """Does optimisation steps on a model."""

    name: str

    def step(self, batches: Sequence[Any]) -> StepResult:
        """Do one step: forward, loss, backward, clip, update.

        Args:
            batches: The step's micro-batches, on the model's device; one as a rule.
        """
        ...

    def look_again(self) -> None:
        """Notice what may have changed since the last step: other code has run."""

    def most_steps(self) -> int:
        """Return how many steps `play` may be given now; 1 where `step` is called."""
        ...

    def play(self, stretch: Sequence[Any], rates: Sequence[Sequence[float]]) -> Any:
        """Do several steps, or the first few of them, with nothing in between.

        Args:
            stretch: The micro-batches of each step.
            rates: The rate of each of the optimiser's groups, for each step.

        Returns:
            What was done, as `Played`; None where the first has to be done by `step`.
        """
        ...


class EagerEngine:
    """PyTorch as it is: autograd and the optimiser's own kernels.

    Several micro-batches give the gradient of one batch of all their samples: the
    gradients of their sums of losses are added up and divided once by the sum of their
    weights.

    Args:
        model: The model.
        step: Computes a batch's loss.
        optimizer: The optimiser of the model's parameters.
        precision: Scales losses where that is needed.
        settings: What happens to the gradients.
        on_first: Called once, with the first batch and what the step said of it, before
            anything is changed.
        observe: Called with what the step says of each micro-batch; None for nothing.
        on_gradients: Called before each update; None for nothing.
        guard: Leaves out steps whose loss or gradients are not finite; None to take
            them as they come.

    Attributes:
        is_filled: Whether the last step came as far as its gradients.

    Raises:
        ArgumentError: The optimiser can't train in that precision.
    """

    name = "eager"

    def __init__(
        self,
        model: nn.Module,
        step: Step,
        optimizer: Optimizer,
        *,
        precision: Precision,
        settings: StepSettings,
        on_first: Callable[[Any, StepOutput], None] | None = None,
        observe: Callable[[StepOutput], None] | None = None,
        on_gradients: Callable[[], None] | None = None,
        guard: StepGuard | None = None,
    ) -> None:
        if isinstance(optimizer, LBFGS) and precision.scales:
            raise ArgumentError(
                "precision must be 'float32' or 'bf16' for lbfgs, which asks for "
                "gradients several times a step; got 'fp16'."
            )
        self._model = model
        self._step = step
        self._optimizer = optimizer
        self._precision = precision
        self._settings = settings
        self._on_first = on_first
        self._observe = observe
        self._on_gradients = on_gradients
        self._guard = guard
        self.is_filled = False
        self._update: Update | None = None
        self._backward: Backward | None = None
        self._touches_gradients = (
            settings.clip_norm is not None
            or settings.clip_value is not None
            or settings.wants_norm
            or on_gradients is not None
        )

    def step(self, batches: Sequence[Any]) -> StepResult:
        """Do one step; see `Engine.step`."""
        self.is_filled = False
        if self._guard is not None:
            self._guard.begin()
        if isinstance(self._optimizer, LBFGS):
            return self._step_with_closure(batches)
        result = self._fill_gradients(batches)
        self.is_filled = True
        if self._touches_gradients:
            self._show_gradients()
        guard = self._guard
        if guard is not None and not guard.allows(result.loss, result.weight):
            return self._leave_out(result)
        if self._touches_gradients:
            self._clip_gradients(result)
        result.was_taken = self._precision.update(self._optimizer, self._apply)
        return result

    def look_again(self) -> None:
        """Do nothing: each step looks at everything anew."""

    def recover(self) -> None:
        """Let go of what a step that failed has left behind."""
        self._clear_gradients()

    def most_steps(self) -> int:
        """Return 1: each step is done by itself."""
        return 1

    def play(
        self, stretch: Sequence[Any], rates: Sequence[Sequence[float]]
    ) -> Played | None:
        """Do nothing; see `Engine.play`."""
        del stretch, rates
        return None

    def _fill_gradients(self, batches: Sequence[Any]) -> StepResult:
        if len(batches) != 1:
            return self._accumulate(batches)
        batch = batches[0]
        made = self._step.mean(self._model, batch)
        if self._on_first is not None:
            self._check_first(batch, made)
        self._clear_gradients()
        self._go_backward(made.loss)
        if self._observe is not None:
            self._observe(made)
        return StepResult(
            made.loss.detach(), made.weight, count_samples(batch), sums=made.sums
        )

    def _accumulate(self, batches: Sequence[Any]) -> StepResult:
        """Add up the gradients of several micro-batches; divide them once."""
        counts = [count_samples(batch) for batch in batches]
        # Keeps sums near the size of means; what counts is divided out below.
        divisor = max(counts[0], 1)
        total: Weight = 0
        loss_sum: Tensor | None = None
        sums: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            made = self._step.total(self._model, batch)
            if index == 0:
                if self._on_first is not None:
                    self._check_first(batch, made)
                self._clear_gradients()
            self._go_backward(made.loss / divisor)
            if self._observe is not None:
                self._observe(made)
            loss = made.loss.detach()
            loss_sum = loss if loss_sum is None else loss_sum + loss
            total = total + made.weight
            sums |= {k: v + sums.get(k, 0) for k, v in made.sums.items()}
        assert loss_sum is not None
        self._scale_gradients(share_of(divisor, total))
        return StepResult(loss_sum / total, total, sum(counts), sums=sums)

    def _go_backward(self, loss: Tensor) -> None:
        if self._precision.scales:
            loss = self._precision.scale(loss)
        if self._backward is None:
            self._backward = make_backward(loss)
        self._backward(loss)

    def _check_first(self, batch: Any, made: StepOutput) -> None:
        assert self._on_first is not None
        on_first, self._on_first = self._on_first, None
        on_first(batch, made)

    def _clear_gradients(self) -> None:
        for group in self._optimizer.param_groups:
            for param in group["params"]:
                param.grad = None

    def _scale_gradients(self, factor: float | Tensor) -> None:
        grads = [p.grad for p in self._parameters() if p.grad is not None]
        with torch.no_grad():
            if grads and all(grad.layout == torch.strided for grad in grads):
                torch._foreach_mul_(grads, factor)
            else:
                for grad in grads:
                    grad.mul_(factor)

    def _leave_out(self, result: StepResult) -> StepResult:
        """Make everything what it was before a step that is not to be done."""
        assert self._guard is not None
        self._guard.put_back()
        result.is_finite = result.was_taken = False
        return result

    def _show_gradients(self) -> None:
        """Unscale the gradients, and show them."""
        self._precision.unscale(self._optimizer)
        if self._on_gradients is not None:
            self._on_gradients()

    def _clip_gradients(self, result: StepResult) -> None:
        """Measure and clip the gradients."""
        settings, params = self._settings, self._parameters()
        clip_norm, clip_value = settings.clip_norm, settings.clip_value
        if clip_value is not None:
            if clip_norm is not None or settings.wants_norm:
                grads = [p.grad for p in params if p.grad is not None]
                result.grad_norm = torch.nn.utils.get_total_norm(grads)
            torch.nn.utils.clip_grad_value_(params, clip_value)
        if clip_norm is not None or (settings.wants_norm and clip_value is None):
            most = math.inf if clip_norm is None else clip_norm
            norm = torch.nn.utils.clip_grad_norm_(params, most)
            if result.grad_norm is None:
                result.grad_norm = norm

    def _apply(self) -> None:
        if self._update is None:  # The first step makes the optimiser's state.
            self._optimizer.step()
            self._update = make_update(self._optimizer)
        else:
            self._update()

    def _step_with_closure(self, batches: Sequence[Any]) -> StepResult:
        """Do a step of an optimiser that asks for loss and gradients several times."""
        guard, results = self._guard, list[StepResult]()

        def closure() -> Tensor:
            result = self._fill_gradients(batches)
            results.append(result)
            if self._touches_gradients:
                self._show_gradients()
            is_first = len(results) == 1
            if is_first and guard and not guard.allows(result.loss, result.weight):
                raise _LeftOutError
            if self._touches_gradients:
                self._clip_gradients(result)
            self._observe = None  # the first evaluation is that of the step's start
            return result.loss

        observe = self._observe
        try:
            self._optimizer.step(torch.enable_grad()(closure))  # type: ignore[arg-type]
        except _LeftOutError:
            return self._leave_out(results[0])
        finally:
            self._observe = observe
        if guard is not None and not guard.has_finite_weights():
            return self._leave_out(results[0])
        return results[0]

    def _parameters(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]


class _LeftOutError(Exception):
    """Leads out of an optimiser whose step is not to be done."""


def share_of(part: int, total: Weight) -> float | Tensor:
    """Return ``part / total``, 0 where nothing has any weight.

    Args:
        part: A number of samples.
        total: The weight of several micro-batches.
    """
    if isinstance(total, Tensor):
        return torch.where(total > 0, part / total, 0.0)
    return part / total if total > 0 else 0.0
