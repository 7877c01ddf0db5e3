"""Bijection: one to one at every size, and what its definition says, bit for bit."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handful.data.bijection import MAX_SIZE, ROUNDS, Bijection

WORD = 2**64


def map_number(number: int, size: int, key: int) -> int:
    """Map one number as docs/order.md defines it, in numbers without a limit."""
    left_size = math.isqrt(size - 1) + 1
    left_size += left_size % 2
    right_size = -(-size // left_size)
    right_size += right_size % 2
    stream = hashlib.shake_256(key.to_bytes(8, "little")).digest(64)
    while True:
        left, right = divmod(number, right_size)
        for i in range(8):
            round_key = int.from_bytes(stream[8 * i : 8 * i + 8], "little")
            source, bound = (right, left_size) if i % 2 == 0 else (left, right_size)
            h = (source + round_key) * 0x9E3779B97F4A7C15 % WORD
            h = (h ^ (h >> 32)) * 0xD1342543DE82EF95 % WORD
            added = (h >> 32) * bound >> 32
            if i % 2 == 0:
                left = (left + added) % left_size
            else:
                right = (right + added) % right_size
        number = left * right_size + right
        if number < size:
            return number


@given(st.integers(1, 700), st.integers(0, WORD - 1))
def test_every_number_is_reached_once(size: int, key: int) -> None:
    mapped = Bijection(size, key=key)(np.arange(size, dtype=np.uint64))
    assert sorted(mapped.tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2**16, 2**16 + 1, 99_999, 2**18 - 1, 510 * 510])
def test_every_number_is_reached_once_at_greater_sizes(size: int) -> None:
    mapped = Bijection(size, key=5)(np.arange(size, dtype=np.uint64))
    assert np.array_equal(np.sort(mapped), np.arange(size))


@given(
    st.one_of(st.integers(1, 100), st.integers(1, MAX_SIZE)),
    st.integers(0, WORD - 1),
    st.data(),
)
def test_mapping_is_the_one_defined(size: int, key: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, size - 1), max_size=5))
    mapped = Bijection(size, key=key)(np.array(numbers, dtype=np.uint64))
    assert mapped.tolist() == [map_number(number, size, key) for number in numbers]


@pytest.mark.parametrize("size", [MAX_SIZE, MAX_SIZE - 1, 2**61 + 1, 2**32 + 1])
def test_no_product_overflows_at_the_greatest_sizes(size: int) -> None:
    numbers = [*range(50), *range(size - 50, size)]
    mapped = Bijection(size, key=WORD - 1)(np.array(numbers, dtype=np.uint64))
    assert mapped.tolist() == [map_number(n, size, WORD - 1) for n in numbers]


def test_numbers_mapped_are_left_as_they_were() -> None:
    numbers = np.arange(1_000, dtype=np.uint64)
    Bijection(1_000, key=0)(numbers)
    assert np.array_equal(numbers, np.arange(1_000))


def test_definition_has_the_rounds_of_the_code() -> None:
    assert ROUNDS == 8
