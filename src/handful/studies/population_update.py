"""Updates of many models at once: torch.optim's formulas, a rate for each model.

All weights lie in one row, those of a parameter of all trials side by side. What
differs between trials stands in a row of the same length, what doesn't is a number; so
that each operation goes once over all weights of all trials. The formulas are those of
the single-tensor functions of `torch.optim`, up to the order of roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RMSprop,
)

Number: TypeAlias = "float | Tensor"
"""A number of all trials, or a row with one for each weight."""

_LEFT_OUT = ("params", "lr", "fused", "foreach", "capturable", "differentiable")
_FLAGS = ("maximize", "nesterov", "amsgrad", "centered", "decoupled_weight_decay")


class Update:
    """Updates the weights of all trials from their gradients.

    Args:
        kind: The optimiser's class, one of `KINDS`.
        groups: Each trial's options, as the one group of its optimiser has them.
        owners: Of each weight in the row the trial that it is of, int64.
        weights: The row of weights, changed in place by each step.

    Raises:
        ValueError: Trials differ in what is no number.
    """

    def __init__(
        self,
        kind: type[Optimizer],
        groups: Sequence[Mapping[str, Any]],
        owners: Tensor,
        weights: Tensor,
    ) -> None:
        self._owners = owners
        self.weights = weights
        self.count = 0
        self.rates = torch.zeros_like(weights)
        self._rates_of_trials: list[float] = []
        self.flags = {name: bool(groups[0].get(name)) for name in _FLAGS}
        if any(bool(g.get(n)) != self.flags[n] for g in groups for n in _FLAGS):
            raise ValueError("they differ in a flag of the optimizer")
        self.numbers: dict[str, Any] = {}
        for name in groups[0]:
            if name not in (*_LEFT_OUT, *_FLAGS):
                self.numbers[name] = self._read([group[name] for group in groups])
        self.spare = torch.empty_like(weights)
        self._step = KINDS[kind](self)
        self.set_rates([float(group["lr"]) for group in groups])

    def set_rates(self, rates: Sequence[float]) -> None:
        """Set each trial's learning rate."""
        if self._rates_of_trials != list(rates):
            self._rates_of_trials = list(rates)
            values = torch.tensor(self._rates_of_trials, dtype=self.weights.dtype)
            torch.index_select(values, 0, self._owners, out=self.rates)

    def step(self, grads: Tensor) -> None:
        """Do a step; the gradients, a row as the weights, are used up."""
        self.count += 1
        if self.flags["maximize"]:
            grads.neg_()
        self._step(grads)

    def zeros(self, value: Number = 0.0) -> Tensor:
        """Return a row of the state that each step changes."""
        return torch.zeros_like(self.weights).add_(value)

    def decay(self, grads: Tensor) -> None:
        """Add what the weight decay adds to the gradients."""
        decay = self.numbers["weight_decay"]
        if _is_used(decay):
            add_scaled(grads, self.weights, decay)

    def move(self, direction: Tensor, rate: Number = 1.0) -> None:
        """Take the rate times a factor of a direction from the weights."""
        if isinstance(rate, float):
            self.weights.addcmul_(direction, self.rates, value=-rate)
        else:
            self.weights.addcmul_(direction, self.rates * rate, value=-1)

    def _read(self, values: Sequence[Any]) -> Any:
        """Return an option as a number, or a row where it differs; pairs as pairs."""
        if isinstance(values[0], tuple):
            return tuple(self._read(column) for column in zip(*values, strict=True))
        if len(set(map(float, values))) == 1:
            return float(values[0])
        row = torch.tensor([float(v) for v in values], dtype=torch.float64)
        return row[self._owners].to(self.weights.dtype)


def add_scaled(target: Tensor, values: Tensor, factor: Number) -> None:
    """Add values times a number, or times a row, in place."""
    if isinstance(factor, float):
        target.add_(values, alpha=factor)
    else:
        target.addcmul_(values, factor)


def _is_used(value: Number) -> bool:
    return isinstance(value, Tensor) or value != 0


def _average_squares(squares: Tensor, grads: Tensor, share: Number) -> None:
    """Do ``squares = share * squares + (1 - share) * grads ** 2`` in place."""
    squares.mul_(share)
    if isinstance(share, float):
        squares.addcmul_(grads, grads, value=1 - share)
    else:
        squares.addcmul_(grads * (1 - share), grads)


Step = Callable[[Tensor], None]


def _sgd(update: Update) -> Step:
    momentum, dampening = update.numbers["momentum"], update.numbers["dampening"]
    if not _is_used(momentum):

        def descend(grads: Tensor) -> None:
            update.decay(grads)
            update.move(grads)

        return descend
    if isinstance(momentum, Tensor):  # without momentum there is no dampening
        dampening = torch.where(momentum == 0, 0.0, dampening)
    buffer, keeps = update.zeros(), not _is_used(dampening)

    def step(grads: Tensor) -> None:
        update.decay(grads)
        if keeps or update.count == 1:
            buffer.mul_(momentum).add_(grads)
        else:
            add_scaled(buffer.mul_(momentum), grads, 1 - dampening)
        if update.flags["nesterov"]:
            add_scaled(grads, buffer, momentum)
            update.move(grads)
        else:
            update.move(buffer)

    return step


