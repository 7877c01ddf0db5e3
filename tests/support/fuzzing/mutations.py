"""Mutations of valid files: of bytes, of JSON, of words; all decided by a draw."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
)
"""Values at which sizes, counts and signs go wrong."""

TEXTS = (
    *(b"", b"-1", b"0", b"1e999", b"-1e400", b"nan", b"inf", b"NaN", b"null", b"true"),
    *(b"9" * 30, b"9" * 5000, b"0x10", b"1_000", b"1.5", b"\x00", b"\xff", b"\xef"),
    *(b"\xef\xbb\xbf", b"\r\n", b"\n\n", b'"', b'""', b"'", b"[", b"]", b"{", b"}"),
    *(b"[" * 300, b"{" * 300, b'{"a":' * 200, b"../", b"/", b"\\", b"\\u0000", b","),
    *(b":", b"=", b";", b"\t", b"&a ", b"*a", b"!!python/object:os.system ", b"$float"),
)
"""What is put into texts."""

_DIGITS = frozenset(b"0123456789")


def mutate_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return bytes with one to four changes: flipped, cut, doubled, joined, replaced.

    Args:
        rng: Decides all.
        data: A file's content.
        others: Further ones, from which pieces are taken.
    """
    content = bytearray(data)
    for _ in range(1 + (rng.random() < 0.5) + 2 * (rng.random() < 0.1)):
        content = rng.choice(_OF_BYTES)(rng, content, others)
    return bytes(content)


def mutate_json(rng: random.Random, text: bytes, others: Sequence[bytes]) -> bytes:
    """Return JSON of which values, keys or types are others; now and then broken.

    Args:
        rng: Decides all.
        text: A JSON text, or lines of such.
        others: Further ones, from which bytes are taken where it is broken.
    """
    if rng.random() < 0.3:
        return mutate_bytes(rng, text, others)
    lines = text.splitlines() if text.count(b"}\n{") else [text]
    place = rng.randrange(len(lines))
    try:
        value = json.loads(lines[place])
    except ValueError:
        return mutate_bytes(rng, text, others)
    for _ in range(1 + (rng.random() < 0.3)):
        value = _change(rng, value)
    lines[place] = json.dumps(value).encode()
    return b"\n".join(lines) + b"\n" * (rng.random() < 0.8)


def mutate_words(rng: random.Random, text: bytes, words: Sequence[bytes]) -> bytes:
    """Return a text put together from words, or a valid one with some changes."""
    if rng.random() < 0.4:
        count = rng.randrange(1, 8)
        return b"".join(rng.choice(words) for _ in range(count))
    return mutate_bytes(rng, text, words)


def _flip(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _set(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    if data:
        value = rng.choice((0, 1, 127, 128, 255, 10, 34, 44, rng.randrange(256)))
        data[rng.randrange(len(data))] = value
    return data


def _cut(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def _remove(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.randrange(1, 20)]
    return data


def _double(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.randrange(1, 40)]
    data[start:start] = piece * rng.choice((1, 1, 1, 2, 10))
    return data


def _splice(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> bytearray:
    other = rng.choice(others) if others else b""
    start, end = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
    return data[:start] + other[end:]


def _number(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    width = rng.choice((1, 2, 4, 8))
    start = rng.randrange(max(len(data) - width, 0) + 1)
    value = rng.choice(NUMBERS) % (1 << 8 * width)
    order: Any = rng.choice(("little", "big"))
    data[start : start + width] = value.to_bytes(width, order)
    return data


def _digits(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    """Replace a number that is written in digits."""
    start = rng.randrange(len(data) + 1)
    while start < len(data) and data[start] not in _DIGITS:
        start += 1
    end = start
    while end < len(data) and data[end] in _DIGITS:
        end += 1
    new = str(rng.choice(NUMBERS) * rng.choice((1, 1, -1)))
    data[start:end] = rng.choice((new.encode(), rng.choice(TEXTS)))
    return data


def _insert(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> bytearray:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.choice(TEXTS)
    return data


_OF_BYTES: tuple[Callable[..., bytearray], ...] = (
    *(_flip, _set, _cut, _remove, _double, _splice, _number, _number, _digits, _insert),
)


def _change(rng: random.Random, value: Any) -> Any:
    """Return a JSON value of which one place, of any depth, is changed."""
    inside = isinstance(value, (dict, list)) and value and rng.random() < 0.85
    if not inside:
        return _new_value(rng, value)
    if isinstance(value, list):
        place = rng.randrange(len(value))
        return [_change(rng, v) if i == place else v for i, v in enumerate(value)]
    key = rng.choice(list(value))
    draw = rng.random()
    if draw < 0.1:
        return {k: v for k, v in value.items() if k != key}
    if draw < 0.2:
        new = rng.choice((*value, "", "$float", "$tensor", "$tuple", "../x", "1"))
        return {new if k == key else k: v for k, v in value.items()}
    return {k: _change(rng, v) if k == key else v for k, v in value.items()}


def _new_value(rng: random.Random, value: Any) -> Any:
    draw = rng.randrange(16)
    if draw == 0:
        return [value] * rng.choice((0, 1, 2, 3, 300))
    if draw == 1:
        return {rng.choice(("name", "$float", "$tensor", "$tuple", "0", "x")): value}
    if draw == 2:
        nested: Any = value
        for _ in range(rng.choice((3, 50, 400))):
            nested = [nested] if draw else {"a": nested}
        return nested
    if draw < 8:
        number = rng.choice(NUMBERS) * rng.choice((1, -1))
        return rng.choice((number, number / 3, float(number), 10**400))
    texts = ("", "x", "nan", "1", "../../x", "é\udcff", "\x00", "a" * 3000, "step-1")
    plain = (None, True, False, [], {}, float("nan"), float("inf"), 1e308, *texts)
    return rng.choice(plain)
