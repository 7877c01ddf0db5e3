from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch
from sklearn.datasets import make_regression
from torch.utils.data import DataLoader as TorchDataLoader

from handful.errors import TrainingError
from handful.lessons.feeding import train_by_loader
from handful.lessons.feeding_measure import draw_ways, measure_ways
from handful.lessons.feeding_ways import (
    Way,
    make_loader,
    make_manual_batches,
    make_ways,
)
from handful.lessons.lesson import LessonResult


class RunHandful(Protocol):
    def __call__(self, *args: str | Path, timeout_seconds: float = 60): ...


def _regression() -> tuple[np.ndarray, np.ndarray]:
    x, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=42)
    x = (x - x.mean()) / x.std()
    return x.astype(np.float32), y.astype(np.float32).reshape(-1, 1)


def _descend_in_numpy(
    batch_size: int, epochs: int, seed: int
) -> Iterator[tuple[float, float]]:
    """Yield the mean of the batches' losses and of the samples' of each epoch."""
    x, y = _regression()
    torch.manual_seed(seed)
    layer = torch.nn.Linear(1, 1)
    weight, bias = layer.weight.item(), layer.bias.item()
    orders = TorchDataLoader(
        range(100),
        batch_size=batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
    )
    for _ in range(epochs):
        means, squares = [], []
        for indices in orders:
            a, b = x[indices.numpy(), 0], y[indices.numpy(), 0]
            error = weight * a + bias - b
            means.append((error**2).mean())
            squares.extend(error**2)
            weight -= 0.01 * 2 * (error * a).mean()
            bias -= 0.01 * 2 * error.mean()
        yield float(np.mean(means)), float(np.mean(squares))


