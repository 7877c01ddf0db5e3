"""Own tables: what is found in them, and what is trained on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful import load_recipe, run_recipe
from handful.data.csv_schema import TableSchema
from handful.errors import ArgumentError, DataError, FormatError
from handful.recipes.own_data import OwnData, parse_own_data
from handful.recipes.own_data_checks import check_fingerprint, fingerprint_own_data
from handful.recipes.own_data_facts import OwnDataRecipe
from handful.recipes.own_data_model import ShareOfVariance, TableNet, TableShape
from handful.recipes.own_data_split import divide
from handful.recipes.own_data_tables import choose_batch_size, choose_epochs
from handful.train.run_recipe import evaluate_run, make_initial_model

pytest.importorskip("pyarrow", reason="pyarrow is not installed")


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def _mixed_rows(count: int = 120) -> list[list[Any]]:
    """Rows of two numbers, one with gaps, a text with gaps, and a class."""
    rng = np.random.default_rng(0)
    rows = []
    for place in range(count):
        a, b = rng.normal(10, 2), rng.normal()
        colour = ("red", "green", "")[place % 3]
        is_high = a + (2 if colour == "red" else 0) > 10.5
        gap = place % 10 == 0
        rows.append([a, "" if gap else b, colour, "high" if is_high else "low"])
    return rows


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return _write(tmp_path / "mixed.csv", "abcy", _mixed_rows())


def _load(path: Path, target: str | None = None) -> OwnDataRecipe:
    recipe = load_recipe(OwnData(str(path), target).recipe)
    assert isinstance(recipe, OwnDataRecipe)
    return recipe


def _tensors(recipe: OwnDataRecipe) -> list[list[torch.Tensor]]:
    return [[*part.tensors] for part in recipe.make_data(0)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "path", "target"),
    [
        ("data:a.csv:y", "a.csv", "y"),
        ("data:./b/../a.csv:y: z", "a.csv", "y: z"),
        ("data:photos", "photos", None),
        (r"data:C:\a.csv:y", r"C:\a.csv", "y"),
    ],
)
def test_a_name_says_path_and_target(name: str, path: str, target: str | None) -> None:
    data = parse_own_data(name)
    assert (data.path, data.target) == (path, target)
    assert parse_own_data(data.recipe) == data


def test_a_path_with_a_colon_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"path without a colon; got 'a:b\.csv'"):
        OwnData("a:b.csv", "y")


def test_runs_are_called_by_the_file_s_name() -> None:
    assert OwnData("my data (1).csv", "y").run_name == "my-data-1"
    assert OwnData("ä.csv", "y").run_name == "own-data"


def test_texts_become_classes_and_columns_what_they_hold(mixed: Path) -> None:
    recipe = _load(mixed, "y")
    (numbers, codes, target), *_ = _tensors(recipe)
    assert recipe.class_names == ("high", "low")
    assert (numbers.dtype, codes.dtype) == (torch.float32, torch.int64)
    assert (numbers.shape[1], codes.shape[1], target.dtype) == (2, 1, torch.int64)
    assert recipe.metrics == ("accuracy",)
    assert "120 rows, 2 columns of numbers, 1 column of categories" in (
        recipe.facts.found
    )
    assert "12 numbers missing" in recipe.facts.found


def test_parts_are_disjoint_and_have_every_row(tmp_path: Path) -> None:
    rows = [[place * place, place % 2] for place in range(100)]
    parts = _tensors(_load(_write(tmp_path / "a.csv", "xy", rows), "y"))
    assert [len(target) for _, target in parts] == [60, 20, 20]
    values = sorted(float(x) for numbers, _ in parts for x in numbers[:, 0])
    assert values == [float(place * place) for place in range(100)]
    assert [int(target.sum()) for _, target in parts] == [30, 10, 10]


def test_another_seed_divides_otherwise_and_the_same_one_alike(mixed: Path) -> None:
    recipe = _load(mixed, "y")
    first, again, other = (
        _tensors(recipe.divide(seed))[0][0].nan_to_num() for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert recipe.divide(1).facts.seed == 1


def test_the_model_standardises_by_the_training_part_alone(mixed: Path) -> None:
    recipe = _load(mixed, "y").divide(3)
    numbers = _tensors(recipe)[0][0].double()
    model = recipe.make_model()
    assert isinstance(model, TableNet)
    assert torch.allclose(model.mean.double(), numbers.nanmean(0), atol=1e-5)
    spread = (numbers - numbers.nanmean(0)).square().nanmean(0).sqrt()
    assert torch.allclose(model.scale.double(), spread, atol=1e-5)


def test_a_missing_number_counts_as_the_mean_and_is_marked() -> None:
    shape = TableShape(means=(5.0, 1.0), scales=(2.0, 1.0), gaps=(1,), num_classes=2)
    model = TableNet(shape)
    scaled, marks = model._prepare(torch.tensor([[7.0, float("nan")], [5.0, 3.0]]))
    assert scaled.tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert marks.tolist() == [[1.0], [0.0]]


def test_a_number_missing_where_none_was_before_still_gives_an_output() -> None:
    model = TableNet(TableShape(means=(5.0,), scales=(2.0,), num_classes=2))
    assert model(torch.tensor([[float("nan")]])).isfinite().all()


def test_outputs_for_values_are_in_the_target_s_unit() -> None:
    shape = TableShape(
        means=(0.0,), scales=(1.0,), target_mean=5000.0, target_scale=10.0
    )
    outputs = TableNet(shape)(torch.zeros(4, 1))
    assert outputs.shape == (4,)
    assert (outputs - 5000).abs().max() < 50


def test_the_loss_of_the_mean_is_one() -> None:
    target = torch.tensor([10.0, 30.0, 20.0, 40.0])
    loss = ShareOfVariance(float(target.std(correction=0)))
    assert loss(target.mean().expand(4), target).item() == pytest.approx(1)


def test_a_category_that_was_never_trained_on_says_nothing() -> None:
    shape = TableShape(
        means=(), scales=(), categories=(3, 40), unseen=((1,), ()), num_classes=2
    )
    first, second = TableNet(shape).vectors
    assert (first.embedding_dim, second.embedding_dim) == (3, 16)
    assert first.weight.any(1).tolist() == [True, False, True]
    assert second.weight.any(1).all()


def test_categories_of_the_held_out_parts_alone_start_from_nothing(
    tmp_path: Path,
) -> None:
    rows = [[f"t{place % 9}", place * place, place % 2] for place in range(20)]
    recipe = _load(_write(tmp_path / "a.csv", "cxy", rows), "y")
    seen = set(_tensors(recipe)[0][1][:, 0].tolist())
    assert len(seen) < 9
    weights = make_initial_model(recipe, 0).vectors[0].weight  # type: ignore[index, union-attr]
    assert {code for code in range(9) if weights[code].any()} == seen


def test_a_category_is_learnt_soon(tmp_path: Path) -> None:
    rows = [["pqr"[place % 3], place % 7, "pqr"[place % 3]] for place in range(90)]
    recipe = _load(_write(tmp_path / "a.csv", "cxy", rows), "y").override(epochs=20)
    assert run_recipe(recipe).history[-1]["valid_accuracy"] == 1


def test_values_are_predicted_well_in_their_own_unit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 2)) * [1, 1000]
    values = 50_000 + 3000 * inputs[:, 0] + inputs[:, 1] + rng.normal(size=300)
    rows = [[*row, value] for row, value in zip(inputs, values, strict=True)]
    recipe = _load(_write(tmp_path / "prices.csv", "aby", rows), "y")
    assert recipe.metrics == ("rmse", "mae")
    run_recipe(recipe.override(epochs=40), run_dir=tmp_path / "run")
    measured = evaluate_run(tmp_path / "run", recipe, split="test")
    baseline = recipe.facts.baseline
    assert baseline.metric == "rmse"
    assert 2000 < baseline.value < 5000
    assert measured["test_rmse"] < 0.15 * baseline.value
    (line, below) = recipe.facts.result_lines(measured)
    assert line.startswith(f"test    rmse {measured['test_rmse']:.4g}, mae ")
    assert below.startswith("to beat rmse ")


def test_classes_are_told_apart_with_gaps_and_texts(
    mixed: Path, tmp_path: Path
) -> None:
    recipe = _load(mixed, "y")
    run_recipe(recipe.override(epochs=60), run_dir=tmp_path / "run")
    measured = evaluate_run(tmp_path / "run", recipe, split="test")
    assert measured["test_accuracy"] >= 0.8 > recipe.facts.baseline.value


def test_the_baseline_names_the_commonest_class(tmp_path: Path) -> None:
    rows = [[place * place, int(place % 4 == 0)] for place in range(100)]
    baseline = _load(_write(tmp_path / "a.csv", "xy", rows), "y").facts.baseline
    assert (baseline.metric, baseline.value) == ("accuracy", 0.75)
    assert baseline.how == "that of always saying '0'"


def test_few_whole_numbers_are_classes_and_many_are_values(tmp_path: Path) -> None:
    rows = [[place**2, place % 3 + 5, place * 7 % 50] for place in range(100)]
    path = _write(tmp_path / "a.csv", ["x", "few", "many"], rows)
    assert _load(path, "few").class_names == ("5", "6", "7")
    assert _load(path, "many").class_names == ()


def test_columns_that_cannot_help_are_left_out_and_named(tmp_path: Path) -> None:
    rows = [
        [n + 1, 3, f"n{n}", f"2024-01-{n % 28 + 1:02}", "k", n * n % 17, n % 2]
        for n in range(60)
    ]
    header = ["id", "same", "name", "when", "kind", "x", "y"]
    recipe = _load(_write(tmp_path / "a.csv", header, rows), "y")
    assert set(recipe.facts.left_out) == {
        "'id' (numbers of the rows)",
        "'same', 'kind' (the same in each row)",
        "'name' (60 different texts)",
        "'when' (of the type date32[day])",
    }
    assert _tensors(recipe)[0][0].shape == (36, 1)


def test_true_and_false_are_numbers_as_an_input_and_classes_as_a_target(
    tmp_path: Path,
) -> None:
    rows = [[place * place, place % 3 == 0, place % 2 == 0] for place in range(40)]
    path = _write(tmp_path / "a.csv", "xby", rows)
    table = {"x": [row[0] for row in rows], "b": [row[1] for row in rows]}
    arrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    table["y"] = [row[2] for row in rows]
    parquet.write_table(arrow.table(table), tmp_path / "a.parquet")
    of_csv, of_rows = _load(path, "y"), _load(tmp_path / "a.parquet", "y")
    assert of_csv.class_names == ("False", "True")
    assert of_rows.class_names == ("false", "true")
    (numbers, target), *_ = _tensors(of_csv)
    assert set(numbers[:, 1].tolist()) == {0.0, 1.0}
    assert torch.equal(numbers, _tensors(of_rows)[0][0])
    assert torch.equal(target, _tensors(of_rows)[0][1])


def test_a_target_of_lists_is_refused(tmp_path: Path) -> None:
    arrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    table = arrow.table({"x": range(20), "y": [[1]] * 20})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="must be numbers or texts; got list<"):
        _load(tmp_path / "a.parquet", "y")


def test_a_file_whose_name_has_brackets_is_no_pattern(tmp_path: Path) -> None:
    rows = [[place * place, place % 2] for place in range(20)]
    assert _load(_write(tmp_path / "a[1].csv", "xy", rows), "y").name == "a-1"


@pytest.mark.parametrize(("ending", "mark"), [("tsv", "\t"), ("csv", ";")])
def test_delimiters_are_told(tmp_path: Path, ending: str, mark: str) -> None:
    lines = ["a|b|y", *(f"{n * n}|{n % 7}.5|{n % 2}" for n in range(30))]
    path = tmp_path / f"a.{ending}"
    path.write_text("\n".join(lines).replace("|", mark))
    assert _tensors(_load(path, "y"))[0][0].shape == (18, 2)


def test_arrays_give_what_a_csv_file_of_them_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs, target = rng.normal(size=(50, 3)).round(3), np.array(["b", "a"] * 25)
    np.savez(tmp_path / "a.npz", X=inputs, y=target)
    rows = [[*row, name] for row, name in zip(inputs, target, strict=True)]
    of_csv = _load(_write(tmp_path / "a.csv", "uvwy", rows), "y")
    of_arrays = _load(tmp_path / "a.npz")
    assert of_arrays.class_names == ("a", "b")
    for one, other in zip(_tensors(of_csv), _tensors(of_arrays), strict=True):
        assert all(map(torch.equal, one, other))


def test_parquet_gives_what_a_csv_file_of_it_gives(mixed: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    reading = pytest.importorskip("pyarrow.csv")
    empty = reading.ConvertOptions(strings_can_be_null=True)
    table = reading.read_csv(mixed, convert_options=empty)
    assert table.column("c").null_count == 40
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=50)
    for one, other in zip(
        _tensors(_load(mixed, "y")),
        _tensors(_load(tmp_path / "a.parquet", "y")),
        strict=True,
    ):
        assert all(
            torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
            for a, b in zip(one, other, strict=True)
        )


def test_the_schema_reads_the_file_again(mixed: Path) -> None:
    schema = TableSchema.from_dict(dict(_load(mixed, "y").facts.schema))
    assert [column.kind for column in schema.columns] == ["number"] * 2 + ["category"]
    assert schema.target is not None
    assert schema.target.classes == ("high", "low")


def test_a_resumed_training_equals_an_uninterrupted_one(
    mixed: Path, tmp_path: Path
) -> None:
    recipe = _load(mixed, "y").override(schedule="constant")
    whole = run_recipe(recipe.override(epochs=4), run_dir=tmp_path / "whole")
    run_recipe(recipe.override(epochs=2), run_dir=tmp_path / "parts")
    parts = run_recipe(
        recipe.override(epochs=4), run_dir=tmp_path / "parts", resume=True
    )
    assert np.array_equal(whole.steps, parts.steps)


def test_initial_weights_depend_on_the_seed_alone(mixed: Path) -> None:
    recipe = _load(mixed, "y")
    one, same, other = (make_initial_model(recipe, seed) for seed in (1, 1, 2))
    weights = [model.wide.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_changed_file_has_another_fingerprint(mixed: Path) -> None:
    data = OwnData(str(mixed), "y")
    known = fingerprint_own_data(data)
    check_fingerprint(data, known)
    mixed.write_bytes(mixed.read_bytes().replace(b"red", b"Red", 1))
    with pytest.raises(DataError, match=f"with the fingerprint {known}; its content"):
        check_fingerprint(data, known)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[n * n, "x"] for n in range(20)], "'y' of .* must vary; each row has 'x'"),
        ([[n * n, 4] for n in range(20)], "'y' of .* must vary; each row has 4"),
        (
            [*([n * n, n % 2] for n in range(20)), [5, 7]],
            "each class .* must have two rows or more; 7 has one",
        ),
        ([[f"n{n}", n % 2] for n in range(60)], r"got none \('x': 60 different texts"),
        ([[n * n, n % 2] for n in range(9)], "at least 10 rows, .*; got 9"),
        ([[n * n, n % 2 if n else ""] for n in range(20)], "1 row has none"),
        ([[n * n, f"t{n}"] for n in range(50)], "few different texts, .*; got 50 in"),
        ([[n * n if n else "inf", n % 2] for n in range(20)], "'x', .* row 1 does not"),
        ([[n * n, n + 1e39] for n in range(30)], "numbers that float32 holds; 30 rows"),
    ],
)
def test_a_table_that_cannot_be_learnt_from_is_refused(
    tmp_path: Path, rows: list[list[Any]], message: str
) -> None:
    path = _write(tmp_path / "a.csv", "xy", rows)
    with pytest.raises(DataError, match=message):
        _load(path, "y")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"X": np.zeros((20, 2, 2)), "y": np.arange(20)},
            r"X in .* \(20, 2, 2\)",
        ),
        ({"X": np.zeros((20, 2)), "y": np.arange(19)}, r"y in .* the 20 rows of X"),
        ({"a": np.zeros(3)}, "must hold the arrays X and y; got a"),
        ({"X": np.array([{}]), "y": np.zeros(1)}, "reading failed"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        _load(tmp_path / "a.npz")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("no")
    with pytest.raises(FormatError, match=r"numpy\.savez wrote"):
        _load(tmp_path / "a.npz")


def test_parts_of_ten_rows_are_six_two_and_two() -> None:
    parts = divide(np.array([0] * 8 + [1] * 2), by_class=True, seed=0)
    assert [len(part) for part in parts] == [6, 2, 2]
    assert sorted(np.concatenate(parts)) == list(range(10))


def test_larger_tables_have_larger_batches_and_fewer_epochs() -> None:
    sizes = [choose_batch_size(10**power) for power in range(1, 7)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (16, 512)
    assert [choose_epochs(steps) for steps in (1, 30, 10**5)] == [200, 100, 10]
