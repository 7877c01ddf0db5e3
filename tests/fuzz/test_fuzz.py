"""Whatever bytes a parser of ours gets, it reads them or says what is wrong."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing.chunk import read_corpus
from fuzzing.every import PARSERS
from fuzzing.parser import Parser, answer

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

CORPUS = Path(__file__).parent / "corpus"
BYTES_FOR_A_BYTE = 200
"""Memory that a parser may take for each byte of a file: Python's objects are large."""

MEBIBYTE = 2**20


@pytest.fixture(params=list(PARSERS))
def parser(request: pytest.FixtureRequest) -> Parser:
    return PARSERS[request.param]


@pytest.fixture
def inputs(parser: Parser, tmp_path: Path) -> Iterator[bytes]:
    """Give valid files, the kept ones, and mutated ones without end."""
    seeds = parser.make_seeds(tmp_path)

    def give() -> Iterator[bytes]:
        yield from seeds
        yield from read_corpus(CORPUS / parser.name)
        rng = random.Random(f"short form {parser.name}")
        while True:
            yield parser.mutate(rng, rng.choice(seeds), seeds)

    return give()


def test_mutated_files_are_read_or_refused(
    parser: Parser, inputs: Iterator[bytes], tmp_path: Path
) -> None:
    answers = [answer(parser, tmp_path, next(inputs)) for _ in range(100)]
    assert {*answers} == {"read", "refused"}


def test_memory_grows_with_the_file_alone(
    parser: Parser, inputs: Iterator[bytes], tmp_path: Path
) -> None:
    answer(parser, tmp_path, next(inputs))  # loads what reading needs
    tracemalloc.start()
    try:
        for _ in range(25):
            data = next(inputs)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            answer(parser, tmp_path, data)
            used = tracemalloc.get_traced_memory()[1] - before
            assert used < 8 * MEBIBYTE + BYTES_FOR_A_BYTE * len(data)
    finally:
        tracemalloc.stop()


@settings(
    max_examples=15,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(
    parser: Parser, tmp_path: Path, data: bytes
) -> None:
    if not any(tmp_path.iterdir()):
        parser.make_seeds(tmp_path)
    answer(parser, tmp_path, data)