@pytest.mark.parametrize("batch_size", [16, 32, 64])
def test_training_by_loader_is_the_descent_written_out(batch_size: int) -> None:
    x, y = _regression()
    losses = train_by_loader(
        torch.from_numpy(x), torch.from_numpy(y), batch_size=batch_size, epochs=6
    )
    expected = list(_descend_in_numpy(batch_size, 6, seed=0))
    assert losses.of_batches == pytest.approx([a for a, _ in expected], rel=1e-4)
    assert losses.of_samples == pytest.approx([b for _, b in expected], rel=1e-4)
    assert losses.num_batches == -(-100 // batch_size)


@pytest.mark.parametrize("is_printed", [True, False])
def test_lines_of_the_training_show_the_mean_that_belongs_to_the_program(
    is_printed: bool, corrected: LessonResult, as_printed: LessonResult
) -> None:
    result = as_printed if is_printed else corrected
    of_batches, of_samples = list(_descend_in_numpy(64, 10, seed=3))[-1]
    line = result.lines[result.lines.index("Training with batches of 64:") + 1]
    shown = float(line.split("Loss = ")[1].split(",")[0])
    assert line.startswith("  Epoch 10/10: Loss = ")
    assert line.endswith(", Batches = 2")
    assert abs(of_batches - of_samples) > 1
    assert shown == pytest.approx(of_batches if is_printed else of_samples, rel=1e-4)


def test_as_printed_every_epoch_of_manual_batches_is_the_first(
    as_printed: LessonResult,
) -> None:
    first, *others = as_printed.numbers["manual_orders"]
    generator = torch.Generator().manual_seed(3)
    assert first == torch.randperm(10, generator=generator).tolist()
    assert others == [first, first]


def test_corrected_every_epoch_of_manual_batches_is_drawn_anew(
    corrected: LessonResult,
) -> None:
    generator = torch.Generator().manual_seed(3)
    expected = [torch.randperm(10, generator=generator).tolist() for _ in range(3)]
    assert corrected.numbers["manual_orders"] == expected


def test_loaders_batches_hold_every_number_and_letter_once(
    corrected: LessonResult,
) -> None:
    numbers, letters = corrected.numbers["numbers"], corrected.numbers["letters"]
    assert [len(batch) for batch in numbers] == [5, 5, 5]
    assert sorted(itertools.chain(*numbers)) == list(range(15))
    assert [len(indices) for indices, _ in letters] == [6, 6, 6, 6, 2]
    pairs = [
        pair for indices, names in letters for pair in zip(indices, names, strict=True)
    ]
    assert sorted(pairs) == [(at, chr(ord("a") + at)) for at in range(26)]


def test_manual_batches_keep_pairs_together() -> None:
    x = torch.arange(7)
    batches = make_manual_batches(x, 10 * x, 3, torch.Generator().manual_seed(0))
    assert [len(left) for left, _ in batches] == [3, 3, 1]
    assert all(torch.equal(10 * left, right) for left, right in batches)


def test_drop_last_leaves_out_the_small_batch(corrected: LessonResult) -> None:
    sizes = {
        one["drop_last"]: one["sizes"]
        for one in corrected.numbers["options"]
        if one["num_workers"] == 0
    }
    assert sizes == {True: [32, 32, 32], False: [32, 32, 32, 4]}


def test_unshuffled_loader_keeps_the_order() -> None:
    x = torch.arange(5)
    batches = list(make_loader(x, x, 2, shuffle=False))
    assert [left.tolist() for left, _ in batches] == [[0, 1], [2, 3], [4]]


def test_every_loader_gives_the_same_batches(corrected: LessonResult) -> None:
    assert corrected.numbers["same_batches"] == {
        "own data set": True,
        "own collation": True,
        "handful's loader": True,
    }


def test_every_way_delivers_every_sample_once_an_epoch() -> None:
    x = torch.arange(50.0)
    for way in make_ways(x, x, 8, seed=0):
        epoch = way.prepare()
        for _ in range(2):
            found = torch.cat([target for _, target in epoch()])
            assert sorted(found.tolist()) == x.tolist(), way.name


def test_transform_reaches_every_sample() -> None:
    x = torch.arange(50.0)
    ways = {way.name: way for way in make_ways(x, x, 8, seed=0)}
    epoch = ways["own data set, transform"].prepare()
    assert all(torch.equal(2 * left, right) for left, right in epoch())


def test_way_that_loses_samples_is_not_timed() -> None:
    batch = (torch.zeros(3), torch.zeros(3))
    with pytest.raises(TrainingError, match="must deliver 4 samples; got 3"):
        measure_ways([Way("short", lambda: lambda: [batch])], 4, rounds=1)


def test_measuring_puts_threads_back_and_takes_the_median() -> None:
    torch.set_num_threads(2)
    batch = (torch.zeros(3), torch.zeros(3))
    (one,) = measure_ways([Way("list", lambda: lambda: [batch])], 3, rounds=5)
    assert torch.get_num_threads() == 2
    assert one.rate == sorted(one.rates)[2]


def test_holding_all_batches_takes_a_copy_of_the_data_in_memory() -> None:
    x = torch.zeros(400_000, 16)
    x += 1
    manual, loader = [
        way
        for way in make_ways(x, x[:, :1].clone(), 50_000, seed=0)
        if way.name in ("manual, made once", "handful's loader")
    ]
    held, passed = measure_ways([manual, loader], 400_000, rounds=1)
    if held.peak_bytes is None or passed.peak_bytes is None:
        pytest.skip("the system does not tell a process's peak memory")
    assert held.peak_bytes >= 0.9 * x.nbytes
    assert held.peak_bytes > passed.peak_bytes


def test_figure_has_a_bar_for_every_way(corrected: LessonResult) -> None:
    names = [
        label.get_text()
        for label in corrected.figures["ways"].axes[0].get_yticklabels()
    ]
    assert names == list(corrected.numbers["samples_per_second"])
    assert len(names) == 8


def test_figure_without_known_memory_has_one_panel() -> None:
    batch = (torch.zeros(3), torch.zeros(3))
    (one,) = measure_ways([Way("list", lambda: lambda: [batch])], 3, rounds=1)
    unknown = type(one)(one.name, one.rates, None)
    assert len(draw_ways([unknown], note="n").axes) == 1


def test_command_line_prints_the_lesson_and_keeps_its_numbers(
    run_handful: RunHandful, tmp_path: Path
) -> None:
    done = run_handful("study", "feeding", "--quick", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "corrected here: Its manual batches are shuffled once" in done.stdout
    kept = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert set(kept["numbers"]["losses"]) == {"16", "32", "64"}
    assert (tmp_path / "out" / "ways.png").stat().st_size > 10_000
