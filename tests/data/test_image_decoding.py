"""Every kind of image file becomes what is documented, and bad ones say why not."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from handful.data.image_decoding import (
    ImageDecoder,
    UnreadableImageError,
    fast_jpeg,
)

ROWS, COLUMNS = np.mgrid[:24, :32]
PIXELS = np.stack([ROWS * 10, COLUMNS * 8, (ROWS * COLUMNS) % 250], 2).astype(np.uint8)


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


PICTURE = Image.fromarray(PIXELS)
JPEG = encode(PICTURE, "JPEG", quality=90)


def decode(data, **options):
    return ImageDecoder(**options).decode(data)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_files_come_as_they_were_written(kind):
    np.testing.assert_array_equal(decode(encode(PICTURE, kind)), PIXELS)


def test_webp_comes_as_pillow_decodes_it():
    data = encode(PICTURE, "WEBP", lossless=True)
    np.testing.assert_array_equal(decode(data), PIXELS)


@pytest.mark.skipif(fast_jpeg() is None, reason="simplejpeg is not installed")
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_both_decoders_of_jpegs_give_the_same_pixels(subsampling):
    data = encode(PICTURE, "JPEG", quality=80, subsampling=subsampling)
    slow = decode(data, is_fast=False)
    np.testing.assert_array_equal(decode(data), slow)
    np.testing.assert_array_equal(slow, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("is_fast", [True, False])
def test_grey_files_have_equal_channels_in_rgb(is_fast):
    grey = PICTURE.convert("L")
    for kind in ("PNG", "JPEG"):
        pixels = decode(encode(grey, kind), is_fast=is_fast)
        assert pixels.shape == PIXELS.shape
        assert (pixels == pixels[..., :1]).all()


def test_one_channel_is_luma():
    pixels = decode(encode(PICTURE, "PNG"), channels=1)
    np.testing.assert_array_equal(pixels[..., 0], np.asarray(PICTURE.convert("L")))


def test_one_channel_of_a_jpeg_is_the_luma_that_it_stores():
    fast, slow = (decode(JPEG, channels=1, is_fast=way) for way in (True, False))
    assert fast.shape == slow.shape == (*PIXELS.shape[:2], 1)
    difference = np.abs(fast.astype(int) - slow)
    assert difference.mean() < 0.5
    assert difference.max() <= 12


def test_palette_is_looked_up():
    picture = PICTURE.quantize(16)
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(decode(encode(picture, "PNG")), expected)


def test_first_frame_of_an_animation_is_read():
    frames = [PICTURE.quantize(256), Image.new("RGB", PICTURE.size).quantize(4)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    expected = np.asarray(frames[0].convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)


def test_alpha_is_left_out_and_colours_are_kept():
    clear = PICTURE.copy()
    clear.putalpha(0)
    np.testing.assert_array_equal(decode(encode(clear, "PNG")), PIXELS)


def test_transparent_colour_of_a_palette_is_kept():
    picture = PICTURE.quantize(8)
    data = encode(picture, "PNG", transparency=0)
    np.testing.assert_array_equal(decode(data), np.asarray(picture.convert("RGB")))


def test_cmyk_is_converted():
    data = encode(PICTURE.convert("CMYK"), "JPEG", quality=95)
    difference = np.abs(decode(data).astype(int) - PIXELS)
    assert difference.mean() < 4


@pytest.mark.parametrize("channels", [1, 3])
def test_upper_eight_of_sixteen_bits_are_kept(channels):
    deep = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 85
    pixels = decode(encode(Image.fromarray(deep), "PNG"), channels=channels)
    assert pixels.shape == (24, 32, channels)
    np.testing.assert_array_equal(pixels[..., -1], deep >> 8)


def test_one_bit_becomes_black_or_white():
    pixels = decode(encode(PICTURE.convert("1"), "PNG"))
    assert set(np.unique(pixels)) == {0, 255}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 95})):
        data = encode(PICTURE, kind, exif=exif, **options)
        plain = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        turned = {
            1: plain,
            2: plain[:, ::-1],
            3: plain[::-1, ::-1],
            4: plain[::-1],
            5: plain.transpose(1, 0, 2),
            6: plain[::-1].transpose(1, 0, 2),
            7: plain[::-1, ::-1].transpose(1, 0, 2),
            8: plain[:, ::-1].transpose(1, 0, 2),
        }[orientation]
        np.testing.assert_array_equal(decode(data), turned)


def test_pixels_are_contiguous_and_can_be_written():
    for data in (JPEG, encode(PICTURE, "PNG"), encode(PICTURE.convert("CMYK"), "JPEG")):
        pixels = decode(data)
        assert pixels.flags.c_contiguous
        pixels[0, 0] = 0


@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"no image at all", "no image of a known format; it begins with b'no image'"),
        (JPEG[:2], "no image of a known format"),
        (JPEG[:20], "damaged JPEG"),
        (JPEG[: len(JPEG) // 2], r"damaged \(.*[Tt]runcated"),
        (JPEG[:-2], r"damaged \(image file is truncated"),
        (encode(PICTURE, "PNG")[:-40], "damaged"),
        (encode(PICTURE, "GIF")[:200], "it is a damaged GIF file"),
    ],
    ids=["empty", "text", "2 bytes", "20 bytes", "half", "no end", "png", "gif"],
)
def test_damaged_files_say_what_is_wrong(data, reason, is_fast):
    with pytest.raises(UnreadableImageError, match=reason):
        decode(data, is_fast=is_fast)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("is_fast", [True, False])
def test_more_pixels_than_allowed_are_refused(kind, is_fast):
    data = encode(PICTURE, kind)
    assert decode(data, max_pixels=24 * 32, is_fast=is_fast).shape == PIXELS.shape
    with pytest.raises(UnreadableImageError, match="32 x 24 pixels, more than max_pi"):
        decode(data, max_pixels=24 * 32 - 1, is_fast=is_fast)


def test_decompression_bomb_is_refused_before_it_is_decoded():
    bomb = encode(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 1e6
    with pytest.raises(UnreadableImageError, match="too many pixels"):
        decode(bomb)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_32_bits_are_refused(mode):
    data = encode(Image.new(mode, (4, 4)), "TIFF")
    with pytest.raises(UnreadableImageError, match="its pixels have 32 bits"):
        decode(data)


@pytest.mark.parametrize("channels", [1, 3])
def test_mutated_files_are_read_or_refused(channels):
    rng = np.random.default_rng(0)
    decoder = ImageDecoder(channels)
    num_refused = 0
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        data = np.frombuffer(encode(PICTURE, kind), np.uint8)
        for _ in range(40):
            damaged = data.copy()
            places = rng.integers(0, len(data), 3)
            damaged[places] = rng.integers(0, 256, 3)
            try:
                pixels = decoder.decode(damaged.tobytes())
            except UnreadableImageError:
                num_refused += 1
            else:
                assert pixels.dtype == np.uint8
                assert pixels.shape[2] == channels
    assert num_refused > 10


def test_decoders_are_not_imported_before_an_image_is_read():
    code = (
        "import sys, handful.data.loader, handful.data.image_files\n"
        "assert not {'cv2', 'simplejpeg', 'PIL.Image'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
