"""The guides tell the truth: their Python runs, and prints what they say it prints."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

import handful
from handful import Trainer
from handful.train.choices import LOSSES, METRICS, OPTIMIZERS, SCHEDULES

ROOT = Path(__file__).parent.parent
PACKAGE = Path(handful.__file__).parent
GUIDE = (ROOT / "docs" / "trainer.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

_BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


@pytest.mark.parametrize(
    ("name", "needed"),
    [("trainer", ("torchmetrics", "tensorboard")), ("files", ("pyarrow",))],
)
def test_blocks_of_a_page_run_and_print_what_stands_below_them(
    name: str,
    needed: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in needed:
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    scope: dict[str, object] = {"__name__": name}
    blocks = list(_BLOCK.finditer(page))
    assert len(blocks) > 3
    for block in blocks:
        line = page.count("\n", 0, block.start()) + 1
        code = "\n" * line + block[1]  # so that errors give the page's own lines
        exec(compile(code, f"docs/{name}.md", "exec"), scope)
        printed = capsys.readouterr().out
        if block[2] is not None:
            assert printed == block[2], f"docs/{name}.md, line {line}"


def _rows(heading: str) -> str:
    """Return the tables of a section of the guide."""
    (section,) = re.findall(rf"\n## {heading}\n(.*?)(?=\n## |\Z)", GUIDE, re.DOTALL)
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Losses", LOSSES),
        ("Optimisers", OPTIMIZERS),
        ("Schedules", SCHEDULES),
        ("Metrics", METRICS),
    ],
)
def test_tables_of_the_guide_have_every_name(
    heading: str, names: dict[str, object] | tuple[str, ...]
) -> None:
    first = [row.split("|")[1] for row in _rows(heading).splitlines()[2:]]
    assert sorted(re.findall(r"`(\w+)`", " ".join(first))) == sorted(names)


@pytest.mark.parametrize(
    ("heading", "arguments"),
    [
        ("Losses", {name: known for name, (_, known) in LOSSES.items()}),
        ("Optimisers", {name: known for name, (_, known) in OPTIMIZERS.items()}),
        (
            "Schedules",
            {k: {*v} - {*SCHEDULES["constant"]} for k, v in SCHEDULES.items()},
        ),
    ],
)
def test_tables_of_the_guide_have_every_argument(
    heading: str, arguments: dict[str, Iterable[str]]
) -> None:
    rows = _rows(heading).splitlines()[2:]
    for name, known in arguments.items():
        (row,) = [r for r in rows if f"`{name}`" in r.split("|")[1]]
        assert not {*known} - {*re.findall(r"`(\w+)[`=]", row)}, name


@pytest.mark.parametrize("function", [Trainer.__init__, Trainer.fit])
def test_the_guide_speaks_of_every_argument(function: object) -> None:
    names = list(inspect.signature(function).parameters)[1:]  # type: ignore[arg-type]
    missing = [name for name in names if not re.search(rf"\b{name}\b", GUIDE)]
    assert not missing


def test_links_of_the_guide_lead_to_its_headings() -> None:
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", GUIDE, re.MULTILINE)
    }
    assert not set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) - headings


def test_every_public_name_is_documented() -> None:
    listed = re.findall(r"auto(?!module)\w+:: handful\.(\w+)$", API, re.MULTILINE)
    assert sorted(listed) == sorted(set(handful.__all__) - {"__version__"})


def test_the_table_of_the_room_train_has_each_of_its_files() -> None:
    (section,) = re.findall(r"\n## The room `train`\n(.*?)\n## ", ARCHITECTURE, re.S)
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    files = {path.stem for path in (PACKAGE / "train").glob("*.py")} - {"__init__"}
    assert sorted(listed) == sorted(files)


def test_the_table_of_the_room_data_has_each_of_its_files() -> None:
    (section,) = re.findall(r"\n## The room `data`\n(.*?)\n## ", ARCHITECTURE, re.S)
    rows = re.findall(r"^\| (.+?) \|", section, re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    files = {path.stem for path in (PACKAGE / "data").glob("*.py")} - {"__init__"}
    assert sorted(listed) == sorted(files)


def test_the_table_of_rooms_has_each_room() -> None:
    (section,) = re.findall(r"\n## Rooms\n(.*?)\n## ", ARCHITECTURE, re.DOTALL)
    listed = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    entries = [path for path in PACKAGE.iterdir() if not path.name.startswith("_")]
    rooms = {p.stem for p in entries if p.is_dir() or p.suffix == ".py"}
    assert listed == rooms
