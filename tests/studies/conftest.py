"""Fixtures of the tests of studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handful import Recipe, load_recipe

RECIPES = Path(__file__).with_name("recipes.py")


@pytest.fixture
def line() -> Recipe:
    """Return a recipe that trains in milliseconds, from a file."""
    return load_recipe(f"{RECIPES}:line")


@pytest.fixture
def recipes() -> Any:
    """Return the function that loads one of the recipes by its name."""
    return lambda name: load_recipe(f"{RECIPES}:{name}")
