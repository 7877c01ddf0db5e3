"""Hugging Face data sets as columns, read from their Arrow tables in place.

The package ``datasets`` is never imported here: whoever passes a data set has done so.
Its formatting decides the dtypes: with the format ``torch`` or ``numpy`` whole numbers
come as int64 and others as float32; without a format others come as float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from handful.data.arrow import arrow_chunks, join_chunks
from handful.errors import DataError


def is_hugging_face(dataset: object) -> bool:
    """Say whether a data set is exactly a ``datasets.Dataset``."""
    kind = type(dataset)
    return (kind.__module__, kind.__qualname__) == ("datasets.arrow_dataset", "Dataset")


def read_hugging_face(
    dataset: Any,
) -> tuple[dict[str, tuple[list[Tensor], torch.dtype]], Tensor | None] | str:
    """Return the columns of a Hugging Face data set, and its index.

    Args:
        dataset: A ``datasets.Dataset``.

    Returns:
        For each column its chunks and the dtype that its samples come with; then the
        rows that make up the data set, shape ``(N,)``, None for all in order. Or a
        clause that says why samples must be read one by one.
    """
    layout = dataset.format
    if layout["type"] not in (None, "torch", "numpy"):
        return f"a data set with the format {layout['type']!r} is read sample by sample"
    if layout["format_kwargs"] or layout["output_all_columns"] or len(dataset) == 0:
        return "a data set with arguments of its format is read sample by sample"
    columns: dict[str, tuple[list[Tensor], torch.dtype]] = {}
    for name in dataset[0]:
        try:
            chunks = arrow_chunks(dataset.data.column(name), f"column {name!r}")
        except DataError as error:
            return str(error).rstrip(".")
        if layout["type"] is None and chunks[0].ndim > 1:
            return f"column {name!r} holds lists, and the data set has no format"
        columns[str(name)] = chunks, _formatted(chunks[0].dtype, layout["type"])
    mapping = dataset._indices
    if mapping is None:
        return columns, None
    rows = join_chunks(arrow_chunks(mapping.column(0), "indices"))
    return columns, rows.view(torch.int64)


def _formatted(dtype: torch.dtype, layout: str | None) -> torch.dtype:
    if dtype is torch.bool:
        return dtype
    if dtype.is_floating_point:
        return torch.float64 if layout is None else torch.float32
    return torch.int64
