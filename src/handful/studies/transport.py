"""Transport: how a recipe reaches another process.

Where a recipe is a name of a module, that name is sent, and the other process imports
the module, or runs its file if it can't be imported by name. Otherwise its parts are
pickled, which sends functions and classes by their names too: what was made on the
spot, such as a lambda, can't be sent so.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handful.errors import ArgumentError
from handful.train.recipe import Recipe

_REMEDY = (
    "Use workers=None, or define the recipe's functions at the top level of a module."
)


@dataclass(frozen=True)
class PackedRecipe:
    """A recipe on its way.

    Attributes:
        modules: (name, file) of each module that holds a part of it; the file is None
            where the name alone is enough.
        place: (module, attribute) where the recipe itself is found, or None.
        pickled: Else the recipe, without its variants.
    """

    modules: tuple[tuple[str, str | None], ...]
    place: tuple[str, str] | None = None
    pickled: bytes | None = None


def pack_recipe(recipe: Recipe) -> PackedRecipe:
    """Pack a recipe for `unpack_recipe` in another process of this machine.

    Raises:
        ArgumentError: It can't be sent.
    """
    place = _find_place(recipe)
    if place is not None:
        return PackedRecipe((_describe_module(place[0]),), place=place)
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, protocol=pickle.DEFAULT_PROTOCOL)
    try:
        pickler.dump(recipe.override(variants={}))
    except Exception as error:  # Objects raise what they like when they are pickled.
        reason = " ".join(str(error).split()).rstrip(".")
        raise ArgumentError(
            f"recipe must be one that can be sent to worker processes; got "
            f"{recipe.name!r}, which can't be pickled: {reason}. {_REMEDY}"
        ) from None
    _check_program(pickler.modules)
    modules = tuple(
        _describe_module(name)
        for name in sorted(pickler.modules - {"__main__"})
        if not _can_find(name.partition(".")[0])
    )
    return PackedRecipe(modules, pickled=buffer.getvalue())


@functools.lru_cache(maxsize=2)
def unpack_recipe(packed: PackedRecipe) -> Recipe:
    """Return the recipe that was packed.

    Raises:
        ArgumentError: It can't be found in this process.
    """
    try:
        for name, file in packed.modules:
            _load_module(name, file)
        if packed.place is not None:
            module, attribute = packed.place
            found = getattr(importlib.import_module(module), attribute)
        else:
            assert packed.pickled is not None
            # Written by our own parent process.
            found = pickle.loads(packed.pickled)
    except Exception as error:
        raise ArgumentError(
            "recipe must be one that worker processes can load; got "
            f"{type(error).__name__}: {error}. {_REMEDY}"
        ) from None
    assert isinstance(found, Recipe)
    return found


class _Pickler(pickle.Pickler):
    """Notes the modules of functions and classes, which are pickled by name."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.modules: set[str] = set()

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, type) or hasattr(obj, "__code__"):
            self.modules.add(str(obj.__module__))


def _find_place(recipe: Recipe) -> tuple[str, str] | None:
    """Return the module and the name under which a recipe is found."""
    for function in (recipe.make_data, recipe.make_model):
        name = getattr(function, "__module__", None)
        module = sys.modules.get(name) if isinstance(name, str) else None
        # A program's own top level may hold it under `if __name__ == "__main__"`.
        if module is None or name == "__main__":
            continue
        for attribute, value in vars(module).items():
            if value is recipe:
                return str(name), attribute
    return None


def _check_program(modules: set[str]) -> None:
    """Check that what the program itself defines can be had by running its file."""
    if "__main__" in modules and not hasattr(sys.modules["__main__"], "__file__"):
        raise ArgumentError(
            "recipe must be defined in a file to be sent to worker processes; got one "
            f"that was typed in. {_REMEDY}"
        )


def _describe_module(name: str) -> tuple[str, str | None]:
    """Return a module's name and its file.

    Raises:
        ArgumentError: Another process could load it by neither.
    """
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is not None and Path(file).is_file():
        return name, str(Path(file).resolve())
    if _can_find(name.partition(".")[0]):
        return name, None
    raise ArgumentError(
        f"recipe must be in a module that worker processes can load; got {name!r}. "
        f"{_REMEDY}"
    )


def _can_find(name: str) -> bool:
    """Say whether an import would find a module that is not loaded yet."""
    finders: list[Callable[..., Any]] = [
        finder.find_spec for finder in sys.meta_path if hasattr(finder, "find_spec")
    ]
    return any(find(name, None) is not None for find in finders)


def _load_module(name: str, file: str | None) -> None:
    """Import a module by its name, or else run its file."""
    if name in sys.modules:
        return
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Else the module is there, and something that it imports is missing.
        if file is None or error.name is None or not _is_in(name, error.name):
            raise
    else:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