def _adam(update: Update, *, is_decoupled: bool = False) -> Step:
    averages, squares = update.zeros(), update.zeros()
    largest = update.zeros() if update.flags["amsgrad"] else None
    beta1, beta2 = update.numbers["betas"]
    eps, decay = update.numbers["eps"], update.numbers["weight_decay"]
    is_decoupled = is_decoupled or update.flags["decoupled_weight_decay"]
    spare = update.spare

    def step(grads: Tensor) -> None:
        if not is_decoupled:
            update.decay(grads)
        elif _is_used(decay):
            update.weights.mul_(1 - update.rates * decay)
        averages.lerp_(grads, 1 - beta1)
        _average_squares(squares, grads, beta2)
        found = squares
        if largest is not None:
            found = torch.maximum(largest, squares, out=largest)
        share = (1 - beta2**update.count) ** 0.5
        torch.sqrt(found, out=spare)
        spare.add_(eps * share)
        torch.div(averages, spare, out=spare)
        update.move(spare, share / (1 - beta1**update.count))

    return step


def _adamw(update: Update) -> Step:
    return _adam(update, is_decoupled=True)


def _rmsprop(update: Update) -> Step:
    squares, spare = update.zeros(), update.spare
    means = update.zeros() if update.flags["centered"] else None
    alpha, eps = update.numbers["alpha"], update.numbers["eps"]
    momentum = update.numbers["momentum"]
    buffer = update.zeros() if _is_used(momentum) else None

    def step(grads: Tensor) -> None:
        update.decay(grads)
        _average_squares(squares, grads, alpha)
        if means is None:
            torch.sqrt(squares, out=spare)
        else:
            means.lerp_(grads, 1 - alpha)
            torch.addcmul(squares, means, means, value=-1, out=spare)
            spare.sqrt_()
        torch.div(grads, spare.add_(eps), out=spare)
        if buffer is None:
            update.move(spare)
        else:
            update.move(buffer.mul_(momentum).add_(spare))

    return step


def _adagrad(update: Update) -> Step:
    sums = update.zeros(update.numbers["initial_accumulator_value"])
    eps, decay, spare = update.numbers["eps"], update.numbers["lr_decay"], update.spare

    def step(grads: Tensor) -> None:
        update.decay(grads)
        sums.addcmul_(grads, grads)
        torch.sqrt(sums, out=spare)
        torch.div(grads, spare.add_(eps), out=spare)
        update.move(spare, 1 / (1 + (update.count - 1) * decay))

    return step


def _adadelta(update: Update) -> Step:
    squares, moves, spare = update.zeros(), update.zeros(), update.spare
    rho, eps = update.numbers["rho"], update.numbers["eps"]

    def step(grads: Tensor) -> None:
        update.decay(grads)
        _average_squares(squares, grads, rho)
        torch.add(squares, eps, out=spare)
        delta = torch.add(moves, eps).sqrt_().div_(spare.sqrt_()).mul_(grads)
        _average_squares(moves, delta, rho)
        update.move(delta)

    return step


def _adamax(update: Update) -> Step:
    averages, largest, spare = update.zeros(), update.zeros(), update.spare
    (beta1, beta2), eps = update.numbers["betas"], update.numbers["eps"]

    def step(grads: Tensor) -> None:
        update.decay(grads)
        averages.lerp_(grads, 1 - beta1)
        torch.maximum(largest.mul_(beta2), grads.abs_().add_(eps), out=largest)
        torch.div(averages, largest, out=spare)
        update.move(spare, 1 / (1 - beta1**update.count))

    return step


def _nadam(update: Update) -> Step:
    averages, squares, spare = update.zeros(), update.zeros(), update.spare
    (beta1, beta2), eps = update.numbers["betas"], update.numbers["eps"]
    decay, slowing = update.numbers["weight_decay"], update.numbers["momentum_decay"]
    product: list[Any] = [1.0]

    def momentum_at(count: int) -> Any:
        return beta1 * (1 - 0.5 * 0.96 ** (count * slowing))

    def step(grads: Tensor) -> None:
        if not update.flags["decoupled_weight_decay"]:
            update.decay(grads)
        elif _is_used(decay):
            update.weights.mul_(1 - update.rates * decay)
        now, after = momentum_at(update.count), momentum_at(update.count + 1)
        product[0] = product[0] * now
        averages.lerp_(grads, 1 - beta1)
        _average_squares(squares, grads, beta2)
        torch.div(squares, 1 - beta2**update.count, out=spare)
        spare.sqrt_().add_(eps)
        update.move(grads.div_(spare), (1 - now) / (1 - product[0]))
        torch.div(averages, spare, out=spare)
        update.move(spare, after / (1 - product[0] * after))

    return step


KINDS: dict[type[Optimizer], Callable[[Update], Step]] = {
    SGD: _sgd,
    Adam: _adam,
    AdamW: _adamw,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
    Adadelta: _adadelta,
    Adamax: _adamax,
    NAdam: _nadam,
}
"""The optimisers whose formulas are here."""
