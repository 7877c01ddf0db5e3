"""Claims of the tutorials: their table, some experiments, and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_regression
from sklearn.preprocessing import scale

from handful.lessons.claims import (
    descents,
    judge_descents,
    judge_loading,
    judge_models,
    loading,
    models,
    sizes,
    tensors,
)
from handful.lessons.claims.claim import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    Bench,
    decide,
    judge_gpu,
    spread,
)
from handful.lessons.claims.page import CLAIMS, QUICK_NOTE, write_page
from handful.lessons.registry import NOTES, OPTIMIZATION, TRAINING, WINE
from handful.reference.order import make_order

LENGTHS = {WINE: 119, NOTES: 88, OPTIMIZATION: 904, TRAINING: 301}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(seed=3, quick=True)


def test_every_tutorial_has_claims_in_the_order_of_its_lines() -> None:
    assert len(CLAIMS) >= 40
    for tutorial, length in LENGTHS.items():
        own = [claim for claim in CLAIMS if claim.tutorial == tutorial]
        assert len(own) >= 10
        for claim in own:
            assert re.fullmatch(r"\d+(-\d+)?", claim.lines)
            first, last = (
                int(claim.lines.split("-")[0]),
                int(claim.lines.split("-")[-1]),
            )
            assert 1 <= first <= last <= length
            assert claim.text.endswith(".")


def test_experiment_is_run_once_for_several_claims() -> None:
    calls = []

    def measure(bench: Bench) -> dict[str, Any]:
        calls.append(bench)
        return {"value": len(calls)}

    bench = Bench()
    assert bench.run(measure) is bench.run(measure)
    assert len(calls) == 1


def test_verdict_follows_from_the_figures() -> None:
    assert decide(True, "f").verdict == HOLDS
    assert decide(False, "f", when="w").verdict == FAILS
    assert decide(True, "f", when="it rains").verdict == "holds when it rains"
    assert judge_gpu({"device": "d"}).verdict == NOT_MEASURED
    assert spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"
    assert spread([12_345.6]) == "12,346"


def make_points() -> tuple[np.ndarray, np.ndarray]:
    x, y = make_regression(n_samples=100, n_features=1, noise=20, random_state=42)
    return scale(x)[:, 0], y


def test_walk_with_all_samples_is_the_closed_form(bench: Bench) -> None:
    x, y = make_points()
    best, start = np.sum(x * y) / np.sum(x**2), 0.8822692632675171
    expected = best + (start - best) * (1 - 2 * 0.02 * np.mean(x**2)) ** 10
    walked = bench.run(descents.walk)
    assert walked["100"]["ends"] == pytest.approx([expected] * 2)
    assert walked["1"]["updates"] == 100
    assert judge_descents.full_is_deterministic(walked).verdict == HOLDS
    assert judge_descents.full_is_smoothest(walked).verdict == HOLDS
    swapped = {**walked, "100": walked["1"], "1": walked["100"]}
    assert judge_descents.full_is_smoothest(swapped).verdict == FAILS
    assert judge_descents.full_is_deterministic(swapped).verdict == FAILS


def test_rates_that_leave_again_are_not_counted() -> None:
    found = descents.count_by_rate(Bench(quick=True))
    # (1 - 2 lr)^n shrinks to 1 % of the least loss; a rate of 2 triples the distance.
    rate = found["rates"][3]
    x, y = make_points()
    best = np.sum(x * y) / np.sum(x**2)
    least, away = np.mean((best * x - y) ** 2), (0.8822692632675171 - best) ** 2
    epochs = np.ceil(np.log(0.01 * least / away) / np.log((1 - 2 * rate) ** 2))
    assert found["100"][3] == [epochs, epochs]
    assert np.isnan(found["100"][4]).all()
    weight, nearest = 0.8822692632675171, np.inf
    for epoch in make_order(100, epochs=30, seed=0):
        for at in epoch:
            weight -= rate * 2 * x[at] * (weight * x[at] - y[at])
            nearest = min(nearest, np.mean((weight * x - y) ** 2) / least - 1)
    assert nearest < 0.01
    assert np.isnan(found["1"][3][0])


def test_noise_of_gradients_falls_as_the_root_of_the_batch(bench: Bench) -> None:
    found = bench.run(models.noise)
    ratio = np.divide(found["1"], found["32"])
    assert ratio == pytest.approx([np.sqrt(32)] * 2, rel=0.35)
    assert max(found["full"]) < 1e-5
    assert judge_models.noise_falls(found).verdict == HOLDS
    backwards = dict(reversed(found.items()))
    assert judge_models.noise_falls(backwards).verdict == FAILS


def test_bytes_of_a_step_are_those_of_the_activations() -> None:
    found = models.memory(Bench(quick=True))
    # Of each sample: 784 pixels and 128 hidden values, in 4 bytes each.
    assert found["batch"] == {n: 4 * n * (784 + 128) for n in found["batch"]}
    assert judge_models.memory_is_linear(found).verdict.startswith(HOLDS)
    assert judge_models.memory_is_independent(found).verdict.startswith(HOLDS)


def test_running_means_are_told_apart(bench: Bench) -> None:
    found = bench.run(models.running_mean)
    assert judge_models.samples_are_weighted(found).verdict == HOLDS
    assert judge_models.batch_mean_is_mean(found).verdict == FAILS
    assert judge_models.running_mean_tells(found).verdict == FAILS


def test_noise_regularises_only_if_most_seeds_say_so() -> None:
    def judge(differences: list[float]) -> str:
        found = {"wine": {"differences": differences}}
        return judge_models.noise_regularises(found).verdict

    assert judge([-1.0] * 8) == HOLDS
    assert judge([-1.0] * 5 + [1.0] * 3) == FAILS
    assert judge([1.0] * 8) == FAILS


def test_shuffling_holds_only_for_the_data_where_most_seeds_say_so() -> None:
    low, high, mixed = [0.0] * 8, [1.0] * 8, [1.0, -1.0] * 4

    def judge(**orders: tuple[list[float], list[float]]) -> str:
        found = {
            name: {
                "sorted by class": by_class,
                "shuffled once": once,
                "shuffled each epoch": low,
            }
            for name, (by_class, once) in orders.items()
        }
        return judge_models.shuffling_helps(found).verdict

    assert judge(wine=(high, high)) == HOLDS
    assert judge(wine=(mixed, mixed), digits=(high, mixed)) == (
        "holds when the data lie sorted by class, and for digits alone"
    )
    assert judge(wine=(mixed, high)) == FAILS


def test_rates_are_narrow_only_below_half_the_width() -> None:
    def judge(greatest: float) -> str:
        found = {
            "rates": [0.01, 0.1, 1.0],
            "1": [[1.0], [1.0], [greatest]],
            "10": [[1.0], [1.0], [1.0]],
            "100": [[1.0], [1.0], [1.0]],
        }
        return judge_descents.rates_are_careful(found).verdict

    assert judge(float("nan")) == HOLDS
    assert judge(1.0) == FAILS


def test_batches_of_178_samples_have_a_smaller_last(bench: Bench) -> None:
    found = bench.run(loading.orders)
    assert found["sizes"] == [32] * 5 + [18]
    assert (found["dropped"], found["lost"]) == ([32] * 5, 18)
    assert judge_loading.batches_are_32(found).verdict == FAILS
    assert judge_loading.manual_reshuffles(found).verdict == FAILS
    assert judge_loading.loader_reshuffles(found).verdict == HOLDS
    assert judge_loading.workers_are_right(found).verdict == HOLDS


def test_momentum_takes_the_steps_of_the_closed_form() -> None:
    found = descents.push(Bench())
    # Plain: each distance shrinks by 99 / 101 a step; the loss begins at 101 / 2.
    expected = np.ceil(np.log(1e-6 / 50.5) / np.log((99 / 101) ** 2))
    assert found["plain"] == expected
    assert found["momentum"] < expected / 4


def test_kept_bytes_are_none_without_gradients() -> None:
    x, layer = torch.rand(8, 4), torch.nn.Linear(4, 2)
    assert models.count_kept(lambda: layer(x)) > 0
    with torch.no_grad():
        assert models.count_kept(lambda: layer(x)) == 0


def test_errors_as_printed_are_pytorchs() -> None:
    assert "must be at least 1D" in descents.print_step(Bench())["error"].replace(
        "need to be", "must be"
    )
    assert "in-place" in tensors.printed_update(Bench())["error"]
    assert tensors.accumulate(Bench()) == {"ratio": 2.0}


def row_of(count: int, **seconds: float) -> dict[str, Any]:
    times = {size[1:]: {"seconds": [value]} for size, value in seconds.items()}
    return {"count": count, "goal": 0.1, "times": times}


def test_recommended_sizes_hold_where_they_are_near_the_best() -> None:
    judge = judge_loading.size_is_best(32, 128, 1000, 100_000, False)
    good = {"a": row_of(2000, _32=1.2, _512=1.0, _2000=5.0)}
    bad = {"a": row_of(2000, _32=1.3, _512=1.0, _2000=5.0)}
    never = {"a": row_of(2000, _32=float("nan"), _512=1.0)}
    assert judge(good).verdict == HOLDS
    assert [judge(one).verdict for one in (bad, never, {})] == [FAILS] * 3
    assert judge_loading.few_beat_full(good).verdict == HOLDS
    full = {"a": row_of(500, _32=2.0, _500=1.0)}
    assert judge_loading.few_beat_full(full).verdict == FAILS
    assert judge_loading.full_is_fine(full).verdict == HOLDS
    both = judge_loading.full_is_fine({**full, "b": good["a"]}).verdict
    assert both == "holds when there are a few hundred samples"


def test_time_to_goal_is_nan_where_the_limit_comes_first() -> None:
    task = sizes.make_synthetic(200, seed=0)
    assert np.isnan(sizes.time_to_goal(task, 32, 1e-9, 0, limit=0.01))
    assert 0 < sizes.time_to_goal(task, 32, 0.01, 0, limit=30.0) < 30.0


def test_page_has_a_row_for_each_claim_and_says_that_it_is_quick() -> None:
    rows = [(claim, decide(False, "a | b")) for claim in CLAIMS]
    table = {"synthetic, 500": row_of(500, _32=2.0, _500=float("nan"))}
    page = write_page(rows, table, quick=True)
    assert QUICK_NOTE in page
    lines = [line for line in page.splitlines() if re.match(r"\| \d", line)]
    assert len(lines) == len(CLAIMS)
    assert all(line.count("|") == 6 for line in lines)
    assert "| synthetic, 500 | 0.1 | 2 | \N{EN DASH} | 32 | 32 |" in page
    assert f"{len(CLAIMS)} claims: does not hold: {len(CLAIMS)}." in page
    assert QUICK_NOTE not in write_page(rows, table, quick=False)


def test_command_line_judges_every_claim_and_writes_the_page(
    run_handful: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run_handful("study", "claims", "--quick", "--out", out, timeout_seconds=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert f"{len(CLAIMS)} claims: " in done.stdout
    assert QUICK_NOTE in (out / "claims.md").read_text()
    numbers = json.loads((out / "numbers.json").read_text())["numbers"]
    assert len(numbers["claims"]) == sum(numbers["verdicts"].values()) == len(CLAIMS)
    for row in numbers["claims"]:
        is_known = row["verdict"] in (HOLDS, FAILS, NOT_MEASURED)
        assert is_known or row["verdict"].startswith("holds when "), row
        assert row["figures"], row
