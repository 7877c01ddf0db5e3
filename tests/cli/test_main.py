"""The command as a whole: versions, help, errors of any kind, debugging."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import handful
from handful.cli.help import GroupedCommand
from handful.cli.main import main
from handful.cli.messages import describe_error, exit_code
from handful.cli.train import train
from handful.errors import ArgumentError, MissingDataError, RunError

BROKEN = """\
from handful import Recipe

def fail(seed):
    raise ValueError("no data\\nin the attic")

recipe = Recipe(name="broken", make_data=fail, make_model=lambda: None)
"""


def test_version_is_that_of_the_package(run_handful: Any) -> None:
    done = run_handful("--version")
    assert (done.returncode, done.stdout) == (0, f"handful {handful.__version__}\n")
    assert done.stderr == ""


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 0
    printed = capsys.readouterr().out
    for name in ("train", "recipes", "look", "show", "evaluate", "predict", "env"):
        assert f"\n  {name} " in printed


@pytest.mark.parametrize(
    "command", ["train", "recipes", "look", "show", "evaluate", "predict", "env"]
)
def test_every_option_has_help(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    options = [line for line in lines if line.startswith("  -")]
    assert options
    for line in options:
        assert len(line.strip().split("  ", 1)) == 2, line


def test_recipes_are_listed_with_their_summaries(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    for name in ("digits", "fashion-mnist", "mnist", "regression", "wine"):
        assert f"\n{name} " in printed


def test_env_prints_a_fact_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    facts = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert facts["handful"] == handful.__version__
    assert facts["torch"] == sys.modules["torch"].__version__
    assert facts["numpy"] == importlib.metadata.version("numpy")
    assert int(facts["threads"]) >= 1
    assert {"python", "device", "cpu_capability", "platform"} <= set(facts)


def _train_broken(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    (folder / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(folder)
    return main(["train", "broken.py:recipe", *options])


def test_error_in_the_users_code_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _train_broken(tmp_path, monkeypatch) == 1
    assert capsys.readouterr().err == (
        "handful: ValueError: no data in the attic (--debug shows the traceback)\n"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("how", ["option", "variable"])
def test_debug_shows_the_traceback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: str,
) -> None:
    options = ["--debug"] if how == "option" else []
    if how == "variable":
        monkeypatch.setenv("HANDFUL_DEBUG", "1")
    assert _train_broken(tmp_path, monkeypatch, *options) == 1
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed
    assert "broken.py" in printed
    assert printed.endswith("handful: ValueError: no data in the attic\n")


def test_debug_may_stand_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "show", "nowhere"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ArgumentError("lr must be 1; got 2."), "lr must be 1; got 2.", 2),
        (RunError("a\n b"), "a b", 1),
        (MissingDataError("no data"), "no data", 1),
        (FileNotFoundError(2, "No such file", "x"), "No such file: 'x'", 1),
        (OSError(28, "No space left on device"), "No space left on device", 1),
        (KeyError("x"), "KeyError: 'x' (--debug shows the traceback)", 1),
        (MemoryError(), "MemoryError (--debug shows the traceback)", 1),
        (RunError("red \x1b[31m\x9b"), r"red \x1b[31m\x9b", 1),
    ],
)
def test_errors_are_one_line_without_control_characters(
    error: Exception, line: str, code: int
) -> None:
    assert describe_error(error) == line
    assert exit_code(error) == code


def test_reader_that_goes_away_is_no_traceback() -> None:
    """`handful recipes | head -0` closes the pipe at once."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "handful", "recipes"],
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
        text=True,
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


def test_grouped_help_has_a_heading_for_each_panel() -> None:
    app = typer.Typer(rich_markup_mode=None)
    app.command("train", cls=GroupedCommand)(train)
    command = typer.main.get_command(app)
    printed = command.get_help(typer.Context(command, terminal_width=80))
    headings = [line for line in printed.splitlines() if line.endswith(":")]
    assert headings == [
        "Arguments:",
        "Own data:",
        "Length:",
        "Each step:",
        "Measuring:",
        "Randomness and machine:",
        "The run:",
        "What is printed:",
        "Options:",
    ]
    length = printed.split("\nLength:\n")[1].split("\n\n")[0]
    assert "--epochs N" in length
    assert "--lr" not in length
    assert max(map(len, printed.splitlines())) <= 80
