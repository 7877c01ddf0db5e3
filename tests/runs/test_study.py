"""Study: read from its folder, summed up over seeds, put over one grid."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handful.errors import ArgumentError, RunError
from handful.runs.study import STUDY_FORMAT_VERSION, Study
from handful.runs.study_row import Row, format_setting, format_settings, row_to_json
from handful.runs.study_table import summarize

GOLDEN = Path(__file__).parent.parent / "studies" / "golden"


def make_row(lr: float, seed: int, losses: list[float], **fields: Any) -> Row:
    history = [
        {
            "epoch": i + 1,
            "step": 10 * (i + 1),
            "samples": 100 * (i + 1),
            "valid_loss": loss,
            "trained_seconds": 0.5 * (i + 1),
        }
        for i, loss in enumerate(losses)
    ]
    final = {"valid_loss": losses[-1], "valid_accuracy": 1 - losses[-1] / 10}
    fields = {"status": "finished", "seconds": 2.0, "final": final, **fields}
    return Row(
        settings={"lr": lr}, seed=seed, history=history, epoch_samples=100, **fields
    )


@pytest.fixture
def study() -> Study:
    rows = [
        make_row(0.1, 0, [4.0, 2.0], target={"seconds": 1.0}),
        make_row(0.1, 1, [4.0, 3.0, 4.0]),
        make_row(1.0, 0, [1.0, 1.0]),
        make_row(
            1.0, 1, [9.0, math.nan], status="diverged", reason="valid_loss is nan"
        ),
    ]
    return Study(
        recipe="line",
        axes={"lr": [0.1, 1.0]},
        seeds=[0, 1],
        upward=["valid_accuracy"],
        rows=rows,
    )


def test_table_sums_up_finished_trials_and_counts_the_others(study: Study) -> None:
    good, bad = study.table()
    loss = good.values["valid_loss"]
    assert (loss.mean, loss.min, loss.max, loss.count) == (3.0, 2.0, 4.0, 2)
    assert loss.std == pytest.approx(math.sqrt(2))
    assert (good.num_finished, good.num_diverged, good.num_reached) == (2, 0, 1)
    assert good.target_seconds is not None
    assert good.target_seconds.mean == 1.0
    assert (bad.num_finished, bad.num_diverged) == (1, 1)
    assert bad.values["valid_loss"].mean == 1.0
    assert math.isnan(bad.values["valid_loss"].std)


def test_best_cell_is_one_that_finished_for_all_seeds(study: Study) -> None:
    best = study.best("valid_loss")
    assert best is not None
    assert best.settings == {"lr": 0.1}
    study.rows[3] = make_row(1.0, 1, [0.5])
    better = study.best("valid_loss")
    most_right = study.best("valid_accuracy")
    assert better is not None
    assert most_right is not None
    assert better.settings == most_right.settings == {"lr": 1.0}
    assert Study(recipe="line", axes={"lr": [1]}, seeds=[0]).best("any") is None


def test_an_unknown_value_is_refused_with_the_nearest(study: Study) -> None:
    with pytest.raises(ArgumentError, match="Did you mean 'valid_loss'"):
        study.best("valid_los")
    with pytest.raises(ArgumentError, match="Did you mean 'valid_loss'"):
        study.align("valid_los")
    with pytest.raises(ArgumentError, match="by must be one of epoch, samples, sec"):
        study.align("valid_loss", by="hours")
    with pytest.raises(ArgumentError, match="points must be 2 or more; got 1"):
        study.align("valid_loss", points=1)


def test_aligned_values_are_interpolated_inside_a_run_and_nan_outside(
    study: Study,
) -> None:
    found = study.align("valid_loss", by="step", points=5)
    assert found.grid.tolist() == [10, 15, 20, 25, 30]
    assert found.cells == [{"lr": 0.1}, {"lr": 1.0}]
    assert found.values.shape == (2, 2, 5)
    nan = math.nan
    expected = [
        [[4, 3, 2, nan, nan], [4, 3.5, 3, 3.5, 4]],
        [[1, 1, 1, nan, nan], [9, nan, nan, nan, nan]],
    ]
    np.testing.assert_array_equal(found.values, expected)


@pytest.mark.parametrize(
    ("by", "last"), [("epoch", 3), ("step", 30), ("samples", 300), ("seconds", 1.5)]
)
def test_every_position_can_carry_the_grid(study: Study, by: str, last: float) -> None:
    assert study.align("valid_loss", by=by, points=3).grid[-1] == last


def test_records_inside_an_epoch_stand_between_its_ends(study: Study) -> None:
    study.rows[0].history[0] |= {"partial": True, "samples": 50}
    found = study.align("valid_loss", points=6)
    np.testing.assert_allclose(found.grid, [0.5, 1, 1.5, 2, 2.5, 3])
    np.testing.assert_allclose(found.values[0, 0, :4], [4, 4 - 2 / 3, 4 - 4 / 3, 2])


def test_rows_of_missing_trials_are_nan(study: Study) -> None:
    del study.rows[1]
    assert np.isnan(study.align("valid_loss").values[0, 1]).all()
    empty = Study(recipe="line", axes={"lr": [1]}, seeds=[0])
    assert empty.names == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_summaries_are_those_of_numpy(values: list[float]) -> None:
    found = summarize(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-6)
    assert found.std == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert (found.min, found.max) == (min(values), max(values))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("full", "full"),
        (None, "none"),
        (True, "true"),
        (0.001, "0.001"),
        (["mae", "mse"], "mae;mse"),
        ({"name": "sgd", "momentum": 0.9}, "sgd:momentum=0.9"),
        ({"name": "adam", "betas": [0.9, 0.99]}, "adam:betas=0.9;0.99"),
    ],
)
def test_settings_are_written_as_they_are_typed(value: Any, text: str) -> None:
    assert format_setting(value) == text
    assert format_settings({"a": value, "b": 1}) == f"a={text} b=1"


def test_golden_folder_of_format_1_is_read() -> None:
    study = Study.load(GOLDEN / "study-1")
    assert study.arguments() == {
        "recipe": "line",
        "settings": study.settings,
        "axes": {"batch_size": [16, "full"], "lr": [0.1, 1e30]},
        "seeds": [0, 1],
        "epochs": 2,
        "budget": None,
        "target": "valid_r2>=0.5",
        "stop_at_target": False,
    }
    assert study.settings["optimizer"] == "sgd"
    assert [row.status for row in study.rows] == ["finished", "diverged"] * 4
    assert study.upward == ["valid_r2"]
    best = study.best("valid_r2")
    assert best is not None
    assert best.settings == {"batch_size": 16, "lr": 0.1}
    assert best.values["valid_loss"].mean == pytest.approx(0.46811, abs=1e-4)
    diverged = study.rows[1]
    assert not math.isfinite(diverged.final["train_loss"])


def test_golden_folder_has_the_keys_that_are_written_today() -> None:
    meta = json.loads((GOLDEN / "study-1" / "study.json").read_text())
    assert meta["format_version"] == STUDY_FORMAT_VERSION
    study = Study.load(GOLDEN / "study-1")
    assert list(study.describe()) == list(meta)
    lines = (GOLDEN / "study-1" / "rows.jsonl").read_text().splitlines()
    fields = [field.name for field in dataclasses.fields(Row)]
    for line in lines:
        assert list(json.loads(line)) == fields
    assert sorted(map(row_to_json, study.rows)) == sorted(lines)


def test_rows_are_read_into_the_grids_order_whatever_came_first(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "study-1", tmp_path / "s")
    rows = tmp_path / "s" / "rows.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(reversed(lines)) + lines[0][:40])
    shuffled, study = Study.load(tmp_path / "s"), Study.load(GOLDEN / "study-1")
    assert [row.key for row in shuffled.rows] == [row.key for row in study.rows]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("study.json", "", "is not JSON"),
        ("study.json", "{}", "has no format_version"),
        ("study.json", '{"format_version": 99}', "Install a newer handful"),
        ("study.json", '{"format_version": 1}', r"lacks .*'recipe'.*is damaged"),
        ("rows.jsonl", "nonsense\n{}\n", "line 1, is no JSON object"),
        ("rows.jsonl", '{"seed": 1}\n', r"lacks .*'settings'.*is damaged"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, name: str, content: str, match: str
) -> None:
    shutil.copytree(GOLDEN / "study-1", tmp_path / "s")
    (tmp_path / "s" / name).write_text(content)
    with pytest.raises(RunError, match=match):
        Study.load(tmp_path / "s")


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no study: study.json is missing"):
        Study.load(tmp_path)
