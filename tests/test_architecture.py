"""Which room may import which, and what may be loaded when.

The table is the one of docs/architecture.md. Every import counts: those in functions
and those for type checkers only as well.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import handful

PACKAGE = Path(handful.__file__).parent

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "extras": {"errors"},
    "torch_private": set(),
    "runs": {"errors"},
    "data": {"errors", "extras", "torch_private"},
    "datasets": {"data", "errors", "extras"},
    "train": {"data", "runs", "errors", "extras", "torch_private"},
    "studies": {"train", "data", "runs", "reference", "errors", "extras"},
    "report": {"runs", "errors", "extras"},
    "reference": {"errors"},
    "recipes": {"datasets", "train", "data", "errors"},
    "lessons": {
        *("errors", "extras", "runs", "data", "datasets"),
        *("train", "studies", "report", "reference", "recipes"),
    },
    "cli": {
        *("errors", "extras", "runs", "data", "datasets"),
        *("train", "studies", "report", "reference", "recipes", "lessons"),
    },
    "__main__": {"cli"},
}
"""Room -> the rooms it may import. Every room may read the version in ``handful``."""

WITHOUT_TORCH = ("errors", "runs", "report")
"""Rooms whose every module is imported without torch being loaded."""

IMPORTS_IN_FUNCTIONS: dict[str, str] = {
    "handful.cli": "arguments are checked before torch is imported",
}
"""Modules, or packages of them, that may import in functions, and why."""


@dataclass(frozen=True)
class Import:
    """One import statement's target, and where it stands."""

    importer: str
    target: str
    line: int
    in_function: bool

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.target}"


def _module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: dict[str, Path] = {
    _module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))
}


def _is_module(name: str) -> bool:
    return name in MODULES


def _targets(node: ast.AST, package: str) -> Iterator[str]:
    """Yield the full names of the modules that one statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parents, base] if base else parents)
        for alias in node.names:
            full = f"{base}.{alias.name}"
            if base == "handful" and alias.name in handful._EXPORTS:
                full = handful._EXPORTS[alias.name]
            yield full if _is_module(full) else base


def _walk(node: ast.AST, *, in_function: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        yield child, in_function
        inside = in_function or isinstance(
            child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        )
        yield from _walk(child, in_function=inside)


def _imports_of(module: str, path: Path) -> Iterator[Import]:
    is_package = path.name == "__init__.py"
    package = module if is_package else module.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for node, in_function in _walk(tree, in_function=False):
        for target in _targets(node, package):
            yield Import(module, target, getattr(node, "lineno", 0), in_function)


IMPORTS = [
    found for module, path in MODULES.items() for found in _imports_of(module, path)
]


def _room(module: str) -> str:
    """Name the room a module is in; the package itself is in none."""
    return module.split(".")[1] if "." in module else ""


def _is_ours(module: str) -> bool:
    return module == "handful" or module.startswith("handful.")


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_every_module_is_in_a_room_of_the_table() -> None:
    rooms = {_room(module) for module in MODULES} - {""}
    assert rooms <= set(MAY_IMPORT), f"not in the table: {rooms - set(MAY_IMPORT)}"


def test_every_room_looks_only_where_the_table_lets_it() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if _is_ours(found.target) and _room(found.importer) and _room(found.target)
        if _room(found.target) != _room(found.importer)
        if _room(found.target) not in MAY_IMPORT[_room(found.importer)]
    ]
    assert not wrong, "\n".join(["imports against the table:", *wrong])


PRIVATE_NAME = re.compile(r"\btorch(\.\w+)*\._(?!foreach_|_version__)[a-z]\w*", re.I)

PRIVATE_ATTRIBUTES = {
    *("_schema", "_op", "_execution_engine", "_is_profiler_enabled", "_opt_called"),
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"),
    *("_post_accumulate_grad_hooks", "_auto_collation", "_dataset_kind"),
}
"""What PyTorch's objects have beside what it documents, as far as handful uses it."""


