"""Padding of lists of different lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from handful.data.padding import PadCollate
from handful.errors import ArgumentError, DataError

SAMPLES = [
    {"tokens": torch.tensor([5, 3, 9]), "label": 1, "text": "a"},
    {"tokens": torch.tensor([7]), "label": 0, "text": "b"},
]


@given(
    lists=st.lists(st.lists(st.integers(-9, 9), max_size=6), min_size=1, max_size=6),
    padding=st.integers(-9, 9),
)
def test_padding_is_pytorchs(lists, padding):
    tensors = [torch.tensor(values, dtype=torch.int64) for values in lists]
    batch = PadCollate(padding, mask=True)([{"t": values} for values in tensors])
    wanted = pad_sequence(tensors, batch_first=True, padding_value=padding)
    assert torch.equal(batch["t"], wanted)
    assert batch["t"].dtype is torch.int64
    assert batch["lengths"].tolist() == [len(values) for values in lists]
    assert batch["mask"].sum(1).tolist() == batch["lengths"].tolist()
    assert batch["mask"].shape == wanted.shape


def test_other_fields_are_collated_as_pytorch_does():
    batch = PadCollate()(SAMPLES)
    assert list(batch) == ["label", "text", "tokens", "lengths"]
    assert batch["label"].tolist() == [1, 0]
    assert batch["text"] == ["a", "b"]


def test_longer_lists_keep_their_beginning():
    batch = PadCollate(max_length=2)(SAMPLES)
    assert batch["tokens"].tolist() == [[5, 3], [7, 0]]
    assert batch["lengths"].tolist() == [2, 1]


def test_several_fields_are_padded_each_with_its_own():
    samples = [{"a": [1, 2], "b": [0.5]}, {"a": [3], "b": [1.5, 2.5]}]
    batch = PadCollate({"a": -1, "b": 9}, mask=True)(samples)
    assert batch["a"].tolist() == [[1, 2], [3, -1]]
    assert batch["b"].tolist() == [[0.5, 9.0], [1.5, 2.5]]
    assert batch["b"].dtype is torch.float32
    assert batch["a_lengths"].tolist() == [2, 1]
    assert batch["b_lengths"].tolist() == [1, 2]
    assert batch["b_mask"].tolist() == [[True, False], [True, True]]
    with pytest.raises(ArgumentError, match=r"padding must have .* got none for 'b'"):
        PadCollate({"a": 0})(samples)


def test_only_named_fields_are_padded():
    samples = [{"a": [1, 2], "v": np.ones(2)}, {"a": [3], "v": np.zeros(2)}]
    batch = PadCollate(fields=["a"])(samples)
    assert batch["v"].tolist() == [[1, 1], [0, 0]]
    assert set(batch) == {"a", "v", "lengths"}


@pytest.mark.parametrize(
    ("collate", "samples", "error", "match"),
    [
        (PadCollate(), [([1], 0)], DataError, "samples must be dicts .*; got tuple"),
        (
            PadCollate(fields=["a"]),
            [{"a": [1]}, {"a": 2}],
            DataError,
            "field 'a' must be a list of numbers in each sample .*; got 2",
        ),
        (
            PadCollate(fields=["a"]),
            [{"a": ["x"]}],
            DataError,
            "field 'a' must be a list of numbers",
        ),
        (
            PadCollate(fields=["b"]),
            [{"a": [1]}],
            ArgumentError,
            "fields must be those of the samples, 'a'; got 'b'",
        ),
        (
            PadCollate(),
            [{"a": [1], "lengths": 3}],
            ArgumentError,
            "samples must not have the field 'lengths'",
        ),
    ],
)
def test_samples_that_cannot_be_padded_are_named(collate, samples, error, match):
    with pytest.raises(error, match=match):
        collate(samples)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_a_limit_is_a_whole_number(limit):
    with pytest.raises(ArgumentError, match="max_length must be a whole number from 1"):
        PadCollate(max_length=limit)


def test_fields_are_a_list():
    with pytest.raises(ArgumentError, match="fields must be a list of names; got 'a'"):
        PadCollate(fields="a")
