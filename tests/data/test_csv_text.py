"""CSV files as text: properties of the reader, whatever the bytes are."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from handful.data.csv_file import CsvTable, read_csv
from handful.data.csv_text import CsvFile, scan_quotes
from handful.errors import ArgumentError, DataError

pytest.importorskip("pyarrow", reason="pyarrow is missing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("csv")


def save(folder: Path, content: bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(content)
    return path


def write(rows: list[list[object]], **options) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, **options).writerows(rows)
    return text.getvalue().encode()


texts = st.text(st.sampled_from('ab1.,;"\n é'), max_size=5)
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
ends = st.sampled_from(["\n", "\r\n"])


@settings(deadline=None, max_examples=150)
@given(
    rows=st.lists(st.tuples(numbers, texts), min_size=1, max_size=8),
    end=ends,
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_what_was_written_is_read(folder, rows, end, quoting):
    assume(all(text for _, text in rows))
    if quoting == csv.QUOTE_ALL:  # The writer leaves a return outside of quotes.
        rows = [(number, text.replace(".", "\r")) for number, text in rows]
    content = write([["n", "t"], *rows], lineterminator=end, quoting=quoting)
    table = read_csv(save(folder, content), dtypes={"n": "number", "t": "category"})
    matrix, codes = table.data.tensors
    known = table.schema.categories[0].categories
    assert matrix[:, 0].tolist() == [number for number, _ in rows]
    assert [known[code] for code in codes[:, 0]] == [text for _, text in rows]
    assert list(known) == sorted({text for _, text in rows})


pieces = st.sampled_from(
    [b",", b"\n", b"\r\n", b'"', b'""', b"1", b"2.5", b"x", b"NA", b";", b"\xff", b" "]
)


@settings(deadline=None, max_examples=500)
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.lists(pieces, max_size=30).map(b"".join),
        st.lists(pieces, max_size=30).map(lambda parts: b"a,b\n" + b"".join(parts)),
    ),
    header=st.booleans(),
    missing=st.sampled_from(["raise", "drop", "mean"]),
    target=st.sampled_from([None, 0, -1]),
)
def test_any_bytes_give_a_table_or_an_error_that_names_the_file(
    folder, content, header, missing, target
):
    path = save(folder, content)
    try:
        outcome = read_csv(path, header=header, missing=missing, target=target)
    except (ArgumentError, DataError) as error:
        outcome = error
    assert isinstance(outcome, CsvTable) or str(path) in str(outcome)


@settings(deadline=None, max_examples=200)
@given(
    rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=8),
    end=ends,
)
def test_lines_are_counted_as_an_editor_counts_them(folder, rows, end):
    rows = [(a or "x", b or "y") for a, b in rows]
    content = write([["a", "b"], *rows], lineterminator=end)
    file = CsvFile(save(folder, content))
    for number, row in enumerate(rows):
        before = write([["a", "b"], *rows[:number]], lineterminator=end).decode()
        assert file.line_of_row(number) == 1 + len(before.splitlines())
        assert file.cell(number, 1) == row[1]


@settings(deadline=None, max_examples=300)
@given(rows=st.lists(st.lists(texts, min_size=2, max_size=2), min_size=1, max_size=8))
def test_quotes_that_a_writer_makes_are_regular(folder, rows):
    content = write([["a", "b"], *rows], lineterminator="\n")
    quoting = scan_quotes(save(folder, content), ",")
    assert quoting.is_regular
    assert quoting.has_newlines == any("\n" in text for row in rows for text in row)


@pytest.mark.parametrize("cut", range(1, 4))
def test_quotes_are_followed_across_chunks(folder, cut, monkeypatch):
    monkeypatch.setattr("handful.data.csv_text._CHUNK_BYTES", cut)
    regular = save(folder, b'a,b\n1,"x\n""y"\n2,"z"\n')
    assert scan_quotes(regular, ",").is_regular
    assert scan_quotes(regular, ",").has_newlines
    returns = save(folder, b'a,b\r1,"x\ry"\r')
    assert scan_quotes(returns, ",").has_newlines
    plain = save(folder, b'a,b\n1,"x"\n2,"z"\n')
    assert not scan_quotes(plain, ",").has_newlines
    amid = save(folder, b'a,b\n1,"x"y"\n2,"z\n')
    assert not scan_quotes(amid, ",").is_regular
    odd = save(folder, b'a,b\n1,"x\n')
    assert not scan_quotes(odd, ",").is_regular
