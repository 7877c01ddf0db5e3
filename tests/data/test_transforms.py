"""Column transforms: plain PyTorch's bits, however the samples are cut."""

from __future__ import annotations

import itertools
import pickle
from collections import namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from handful.data import transforms
from handful.data.augment import RandomCrop, RandomHorizontalFlip
from handful.data.sample_keys import SampleKeys
from handful.data.transforms import (
    Chain,
    ColumnTransform,
    Normalize,
    ScaleBytes,
    locate_column,
)
from handful.errors import ArgumentError, DataError

BYTES = torch.arange(256, dtype=torch.uint8)
IMAGES = torch.randint(
    0, 256, (37, 3, 7, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)
KEYS = SampleKeys(seed=5, epoch=2, indices=torch.arange(1000, 1037))
Pair = namedtuple("Pair", "x y")

FROM_BYTES: dict[str, ColumnTransform] = {
    "scale": ScaleBytes(),
    "flip": RandomHorizontalFlip(),
    "crop": RandomCrop(5),
    "padded_crop": RandomCrop((7, 4), padding=2),
    "scale_normalize": Chain(ScaleBytes(), Normalize([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])),
    "all": Chain(
        RandomCrop(6, padding=1),
        RandomHorizontalFlip(0.3),
        ScaleBytes(),
        Normalize(0.5, [0.2, 0.3, 0.4]),
        Normalize(0.1, 2),
    ),
    "floats_first": Chain(
        ScaleBytes(), Normalize(0.5, 0.3), RandomHorizontalFlip(), RandomCrop(7, 1)
    ),
    "nested": Chain(Chain(RandomCrop(5)), Chain(ScaleBytes(), Normalize(0.5, 0.5))),
}


def apply_steps(transform: ColumnTransform, values: Tensor, keys: SampleKeys) -> Tensor:
    """Apply a chain's steps one after the other, each to a tensor of its own."""
    steps = transform.transforms if isinstance(transform, Chain) else (transform,)
    for step in steps:
        values = step.apply(values, keys)
    return values


def test_scale_bytes_gives_the_bits_of_a_float_division() -> None:
    for values in (BYTES, BYTES[:7], BYTES.repeat(40).view(40, 256), BYTES[::3]):
        expected = values.to(torch.float32).div(255)
        assert torch.equal(ScaleBytes().apply(values), expected)
    # So that nobody replaces the division by what looks the same.
    assert not torch.equal(BYTES.float() * (1 / 255), BYTES.float().div(255))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (0.1307, 0.3081),
        ((0.1307,), (0.3081,)),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        (torch.tensor([0.5, 0.4, 0.3]), 2),
        (0, [1, 2, 3]),
    ],
)
def test_normalize_gives_the_bits_of_a_subtraction_and_a_division(
    mean: Any, std: Any
) -> None:
    values = ScaleBytes().apply(IMAGES)
    expected = torch.stack(
        [
            (image - torch.as_tensor(mean).float().view(-1, 1, 1))
            / torch.as_tensor(std).float().view(-1, 1, 1)
            for image in values
        ]
    )
    assert torch.equal(Normalize(mean, std).apply(values), expected)


def test_normalize_takes_rows_of_features_and_single_numbers() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert Normalize([1, 2], 2).apply(rows).tolist() == [[0, 0], [1, 1]]
    assert Normalize(1, 2).apply(rows[:, 0]).tolist() == [0, 1]