def test_private_parts_of_torch_stand_in_one_file() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.ImportFrom | ast.Constant)
        if PRIVATE_NAME.search(_written(node)) or _names_private(node)
    }
    assert found == {"torch_private.py"}


def _names_private(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        names = {alias.name for alias in node.names}
        is_torchs = (node.module or "").partition(".")[0] == "torch"
        return is_torchs and any(name.startswith("_") for name in names)
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", "")
    return isinstance(name, str) and name in PRIVATE_ATTRIBUTES


def _written(node: ast.AST) -> str:
    """Return what a node names, of those that may name a private part."""
    if isinstance(node, ast.ImportFrom):
        return node.module or ""
    if isinstance(node, ast.Constant):
        is_name = isinstance(node.value, str) and re.fullmatch(r"[\w.]+", node.value)
        return str(node.value) if is_name else ""
    return ast.unparse(node)


def test_nobody_but_main_imports_the_command_line() -> None:
    importers = {
        _room(found.importer)
        for found in IMPORTS
        if _is_ours(found.target) and _room(found.target) == "cli"
    }
    assert importers <= {"cli", "__main__"}


def test_the_table_has_no_circle() -> None:
    finished: set[str] = set()
    while len(finished) < len(MAY_IMPORT):
        ready = {
            room
            for room, targets in MAY_IMPORT.items()
            if room not in finished and targets <= finished
        }
        assert ready, f"a circle among {sorted(set(MAY_IMPORT) - finished)}"
        finished |= ready


def test_imports_stand_at_the_top_of_their_module() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if found.in_function
        and not any(_is_in(found.importer, name) for name in IMPORTS_IN_FUNCTIONS)
    ]
    assert not wrong, "\n".join(["imports inside functions:", *wrong])


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_room_without_torch_does_not_name_it(room: str) -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if _room(found.importer) == room and _is_in(found.target, "torch")
    ]
    assert not wrong, "\n".join(wrong)


def _run_python(code: str) -> None:
    """Run a program in a fresh interpreter that sees the package under test."""
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _import_program(modules: list[str]) -> str:
    return f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, f"importing {{name}} loads torch"
"""


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_importing_a_room_without_torch_loads_no_torch(room: str) -> None:
    modules = [name for name in MODULES if _room(name) == room]
    assert modules
    _run_python(_import_program(modules))


@pytest.mark.parametrize("module", ["handful", "handful.cli.main"])
def test_importing_loads_no_torch(module: str) -> None:
    _run_python(_import_program([module]))


def test_importing_the_package_loads_neither_torch_nor_numpy() -> None:
    heavy = ["torch", "numpy", "matplotlib", "sklearn", "pydantic", "typer", "rich"]
    _run_python(
        "import sys, handful\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )


def test_touching_every_public_name_works_in_a_fresh_process() -> None:
    _run_python(
        "import handful\nfor name in handful.__all__:\n    getattr(handful, name)\n"
    )


def test_every_module_can_be_imported_first() -> None:
    """A circle of imports would show only for some order; each module goes first."""
    names = [name for name in MODULES if not name.endswith("__main__")]
    _run_python(
        f"""
import importlib, sys
import torch, numpy, matplotlib.pyplot, sklearn.datasets
for first in {names!r}:
    for loaded in [name for name in sys.modules if name.split(".")[0] == "handful"]:
        del sys.modules[loaded]
    importlib.import_module(first)
"""
    )


def test_importing_any_module_prints_nothing_and_leaves_torch_alone() -> None:
    names = [name for name in MODULES if not name.endswith("__main__")]
    _run_python(
        f"""
import contextlib, importlib, io, logging
import torch
threads, state = torch.get_num_threads(), torch.get_rng_state()
handlers, printed = list(logging.root.handlers), io.StringIO()
with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
    for name in {names!r}:
        importlib.import_module(name)
assert not printed.getvalue(), printed.getvalue()
assert torch.get_num_threads() == threads
assert torch.equal(torch.get_rng_state(), state)
assert logging.root.handlers == handlers
"""
    )
