"""The recipe for own data, made of what lies there."""

from __future__ import annotations

import importlib

from handful.recipes.own_data import parse_own_data
from handful.recipes.own_data_checks import IMAGES, ROWS, check_own_data
from handful.recipes.own_data_facts import OwnDataRecipe
from handful.recipes.own_data_reading import is_large, read_table


def load_own_data(name: str, *, cache: bool = False) -> OwnDataRecipe:
    """Make the recipe for own data.

    Tables that fit into memory are read before torch is imported, so that what is wrong
    with them is said at once.

    Args:
        name: ``data:PATH`` or ``data:PATH:TARGET``.
        cache: Whether what was parsed of a CSV file is kept for the next time.

    Returns:
        The recipe, its parts drawn with the seed 0.

    Raises:
        ArgumentError: There are no such data, or no such target.
        DataError: They can't be read, or not be learnt from.
        MissingExtraError: A package that reads them is not installed.
    """
    data = parse_own_data(name)
    kind = check_own_data(data)
    if kind == IMAGES:
        maker = importlib.import_module("handful.recipes.own_data_images")
        return maker.make_image_recipe(data)  # type: ignore[no-any-return]
    if kind == ROWS and is_large(data):
        maker = importlib.import_module("handful.recipes.own_data_rows")
        return maker.make_rows_recipe(data)  # type: ignore[no-any-return]
    table = read_table(data, kind, cache=cache)
    maker = importlib.import_module("handful.recipes.own_data_tables")
    return maker.make_table_recipe(data, table)  # type: ignore[no-any-return]
