"""The README tells the truth: its Python runs, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from handful.cli.main import main
from handful.recipes.registry import RECIPES

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_python_in_the_readme_runs_and_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert "valid_accuracy" in capsys.readouterr().out
    assert (tmp_path / "runs" / "mine" / "run.json").is_file()
    assert scope["run"].best["valid_accuracy"] > 0.8  # type: ignore[attr-defined]


def test_every_command_in_the_readme_is_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in set(re.findall(r"`handful ([a-z]+)", README)):
        assert main([command, "--help"]) == 0
        assert command in capsys.readouterr().out


def test_every_flag_in_the_readme_is_one_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = re.findall(r"`handful ([a-z]+) ([^`]*--[^`]*)`", README)
    assert len(written) > 5
    for command, rest in written:
        assert main([command, "--help"]) == 0
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, f"{command} {rest}"


def test_recipes_in_the_readme_are_all_there_are() -> None:
    (listed,) = re.findall(r"list what can be trained: ([^|]*) \|", README)
    assert sorted(re.findall(r"`([a-z-]+)`", listed)) == sorted(RECIPES)


def test_every_file_that_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
