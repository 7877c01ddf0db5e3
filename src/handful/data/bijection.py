"""Bijection: a shuffled order of any length that is computed, never stored.

A number below a * b is a pair (left, right), with left below a and right below b. A
round adds to one half, modulo its size, a number hashed from the other half and the
round's key, so each round can be undone and the whole maps the pairs one to one. This
is the numeric Feistel network of Black and Rogaway ("Ciphers with arbitrary finite
domains", 2002, section 5), here with additions on both halves. Numbers from `size` on,
fewer than four in the square root of `size`, are mapped again until they fall below
it (cycle walking, ibid., section 4).

The sizes a and b are even, since adding to a half of even size is an odd permutation
for half of all hashes; with an odd size every order would be an even permutation.
"""

from __future__ import annotations

import hashlib
from math import isqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
"""Rounds of the network; docs/order.md says which statistics see through how many."""

MAX_SIZE = 2**62
"""Greatest size: the halves then have 31 bits, and all products fit 64."""

Words: TypeAlias = NDArray[np.uint64]

_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_STIR = np.uint64(0xD1342543DE82EF95)
_HALF_WORD = np.uint64(32)


class Bijection:
    """Maps 0 … size - 1 one to one onto itself, many numbers at a time.

    Args:
        size: How many numbers, 1 to `MAX_SIZE`.
        key: Which of the bijections, 0 to 2**64 - 1.

    Example:
        >>> sorted(Bijection(5, key=1)(np.arange(5, dtype=np.uint64)).tolist())
        [0, 1, 2, 3, 4]
    """

    def __init__(self, size: int, *, key: int) -> None:
        assert 1 <= size <= MAX_SIZE
        left_size, right_size = _split(size)
        self._size = np.uint64(size)
        self._left_size = np.uint64(left_size)
        self._right_size = np.uint64(right_size)
        self._round_keys = _expand(key)

    def __call__(self, numbers: Words) -> Words:
        """Map numbers, each for itself.

        Args:
            numbers: Each below ``size``, shape ``(K,)``.

        Returns:
            What they are mapped to, shape ``(K,)``, in memory of its own.
        """
        mapped = self._map_pairs(numbers)
        (outside,) = np.nonzero(mapped >= self._size)
        while outside.size:
            again = self._map_pairs(mapped[outside])
            mapped[outside] = again
            outside = outside[again >= self._size]
        return mapped

    def _map_pairs(self, numbers: Words) -> Words:
        left: Words = numbers // self._right_size
        right = numbers - left * self._right_size
        changed, changed_size = left, self._left_size
        other, other_size = right, self._right_size
        # Two buffers serve all rounds: fresh ones would double the time.
        hashed, spare = np.empty_like(left), np.empty_like(left)
        for round_key in self._round_keys:
            _hash_below(changed_size, other, round_key, hashed, spare)
            np.add(changed, hashed, out=changed)
            # Where nothing is to be taken off the difference wraps, and is greater.
            np.subtract(changed, changed_size, out=spare)
            np.minimum(changed, spare, out=changed)
            changed, other = other, changed
            changed_size, other_size = other_size, changed_size
        np.multiply(left, self._right_size, out=left)
        np.add(left, right, out=left)
        return left


def _split(size: int) -> tuple[int, int]:
    """Return two even sizes, both near the root, whose product is just enough."""
    left_size = isqrt(size - 1) + 1
    left_size += left_size % 2
    right_size = -(-size // left_size)
    return left_size, right_size + right_size % 2


def _expand(key: int) -> list[np.uint64]:
    """Make the round keys, 64 bits each, of one key."""
    stream = hashlib.shake_256(key.to_bytes(8, "little")).digest(8 * ROUNDS)
    return list(np.frombuffer(stream, dtype="<u8").astype(np.uint64))


def _hash_below(
    bound: np.uint64, words: Words, key: np.uint64, out: Words, spare: Words
) -> None:
    """Hash words below 2**32 to numbers below a bound of at most 2**32."""
    np.add(words, key, out=out)
    np.multiply(out, _SPREAD, out=out)
    np.right_shift(out, _HALF_WORD, out=spare)
    np.bitwise_xor(out, spare, out=out)
    np.multiply(out, _STIR, out=out)
    np.right_shift(out, _HALF_WORD, out=out)
    # The upper half of a 32-bit fraction times the bound, as Lemire has it.
    np.multiply(out, bound, out=out)
    np.right_shift(out, _HALF_WORD, out=out)
