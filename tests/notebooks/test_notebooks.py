"""The notebooks are whole: they run, and what is kept in them is small and clean."""

from __future__ import annotations

import ast
import base64
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "notebooks"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 400_000
MOST_PIXELS = 1200
TUTORIALS = {
    "1": "Model Training with Mini-Batches in PyTorch",
    "2": "SGD and Mini-Batches",
    "3": "The mathematics of optimization for Deep Learning",
    "4": "Training",
    "5": "Full batch, mini-batch or one by one?",
}

each = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)


@cache
def _read(file: Path) -> Any:
    return nbformat.read(file, as_version=4)


def _code_cells(file: Path) -> Iterator[Any]:
    return (cell for cell in _read(file).cells if cell.cell_type == "code")


def _outputs(file: Path) -> Iterator[Any]:
    return (output for cell in _code_cells(file) for output in cell.outputs)


def _parse(source: str) -> ast.Module:
    """Parse a cell; its magics are left out."""
    return ast.parse(re.sub(r"^%.*$", "", source, flags=re.MULTILINE))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from alias.name.split(".")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_there_is_one_for_each_tutorial_and_one_for_their_question() -> None:
    assert [file.name[:2] for file in NOTEBOOKS] == ["1-", "2-", "3-", "4-", "5-"]


@each
def test_first_cell_has_the_title_and_names_the_tutorial(file: Path) -> None:
    first = _read(file).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert TUTORIALS[file.name[0]] in first.source


@each
def test_headings_are_one_title_sections_and_an_exercise_at_the_end(file: Path) -> None:
    cells = _read(file).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    levels = re.findall(r"^(#+) ", text, flags=re.MULTILINE)
    assert levels[0] == "#"
    assert set(levels[1:]) == {"##"}
    assert cells[-1].source.startswith("## Exercise\n")


@each
def test_has_a_lesson_s_worth_of_cells_of_unique_names(file: Path) -> None:
    cells = _read(file).cells
    assert 15 <= len(cells) <= 30
    assert len({cell.id for cell in cells}) == len(cells)
    assert all(re.fullmatch(r"[a-z-]+", cell.id) for cell in cells)


@each
def test_every_code_cell_compiles(file: Path) -> None:
    for cell in _code_cells(file):
        compile(_parse(cell.source), f"{file.name}:{cell.id}", "exec")


@each
def test_imports_stand_in_the_first_code_cell_and_are_public(file: Path) -> None:
    first, *others = _code_cells(file)
    names = list(_imported(_parse(first.source)))
    assert "handful" in names
    assert [name for name in names if name.startswith("_")] == []
    assert [list(_imported(_parse(cell.source))) for cell in others] == [
        [] for _ in others
    ]


@each
def test_every_code_cell_was_run_in_order(file: Path) -> None:
    counts = [cell.execution_count for cell in _code_cells(file)]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_outputs_have_neither_errors_nor_warnings(file: Path) -> None:
    kinds = {output.output_type for output in _outputs(file)}
    assert kinds <= {"stream", "execute_result", "display_data"}
    assert {output.get("name", "stdout") for output in _outputs(file)} == {"stdout"}


@each
def test_figures_are_shown_one_a_cell_at_screen_resolution(file: Path) -> None:
    for cell in _code_cells(file):
        pictures = [
            output.data["image/png"]
            for output in cell.outputs
            if "image/png" in output.get("data", {})
        ]
        assert len(pictures) <= 1
        for picture in pictures:
            with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
                assert max(image.size) <= MOST_PIXELS
    assert sum("image/png" in one.get("data", {}) for one in _outputs(file)) >= 4


@each
def test_file_is_small_and_names_no_folder_of_a_machine(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    words = re.sub(r'"image/png": "[^"]*"', "", text)
    assert re.search(r"(?<![\w.:/])/(home|root|tmp|usr|opt|var)/", words) is None
    assert str(ROOT) not in words


@each
def test_metadata_are_the_kernel_alone(file: Path) -> None:
    notebook = _read(file)
    assert sorted(notebook.metadata) == ["kernelspec", "language_info"]
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(not cell.metadata for cell in notebook.cells)


def test_script_refuses_a_name_that_no_notebook_has() -> None:
    done = _run("--check", "no-such")
    assert done.returncode == 2
    assert "NAME must be the beginning of one of 1-" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
@each
def test_runs_without_an_error_to_what_is_kept(file: Path) -> None:
    done = _run("--check", file.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{file.name}: ok" in done.stdout
