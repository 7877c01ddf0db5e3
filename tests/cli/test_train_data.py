"""``handful train --data``: a first result on own data without a line of Python."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from handful.cli.main import main
from handful.cli.show_schema import describe_schema
from handful.data.csv_schema import TableSchema
from handful.runs.run import Run

pytest.importorskip("pyarrow", reason="pyarrow is not installed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which holds ``a.csv`` and ``values.csv``."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 2)).round(4)
    names = np.where(inputs[:, 0] > 0, "up", "down")
    _write(tmp_path / "a.csv", "p,q,way", zip(*inputs.T, names, strict=True))
    values = (inputs[:, 0] * 100 + 500).round(2)
    _write(tmp_path / "values.csv", "p,q,price", zip(*inputs.T, values, strict=True))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write(path: Path, header: str, rows: object) -> None:
    lines = [",".join(map(str, row)) for row in rows]  # type: ignore[attr-defined]
    path.write_text("\n".join([header, *lines, ""]))


DATA = ["train", "--data", "a.csv", "--target", "way"]


def test_what_was_found_comes_first_and_the_test_last(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DATA, "--epochs", "30", "--out", "r"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "data    a.csv: 60 rows, 2 columns of numbers"
    assert lines[1].startswith("target  way: one of 2 classes (down ")
    assert lines[2] == "parts   train 36, valid 12, test 12; seed 0"
    assert lines[3].startswith("to beat accuracy 0.")
    assert lines[4].startswith("model   ")
    assert lines[-1] == lines[3]
    word, _, accuracy, *rest = lines[-2].split()
    assert (word, " ".join(rest)) == ("test", "on 12 rows never trained on")
    assert float(accuracy) > float(lines[3].split()[3].rstrip(","))
    assert Run.load("r").status == "finished"


def test_values_are_told_in_their_unit(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "--data", "values.csv", "--target", "price", "--epochs", "30"]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    (path,) = (folder / "runs").iterdir()
    assert path.name.startswith("values-")
    assert lines[1].startswith("target  price: a value from ")
    assert lines[-2].startswith("test    rmse ")
    assert ", mae " in lines[-2]
    beaten = float(lines[-1].split()[3].rstrip(","))
    assert float(lines[-2].split()[2].rstrip(",")) < beaten


def test_quiet_prints_the_folder_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DATA, "--epochs", "1", "--out", "r", "-q"]) == 0
    assert capsys.readouterr().out == "r\n"


def test_flags_come_before_what_was_chosen_for_the_data(folder: Path) -> None:
    argv = ["--epochs", "2", "--batch-size", "9", "--lr", "0.5", "--optimizer", "sgd"]
    assert main([*DATA, *argv, "--schedule", "constant", "--out", "r", "-q"]) == 0
    config = Run.load("r").config
    assert (config["epochs"], config["batch_size"], config["lr"]) == (2, 9, 0.5)
    assert config["optimizer"] == "sgd"
    assert len(Run.load("r").steps) == 8


def test_the_run_keeps_how_the_table_was_read(folder: Path) -> None:
    assert main([*DATA, "--epochs", "1", "--out", "r", "-q"]) == 0
    config = YAML(typ="safe").load(folder / "r" / "config.yaml")
    assert config["recipe"] == "data:a.csv:way"
    schema = TableSchema.from_dict(config["data"]["schema"])
    assert [column.name for column in schema.columns] == ["p", "q"]
    assert schema.target is not None
    assert schema.target.classes == ("down", "up")


def test_a_long_description_of_columns_is_not_kept_and_the_run_goes_on(
    folder: Path,
) -> None:
    width = 400
    rows = np.random.default_rng(0).integers(0, 99, (20, width)).tolist()
    header = ",".join(f"column number {place}" for place in range(width))
    labelled = ((*row, "xy"[place % 2]) for place, row in enumerate(rows))
    _write(folder / "wide.csv", f"{header},y", labelled)
    argv = ["train", "--data", "wide.csv", "--target", "y", "--out", "r", "-q"]
    assert main([*argv, "--epochs", "1"]) == 0
    assert list(Run.load("r").config["data"]) == ["fingerprint"]
    assert main([*argv, "--epochs", "2", "--resume"]) == 0


def test_config_of_a_run_repeats_it(folder: Path) -> None:
    argv = ["--epochs", "3", "--seed", "4", "--out", "first", "-q"]
    assert main([*DATA, *argv]) == 0
    assert main(["train", "--config", "first/config.yaml", "--out", "again"]) == 0
    first, again = Run.load("first"), Run.load("again")
    assert np.array_equal(first.steps, again.steps)
    assert first.config == again.config


def test_a_seed_divides_otherwise(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in ("1", "2"):
        assert main([*DATA, "--epochs", "1", "--seed", seed, "--out", seed]) == 0
        assert f"test 12; seed {seed}\n" in capsys.readouterr().out
        assert main(["predict", seed, "--to", f"{seed}.csv"]) == 0
    tables = [Path(f"{seed}.csv").read_text() for seed in (1, 2)]
    assert tables[0] != tables[1]


def test_a_run_goes_on_by_its_folder_or_by_its_data(folder: Path) -> None:
    assert main([*DATA, "--epochs", "1", "--out", "r", "-q"]) == 0
    assert main(["train", "--resume", "--out", "r", "--epochs", "2", "-q"]) == 0
    assert main([*DATA, "--resume", "--out", "r", "--epochs", "3", "-q"]) == 0
    assert [record["epoch"] for record in Run.load("r").history] == [1, 2, 3]


def test_what_is_printed_at_the_end_is_measured_again_by_evaluate(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DATA, "--epochs", "5", "--seed", "3", "--out", "r"]) == 0
    accuracy = capsys.readouterr().out.splitlines()[-2].split()[2]
    assert main(["evaluate", "r", "--split", "test"]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(printed["test_accuracy"]) == pytest.approx(float(accuracy), abs=1e-3)


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--resume", "--out", "r", "--epochs", "9"],
        ["train", "--config", "r/config.yaml", "--out", "new"],
        ["evaluate", "r"],
    ],
)
def test_a_file_that_has_changed_since_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    assert main([*DATA, "--epochs", "1", "--out", "r", "-q"]) == 0
    with Path("a.csv").open("a") as file:
        file.write("1,2,up\n")
    capsys.readouterr()
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("handful: a.csv must be as it was when the run began, ")
    assert error.count("\n") == 1
    assert not Path("new").exists()


def test_a_configuration_may_name_data_without_a_fingerprint(folder: Path) -> None:
    Path("c.yaml").write_text("recipe: 'data:a.csv:way'\nepochs: 1\n")
    assert main(["train", "--config", "c.yaml", "--out", "r", "-q"]) == 0
    Path("c.yaml").write_text("recipe: 'data:a.csv:way'\ndata: 5\n")
    assert main(["train", "--config", "c.yaml", "--out", "r2", "-q"]) == 2


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["b.csv"], 2, "must be a file or a folder that exists; got 'b.csv'. Did you"),
        (["a.csv"], 2, "a.csv has 'p', 'q', 'way'. If it is the last one, add "),
        (["a.csv", "--target", "wy"], 2, "got 'wy'. Did you mean 'way'?"),
        (["a.csv", "--target", ""], 2, "--target must name the column to predict"),
        (["a.csv", "--target", "way", "wine"], 2, "RECIPE must be left out with"),
        (["c.yaml"], 2, "--data must end in .csv, .tsv, .npz, .parquet"),
        (["one.csv", "--target", "y"], 1, "'y' of one.csv must vary"),
        (["few.csv", "--target", "y"], 1, "at least 10 rows"),
        (["."], 1, "must hold a folder of images for each class"),
        (["*.parquet", "--target", "y"], 2, "--data must be a pattern of files that"),
    ],
)
def test_wrong_use_is_told_in_a_sentence_before_torch_is_imported(
    tmp_path: Path, argv: list[str], code: int, message: str
) -> None:
    _write(tmp_path / "a.csv", "p,q,way", [(n, n * n, n % 2) for n in range(20)])
    _write(tmp_path / "one.csv", "p,y", [(n * n, 1) for n in range(20)])
    _write(tmp_path / "few.csv", "p,y", [(n * n, n % 2) for n in range(4)])
    (tmp_path / "c.yaml").write_text("epochs: 1\n")
    program = (
        "import sys; from handful.cli.main import main; "
        "code = main(['train', '--data', *sys.argv[1:]]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *argv],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("handful: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_target_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--target", "y"]) == 2
    assert "--target must go with --data; got 'y' alone" in capsys.readouterr().err


def test_neither_recipe_nor_data_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "--data trains on a file of your own" in capsys.readouterr().err


def test_one_batch_of_own_data_is_learnt_by_heart(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "--data", "values.csv", "--target", "price"]
    assert main([*argv, "--overfit-one-batch"]) == 0
    assert "model and loss can learn this data" in capsys.readouterr().out


MIXED = "p,q,kind,new,way\n" + "".join(
    f"{i / 7 if i % 5 else ''},{i * i % 11},{'abc'[i % 3]},"
    f"{'true' if i % 2 else 'false'},"
    f"{'up' if i % 4 < 2 else 'down'}\n"
    for i in range(60)
)


@pytest.mark.parametrize("target", ["way", "q"])
def test_a_run_from_a_kept_copy_is_the_run_from_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    Path("mixed.csv").write_text(MIXED)
    os.utime("mixed.csv", (1e9, 1e9))
    argv = ["train", "--data", "mixed.csv", "--target", target, "--epochs", "3", "-q"]
    assert main([*argv, "--out", "plain"]) == 0
    assert not (folder / "cache").exists()
    for name in ("first", "again"):
        assert main([*argv, "--cache", "--out", name]) == 0
        run, plain = Run.load(name), Run.load("plain")
        assert run.steps["loss"].tolist() == plain.steps["loss"].tolist()
        assert run.config == plain.config
    (copy,) = (folder / "cache").rglob("*.kept")
    assert copy.stat().st_mtime > 1.5e9


@pytest.mark.parametrize("what", [["wine"], ["--data", "x.npz"]])
def test_only_text_is_kept(
    folder: Path, capsys: pytest.CaptureFixture[str], what: list[str]
) -> None:
    np.savez("x.npz", X=np.zeros((60, 2)), y=np.arange(60) % 2)
    assert main(["train", *what, "--cache"]) == 2
    assert "--cache must go with --data and a CSV file" in capsys.readouterr().err


def test_show_lists_the_columns_of_own_data_one_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mixed.csv").write_text(MIXED)
    argv = ["train", "--data", "mixed.csv", "--target", "way", "--epochs", "1", "-q"]
    assert main([*argv, "--out", "r"]) == 0
    capsys.readouterr()
    assert main(["show", "r"]) == 0
    lines = capsys.readouterr().out.splitlines()
    begin = lines.index("data")
    rows = [" ".join(line.split()) for line in lines[begin + 1 : begin + 7]]
    assert rows[0] == "column holds"
    assert rows[1].startswith("p number mean ")
    assert rows[3].startswith("new boolean mean 0.5")
    assert rows[4:] == ["kind category (3) a, b, c", "way target: classes (2) down, up"]
    assert all(len(line) <= 100 for line in lines)


def test_show_shortens_long_lists_of_columns_and_categories() -> None:
    columns = [{"name": f"x{i}", "kind": "number", "mean": 0.5} for i in range(40)]
    columns[0] = {"name": "city", "kind": "category", "categories": list("abcdefghij")}
    data = {"schema": {"columns": columns, "target": {"name": "y", "kind": "values"}}}
    short = describe_schema(data, whole=False)
    assert short[1].split() == [
        "city",
        "category",
        "(10)",
        "a,",
        "b,",
        "c,",
        "d,",
        "e,",
        "f,",
        "g,",
        "h,",
        "…",
        "(2",
        "more)",
    ]
    assert short[-1] == "(10 columns left out; --all prints them)"
    assert len(short) == 33
    whole = describe_schema(data, whole=True)
    assert len(whole) == 42
    assert "a, b, c, d, e, f, g, h, i, j" in whole[1]
    assert describe_schema({"fingerprint": "x"}, whole=True) == []
    assert describe_schema({"schema": {"classes": ["cat", "dog"]}}, whole=False) == [
        "classes  cat, dog"
    ]


def test_predictions_of_own_classes_have_their_names(folder: Path) -> None:
    assert main([*DATA, "--epochs", "3", "--out", "r", "-q"]) == 0
    assert main(["predict", "r", "--to", "p.csv"]) == 0
    with Path("p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row["predicted"] == ("down", "up")[int(row["prediction"])]
        assert row["expected"] == ("down", "up")[int(row["target"])]
        chance = float(row[f"probability_{row['predicted']}"])
        assert chance == pytest.approx(float(row["probability"]))
