"""``handful compare``, for real: small recipes on the CPU."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from handful.cli.compare_table import describe_study
from handful.cli.main import main
from handful.runs.study import Study

MINE = """\
import time

import torch
from torch import nn

from handful import Columns, Recipe


class Slow(nn.Linear):
    def forward(self, x):
        time.sleep(0.02)
        return super().forward(x)


def make_data(seed):
    X = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
    y = (X.sum(1) > 0).long()
    return Columns(X[:40], y[:40]), Columns(X[40:], y[40:]), None


def fail(seed):
    if seed:
        raise OSError("the disk is gone")
    return make_data(seed)


recipe = Recipe(
    name="mine", make_data=make_data, make_model=lambda: nn.Linear(4, 2), epochs=3
)
slow = recipe.override(name="slow", make_model=lambda: Slow(4, 2))
broken = recipe.override(name="broken", make_data=fail)
"""

GOLDEN = Path(__file__).parent.parent / "studies" / "golden" / "study-1"

VARY = ["--vary", "batch-size=10,full", "--vary", "lr=0.1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which holds ``mine.py`` with recipes."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_study_lies_in_studies_and_the_end_shows_the_table(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", "mine.py:recipe", *VARY, "--seeds", "2", "--epochs", "2"]
    assert main([*argv, "--target", "valid_loss<=0.01"]) == 0
    (path,) = (folder / "studies").iterdir()
    assert path.name.startswith("mine-")
    study = Study.load(path)
    assert (len(study.rows), study.epochs, study.target) == (4, 2, "valid_loss<=0.01")
    out = capsys.readouterr().out
    assert out.count("\ntrial=") == 3
    assert f"{describe_study(study)}\n\nstudy   {path.relative_to(folder)}\n" in out
    setup, _, header, small, full, _, *notes = describe_study(study).splitlines()
    assert setup == "mine  lr=0.1  2 epochs  2 seeds"
    assert header.split()[:4] == ["batch_size", "train_loss", "valid_loss", "seconds"]
    assert re.match(r"10 +0\.\d+ ± 0\.\d+ +0\.\d+ ± 0\.\d+ +0\.\d+ +0 of 2", small)
    assert full.startswith("full")
    assert full.split()[-4:-1] == ["0", "of", "2"]
    assert re.match(r"Best valid_loss: 0\.\d+ ± 0\.\d+ with batch_size=10\.", notes[-1])
    for name in ("curves", "scaling"):
        for ending in ("png", "svg"):
            assert (path / f"{name}.{ending}").stat().st_size > 1000
            assert f"figure  {path.relative_to(folder)}/{name}.{ending}\n" in out


def test_quiet_prints_the_folder_alone_and_the_same_command_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", "mine.py:recipe", *VARY, "--seeds", "4,7", "--quiet"]
    argv += ["--out", "s", "--budget", "5steps"]
    assert main(argv) == 0
    assert capsys.readouterr().out == "s\n"
    study = Study.load("s")
    assert [(row.seed, row.steps) for row in study.rows] == [(4, 5)] * 2 + [(7, 5)] * 2
    before = Path("s/rows.jsonl").read_bytes()
    assert main(argv) == 0
    assert Path("s/rows.jsonl").read_bytes() == before


def test_diverged_trials_are_counted_in_the_table(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vary = ["--vary", "lr=0.1,1e39", "--vary", "optimizer=sgd,sgd:momentum=0.9"]
    assert main(["compare", "mine.py:recipe", *vary, "--seeds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[7].split()[-1] == "diverged"
    assert [line[-6:] for line in lines[8:12]] == ["0 of 1"] * 2 + ["1 of 1"] * 2
    assert "sgd:momentum=0.9" in lines[9]
    assert lines[13] == "Values: one seed, of the trials that finished."
    assert lines[15] == "Diverged: a loss became NaN or infinite."


def test_failed_trials_are_told_by_their_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", "mine.py:broken", *VARY, "--seeds"]
    assert main([*argv, "0,1"]) == 0
    out = capsys.readouterr().out
    assert "failed  2 of 4 trials: OSError: the disk is gone\n" in out
    assert out.count("1 of 2") == 2  # in the column of failed trials
    assert main([*argv, "1,2"]) == 1
    assert "the disk is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("", "Missing option '--vary'"),
        ("--vary lr", "--vary must be written NAME=VALUE,VALUE,...; got 'lr'"),
        ("--vary batch-sizes=1", "Did you mean 'batch_size'?"),
        ("--vary lr=0.1,fast", "lr must be a finite number above 0; got 'fast'"),
        ("--vary lr=0.1,1e-1", "got 0.1 twice, which makes two equal rows"),
        ("--vary lr=1 --vary lr=2", "--vary must name lr once; got it twice"),
        ("--vary seed=1,2", "vary must not name the seed"),
        ("--vary backend=numpi", "backend must be one of keras, numpy, torch, trainer"),
        ("--vary optimizer=sgd:momentum=much", "momentum of optimizer 'sgd' must be"),
        ("--vary lr=1 --seeds none", "--seeds must be a whole number from 1 on"),
        ("--vary lr=1 --seeds 1,1", "--seeds must be seeds that differ; got '1,1'"),
        ("--vary lr=1 --epochs 0", "--epochs must be a whole number from 1 on"),
        ("--vary lr=1 --budget 5", "--budget must be a number above 0 and a unit"),
        ("--vary lr=1 --target low", "--target must be a value of the history"),
        ("--vary lr=1 --workers 0", "--workers must be a whole number from 1 on"),
    ],
)
def test_wrong_use_is_one_sentence_before_torch(
    run_handful: Any, tmp_path: Path, options: str, says: str
) -> None:
    program = (
        "import sys; from handful.cli.main import main; code = main(sys.argv[1:]);"
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "compare", "wine", *options.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "studies").exists()


def test_an_unknown_target_is_told_before_any_folder_is_made(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", "mine.py:recipe", *VARY, "--target", "valid_lss<=1"]
    assert main(argv) == 2
    assert "Did you mean 'valid_loss'?" in capsys.readouterr().err
    assert not (folder / "studies").exists()


def test_a_table_wider_than_the_terminal_goes_on_below_with_its_settings() -> None:
    study = Study.load(GOLDEN)
    whole, narrow = describe_study(study), describe_study(study, width=60)
    assert max(map(len, whole.splitlines())) > 80
    tables = narrow.split("\n\n")[1:-1]
    assert len(tables) > 2
    for table in tables:
        lines = table.splitlines()
        assert [line.split()[0] for line in lines] == [
            *("batch_size", "16", "16", "full", "full")
        ]
        assert max(map(len, lines)) <= 60
    values = [words for table in tables for words in _columns(table)]
    assert values == _columns(whole.split("\n\n")[1])


def _columns(table: str) -> list[str]:
    """Return the headings of a table, those of its settings left out."""
    return re.split(r"  +", table.splitlines()[0])[2:]


def test_backends_are_compared_in_columns_and_refused_in_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", "mine.py:recipe", "--vary", "backend=numpy,torch,trainer"]
    argv += ["--seeds", "2", "--epochs", "2", "--out", "s"]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "Add --vary optimizer=sgd, or leave numpy out." in err
    assert err.count("\n") == 1
    assert not (folder / "s").exists()
    assert main([*argv, "--vary", "optimizer=sgd"]) == 0
    out = capsys.readouterr().out
    table = out[out.index("mine  optimizer=sgd") :].splitlines()
    assert re.split(r"  +", table[2])[-4:] == [
        *("seconds", "µs/step", "weights differ", "losses differ")
    ]
    assert [line.split()[0] for line in table[3:6]] == ["numpy", "torch", "trainer"]
    assert table[3].split()[-2:] == ["0", "0"]
    for line in table[4:6]:
        assert max(float(word) for word in line.split()[-2:]) < 1e-5
    assert any(line.startswith("Differ: greatest distance") for line in table)


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_interrupted_says_how_to_go_on(folder: Path, signum: int, code: int) -> None:
    argv = ["compare", "mine.py:slow", *VARY, "--seeds", "9", "--out", "s"]
    process = subprocess.Popen(
        [sys.executable, "-m", "handful", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    rows, deadline = folder / "s" / "rows.jsonl", time.monotonic() + 60
    while not rows.exists() or not rows.read_bytes().endswith(b"\n"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == (
        "handful: interrupted; the trials that ended are kept. Go on with: handful "
        "compare mine.py:slow --vary batch-size=10,full --vary lr=0.1 --seeds 9 "
        "--out s\n"
    )
    assert 1 <= len(Study.load("s").rows) < 18
