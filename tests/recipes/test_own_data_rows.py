"""Own Parquet tables that are larger than memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful import load_recipe, run_recipe
from handful.data.loader import DataLoader
from handful.data.parquet_files import ParquetFiles
from handful.errors import DataError
from handful.recipes import own_data_reading, own_data_row_groups
from handful.recipes.own_data import OwnData
from handful.recipes.own_data_facts import OwnDataRecipe
from handful.recipes.own_data_row_groups import _summarize, join_summaries
from handful.train.run_recipe import evaluate_run

arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def _small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every table be larger than what is read whole."""
    monkeypatch.setattr(own_data_reading, "MOST_BYTES", 0)


def _write(path: Path, *, rows: int = 1200, group: int = 60, **more: Any) -> Path:
    rng = np.random.default_rng(0)
    row = np.arange(rows)
    signal = rng.normal(50, 10, rows)
    columns = {
        "row": row.astype(np.float32),
        "signal": signal.astype(np.float32),
        "kind": np.digitize(signal, [45, 55]) * 10,
        "value": (signal * 1000).astype(np.float32),
        **more,
    }
    parquet.write_table(arrow.table(columns), path, row_group_size=group)
    return path


def _load(path: Path | str, target: str) -> OwnDataRecipe:
    recipe = load_recipe(OwnData(str(path), target).recipe)
    assert isinstance(recipe, OwnDataRecipe)
    return recipe


def _rows_of(part: Any) -> list[int]:
    batches = DataLoader(part, 100, seed=0)
    return [int(row) for inputs, _ in batches for row in inputs[:, 0]]


def test_whole_row_groups_belong_to_one_part(tmp_path: Path) -> None:
    recipe = _load(_write(tmp_path / "a.parquet"), "kind")
    parts = recipe.make_data(0)
    assert all(isinstance(part, ParquetFiles) for part in parts)
    rows = [_rows_of(part) for part in parts]
    assert [len(part) for part in rows] == [720, 240, 240] == [*recipe.facts.sizes]
    assert sorted(row for part in rows for row in part) == list(range(1200))
    groups = [{row // 60 for row in part} for part in rows]
    assert [len(part) for part in groups] == [12, 4, 4]
    other = [_rows_of(part) for part in recipe.divide(1).make_data(0)]
    assert other != rows


def test_classes_are_coded_and_learnt(tmp_path: Path) -> None:
    recipe = _load(_write(tmp_path / "a.parquet"), "kind")
    assert recipe.class_names == ("0", "10", "20")
    options = {"epochs": 12, "batch_size": 32, "lr": 0.01}
    run_recipe(recipe.override(**options), run_dir=tmp_path / "run")
    measured = evaluate_run(tmp_path / "run", recipe, split="test")
    # The column value gives the class away.
    assert measured["test_accuracy"] > 0.85 > recipe.facts.baseline.value


def test_values_are_predicted_in_their_own_unit(tmp_path: Path) -> None:
    recipe = _load(_write(tmp_path / "a.parquet"), "value")
    assert recipe.metrics == ("rmse", "mae")
    options = {"epochs": 12, "batch_size": 32}
    run_recipe(recipe.override(**options), run_dir=tmp_path / "run")
    measured = evaluate_run(tmp_path / "run", recipe, split="test")
    assert 8000 < recipe.facts.baseline.value < 12_000
    assert measured["test_rmse"] < 0.3 * recipe.facts.baseline.value


def test_the_network_standardises_by_training_groups(tmp_path: Path) -> None:
    recipe = _load(_write(tmp_path / "a.parquet"), "value")
    rows = _rows_of(recipe.make_data(0)[0])
    model = recipe.make_model()
    assert model.mean[0].item() == pytest.approx(np.mean(rows), rel=1e-5)  # type: ignore[index, operator, union-attr]
    assert model.scale[0].item() == pytest.approx(np.std(rows), rel=1e-5)  # type: ignore[index, operator, union-attr]


def test_means_are_told_from_evenly_spaced_rows_of_large_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _load(_write(tmp_path / "a.parquet"), "value")
    monkeypatch.setattr(own_data_row_groups, "MEASURED_CELLS", 12 * 3 * 2)
    recipe = whole.divide(0)
    rows = np.array(_rows_of(recipe.make_data(0)[0])).reshape(12, 60)
    means = recipe.make_model().mean
    assert means[0].item() == pytest.approx(rows[:, [0, 59]].mean())  # type: ignore[index, operator, union-attr]


def test_summaries_of_parts_make_that_of_the_whole() -> None:
    values = np.random.default_rng(0).integers(0, 9, 100)
    joined = join_summaries([_summarize(values[:30]), _summarize(values[30:])])
    whole = _summarize(values)
    assert joined.variance == pytest.approx(whole.variance)
    assert joined.mean == pytest.approx(whole.mean)
    assert joined.classes == whole.classes
    assert _summarize(np.arange(30)).classes is None
    assert _summarize(values / 2).classes is None


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    recipe = _load(_write(tmp_path / "a.parquet"), "kind").override(
        schedule="constant", batch_size=100
    )
    whole = run_recipe(recipe.override(epochs=3), run_dir=tmp_path / "whole")
    run_recipe(recipe.override(epochs=1), run_dir=tmp_path / "parts")
    parts = run_recipe(
        recipe.override(epochs=3), run_dir=tmp_path / "parts", resume=True
    )
    assert np.array_equal(whole.steps, parts.steps)


def test_a_folder_and_a_pattern_are_read_and_texts_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write(tmp_path / f"{name}.parquet", text=["x"] * 1200)
    for path in (tmp_path, tmp_path / "*.parquet"):
        recipe = _load(path, "kind")
        assert sum(recipe.facts.sizes) == 2400
        assert recipe.facts.left_out == ("'text' (no numbers)",)


def test_gaps_are_marked(tmp_path: Path) -> None:
    gaps = np.where(np.arange(1200) % 7, 1.5, np.nan)
    recipe = _load(_write(tmp_path / "a.parquet", gaps=gaps), "kind")
    model = recipe.make_model()
    assert model.gaps.tolist() == [3]  # type: ignore[operator, union-attr]
    inputs = next(iter(DataLoader(recipe.make_data(0)[0], 100)))[0]
    assert inputs.isnan().any()
    assert torch.isfinite(model(inputs)).all()


def test_what_cannot_be_divided_or_learnt_is_refused(tmp_path: Path) -> None:
    gaps = np.where(np.arange(1200) % 7, 1.5, np.nan)
    path = _write(tmp_path / "a.parquet", same=np.ones(1200), gaps=gaps)
    with pytest.raises(DataError, match=r"'gaps' of .* a value in each row; it has Na"):
        _load(path, "gaps")
    with pytest.raises(DataError, match=r"'same' of .* must vary; each row has 1\."):
        _load(path, "same")
    with pytest.raises(DataError, match=r"at least 10 row groups, .*; got 2"):
        _load(_write(tmp_path / "b.parquet", group=600), "kind")
    table = arrow.table({"text": ["x"] * 20, "y": range(20)})
    parquet.write_table(table, tmp_path / "c.parquet", row_group_size=1)
    with pytest.raises(DataError, match="a column of numbers beside the target"):
        _load(tmp_path / "c.parquet", "y")
