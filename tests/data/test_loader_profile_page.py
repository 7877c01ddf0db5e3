"""The doctor's page tells the truth: its Python runs and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from handful.data.loader_advice import CAUSES

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")

_BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


def test_blocks_of_the_page_run_and_print_what_stands_below_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    scope: dict[str, object] = {"__name__": "page"}
    blocks = list(_BLOCK.finditer(PAGE))
    assert len(blocks) == 4
    for block in blocks:
        line = PAGE.count("\n", 0, block.start()) + 1
        exec(compile("\n" * line + block[1], "docs/doctor.md", "exec"), scope)
        printed = capsys.readouterr().out
        if block[2] is not None:
            assert printed == block[2], f"docs/doctor.md, line {line}"


def test_the_table_of_the_page_has_every_cause() -> None:
    assert sorted(re.findall(r"^\| `([a-z ]+)` \|", PAGE, re.MULTILINE)) == sorted(
        CAUSES
    )
