"""The networks that are trained on own data: one for tables, one for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LIMIT = 10.0
"""Standardised numbers beyond this many standard deviations count as this many."""

MOST_NUMBERS = 16
"""Most numbers that stand for a category. Up to so many categories begin with a number
of their own each; vectors drawn at random were learnt more slowly."""

VECTOR_SPREAD = 0.3
"""Standard deviation of what the vectors of more categories begin with."""


@dataclass(frozen=True, kw_only=True)
class TableShape:
    """What a table's network is made for; plain values.

    Attributes:
        means: Mean of each number column, C of them.
        scales: Its standard deviation, above 0.
        gaps: The places of the number columns that lack values in some rows.
        categories: How many categories each of the K category columns has.
        unseen: The codes of those that the training part has not, for each column.
        num_classes: Classes of the target; 0 for values.
        target_mean: Mean of a target of values.
        target_scale: Its standard deviation, above 0.
        widths: Units of each hidden layer.
        dropout: Share of hidden units left out while training, in ``[0, 1)``.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]
    gaps: tuple[int, ...] = ()
    categories: tuple[int, ...] = ()
    unseen: tuple[tuple[int, ...], ...] = ()
    num_classes: int = 0
    target_mean: float = 0.0
    target_scale: float = 1.0
    widths: tuple[int, ...] = (128, 128)
    dropout: float = 0.1


class TableNet(nn.Module):
    """A perceptron beside a linear layer, on raw columns of a table.

    ::

        numbers ─ standardise, fill gaps, mark gaps ─┐
                                                     ├─┬─ perceptron ─┐
        codes ─── a vector for each category ────────┘ └─ linear ─────┴─ sum

    Standardising is a part of the model, so that it takes columns as files have them.
    A number that is missing (NaN) counts as the mean, and a further input marks it. The
    outputs for values are in the target's own unit.

    Args:
        shape: What it is made for.
    """

    mean: Tensor
    scale: Tensor
    gaps: Tensor
    target: Tensor

    def __init__(self, shape: TableShape) -> None:
        super().__init__()
        self.has_numbers = bool(shape.means)
        self.has_values = shape.num_classes == 0
        self.register_buffer("mean", torch.tensor(shape.means))
        self.register_buffer("scale", torch.tensor(shape.scales))
        self.register_buffer("gaps", torch.tensor(shape.gaps, dtype=torch.int64))
        target = torch.tensor([shape.target_mean, shape.target_scale])
        self.register_buffer("target", target)
        self.vectors = nn.ModuleList(
            _make_vectors(count, unseen)
            for count, unseen in zip(shape.categories, shape.unseen, strict=True)
        )
        width = sum(map(vector_width, shape.categories))
        width += len(shape.means) + len(shape.gaps)
        outputs = shape.num_classes or 1
        self.deep = _make_perceptron(width, shape.widths, outputs, shape.dropout)
        self.wide = nn.Linear(width, outputs)

    def forward(self, *columns: Tensor) -> Tensor:
        """Return logits, shape ``(N, classes)``, or values, shape ``(N,)``.

        Args:
            *columns: Numbers, shape ``(N, C)``, float32, NaN where one is missing,
                then codes, shape ``(N, K)``, int64; each where there are such columns.
        """
        parts = []
        if self.has_numbers:
            parts += self._prepare(columns[0])
        if self.vectors:
            codes = columns[-1].unbind(1)
            parts += [v(c) for v, c in zip(self.vectors, codes, strict=True)]
        inputs = torch.cat(parts, 1)
        outputs: Tensor = self.deep(inputs) + self.wide(inputs)
        if self.has_values:
            return outputs.squeeze(1) * self.target[1] + self.target[0]
        return outputs

    def _prepare(self, numbers: Tensor) -> list[Tensor]:
        missing = torch.isnan(numbers)
        scaled = ((numbers - self.mean) / self.scale).clamp(-LIMIT, LIMIT)
        filled = scaled.masked_fill(missing, 0.0)
        if not len(self.gaps):
            return [filled]
        return [filled, missing.index_select(1, self.gaps).to(filled.dtype)]


class SmallCnn(nn.Module):
    """A convolutional network for small images, whatever their size.

    Each block is a 3x3 convolution, batch normalisation and ReLU, and halves the sides;
    a last one is without halving. The mean over what remains goes to a linear layer.

    Args:
        channels: 1 for grey, 3 for colour.
        num_classes: Classes, 2 or more.
        widths: Channels of each block.
    """

    def __init__(
        self, channels: int, num_classes: int, widths: Sequence[int] = (32, 64, 128)
    ) -> None:
        super().__init__()
        blocks, before = [], channels
        for width in widths:
            blocks += [*_convolve(before, width), nn.MaxPool2d(2, ceil_mode=True)]
            before = width
        self.features = nn.Sequential(*blocks, *_convolve(before, before))
        self.classify = nn.Linear(before, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape ``(N, classes)``.

        Args:
            images: Shape ``(N, channels, H, W)``, float32, in ``[0, 1]``.
        """
        logits: Tensor = self.classify(self.features(images).mean((2, 3)))
        return logits


class ShareOfVariance(nn.Module):
    """Mean squared error as a share of the variance of the training targets.

    1 is what predicting their mean gives, 0 is perfect; whatever the target's unit,
    gradients are of the same size.

    Args:
        scale: Standard deviation of the training targets, above 0.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of outputs and targets, both of shape ``(N,)``."""
        return ((output - target) / self.scale).square().mean()


def vector_width(count: int) -> int:
    """Return how many numbers stand for each of some categories."""
    return min(count, MOST_NUMBERS)


def _make_vectors(count: int, unseen: Sequence[int]) -> nn.Embedding:
    """Return vectors for categories; one that is never trained on says nothing."""
    vectors = nn.Embedding(count, vector_width(count))
    if count <= MOST_NUMBERS:
        nn.init.eye_(vectors.weight)
    else:
        nn.init.normal_(vectors.weight, std=VECTOR_SPREAD)
    with torch.no_grad():
        vectors.weight[list(unseen)] = 0
    return vectors


def _make_perceptron(
    width: int, hidden: Sequence[int], outputs: int, dropout: float
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def _convolve(before: int, width: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
