"""docs/own_data.md: its Python runs, and its commands print what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from handful.cli.main import main

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

PAGE = (Path(__file__).parents[2] / "docs" / "own_data.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"```(python|console)\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL
)
SAME_EVERYWHERE = ("data ", "        without", "target ", "parts ", "to beat ")
"""Beginnings of the printed lines that no machine's arithmetic changes."""


def test_python_and_commands_do_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    blocks = BLOCK.findall(PAGE)
    assert [kind for kind, _, _ in blocks].count("console") == 1
    for kind, text, below in blocks:
        if kind == "python":
            exec(compile(text, "docs/own_data.md", "exec"), scope)
            printed = capsys.readouterr().out
            assert not below or printed == below
        else:
            command, _, expected = text.partition("\n")
            assert command.startswith("$ handful train --data ")
            assert main(shlex.split(command)[2:]) == 0
            lines = capsys.readouterr().out.splitlines()
            kept = [line for line in expected.splitlines() if _is_same(line)]
            assert [line for line in lines if _is_same(line)] == kept
            assert len(kept) == 6


def _is_same(line: str) -> bool:
    return line.startswith(SAME_EVERYWHERE)
