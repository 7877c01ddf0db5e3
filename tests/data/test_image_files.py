"""ImageFiles is an ordinary data set of PyTorch's, with errors that name the file."""

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader as TorchDataLoader

from handful.data.color_jitter import ColorJitter
from handful.data.image_changes import CenterCrop, RandomResizedCrop, resize
from handful.data.image_files import ImageFiles
from handful.errors import ArgumentError, DataError

RANDOM = {"crop": RandomResizedCrop(), "flip": 0.5, "jitter": ColorJitter(0.4)}


def test_sample_is_the_resized_image_and_its_label(write_images):
    paths, _ = write_images(3)
    files = ImageFiles(paths, [5, 6, 7], (10, 12))
    image, label = files[1]
    expected = resize(np.array(Image.open(paths[1])), (10, 12))
    assert (image.dtype, label) == (torch.uint8, 6)
    assert image.is_contiguous()
    np.testing.assert_array_equal(image.permute(1, 2, 0), expected)
    assert torch.equal(files[-2][0], image)


def test_index_out_of_range_ends_an_iteration(write_images):
    files = ImageFiles(*write_images(2), 8)
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"below 2; got {index}"):
            files[index]
    assert len(list(files)) == 2


@pytest.mark.parametrize(
    ("labels", "dtype", "shape"),
    [
        ([1, 2], torch.int64, (2,)),
        (np.array([1, 2], np.uint8), torch.int64, (2,)),
        ([0.5, 2], torch.float32, (2,)),
        (torch.tensor([[1.0, 0], [0, 1]]), torch.float32, (2, 2)),
    ],
)
def test_labels_of_each_kind_are_batched(write_images, labels, dtype, shape):
    files = ImageFiles(write_images(2)[0], labels, 8)
    ((_, found),) = TorchDataLoader(files, 2)
    assert (found.dtype, found.shape) == (dtype, shape)
    assert torch.equal(found, torch.as_tensor(labels).to(dtype))


def test_without_labels_a_sample_is_the_image_alone(write_images):
    files = ImageFiles(write_images(2)[0], size=8)
    (batch,) = TorchDataLoader(files, 2)
    assert batch.shape == (2, 3, 8, 8)


def test_without_a_size_images_stay_as_large_as_they_are(write_images):
    files = ImageFiles(*write_images(1, 11, 13), None)
    assert files[0][0].shape == (3, 11, 13)
    assert files.sample_shape is None


def test_one_channel_is_grey(write_images):
    files = ImageFiles(*write_images(1), 8, channels=1, jitter=ColorJitter(0.4, 0.4))
    assert files[0][0].shape == files.sample_shape == (1, 8, 8)


@pytest.mark.parametrize("decoder", ["auto", "pillow"])
def test_changes_by_index_come_from_torchs_generator(write_images, decoder):
    files = ImageFiles(*write_images(2), 16, decoder=decoder, **RANDOM)
    torch.manual_seed(4)
    before = [files[0][0] for _ in range(3)]
    torch.manual_seed(4)
    again = [files[0][0] for _ in range(3)]
    assert all(map(torch.equal, before, again))
    assert not torch.equal(before[0], before[1])


def test_both_decoders_give_the_same_pixels_of_jpegs(write_images):
    paths, labels = write_images(3)
    auto, pillow = (
        ImageFiles(paths, labels, 9, crop=CenterCrop(), flip=1, decoder=name)
        for name in ("auto", "pillow")
    )
    assert all(torch.equal(auto[i][0], pillow[i][0]) for i in range(3))


def test_copies_and_pickles_read_the_same(write_images):
    files = ImageFiles(*write_images(2), 8, crop=CenterCrop())
    for other in (copy.deepcopy(files), pickle.loads(pickle.dumps(files))):
        assert torch.equal(other[1][0], files[1][0])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda p: p.write_bytes(b""), "the file is empty"),
        (lambda p: p.write_bytes(p.read_bytes()[:-300]), "it is damaged"),
        (lambda p: p.write_text("nothing to see"), "no image of a known format"),
        (lambda p: p.unlink(), "No such file or directory"),
        (lambda p: (p.unlink(), p.mkdir()), "Is a directory"),
        (lambda p: (p.unlink(), p.symlink_to("x")), "No such file or directory"),
    ],
    ids=["empty", "truncated", "text", "missing", "folder", "broken link"],
)
def test_bad_files_are_named_with_the_reason(write_images, spoil, reason):
    paths, labels = write_images(2)
    spoil(paths[1])
    files = ImageFiles(paths, labels, 8)
    with pytest.raises(DataError, match=rf"0001\.jpg cannot be read as.*{reason}"):
        files[1]


def test_content_decides_and_not_the_name(write_images, make_picture):
    paths, labels = write_images(1)
    picture = make_picture(24, 32, 7)
    picture.save(paths[0], "PNG")
    files = ImageFiles(paths, labels, (24, 32))
    np.testing.assert_array_equal(files[0][0].permute(1, 2, 0), np.asarray(picture))


def test_too_many_pixels_are_refused_by_name(write_images):
    files = ImageFiles(*write_images(1), 8, max_pixels=100)
    with pytest.raises(DataError, match=r"0000\.jpg cannot .*32 x 24 pixels, more tha"):
        files[0]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("a.jpg", [1]), {}, ArgumentError, "paths must be several paths; got one"),
        ((["a"], [1, 2]), {}, DataError, "as many as paths, 1; got 2"),
        ((["a"], 3), {}, DataError, "as many as paths, 1; got a single number"),
        ((["a"], ["cat"]), {}, DataError, "labels must be numbers; got list"),
        ((["a"], [1], 0), {}, ArgumentError, "size must be a height and a width.*0"),
        ((["a"], [1], (2, 3, 4)), {}, ArgumentError, "size must be a height and a"),
        ((["a"], [1], None), {"crop": CenterCrop()}, ArgumentError, "crop must be N"),
        ((["a"], [1]), {"flip": 2}, ArgumentError, "flip must be from 0 to 1; got 2"),
        ((["a"], [1]), {"channels": 4}, ArgumentError, "channels must be 1 or 3; g"),
        ((["a"], [1]), {"decoder": "pilow"}, ArgumentError, "Did you mean 'pillow'"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        ImageFiles(*arguments, **options)
