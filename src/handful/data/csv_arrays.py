"""The cells of a table, as Arrow read them, made into numbers and codes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float32]
Codes: TypeAlias = NDArray[np.int64]

CLASS_LIMIT = 20
"""Most different whole numbers that are taken for classes unasked."""


def join_numbers(batches: Sequence[Any], num_threads: int) -> tuple[Matrix, bool]:
    """Return the values of number columns side by side.

    Arrow's batches are copied one by one, while their rows are in the processor's
    cache.

    Args:
        batches: ``pyarrow.RecordBatch`` of C columns of numbers or booleans.
        num_threads: How many threads copy.

    Returns:
        The values, shape ``(N, C)``, float32, a missing one as NaN; and whether all of
        them are finite.
    """
    ends = np.cumsum([0, *(batch.num_rows for batch in batches)])
    width = batches[0].num_columns if batches else 0
    matrix = np.empty((ends[-1], width), np.float32)

    def fill(number: int) -> bool:
        rows = matrix[ends[number] : ends[number + 1]]
        for place, column in enumerate(batches[number].columns):
            rows[:, place] = _numbers(column)
        return bool(np.isfinite(rows).all())

    with ThreadPoolExecutor(num_threads) as pool:
        are_finite = list(pool.map(fill, range(len(batches))))
    return matrix, all(are_finite)


def join_values(column: Any) -> NDArray[np.float64]:
    """Return the values of one number column, shape ``(N,)``; missing ones as NaN."""
    parts = [_numbers(chunk) for chunk in column.chunks]
    return np.concatenate([np.empty(0), *parts]).astype(np.float64, copy=False)


def encode_texts(column: Any) -> tuple[Codes, tuple[str, ...]]:
    """Return the codes of a text column, and what they stand for.

    Args:
        column: A ``pyarrow.ChunkedArray`` of dictionaries of texts, without nulls.

    Returns:
        The codes, shape ``(N,)``, int64; and the texts that occur, sorted, of which
        code i stands for the i-th.
    """
    unified = column.unify_dictionaries()
    if unified.num_chunks == 0:
        return np.empty(0, np.int64), ()
    texts = unified.chunk(0).dictionary.to_pylist()
    places = np.concatenate([_numbers(c.indices) for c in unified.chunks])
    used = np.bincount(places, minlength=len(texts)) > 0
    known = sorted(text for text, is_used in zip(texts, used, strict=True) if is_used)
    rank = {text: code for code, text in enumerate(known)}
    codes = np.array([rank.get(text, -1) for text in texts], np.int64)
    return codes[places], tuple(known)


def recode(
    codes: Codes, texts: Sequence[Any], known: Sequence[Any], extra: int = -1
) -> tuple[Codes, int | None]:
    """Return codes of the same texts by another list.

    Args:
        codes: Codes of ``texts``, shape ``(N,)``.
        texts: What they stand for.
        known: What the new codes stand for.
        extra: The code of what is not known.

    Returns:
        The new codes, shape ``(N,)``, int64; and the first row whose text is not known,
        None if all are.
    """
    rank = {text: code for code, text in enumerate(known)}
    table = np.array([rank.get(text, -1) for text in texts], np.int64)
    if not len(codes):
        return codes, None
    fresh = table[codes]
    is_unknown = fresh < 0
    if not (table < 0).any():
        return fresh, None
    row = int(np.argmax(is_unknown))
    fresh[is_unknown] = extra
    return fresh, row


def encode_whole(values: NDArray[np.float64]) -> tuple[Codes, tuple[int, ...]]:
    """Return the codes of whole numbers, and the numbers, sorted.

    Args:
        values: Whole numbers, shape ``(N,)``, float64.
    """
    found, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64), tuple(int(value) for value in found)


def are_whole(values: NDArray[np.float64]) -> bool:
    """Say whether all values are whole numbers that float64 holds exactly."""
    return bool((np.abs(values) < 2**53).all() and (values == np.rint(values)).all())


def are_classes(values: NDArray[np.float64]) -> bool:
    """Say whether values are taken for classes: whole numbers, few different ones."""
    start = values[: 50 * CLASS_LIMIT]
    if not are_whole(start) or len(np.unique(start)) > CLASS_LIMIT:
        return False
    return are_whole(values) and len(np.unique(values)) <= CLASS_LIMIT


def find_gaps(column: Any) -> NDArray[np.bool_] | None:
    """Return which rows of a column have no value; None if all have one.

    Args:
        column: A ``pyarrow.ChunkedArray`` of numbers, booleans or dictionaries of
            texts, in which an empty text is no value.
    """
    if str(column.type).startswith("dictionary"):
        codes, texts = encode_texts(column)
        return codes == texts.index("") if "" in texts else None
    gaps = np.isnan(join_values(column))
    return gaps if gaps.any() else None


def first_where(found: NDArray[np.bool_]) -> int:
    """Return the first place that is true."""
    return int(np.argmax(found))


def _numbers(array: Any) -> NDArray[Any]:
    """Return an Arrow array's values; missing ones as NaN, booleans as 0 and 1.

    Its memory is read directly: Arrow's own way would import pandas, where that is
    installed, which takes longer than reading a small file.
    """
    valid, data = array.buffers()
    begin, end = array.offset, array.offset + len(array)
    if str(array.type) == "bool":
        values = _bits(data, end)[begin:].astype(np.float32)
    else:
        values = np.frombuffer(data, _DTYPES[str(array.type)])[begin:end]
    if array.null_count:
        values = np.where(_bits(valid, end)[begin:], values, np.float32(np.nan))
    return values


def _bits(buffer: Any, end: int) -> NDArray[np.bool_]:
    packed = np.frombuffer(buffer, np.uint8)
    return np.unpackbits(packed, count=end, bitorder="little").view(np.bool_)


_DTYPES = {"float": np.float32, "double": np.float64, "int32": np.int32}
