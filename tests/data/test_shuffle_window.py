"""The order of rows that come in blocks: each once, mixed within the window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handful.data.shuffle_window import BlockOrder, StreamOrder, WindowOrder

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=25)
WINDOWS = st.integers(1, 500)
UNIFORM = [100] * 64
"""Rows of 64 equal blocks, for statistics."""


def all_rows(order: BlockOrder) -> list[int]:
    return order.rows(0, int(order.starts[-1])).tolist()


def file_rows(order: BlockOrder, counts: list[int]) -> np.ndarray:
    """Return which rows of the files come, in the order of delivery."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    stream = order.rows(0, sum(counts)).numpy()
    block = np.searchsorted(order.starts, stream, side="right") - 1
    rows: np.ndarray = offsets[order.blocks[block]] + stream - order.starts[block]
    return rows


def positions_of(order: BlockOrder, counts: list[int]) -> np.ndarray:
    """Return at which position each row of the files comes."""
    rows = file_rows(order, counts)
    positions = np.empty(len(rows), np.int64)
    positions[rows] = np.arange(len(rows))
    return positions


@given(COUNTS, WINDOWS, st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_an_epoch_has_each_row_and_each_block_once(
    counts: list[int], window: int, epoch: int
) -> None:
    order = WindowOrder(counts, window=window, seed=5, epoch=epoch)
    assert sorted(all_rows(order)) == list(range(sum(counts)))
    assert sorted(order.blocks.tolist()) == list(range(len(counts)))
    assert sorted(file_rows(order, counts)) == list(range(sum(counts)))


@given(COUNTS, WINDOWS, st.data())
@settings(deadline=None, max_examples=60)
def test_rows_of_a_position_do_not_depend_on_what_was_asked_before(
    counts: list[int], window: int, data: st.DataObject
) -> None:
    whole = all_rows(WindowOrder(counts, window=window, seed=0, epoch=1))
    order = WindowOrder(counts, window=window, seed=0, epoch=1)
    for _ in range(4):
        start = data.draw(st.integers(0, len(whole)))
        stop = data.draw(st.integers(start, len(whole)))
        assert order.rows(start, stop).tolist() == whole[start:stop]


@given(COUNTS, WINDOWS)
@settings(deadline=None, max_examples=60)
def test_spans_hold_the_rows_and_no_more_than_a_window_and_two_blocks(
    counts: list[int], window: int
) -> None:
    order = WindowOrder(counts, window=window, seed=2, epoch=0)
    rows = np.array(all_rows(order))
    starts = np.arange(len(rows))
    first, end = order.spans(starts, starts + 1)
    assert (order.starts[first] <= rows).all()
    assert (rows < order.starts[end]).all()
    assert (np.diff(first) >= 0).all()
    assert (np.diff(end) >= 0).all()
    assert (order.starts[end] - order.starts[first] <= window + 2 * max(counts)).all()


def test_seed_and_epoch_make_the_order() -> None:
    made = {
        (seed, epoch): all_rows(
            WindowOrder(UNIFORM, window=300, seed=seed, epoch=epoch)
        )
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(rows) for rows in made.values()}) == 4
    again = WindowOrder(UNIFORM, window=300, seed=1, epoch=1)
    assert all_rows(again) == made[1, 1]


def test_the_order_stays_what_it_was() -> None:
    order = WindowOrder([3, 1, 4, 2], window=4, seed=0, epoch=0)
    pinned = order.blocks.tolist(), all_rows(order)
    assert pinned == ([2, 3, 1, 0], [1, 2, 0, 3, 5, 9, 8, 4, 7, 6])


def test_a_window_of_one_row_gives_blocks_whole() -> None:
    rows = all_rows(WindowOrder(UNIFORM, window=1, seed=0, epoch=0))
    for block in range(len(UNIFORM)):
        part = rows[100 * block : 100 * block + 100]
        assert sorted(part) == list(range(100 * block, 100 * block + 100))
        assert part != sorted(part)


@pytest.mark.parametrize("window", [6400, 6401, 10**18, 10**30])
def test_a_window_of_all_rows_is_a_full_shuffle(window: int) -> None:
    counts = UNIFORM
    order = WindowOrder(counts, window=window, seed=0, epoch=0)
    first, end = order.spans(0, 1)
    assert (int(first), int(end)) == (0, 64)
    distance = np.median(np.abs(np.diff(positions_of(order, counts))))
    assert 0.26 < distance / 6400 < 0.33  # 1 - sqrt(1/2) = 0.29 for a uniform order
    assert abs(np.corrcoef(positions_of(order, counts), np.arange(6400))[0, 1]) < 0.05


@pytest.mark.parametrize("blocks_in_window", [2, 4, 16])
def test_neighbours_come_three_tenths_of_a_window_apart(blocks_in_window: int) -> None:
    window = 100 * blocks_in_window
    order = WindowOrder(UNIFORM, window=window, seed=0, epoch=0)
    distance = np.median(np.abs(np.diff(positions_of(order, UNIFORM))))
    assert 0.25 < distance / window < 0.33


@pytest.mark.parametrize("blocks_in_window", [4, 16])
def test_every_stretch_mixes_a_window_of_blocks_the_first_and_last_too(
    blocks_in_window: int,
) -> None:
    window = 100 * blocks_in_window
    rows = file_rows(WindowOrder(UNIFORM, window=window, seed=0, epoch=0), UNIFORM)
    for start in range(0, len(rows), 128):
        stretch = rows[start : start + 128]
        assert len(np.unique(stretch // 100)) >= 0.85 * blocks_in_window


def test_each_row_comes_anywhere_in_the_epoch() -> None:
    counts = [10] * 20
    places = np.array(
        [
            positions_of(WindowOrder(counts, window=40, seed=0, epoch=epoch), counts)
            for epoch in range(200)
        ]
    )
    # Uniform over 200 positions: mean 99.5, and its standard error 58 / sqrt(200).
    assert np.abs(places.mean(0) - 99.5).max() < 5 * 4.1
    assert np.abs(places.std(0) - 57.7).max() < 12
    correlations = [np.corrcoef(row, np.arange(200))[0, 1] for row in places]
    # Of 20 blocks in a drawn order: mean 0, standard deviation 1 / sqrt(19) = 0.23.
    assert abs(np.mean(correlations)) < 0.08
    assert 0.18 < np.std(correlations) < 0.28


@given(COUNTS, st.data())
@settings(deadline=None, max_examples=40)
def test_without_shuffling_rows_come_as_they_are(
    counts: list[int], data: st.DataObject
) -> None:
    order = StreamOrder(counts)
    assert all_rows(order) == list(range(sum(counts)))
    start = data.draw(st.integers(0, sum(counts) - 1))
    stop = data.draw(st.integers(start + 1, sum(counts)))
    first, end = (int(block) for block in order.spans(start, stop))
    assert order.starts[first] <= start < order.starts[first + 1]
    assert order.starts[end - 1] < stop <= order.starts[end]
    assert torch.equal(order.rows(start, stop), torch.arange(start, stop))