@pytest.mark.parametrize("name", FROM_BYTES)
@given(
    cuts=st.lists(st.integers(0, 37), max_size=6),
    block=st.integers(1, 2000),
)
@settings(max_examples=25, deadline=None)
def test_however_samples_are_cut_the_bits_are_the_same(
    name: str, cuts: list[int], block: int
) -> None:
    transform = FROM_BYTES[name]
    expected = apply_steps(transform, IMAGES, KEYS)
    edges = [0, *sorted(cuts), len(IMAGES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "BLOCK_BYTES", block)
        pieces = [
            transform.apply(IMAGES[a:b], KEYS[a:b])
            for a, b in itertools.pairwise(edges)
        ]
    assert torch.equal(torch.cat(pieces), expected)


@pytest.mark.parametrize("name", FROM_BYTES)
@given(order=st.permutations(range(37)))
@settings(max_examples=10, deadline=None)
def test_a_samples_bits_do_not_depend_on_its_position(
    name: str, order: list[int]
) -> None:
    transform = FROM_BYTES[name]
    keys = SampleKeys(KEYS.seed, KEYS.epoch, KEYS.indices[order])
    expected = transform.apply(IMAGES, KEYS)[order]
    assert torch.equal(transform.apply(IMAGES[order], keys), expected)


@pytest.mark.parametrize("name", FROM_BYTES)
def test_output_is_as_announced_and_input_stays(name: str) -> None:
    transform, values = FROM_BYTES[name], IMAGES.clone()
    shape, dtype = transform.output_spec(tuple(IMAGES.shape[1:]), IMAGES.dtype)
    out = torch.empty((len(IMAGES), *shape), dtype=dtype)
    assert transform.apply(values, KEYS, out) is out
    made = transform.apply(values, KEYS)
    assert (made.dtype, made.is_contiguous()) == (dtype, True)
    assert torch.equal(made, out)
    assert torch.equal(values, IMAGES)
    assert transform.apply(values[:0], KEYS[:0]).shape == (0, *shape)


@pytest.mark.parametrize("name", FROM_BYTES)
def test_strides_of_the_input_do_not_matter(name: str) -> None:
    strided = IMAGES.to(memory_format=torch.channels_last)
    expected = FROM_BYTES[name].apply(IMAGES, KEYS)
    assert torch.equal(FROM_BYTES[name].apply(strided, KEYS), expected)


def test_a_chain_of_elementwise_steps_works_in_place() -> None:
    values = torch.arange(12.0).view(3, 4)
    chain = Chain(Normalize(1, 2), Normalize(3, 4))
    assert chain.is_elementwise
    expected = ((torch.arange(12.0).view(3, 4) - 1) / 2 - 3) / 4
    assert chain.apply(values, None, values) is values
    assert torch.equal(values, expected)


class RunningSum(ColumnTransform):
    """Reads what it has not yet replaced, so it cannot work in place."""

    def output_spec(self, shape: Any, dtype: Any) -> Any:
        return shape, dtype

    def write(self, values: Tensor, keys: SampleKeys | None, out: Tensor) -> None:
        out.zero_()
        for start in range(values.shape[1]):
            out[:, start:] += values[:, start : start + 1]


def test_only_elementwise_steps_of_a_chain_work_in_place() -> None:
    chain = Chain(Normalize(1, 2), RunningSum(), Normalize(3, 4), RunningSum())
    values = torch.arange(12.0).view(3, 4)
    assert not chain.is_elementwise
    assert torch.equal(chain.apply(values), apply_steps(chain, values, KEYS))
    assert torch.equal(values, torch.arange(12.0).view(3, 4))


def test_a_chain_needs_keys_only_if_a_step_does() -> None:
    assert not Chain(ScaleBytes(), Normalize(0, 1)).is_random
    random_chain = Chain(RandomHorizontalFlip(), ScaleBytes())
    assert random_chain.is_random
    with pytest.raises(ArgumentError, match=r"keys must be given to Chain\(RandomHor"):
        random_chain([IMAGES, None])


@pytest.mark.parametrize("make", [list, tuple, Pair._make])
def test_a_batch_keeps_its_type_and_its_other_elements(make: Any) -> None:
    labels = torch.arange(37)
    batch = make([labels, IMAGES])
    got = ScaleBytes(column=1)(batch)
    assert type(got) is type(batch)
    assert got[0] is labels
    assert torch.equal(got[1], IMAGES.float().div(255))
    assert batch[1] is IMAGES


def test_a_batch_may_be_a_dict_or_a_tensor() -> None:
    got = ScaleBytes(column="x")({"y": 1, "x": IMAGES})
    assert list(got) == ["y", "x"]
    assert torch.equal(got["x"], IMAGES.float().div(255))
    assert torch.equal(ScaleBytes()(IMAGES), got["x"])


def test_keys_of_a_batch_reach_the_transform() -> None:
    flip = RandomHorizontalFlip()
    assert torch.equal(flip([IMAGES], KEYS)[0], flip.apply(IMAGES, KEYS))


def test_a_missing_column_is_refused_with_those_there_are() -> None:
    with pytest.raises(ArgumentError, match=r"position below 2, .* names; got 2\."):
        ScaleBytes(column=2)([IMAGES, IMAGES])
    with pytest.raises(ArgumentError, match=r"position below 1, .*; got 'x'\."):
        ScaleBytes(column="x")(IMAGES)
    with pytest.raises(
        ArgumentError, match=r"one of label, x; got 'labels'\. Did you mean 'label'\?"
    ):
        ScaleBytes(column="labels")({"x": IMAGES, "label": IMAGES})
    with pytest.raises(ArgumentError, match="column must be one of x, y; got 0"):
        locate_column(0, ("x", "y"), 2)


def test_other_batches_and_columns_are_refused() -> None:
    with pytest.raises(DataError, match=r"batch must be a tensor, .*; got str"):
        ScaleBytes()("text")
    with pytest.raises(DataError, match="column 0 must be a tensor; got list"):
        ScaleBytes()([["a"], IMAGES])


def test_wrong_dtypes_are_refused() -> None:
    with pytest.raises(DataError, match=r"must be uint8 for ScaleBytes; got torch\.fl"):
        ScaleBytes()(torch.zeros(2, 3))
    with pytest.raises(DataError, match="column 'x' must be float32 for Normalize;"):
        Normalize(0, 1, column="x")({"x": IMAGES})
    with pytest.raises(DataError, match=r"for Normalize; got torch\.uint8"):
        Chain(Normalize(0, 1), ScaleBytes()).output_spec((3,), torch.uint8)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"must have 2 channels.* \(3, 7, 6\)"):
        Normalize([0, 1], 1).apply(IMAGES.float())
    with pytest.raises(DataError, match=r"must have 2 channels.* shape \(\)"):
        Normalize(0, [1, 1]).apply(torch.zeros(5))
    with pytest.raises(ArgumentError, match="for each channel; got 2 and 3"):
        Normalize([0, 1], [1, 2, 3])
    for std in (0, [1, -1], float("nan"), float("inf"), 1e-60):
        with pytest.raises(ArgumentError, match="std must be above 0 in float32; got"):
            Normalize(0, std)
    with pytest.raises(ArgumentError, match="mean must be finite; got nan"):
        Normalize(float("nan"), 1)


def test_chains_of_nothing_of_others_or_across_columns_are_refused() -> None:
    with pytest.raises(ArgumentError, match="one or more; got none"):
        Chain()
    with pytest.raises(ArgumentError, match="must be column transforms; got <built-in"):
        Chain(ScaleBytes(), len)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="same column; got columns 0, 1"):
        Chain(ScaleBytes(), Normalize(0, 1, column=1))


@pytest.mark.parametrize("name", FROM_BYTES)
def test_transforms_go_to_other_processes_and_say_what_they_are(name: str) -> None:
    transform = FROM_BYTES[name]
    copy = pickle.loads(pickle.dumps(transform))
    assert repr(copy) == repr(transform)
    assert torch.equal(copy.apply(IMAGES, KEYS), transform.apply(IMAGES, KEYS))
