"""Random flips and crops: what plain PyTorch makes of each image alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from handful.data.augment import RandomCrop, RandomHorizontalFlip
from handful.data.sample_keys import SampleKeys
from handful.data.transforms import Chain, ColumnTransform
from handful.errors import ArgumentError, DataError


def make_keys(num_samples: int, seed: int = 0, epoch: int = 0) -> SampleKeys:
    return SampleKeys(seed, epoch, torch.arange(num_samples))


def make_images(shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
    """Return images of which no two windows are the same."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, shape, generator=generator).to(dtype)


SHAPES = [(40, 6, 5), (40, 1, 6, 5), (40, 3, 4, 7)]
DTYPES = [torch.uint8, torch.float32, torch.bfloat16, torch.int64, torch.bool]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_a_flip_mirrors_the_samples_whose_number_is_below_p(
    shape: tuple[int, ...], dtype: torch.dtype, p: float
) -> None:
    images, keys = make_images(shape, dtype), make_keys(40)
    got = RandomHorizontalFlip(p).apply(images, keys)
    is_flipped = (keys.uniform("flip") < p).tolist()
    assert {0.0: {False}, 1.0: {True}}.get(p, {True, False}) == set(is_flipped)
    for image, result, flipped in zip(images, got, is_flipped, strict=True):
        assert torch.equal(result, image.flip(-1) if flipped else image)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_crop_is_a_window_of_the_padded_image(data: st.DataObject) -> None:
    lead = data.draw(st.sampled_from([(), (1,), (3,)]))
    rows, columns = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    padding = data.draw(st.integers(0, 3))
    height = data.draw(st.integers(1, rows + 2 * padding))
    width = data.draw(st.integers(1, columns + 2 * padding))
    dtype = data.draw(st.sampled_from(DTYPES))
    count = data.draw(st.integers(1, 9))
    images, keys = make_images((count, *lead, rows, columns), dtype), make_keys(count)
    got = RandomCrop((height, width), padding).apply(images, keys)
    tops = keys.integers(rows + 2 * padding - height + 1, "crop: top").tolist()
    lefts = keys.integers(columns + 2 * padding - width + 1, "crop: left").tolist()
    padded = functional.pad(images, (padding,) * 4)
    for image, result, top, left in zip(padded, got, tops, lefts, strict=True):
        expected = image[..., top : top + height, left : left + width]
        assert torch.equal(result, expected)


def test_every_place_of_a_crop_is_equally_likely() -> None:
    places = torch.arange(25).view(1, 5, 5).expand(9000, 1, 5, 5)
    corners = RandomCrop(3).apply(places, make_keys(9000))[:, 0, 0, 0]
    counts = torch.bincount(corners, minlength=25).view(5, 5)
    assert counts.sum() == counts[:3, :3].sum()
    statistic = ((counts[:3, :3] - 1000.0) ** 2 / 1000).sum()
    assert statistic < 31.8  # Exceeded once in 10,000 times, 8 degrees of freedom.


def test_a_crop_of_a_whole_image_is_that_image() -> None:
    images = make_images((5, 3, 4, 6))
    assert torch.equal(RandomCrop((4, 6)).apply(images, make_keys(5)), images)


def test_a_part_of_a_larger_tensor_is_cropped_where_it_lies() -> None:
    images = make_images((12, 2, 6, 6))
    for part in (images[5:], images[:, :, 1:5, 2:], images[::2]):
        keys = make_keys(len(part))
        expected = RandomCrop(3).apply(part.clone().contiguous(), keys)
        assert torch.equal(RandomCrop(3).apply(part, keys), expected)


@pytest.mark.parametrize("transform", [RandomCrop(4), RandomHorizontalFlip()])
def test_choices_differ_by_epoch_and_by_seed(transform: ColumnTransform) -> None:
    images = make_images((40, 6, 6))
    first, again, epoch, seed = (
        transform.apply(images, keys)
        for keys in (
            make_keys(40),
            make_keys(40),
            make_keys(40, epoch=1),
            make_keys(40, seed=1),
        )
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, epoch)
    assert not torch.equal(first, seed)


@pytest.mark.parametrize("kind", [RandomCrop, RandomHorizontalFlip])
def test_one_stream_keeps_image_and_mask_together_and_two_do_not(kind: Any) -> None:
    first = 4 if kind is RandomCrop else 0.5
    images, keys = make_images((40, 6, 6)), make_keys(40)
    got = kind(first, column=0).apply(images, keys)
    assert torch.equal(kind(first, column=1).apply(images, keys), got)
    assert not torch.equal(kind(first, stream="other").apply(images, keys), got)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_probability_outside_0_to_1_is_refused(p: float) -> None:
    with pytest.raises(ArgumentError, match=f"p must be from 0 to 1; got {p}"):
        RandomHorizontalFlip(p)


def test_a_crop_larger_than_the_padded_image_is_refused() -> None:
    crop = RandomCrop((7, 11), padding=2)
    with pytest.raises(
        ArgumentError,
        match="size must be at most 8 x 10, the image with its padding; got 7 x 11",
    ):
        crop.apply(make_images((2, 4, 6)), make_keys(2))
    with pytest.raises(ArgumentError, match=r"at most 4 x 9, .*; got 5 x 5"):
        RandomCrop(5).output_spec((3, 4, 9), torch.uint8)


def test_sizes_and_paddings_that_mean_nothing_are_refused() -> None:
    for size in (0, -3, (3, 0), (3,), (1, 2, 3)):
        with pytest.raises(ArgumentError, match="size must be a number from 1 on"):
            RandomCrop(size)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="padding must be 0 or more; got -1"):
        RandomCrop(3, padding=-1)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 1, 3, 4, 4), (5, 3, 0, 4)])
@pytest.mark.parametrize("transform", [RandomCrop(1), RandomHorizontalFlip()])
def test_what_is_no_image_is_refused(
    transform: ColumnTransform, shape: tuple[int, ...]
) -> None:
    with pytest.raises(DataError, match=r"images of shape \(H, W\) or \(C, H, W\) for"):
        transform.apply(torch.zeros(shape), make_keys(5))


def test_missing_keys_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"keys must be given to RandomCrop\(size"):
        RandomCrop(1).apply(make_images((2, 3, 3)))


def test_nothing_is_drawn_from_global_generators() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    chain = Chain(RandomCrop(3, padding=1), RandomHorizontalFlip())
    chain([make_images((9, 3, 4, 4))], make_keys(9))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()
