"""Two valleys: minima against a fine grid, descents against plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handful.lessons.lesson import LessonOptions
from handful.lessons.local_minima import (
    draw_slopes,
    find_extrema,
    make_tilts,
    run,
    value_at,
)


def f(x: Any) -> Any:
    return (x * x - 1) ** 2 + 0.5 * x


def descend(x: float, slopes: np.ndarray, lrs: np.ndarray) -> np.ndarray:
    """Return the path of a plain loop, the start included."""
    path = [x]
    for slope, lr in zip(slopes, lrs, strict=True):
        path.append(path[-1] - lr * (4 * path[-1] ** 3 - 4 * path[-1] + slope))
    return np.array(path)


def test_extrema_are_those_of_a_fine_grid() -> None:
    (deep, shallow), barrier = find_extrema()
    grid = np.linspace(-2, 2, 400_001)
    height = f(grid)
    np.testing.assert_allclose(value_at(grid), height)
    inner = height[1:-1]
    valleys = grid[1:-1][(inner < height[:-2]) & (inner < height[2:])]
    np.testing.assert_allclose(valleys, [deep.x, shallow.x], atol=1e-5)
    between = (grid > deep.x) & (grid < shallow.x)
    assert barrier == pytest.approx(grid[between][height[between].argmax()], abs=1e-5)
    assert deep.is_global
    assert deep.y < shallow.y
    assert not shallow.is_global


def test_samples_have_the_functions_mean_exactly() -> None:
    tilts = make_tilts(3)
    x = 0.7
    assert np.mean((x * x - 1) ** 2 + tilts * x) == pytest.approx(f(x))
    assert tilts.std() == pytest.approx(10)


@pytest.mark.parametrize("size", [1, 2, 5, 10, 100])
def test_every_epoch_has_every_sample_once(size: int) -> None:
    tilts = make_tilts(0)
    slopes = draw_slopes(tilts, size, (3, 2 * 100 // size), seed=1)
    means = slopes.reshape(3, 2, -1).mean(axis=-1)
    np.testing.assert_allclose(means, 0.5, atol=1e-12)
    if size < 100:
        assert len(np.unique(slopes[:, 0])) == 3
    if size == 1:
        np.testing.assert_allclose(np.sort(slopes[1, :100]), np.sort(tilts))


def test_full_batch_ends_in_the_valley_that_it_starts_in() -> None:
    shares = run(LessonOptions(as_printed=True)).numbers["shares"]["constant"]["100"]
    starts = np.linspace(-2, 2, 41)
    ends = [descend(x, np.full(1000, 0.5), np.full(1000, 0.02))[-1] for x in starts]
    expected = np.mean(np.array(ends) < 0)
    assert shares["end"] == shares["ever"] == pytest.approx(expected)
    assert shares["left"] == 0
    _, barrier = find_extrema()
    assert expected == pytest.approx(np.mean(starts < barrier))


@pytest.mark.parametrize("as_printed", [False, True])
def test_shares_are_those_of_plain_loops(as_printed: bool) -> None:
    numbers = run(LessonOptions(as_printed=as_printed, quick=True, seed=4)).numbers
    rates = {"constant": np.full(100, 0.02)}
    if not as_printed:
        rates["falling"] = 0.02 * (1 - np.arange(100) / 100)
    assert set(numbers["shares"]) == set(rates)
    starts, tilts = np.linspace(-2, 2, 9), make_tilts(4)
    _, barrier = find_extrema()
    for name, lrs in rates.items():
        for size, share in numbers["shares"][name].items():
            inside = np.array(
                [
                    [
                        descend(x, row, lrs) < barrier
                        for x, row in zip(starts, slopes, strict=True)
                    ]
                    for slopes in (
                        draw_slopes(tilts, int(size), (9, 100), seed) for seed in (4, 5)
                    )
                ]
            )
            assert share["end"] == pytest.approx(inside[..., -1].mean())
            assert share["ever"] == pytest.approx(inside.any(-1).mean())
            began = inside[..., 0]
            left = (began & ~inside[..., -1]).sum() / began.sum()
            assert share["left"] == pytest.approx(left)


def test_noise_leads_out_of_both_valleys_and_little_noise_out_of_neither() -> None:
    numbers = run(LessonOptions()).numbers
    constant = numbers["shares"]["constant"]
    begin = numbers["starts_in_deep_valley"]
    assert constant["1"]["end"] > begin + 0.2
    assert constant["1"]["ever"] > constant["1"]["end"]
    assert constant["1"]["left"] > 0.05
    assert constant["10"]["end"] == pytest.approx(begin, abs=0.02)


@pytest.mark.parametrize("as_printed", [False, True])
def test_figures_mark_the_minima_and_show_each_rate(as_printed: bool) -> None:
    figures = run(LessonOptions(as_printed=as_printed, quick=True)).figures
    shares = {"share-constant"} if as_printed else {"share-constant", "share-falling"}
    assert set(figures) == {"function", "losses", "descents"} | shares
    texts = " ".join(text.get_text() for text in figures["function"].axes[0].texts)
    assert "global minimum" in texts
    assert "local minimum" in texts
    assert len(figures["descents"].axes) == (2 if as_printed else 4)


def test_drawn_descent_follows_the_falling_rate() -> None:
    figure = run(LessonOptions(quick=True)).figures["descents"]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    (place,) = (i for i, title in enumerate(titles) if "single, falling" in title)
    slopes = draw_slopes(make_tilts(0), 1, (9, 100), seed=0)[7]
    path = descend(1.5, slopes, 0.02 * (1 - np.arange(100) / 100))
    drawn = np.asarray(figure.axes[place].collections[0].get_offsets())
    np.testing.assert_allclose(drawn[:, 0], np.clip(path, -1.7, 1.7), atol=1e-12)


def test_command_line_runs_it(run_handful: Any, tmp_path: Path) -> None:
    out = tmp_path / "s"
    done = run_handful("study", "local-minima", "--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "global minimum: f(-1.0575) = -0.5148" in done.stdout
    assert "falling rate:" in done.stdout
    assert (out / "losses.png").is_file()
