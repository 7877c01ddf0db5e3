"""Padding: samples with lists of different lengths put together to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from handful.errors import ArgumentError, DataError


@dataclass(frozen=True)
class PadCollate:
    """A ``collate_fn`` that pads lists of different lengths at their ends.

    Samples are dicts. Fields that are padded are lists, arrays or tensors of one
    dimension and become a tensor of shape ``(B, L)`` of the first sample's dtype, L
    being the greatest length in the batch. The batch also gets ``lengths``, shape
    ``(B,)``, int64, and on request ``mask``, shape ``(B, L)``, true where there is a
    value. Where several fields are padded these are called ``<field>_lengths`` and
    ``<field>_mask``. All other fields are put together as PyTorch does.

    Args:
        padding: What fills the end, a number for all fields or one for each.
        fields: Which fields are padded; None for all that have one dimension in the
            first sample.
        max_length: Longest list that is kept whole; of longer ones the beginning is.
            None for no limit.
        mask: Whether the batch gets masks.

    Raises:
        ArgumentError: ``max_length`` is not a whole number from 1 on, or ``fields`` is
            a text.

    Example:
        >>> collate = PadCollate(padding=-1)
        >>> collate([{"tokens": [5, 3, 9]}, {"tokens": [7]}])["tokens"]
        tensor([[ 5,  3,  9],
                [ 7, -1, -1]])
    """

    padding: float | Mapping[str, float] = 0
    fields: Sequence[str] | None = None
    max_length: int | None = None
    mask: bool = False

    def __post_init__(self) -> None:
        limit = self.max_length
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ArgumentError(
                f"max_length must be a whole number from 1 on, or None; got {limit!r}."
            )
        if isinstance(self.fields, str):
            raise ArgumentError(
                f"fields must be a list of names; got {self.fields!r}. "
                'Name one field as ["name"].'
            )

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the batch of some samples.

        Raises:
            ArgumentError: ``fields`` or ``padding`` doesn't fit the samples, or these
                have a field with the name of one that is added.
            DataError: A sample is no dict, or a field to pad is not of one dimension.
        """
        first = samples[0]
        if not isinstance(first, Mapping):
            raise DataError(
                "samples must be dicts to be padded; got "
                f"{type(first).__name__}. Let the data set return {{name: value}}."
            )
        names = self._padded_names(first)
        batch: dict[str, Any] = {}
        for name in first:
            values = [sample[name] for sample in samples]
            if name not in names:
                batch[name] = default_collate(values)
        prefixes = {name: "" if len(names) == 1 else f"{name}_" for name in names}
        for name, prefix in prefixes.items():
            padded, lengths, is_value = self._pad(name, samples)
            batch[name] = padded
            added = {f"{prefix}lengths": lengths, f"{prefix}mask": is_value}
            if not self.mask:
                del added[f"{prefix}mask"]
            for key in added.keys() & first.keys():
                raise ArgumentError(
                    f"samples must not have the field {key!r}, which padding adds; got "
                    "it. Rename it in the data set."
                )
            batch |= added
        return batch

    def _padded_names(self, sample: Mapping[str, Any]) -> list[str]:
        if self.fields is None:
            return [name for name, value in sample.items() if _is_list(value)]
        for name in self.fields:
            if name not in sample:
                raise ArgumentError(
                    f"fields must be those of the samples, "
                    f"{', '.join(map(repr, sample))}; got {name!r}."
                )
        return list(self.fields)

    def _pad(
        self, name: str, samples: Sequence[Mapping[str, Any]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a field padded, its lengths, and where there is a value."""
        parts = [_as_list(s[name], name)[: self.max_length] for s in samples]
        lengths = torch.tensor([len(part) for part in parts])
        is_value = torch.arange(int(lengths.max())) < lengths[:, None]
        fill = self._padding_of(name)
        dtype = parts[0].dtype
        padded = torch.full(is_value.shape, fill, dtype=dtype)
        padded[is_value] = torch.cat(parts).to(dtype)
        return padded, lengths, is_value

    def _padding_of(self, name: str) -> float:
        if not isinstance(self.padding, Mapping):
            return self.padding
        if name not in self.padding:
            raise ArgumentError(
                f"padding must have a number for each field that is padded; got none "
                f"for {name!r}. Add it, or give one number for all."
            )
        return self.padding[name]


def _is_list(value: object) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        return value.ndim == 1
    return isinstance(value, list)


def _as_list(value: Any, name: str) -> Tensor:
    try:
        values = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(())
    if values.ndim != 1:
        raise DataError(
            f"field {name!r} must be a list of numbers in each sample to be padded; "
            f"got {str(value)[:60]}. Name others with fields=."
        )
    return values
