"""Transforms of whole batches."""

from __future__ import annotations

import torch
from torch import Tensor


def scale_bytes(batch: list[Tensor]) -> list[Tensor]:
    """Turn the first element of a batch from bytes into numbers from 0 to 1.

    The same as torchvision's ``ToTensor`` does to each image.

    Args:
        batch: ``[images, …]``, images uint8.

    Returns:
        ``[images / 255, …]``, images float32.
    """
    images, *rest = batch
    return [images.to(torch.float32).div_(255), *rest]
