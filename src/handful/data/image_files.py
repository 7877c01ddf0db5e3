"""Image files as a data set: read, decoded, cropped, resized and changed when asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from handful.data.color_jitter import ColorJitter
from handful.data.image_changes import Crop, ImageChanges, ImageDraws
from handful.data.image_decoding import (
    MAX_PIXELS,
    ImageDecoder,
    Pixels,
    UnreadableImageError,
)
from handful.data.image_listing import list_csv, list_folder
from handful.data.sample_keys import SampleKeys
from handful.errors import ArgumentError, DataError, unknown_choice


class ImageFiles(Dataset[Any]):
    """Image files and their labels; a map-style data set of PyTorch's.

    A sample is ``(image, label)``, the image uint8 of shape ``(C, height, width)``;
    without labels it is the image alone. Handful's `DataLoader` decodes with threads
    straight into the batch; to any other loader this is an ordinary data set. Pixels
    stay bytes; a loader's ``batch_transform`` makes numbers of them.

    Random changes belong to a sample and an epoch: in handful's loader they are a
    function of its seed, the epoch and the sample's index, whatever the number of
    workers. ``dataset[i]`` by itself draws from torch's global generator.

    What becomes of each kind of file stands in `handful.data.image_decoding`, how
    images are resized in `handful.data.image_changes.resize`.

    Args:
        paths: The files, N of them.
        labels: Their labels, N of them: whole numbers, which come as int64, floats, or
            rows of a tensor. None for images alone.
        size: Height and width that images are resized to, or one number for both. None
            to leave images as large as they are; those of a batch must then be alike.
        crop: The part of each image that is resized: `CenterCrop`,
            `RandomResizedCrop`, or None for all of it, stretched to the size.
        flip: Probability of mirroring an image left to right, in ``[0, 1]``.
        jitter: Random changes of the colours; None for none.
        channels: 3 for RGB, 1 for grey.
        classes: Names of the classes, for labels that are indices into them.
        max_pixels: Larger images are refused before they are decoded, since a small
            file can hold a very large one.
        decoder: ``"auto"`` for simplejpeg and OpenCV where they are installed,
            ``"pillow"`` for Pillow alone.

    Raises:
        ArgumentError: An argument is out of its range.
        DataError: There are not as many labels as paths, or no numbers.

    Example:
        >>> files = ImageFiles(["a.jpg", "b.png"], [0, 1], size=32, flip=0.5)
        >>> len(files), files.sample_shape
        (2, (3, 32, 32))
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        labels: Any = None,
        size: int | tuple[int, int] | None = (224, 224),
        *,
        crop: Crop | None = None,
        flip: float = 0.0,
        jitter: ColorJitter | None = None,
        channels: int = 3,
        classes: Sequence[str] | None = None,
        max_pixels: int = MAX_PIXELS,
        decoder: str = "auto",
    ) -> None:
        if isinstance(paths, (str, Path)):
            raise ArgumentError(
                f"paths must be several paths; got one, {str(paths)!r}. "
                "Use ImageFiles.from_folder for a folder."
            )
        if decoder not in ("auto", "pillow"):
            raise unknown_choice("decoder", decoder, ("auto", "pillow"))
        if channels not in (1, 3):
            raise ArgumentError(f"channels must be 1 or 3; got {channels!r}.")
        if not 0 <= flip <= 1:
            raise ArgumentError(f"flip must be from 0 to 1; got {flip!r}.")
        self.size = _check_size(size)
        if crop is not None and self.size is None:
            raise ArgumentError(
                "crop must be None if size is None; got "
                f"{crop!r}. Say how large the part is to become."
            )
        is_fast = decoder == "auto"
        self.paths = tuple(map(str, paths))
        self.labels = _check_labels(labels, len(self.paths))
        self.classes = None if classes is None else tuple(classes)
        self.channels = channels
        self.changes = ImageChanges(self.size, crop, flip, jitter, is_fast)
        self.decoder = ImageDecoder(channels, max_pixels, is_fast)

    @classmethod
    def from_folder(
        cls,
        root: str | Path,
        size: int | tuple[int, int] | None = (224, 224),
        **options: Any,
    ) -> ImageFiles:
        """Make a data set of a folder that holds one folder of images for each class.

        Args:
            root: The folder; see `handful.data.image_listing.list_folder` for what is
                taken from it, and in which order.
            size: As for `ImageFiles`.
            **options: The other arguments of `ImageFiles`.

        Raises:
            ArgumentError: The folder does not exist or is a file.
            DataError: It has no folders, a class has no images, or an image is a link
                to nothing.
        """
        found = list_folder(root)
        return cls(found.paths, found.labels, size, classes=found.classes, **options)

    @classmethod
    def from_csv(
        cls,
        csv: str | Path,
        root: str | Path | None = None,
        path_column: int | str = 0,
        label_column: int | str = 1,
        size: int | tuple[int, int] | None = (224, 224),
        *,
        has_header: bool | None = None,
        **options: Any,
    ) -> ImageFiles:
        """Make a data set of the images that a CSV file lists.

        Args:
            csv: The file; the other arguments on how it is read are those of
                `handful.data.image_listing.list_csv`.
            root: The folder that relative paths start from; None for the file's own.
            path_column: Position or name of the column of paths.
            label_column: Position or name of the column of labels.
            size: As for `ImageFiles`.
            has_header: Whether the first row names the columns; None to tell.
            **options: The other arguments of `ImageFiles`.

        Raises:
            ArgumentError: The file does not exist, or has no such column.
            DataError: A row lacks a column, names no file or has an empty label.
        """
        found = list_csv(
            csv,
            root,
            path_column=path_column,
            label_column=label_column,
            has_header=has_header,
        )
        return cls(found.paths, found.labels, size, classes=found.classes, **options)

    @property
    def sample_shape(self) -> tuple[int, int, int] | None:
        """Shape of an image, ``(C, height, width)``; None where files decide."""
        return None if self.size is None else (self.channels, *self.size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        keys = None
        if self.changes.is_random:
            seed = int(torch.randint(2**62, ()))
            keys = SampleKeys(seed, 0, torch.tensor([int(index)]))
        return self.sample(index, keys)

    def sample(self, index: int, keys: SampleKeys | None) -> Any:
        """Return a sample whose random changes are those of a key.

        Args:
            index: Which sample.
            keys: Of this sample alone; may be None where nothing is random.

        Returns:
            The sample, as ``dataset[index]`` returns it.

        Raises:
            IndexError: There is no such sample.
            DataError: The file cannot be read; it is named.
        """
        count = len(self.paths)
        if not -count <= index < count:
            raise IndexError(f"index must be below {count}; got {index}")
        index = int(index) % count
        try:
            pixels = self.read(index, self.draw(keys, 1)[0])
        except UnreadableImageError as error:
            raise unreadable(self.paths[index], str(error)) from None
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        if self.labels is None:
            return image
        label = self.labels[index]
        is_class = label.ndim == 0 and label.dtype is torch.int64
        return image, label.item() if is_class else label

    def draw(self, keys: SampleKeys | None, count: int) -> list[ImageDraws]:
        """Draw the random changes of some samples; see `ImageChanges.draw`."""
        if not self.changes.is_random:
            return [ImageDraws([])] * count
        assert keys is not None
        return self.changes.draw(keys)

    def read(self, index: int, drawn: ImageDraws) -> Pixels:
        """Read one file, decode and change it.

        Args:
            index: Which sample, from 0 on.
            drawn: What was drawn for it.

        Returns:
            Shape ``(height, width, C)``, uint8, contiguous.

        Raises:
            UnreadableImageError: It can't be; the message is the reason.
        """
        try:
            with open(self.paths[index], "rb", buffering=0) as file:  # noqa: PTH123
                data = file.readall()
        except OSError as error:
            raise UnreadableImageError(error.strerror or str(error)) from None
        return self.changes.apply(self.decoder.decode(data), drawn)


def unreadable(path: str, reason: str) -> DataError:
    """Make the error for a file that cannot be read. The caller raises it."""
    return DataError(
        f"{path} cannot be read as an image: {reason}. Replace it, or let the loader "
        "leave such files out with on_error='skip'."
    )


def _check_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(v, int) and v > 0 for v in pair):
        raise ArgumentError(
            "size must be a height and a width in pixels, one number for both, or "
            f"None; got {size!r}."
        )
    return pair[0], pair[1]


def _check_labels(labels: Any, count: int) -> Tensor | None:
    if labels is None:
        return None
    try:
        values = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            "labels must be numbers; got "
            f"{type(labels).__name__} of something else. Number the classes."
        ) from None
    if values.ndim == 0 or len(values) != count:
        found = "a single number" if values.ndim == 0 else len(values)
        raise DataError(f"labels must be as many as paths, {count}; got {found}.")
    is_whole = not (values.is_floating_point() or values.dtype is torch.bool)
    return values.to("cpu", torch.int64) if is_whole else values.cpu()
