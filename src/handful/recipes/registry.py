"""Finding a recipe: by its name, or in a file of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from handful.errors import ArgumentError, unknown_choice
from handful.recipes.own_data import is_own_data, parse_own_data
from handful.train.recipe import Recipe

RECIPES: dict[str, tuple[str, str]] = {
    "digits": (
        "handful.recipes.digits",
        "8x8 handwritten digits, 1,797 images, with scikit-learn",
    ),
    "fashion-mnist": (
        "handful.recipes.fashion_mnist",
        "28x28 pictures of clothes, 70,000 images",
    ),
    "mnist": ("handful.recipes.mnist", "28x28 handwritten digits, 70,000 images"),
    "regression": (
        "handful.recipes.regression",
        "a straight line through 100 noisy points, one feature",
    ),
    "wine": (
        "handful.recipes.wine",
        "three kinds of wine from 13 measurements, 178 samples, with scikit-learn",
    ),
}
"""Name -> (module, summary) of the recipes that come with handful."""

AS_SEED: tuple[str, ...] = ("wine",)
"""Recipes that have the variant ``as-seed``."""


def check_recipe_name(name: str) -> None:
    """Check that a recipe of that name, or that file, exists; runs none of it.

    Args:
        name: A name of `RECIPES`, ``file.py:attribute``, or own data as
            ``data:PATH:TARGET``.

    Raises:
        ArgumentError: There is no such recipe or file.
        DataError: Own data can't be used.
    """
    if is_own_data(name):
        checks = importlib.import_module("handful.recipes.own_data_checks")
        checks.check_own_data(parse_own_data(name))
        return
    file, colon, attribute = name.rpartition(":")
    if not colon:
        if name.endswith(".py"):
            raise ArgumentError(
                f"recipe must be written file.py:name; got {name!r}. "
                f"Add the recipe's name: {name}:recipe."
            )
        if name not in RECIPES:
            raise unknown_choice("recipe", name, RECIPES)
        return
    if not Path(file).is_file():
        raise ArgumentError(f"recipe must be in a file that exists; got {file!r}.")
    if not attribute.isidentifier():
        raise ArgumentError(
            f"recipe must be written file.py:name; got {name!r}, "
            f"whose name {attribute!r} is no Python identifier."
        )


def load_recipe(name: str, *, cache: bool = False) -> Recipe:
    """Load a recipe by its name, or from a Python file.

    Args:
        name: One of the names that ``handful recipes`` lists, or ``file.py:attribute``,
            a file that is run as Python code; or own data as ``data:PATH:TARGET``, with
            a column of a table to predict, or ``data:PATH`` for a folder of images and
            for a file of NumPy's with the arrays X and y.
        cache: For own data in a CSV file, whether what was parsed is kept in the user's
            cache, so that it is there at once the next time; see `read_csv`.

    Returns:
        The recipe.

    Raises:
        ArgumentError: There is none of that name, or what was found is no `Recipe`.
        DataError: Own data can't be read, or not be learnt from.

    Example:
        >>> load_recipe("wine").batch_size
        16
    """
    if is_own_data(name):
        loading = importlib.import_module("handful.recipes.own_data_loading")
        return loading.load_own_data(name, cache=cache)  # type: ignore[no-any-return]
    check_recipe_name(name)
    file, colon, attribute = name.rpartition(":")
    if not colon:
        recipe = importlib.import_module(RECIPES[name][0]).recipe
    else:
        module = _run_file(Path(file))
        recipe = getattr(module, attribute, None)
    if not isinstance(recipe, Recipe):
        raise ArgumentError(
            f"recipe {name!r} must be a handful.Recipe; got {type(recipe).__name__}."
        )
    return recipe


def _run_file(path: Path) -> ModuleType:
    module_name = f"handful_recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"recipe must be in a Python file; got {str(path)!r}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module
