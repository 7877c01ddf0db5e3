"""Crops, resizes and colours are what they say, and belong to sample and epoch."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from handful.data.color_jitter import ColorJitter, change_colors
from handful.data.image_changes import (
    CenterCrop,
    ImageChanges,
    ImageDraws,
    RandomResizedCrop,
    resize,
)
from handful.data.image_decoding import opencv
from handful.data.sample_keys import SampleKeys
from handful.errors import ArgumentError

needs_opencv = pytest.mark.skipif(opencv() is None, reason="OpenCV is not installed")
SIDES = st.integers(1, 60)


def keys_of(count, seed=0, epoch=0):
    return SampleKeys(seed, epoch, torch.arange(count))


@pytest.mark.parametrize("size", [(17, 23), (24, 32), (50, 61), (5, 90), (1, 1)])
@pytest.mark.parametrize("shape", [(24, 32), (41, 29), (128, 96)])
def test_resize_is_within_one_level_of_pillows_bilinear(make_picture, shape, size):
    picture = make_picture(*shape, seed=1)
    expected = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))
    found = resize(np.asarray(picture).copy(), size)
    assert found.shape == (*size, 3)
    assert found.flags.c_contiguous
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_resize_of_noise_and_of_a_grey_window_is_pillows():
    noise = np.random.default_rng(0).integers(0, 256, (90, 80, 1), np.uint8)
    window = noise[10:70, 5:75]
    picture = Image.fromarray(window[..., 0])
    expected = np.asarray(picture.resize((31, 33), Image.Resampling.BILINEAR))
    found = resize(window, (33, 31))[..., 0]
    assert np.abs(found.astype(int) - expected).max() <= 1


@given(SIDES, SIDES, SIDES, SIDES, st.floats(0.05, 1))
def test_middle_has_the_samples_proportions_and_equal_margins(
    rows, columns, height, width, fraction
):
    top, left, tall, wide = CenterCrop(fraction).window(
        (rows, columns), (height, width), []
    )
    assert 1 <= tall <= rows
    assert 1 <= wide <= columns
    assert top == (rows - tall) // 2
    assert left == (columns - wide) // 2
    unit = min(rows / height, columns / width) * fraction
    assert abs(tall - min(max(height * unit, 1), rows)) <= 0.5
    assert abs(wide - min(max(width * unit, 1), columns)) <= 0.5


def test_middle_is_what_resize_and_crop_keep(make_picture):
    picture = make_picture(96, 128, seed=2)
    larger = picture.resize((86, 64), Image.Resampling.BILINEAR)
    expected = np.asarray(larger.crop((15, 4, 71, 60))).astype(int)
    changes = ImageChanges((56, 56), CenterCrop())
    found = changes.apply(np.asarray(picture).copy(), ImageDraws([]))
    assert np.abs(found - expected).mean() < 1.5


UNIT = st.floats(0, 1, exclude_max=True)


@given(SIDES, SIDES, st.tuples(UNIT, UNIT, UNIT, UNIT))
def test_random_windows_lie_in_the_image(rows, columns, drawn):
    crop = RandomResizedCrop()
    top, left, height, width = crop.window((rows, columns), (8, 8), list(drawn))
    assert 1 <= height <= rows - top
    assert 1 <= width <= columns - left
    assert min(top, left) >= 0


def test_random_windows_have_the_areas_proportions_and_places_asked_for():
    crop = RandomResizedCrop(scale=(0.1, 0.5), ratio=(0.5, 2))
    drawn = np.random.default_rng(0).random((20_000, 4)).tolist()
    image = (400, 400)
    windows = np.array([crop.window(image, (8, 8), row) for row in drawn], float)
    top, left, height, width = windows.T
    areas, ratios = height * width / 160_000, np.log(width / height)
    # Means and spreads of even distributions, within four standard errors and rounding.
    assert abs(areas.mean() - 0.3) < 4 * 0.4 / math.sqrt(12 * 20_000) + 0.001
    assert areas.min() > 0.098
    assert areas.max() < 0.502
    assert abs(ratios.mean()) < 4 * math.log(4) / math.sqrt(12 * 20_000)
    assert abs(ratios.std() - math.log(4) / math.sqrt(12)) < 0.01
    shares = top / np.maximum(400 - height, 1), left / np.maximum(400 - width, 1)
    for share in shares:
        assert abs(share.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(*shares)[0, 1]) < 0.03


def test_where_no_proportions_fit_the_largest_part_of_the_middle_is_taken():
    crop = RandomResizedCrop(scale=(1, 1))
    assert crop.window((30, 100), (8, 8), [0.5] * 4) == (0, 30, 30, 40)
    assert crop.window((100, 30), (8, 8), [0.5] * 4) == (30, 0, 40, 30)


def test_brightness_contrast_and_saturation_are_pillows_without_opencv(make_picture):
    picture = make_picture(40, 50, seed=3)
    expected = ImageEnhance.Brightness(picture).enhance(1.3)
    expected = ImageEnhance.Contrast(expected).enhance(0.6)
    expected = ImageEnhance.Color(expected).enhance(1.4)
    found = change_colors(np.array(picture), (1.3, 0.6, 1.4, 0.0), is_fast=False)
    np.testing.assert_array_equal(found, np.asarray(expected))


@needs_opencv
@pytest.mark.parametrize("seed", range(4))
def test_opencvs_colours_are_within_the_documented_levels_of_pillows(
    make_picture, seed
):
    pixels = np.array(make_picture(60, 50, seed))
    for drawn in ((0.6, 1, 1, 0), (1.4, 1, 1, 0), (1, 0.6, 1, 0), (1, 1.4, 1, 0)):
        found, expected = both_ways(pixels, drawn)
        assert np.abs(found - expected).max() <= 2, drawn
    for drawn in ((1, 1, 0.6, 0), (1, 1, 1.4, 0)):
        found, expected = both_ways(pixels, drawn)
        assert np.abs(found - expected).max() <= 2, drawn
    for shift in (-0.1, 0.05, 0.4):
        found, expected = both_ways(pixels, (1, 1, 1, shift))
        difference = np.abs(found - expected)
        assert np.percentile(difference, 99) <= 6, shift
        assert difference.mean() < 1.5


def both_ways(pixels, drawn):
    return (
        change_colors(pixels.copy(), drawn, is_fast=way).astype(int)
        for way in (True, False)
    )


@pytest.mark.parametrize("is_fast", [True, False])
def test_grey_images_have_brightness_and_contrast_only(is_fast):
    pixels = np.full((4, 5, 1), 100, np.uint8)
    drawn = (1.5, 1.0, 0.1, 0.3)
    found = change_colors(pixels, drawn, is_fast=is_fast)
    assert found.shape == pixels.shape
    assert set(np.unique(found)) == {150}


def test_factors_are_drawn_evenly_from_their_ranges():
    drawn = ColorJitter(0.4, 0.2, 2.0, 0.1).draw(keys_of(4000))
    bounds = [(0.6, 1.4), (0.8, 1.2), (0.0, 3.0), (-0.1, 0.1)]
    for column, (low, high) in zip(drawn.T, bounds, strict=True):
        assert low <= column.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < column.max() <= high
        assert abs(column.mean() - (low + high) / 2) < 0.02 * (high - low)
    correlations = np.corrcoef(drawn.numpy().T) - np.eye(4)
    assert np.abs(correlations).max() < 0.07


def test_strength_of_zero_draws_nothing():
    drawn = ColorJitter().draw(keys_of(3))
    assert drawn.tolist() == [[1, 1, 1, 0]] * 3


@settings(max_examples=30)
@given(st.integers(0, 2**40), st.integers(0, 100), st.integers(1, 9))
def test_draws_of_a_sample_do_not_depend_on_its_batch(seed, epoch, size):
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    changes = ImageChanges((8, 8), RandomResizedCrop(), 0.5, jitter)
    whole = changes.draw(keys_of(20, seed, epoch))
    keys = keys_of(20, seed, epoch)
    parts = [changes.draw(keys[n : n + size]) for n in range(0, 20, size)]
    assert [one for part in parts for one in part] == whole
    assert changes.draw(keys_of(20, seed, epoch + 1)) != whole


def test_flip_mirrors_the_share_asked_for(make_picture):
    pixels = np.asarray(make_picture(8, 9, seed=0))
    changes = ImageChanges((8, 9), flip=0.25)
    drawn = changes.draw(keys_of(2000))
    assert abs(sum(one.is_flipped for one in drawn) - 500) < 4 * math.sqrt(375)
    mirrored = changes.apply(pixels.copy(), ImageDraws([], is_flipped=True))
    np.testing.assert_array_equal(mirrored, pixels[:, ::-1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CenterCrop(0), "fraction must be above 0 and at most 1; got 0"),
        (lambda: RandomResizedCrop(scale=(0, 1)), "scale must be two shares"),
        (lambda: RandomResizedCrop(scale=(0.5, 0.1)), "scale must be two shares"),
        (lambda: RandomResizedCrop(ratio=(2, 1)), "ratio must be two proportions"),
        (lambda: ColorJitter(-1), "brightness must be 0 or more, and finite; got -1"),
        (lambda: ColorJitter(hue=0.6), "hue must be from 0 to 0.5; got 0.6"),
        (lambda: ColorJitter(contrast=math.nan), "contrast must be 0 or more"),
    ],
)
def test_arguments_out_of_range_are_named(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_all_of_an_image_is_stretched_without_a_crop(make_picture):
    stream = io.BytesIO()
    make_picture(10, 40, seed=5).save(stream, "PNG")
    pixels = np.array(Image.open(stream))
    found = ImageChanges((20, 20)).apply(pixels, ImageDraws([]))
    np.testing.assert_array_equal(found, resize(pixels, (20, 20)))
