"""What ``import handful`` offers."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import handful

NAMES = [name for name in handful.__all__ if not name.startswith("__")]


def _typing_imports() -> dict[str, str]:
    """Read what the ``TYPE_CHECKING`` block of the package imports, name -> module."""
    tree = ast.parse(Path(handful.__file__).read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: node.module or ""
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_all_lists_exactly_the_lazily_exported_names() -> None:
    assert handful.__all__ == sorted(handful.__all__)
    assert set(handful.__all__) == {*handful._EXPORTS, "__version__"}


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    assert _typing_imports() == handful._EXPORTS


def test_dir_shows_every_public_name() -> None:
    assert set(handful.__all__) <= set(dir(handful))


@pytest.mark.parametrize("name", NAMES)
def test_public_name_can_be_touched_and_has_a_docstring(name: str) -> None:
    value = getattr(handful, name)
    assert inspect.getdoc(value), f"handful.{name} has no docstring"
    assert value.__doc__ != object.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_where_its_module_says(name: str) -> None:
    value = getattr(handful, name)
    assert value.__module__ == handful._EXPORTS[name]


def test_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match=r"'handful' has no attribute 'Trainr'"):
        _ = handful.Trainr


def test_importing_an_unknown_name_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Trainr'"):
        from handful import Trainr  # noqa: F401


def test_version_has_three_numbers() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|(a|b|rc)\d+)?", handful.__version__)
