"""Image files for the tests of what reads them; what needs PyTorch's private loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handful.torch_private import find_single_iterator, find_worker_parts

NEED_PRIVATE_WORKERS = frozenset(
    {
        "test_persistent_workers_stay",
        "test_an_iterator_given_up_ends_its_workers",
        "test_a_worker_that_dies_is_named_with_its_samples",
        "test_a_worker_that_dies_before_the_first_batch_is_asked_for_is_named_too",
        "test_workers_that_send_nothing_are_warned_of_once",
        "test_an_error_in_a_workers_state_is_raised_with_its_place",
        "test_a_pass_given_up_by_persistent_workers_leaves_them_where_they_are",
        "test_a_state_is_not_changed_by_what_comes_after",
        "test_states_of_workers_need_the_same_number_of_them",
        "test_out_of_order_each_batch_is_delivered_once",
        "test_iterators_are_of_pytorchs_classes",
    }
)
"""What the public way can't do: see `handful.data.public_path`."""

WITH_STATES = frozenset(
    {
        "test_a_pass_of_workers_goes_on_after_every_batch",
        "test_persistent_workers_go_on_in_their_second_pass",
    }
)
"""The same, of data sets that have a state of their own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the iterators of PyTorch's loader where they can't be had."""
    if find_worker_parts() is not None and find_single_iterator() is not None:
        return
    skip = pytest.mark.skip(reason="the iterators of PyTorch's loader aren't used")
    for item in items:
        name, _, case = item.name.partition("[")
        has_state = "with state" in case and "sampler" not in case
        if name in NEED_PRIVATE_WORKERS or (name in WITH_STATES and has_state):
            item.add_marker(skip)


def _picture(height: int, width: int, seed: int) -> Image.Image:
    """Make a picture with shapes of several sizes."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for size, strength in ((2, 60), (4, 40), (8, 20), (16, 8)):
        coarse = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))
        fine = coarse.resize((width, height), Image.Resampling.BICUBIC)
        total += strength * (np.asarray(fine) / 127.5 - 1)
    return Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def make_picture() -> Callable[..., Image.Image]:
    """Return what makes a picture, for a height, a width and a seed."""
    return _picture


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[..., tuple[list[Path], list[int]]]:
    """Return what writes JPEG files and returns their paths and labels."""

    def write(count: int, height: int = 24, width: int = 32, **options: Any) -> Any:
        paths = [tmp_path / f"{number:04}.jpg" for number in range(count)]
        for number, path in enumerate(paths):
            _picture(height, width, number).save(path, quality=90, **options)
        return paths, [number % 3 for number in range(count)]

    return write
