"""Mini-batch training for PyTorch: feed, train, know.

The public names are imported when they are first touched, so that ``import handful``
costs next to nothing and commands that need no tensor never load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handful.data.columns import Columns
    from handful.data.loader import DataLoader, first
    from handful.errors import HandfulError
    from handful.recipes.registry import load_recipe
    from handful.runs.run import Run
    from handful.train.callbacks import Callback
    from handful.train.recipe import Recipe
    from handful.train.run_recipe import run_recipe
    from handful.train.trainer import Trainer

__version__ = "0.1.0"

_EXPORTS = {
    "Callback": "handful.train.callbacks",
    "Columns": "handful.data.columns",
    "DataLoader": "handful.data.loader",
    "HandfulError": "handful.errors",
    "Recipe": "handful.train.recipe",
    "Run": "handful.runs.run",
    "Trainer": "handful.train.trainer",
    "first": "handful.data.loader",
    "load_recipe": "handful.recipes.registry",
    "run_recipe": "handful.train.run_recipe",
}

__all__ = [
    "Callback",
    "Columns",
    "DataLoader",
    "HandfulError",
    "Recipe",
    "Run",
    "Trainer",
    "__version__",
    "first",
    "load_recipe",
    "run_recipe",
]


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        message = f"module 'handful' has no attribute {name!r}"
        raise AttributeError(message) from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
