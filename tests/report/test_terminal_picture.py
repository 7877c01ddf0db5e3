"""scripts/terminal-picture: what a terminal shows at a command's end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "terminal-picture"

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no pseudo-terminals"
)

PROGRAM = """
import os, time
from rich.console import Console
from rich.live import Live

console = Console()
with Live("a bar", console=console, transient=True, auto_refresh=False) as live:
    live.refresh()
    print(f"{console.width} columns")
    live.update("another bar", refresh=True)
console.print("[green]done[/green]")
"""


def draw(out: Path, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, SCRIPT, "--columns", "70", "--out", out),
            *(sys.executable, "-c", program),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_picture_shows_what_remains_and_no_bar(tmp_path: Path) -> None:
    done = draw(tmp_path / "images" / "terminal.svg", PROGRAM)
    assert (done.returncode, done.stderr) == (0, "")
    picture = (tmp_path / "images" / "terminal.svg").read_text(encoding="utf-8")
    lines = picture.split('clip-path="url(#terminal-line-')
    assert any(">70&#160;columns</text>" in line for line in lines)
    assert any(">done</text>" in line for line in lines)
    assert ">a&#160;bar<" not in picture
    assert ">another&#160;bar<" not in picture
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; print(os.getcwd())", "the picture would show"),
        (r"print('\x1b[5;5H')", r"unknown control ESC[5;5H"),
        (r"print('whole line\rpart')", "overwritten in part"),
        ("raise SystemExit(3)", "exit status 3"),
    ],
)
def test_a_picture_that_would_be_wrong_is_refused(
    program: str, message: str, tmp_path: Path
) -> None:
    done = draw(tmp_path / "terminal.svg", program)
    assert done.returncode == 1
    assert message in done.stderr
    assert not any(tmp_path.iterdir())
