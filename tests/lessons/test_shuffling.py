from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch
from torch import nn

from handful.lessons.lesson import LessonResult
from handful.lessons.shuffling import (
    ANEW,
    ONCE,
    ORDERS,
    SORTED,
    judge_orders,
    measure_orders,
    put_in_order,
    sign_test,
)
from handful.recipes import wine
from handful.train.run_recipe import make_initial_model


class RunHandful(Protocol):
    def __call__(self, *args: str | Path, timeout_seconds: float = 60): ...


def _train_in_plain_torch(order: str, *, epochs: int, seed: int) -> list[float]:
    """Return the validation loss after each epoch of a fixed order of Wine."""
    train, valid, _ = wine.make_data(seed)
    x, y = train.tensors
    place = np.argsort(y.numpy(), kind="stable")
    if order == ONCE:
        drawn = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        place = place[drawn.numpy()]
    model = make_initial_model(wine.recipe, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(epochs):
        for start in range(0, len(y), 16):
            part = place[start : start + 16]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(
                model(valid.tensors[0]), valid.tensors[1]
            )
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("is_printed", [True, False])
def test_sorted_order_trains_as_written_out(
    is_printed: bool, corrected: LessonResult, as_printed: LessonResult
) -> None:
    result = as_printed if is_printed else corrected
    curves = result.numbers["wine"][SORTED]["valid_loss"]
    assert len(curves) == (1 if is_printed else 2)
    for number, curve in enumerate(curves):
        expected = _train_in_plain_torch(SORTED, epochs=3, seed=3 + number)
        assert curve == pytest.approx(expected, rel=1e-4)


def test_order_shuffled_once_trains_as_written_out(corrected: LessonResult) -> None:
    curve = corrected.numbers["wine"][ONCE]["valid_loss"][0]
    assert curve == pytest.approx(
        _train_in_plain_torch(ONCE, epochs=3, seed=3), rel=1e-4
    )


def test_orders_give_different_trainings(corrected: LessonResult) -> None:
    for name in ("wine", "digits"):
        lasts = {
            corrected.numbers[name][order]["valid_loss"][0][-1] for order in ORDERS
        }
        assert len(lasts) == 3


def test_as_printed_compares_two_orders_with_one_seed(as_printed: LessonResult) -> None:
    assert list(as_printed.numbers["digits"]) == [SORTED, ANEW]
    assert "  One seed cannot tell shuffling each epoch from sorted by class." in (
        as_printed.lines
    )


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_has_the_same_samples(order: str) -> None:
    plain = wine.make_data(0)[0].tensors
    arranged = put_in_order(wine.recipe, order)
    x, y = arranged.make_data(0)[0].tensors
    pairs = [
        sorted(zip(a.sum(1).tolist(), b.tolist(), strict=True))
        for a, b in ((x, y), plain)
    ]
    assert [label for _, label in pairs[0]] == [label for _, label in pairs[1]]
    assert [s for s, _ in pairs[0]] == pytest.approx([s for s, _ in pairs[1]])
    is_sorted = bool((y.diff() >= 0).all())
    assert is_sorted == (order != ONCE)
    assert arranged.shuffle == (order == ANEW)


def test_sorted_digits_learn_slower_than_shuffled_ones(corrected: LessonResult) -> None:
    losses = {
        order: values["valid_loss"][0][-1]
        for order, values in corrected.numbers["digits"].items()
    }
    assert losses[SORTED] > 1.5 * losses[ONCE]
    assert losses[SORTED] > 1.5 * losses[ANEW]


@pytest.mark.parametrize(
    ("lower", "higher", "expected"),
    [(8, 0, 2 / 256), (0, 8, 2 / 256), (7, 1, 18 / 256), (4, 4, 1.0), (0, 0, 1.0)],
)
def test_sign_test_is_the_binomial_tail_twice(
    lower: int, higher: int, expected: float
) -> None:
    assert sign_test(lower, higher) == pytest.approx(expected)


def test_verdict_needs_nearly_all_seeds() -> None:
    zeros, ones = np.zeros(8), np.ones(8)
    mixed = np.array([1.0, -1, 1, -1, 1, -1, 1, -1])
    better = judge_orders({SORTED: ones, ANEW: zeros})
    worse = judge_orders({SORTED: zeros, ANEW: ones})
    unclear = judge_orders({SORTED: mixed, ONCE: ones, ANEW: zeros})
    assert better[0].startswith("Shuffling each epoch is better than sorted by class")
    assert worse[0].startswith("Shuffling each epoch is worse than sorted by class")
    assert unclear[0].startswith("Shuffling each epoch is not told apart from sorted")
    assert unclear[1].startswith("Shuffling each epoch is better than shuffled once")


def test_measuring_puts_threads_back() -> None:
    torch.set_num_threads(2)
    measure_orders(wine.recipe.override(epochs=1), [SORTED], [0])
    assert torch.get_num_threads() == 2


def test_figures_have_loss_and_accuracy_of_both_data_sets(
    corrected: LessonResult,
) -> None:
    assert set(corrected.figures) == {
        f"{name}-{value}"
        for name in ("wine", "digits")
        for value in ("loss", "accuracy")
    }


def test_command_line_prints_the_verdicts(
    run_handful: RunHandful, tmp_path: Path
) -> None:
    done = run_handful("study", "shuffling", "--quick", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is not told apart from") == 4
    kept = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert set(kept["numbers"]) == {"wine", "digits"}
