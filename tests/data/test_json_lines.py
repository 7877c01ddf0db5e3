"""JSON-lines files: lines found, samples parsed, and what is wrong named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handful import DataLoader
from handful.data.json_lines import JsonLines, find_lines
from handful.data.padding import PadCollate
from handful.errors import ArgumentError, DataError, FormatError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("jsonl")


def save(folder: Path, content: bytes | str) -> Path:
    path = folder / "t.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def open_lines(folder: Path, content: bytes | str, **options) -> JsonLines:
    return JsonLines(save(folder, content), **options)


def test_samples_are_dicts_of_texts_numbers_and_token_tensors(tmp_path):
    line = '{"text": "Grüße", "tokens": [3, -1], "n": 1.5, "ok": true, "none": []}\n'
    sample = open_lines(tmp_path, line)[0]
    assert list(sample) == ["text", "tokens", "n", "ok", "none"]
    assert (sample["text"], sample["n"], sample["ok"]) == ("Grüße", 1.5, True)
    assert sample["tokens"].tolist() == [3, -1]
    assert sample["tokens"].dtype is sample["none"].dtype is torch.int64
    assert sample["none"].shape == (0,)


def test_fields_are_chosen_and_others_passed_over(tmp_path):
    text = '{"a": 1, "b": null, "c": 2}\n{"c": 4, "a": 3}\n'
    data = open_lines(tmp_path, text, fields=["c", "a"])
    assert [data[0], data[1]] == [{"c": 2, "a": 1}, {"c": 4, "a": 3}]


def test_several_samples_are_read_at_once_and_from_both_ends(tmp_path):
    data = open_lines(tmp_path, "".join(f'{{"i": {i}}}\n' for i in range(5)))
    assert data.__getitems__([4, 0]) == [{"i": 4}, {"i": 0}]
    assert data[-5] == {"i": 0}
    with pytest.raises(IndexError, match="index must be below 5; got 5"):
        data[5]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", [True, False])
def test_empty_lines_marks_and_line_ends_make_no_difference(tmp_path, end, mark, last):
    lines = ["", '{"i": 0}', "", "", '{"i": 1}', '{"i": 2}' + end * last]
    data = open_lines(tmp_path, mark + end.join(lines))
    assert [sample["i"] for sample in data] == [0, 1, 2]
    assert [data.line_of(i) for i in range(3)] == [2, 5, 6]
    assert data.num_bytes().tolist() == [8, 8, 8]


contents = st.lists(
    st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"bc", b"\n\n", b" "]), min_size=1
).map(b"".join)


@given(content=contents, chunk=st.integers(1, 7))
def test_lines_are_those_that_python_splits(content, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("handful.data.json_lines.CHUNK_BYTES", chunk)
        starts, ends = find_lines(content)
    found = [content[a:b] for a, b in zip(starts, ends, strict=True)]
    lines = (line.removesuffix(b"\r") for line in content.split(b"\n"))
    assert found == [line for line in lines if line]


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=3),
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
lines = st.one_of(
    st.dictionaries(st.sampled_from("ab"), json_values, max_size=2).map(
        lambda value: json.dumps(value).encode()
    ),
    st.binary(max_size=12),
)


@settings(deadline=None, max_examples=300)
@given(parts=st.lists(lines, max_size=4), cut=st.integers(0, 80))
def test_any_bytes_give_samples_or_an_error_that_names_the_file(folder, parts, cut):
    whole = b"\n".join(parts)
    for content in (whole, whole[:cut]):
        path = save(folder, content)
        try:
            outcome = list(JsonLines(path, fields=["a"]))
        except DataError as error:
            outcome = error
        assert isinstance(outcome, list) or str(path) in str(outcome)


WRONG_LINES = {
    "cut": ('{"a": [1, 2', r"must be a JSON object; got '\{\"a\": \[1, 2' \("),
    "no object": ("[1, 2]", r"must be a JSON object; got '\[1, 2\]'\."),
    "no JSON": ("a, b", "must be a JSON object; got 'a, b' \\(Expecting value"),
    "no number": ('{"a": NaN}', "NaN is no JSON"),
    "deep": ("[" * 100_000, "must be a JSON object"),
    "a field less": ('{"b": 1}', r"must have the field 'a'; got 'b'\."),
    "null": ('{"a": null}', "must have a text, a number .* as 'a'; got 'nu"),
    "fractions": ('{"a": [1, 2.5]}', r"got '\[1, 2\.5\]'"),
    "large number": (f'{{"a": {2**63}}}', "a number that int64 holds, .*; got '9223"),
    "nested": ('{"a": [[1], [2]]}', r"got '\[\[1\], \[2\]\]'"),
    "object": ('{"a": {"b": 1}}', r"got '\{\"b\": 1\}'"),
    "large": (f'{{"a": [{2**63}]}}', "or a list of such whole numbers as 'a'; got"),
    "digits": (
        f'{{"a": {"1" * 5000}}}',
        "must (be a JSON object|have a text, a number that int64)",
    ),
}


@pytest.mark.parametrize("name", WRONG_LINES)
def test_a_broken_line_is_named_by_file_and_line(tmp_path, name):
    line, match = WRONG_LINES[name]
    data = open_lines(tmp_path, f'{{"a": 1}}\n\n{line}\n')
    assert data[0] == {"a": 1}
    with pytest.raises(FormatError, match=r"t\.jsonl, line 3 .*" + match):
        data[1]


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    data = open_lines(tmp_path, b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(FormatError, match=r"line 2 must be a JSON object; .*utf-8"):
        data[1]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "must have a JSON object on each line; the file is empty"),
        (b"\n\r\n\n", "it has no line that is not empty"),
        (b"\xef\xbb\xbf", "it has no line that is not empty"),
        (b"\x1f\x8b\x08\0", "must be plain text; got gzip data"),
        (b"a,b\n1,2\n", r"t\.jsonl, line 1 must be a JSON object; got 'a,b'"),
    ],
)
def test_a_wrong_file_is_refused_at_once(tmp_path, content, match):
    with pytest.raises(FormatError, match=match):
        open_lines(tmp_path, content)


def test_missing_files_folders_and_field_texts_are_refused(tmp_path):
    with pytest.raises(FormatError, match=r"none\.jsonl must be .* there is no such"):
        JsonLines(tmp_path / "none.jsonl")
    with pytest.raises(FormatError, match="must be a JSON-lines file; got a folder"):
        JsonLines(tmp_path)
    with pytest.raises(ArgumentError, match="fields must be a list of names; got 'a'"):
        open_lines(tmp_path, '{"a": 1}', fields="a")


def test_a_pickle_carries_the_place_and_not_the_content(tmp_path):
    data = open_lines(tmp_path, f'{{"a": "{"x" * 100_000}"}}\n')
    assert len(data[0]["a"]) == 100_000
    copied = pickle.dumps(data)
    assert len(copied) < 2_000
    assert pickle.loads(copied)[0] == data[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_reads_each_line_once_and_resumes_at_every_batch(
    tmp_path, num_workers
):
    generator = np.random.default_rng(0)
    text = "".join(
        json.dumps({"id": i, "tokens": [i] * int(generator.integers(0, 9))}) + "\n"
        for i in range(22)
    )
    data = open_lines(tmp_path, text)

    def make() -> DataLoader:
        return DataLoader(
            data,
            batch_size=4,
            shuffle=True,
            seed=5,
            num_workers=num_workers,
            collate_fn=PadCollate(padding=-1),
        )

    def ids(batches) -> list[int]:
        found = []
        for batch in batches:
            for number, length, row in zip(
                batch["id"], batch["lengths"], batch["tokens"], strict=True
            ):
                assert row[:length].tolist() == [number] * length
                assert (row[length:] == -1).all()
                found.append(int(number))
        return found

    order = ids(make())
    assert sorted(order) == list(range(22))
    assert order == ids(make())
    steps = range(7) if num_workers == 0 else (0, 1, 3, 6)
    for done in steps:
        loader = make()
        batches = iter(loader)
        for _ in range(done):
            next(batches)
        state = json.loads(json.dumps(loader.state_dict()))
        del batches, loader
        other = make()
        other.load_state_dict(state)
        assert ids(other) == order[4 * done :]


def test_a_broken_line_is_named_through_a_loader(tmp_path):
    data = open_lines(tmp_path, '{"a": 1}\n{"a": }\n')
    with pytest.raises(FormatError, match=r"t\.jsonl, line 2 must be a JSON object"):
        list(DataLoader(data, batch_size=2))
    with pytest.raises(FormatError, match=r"t\.jsonl, line 2 must be a JSON object"):
        list(DataLoader(data, batch_size=2, num_workers=1))
