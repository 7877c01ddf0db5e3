"""Optional dependencies: imported when needed, named when missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from handful.errors import MissingExtraError


def import_extra(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional dependency.

    Args:
        module: The module's full name.
        extra: The extra of handful that installs it.
        purpose: What needs it, as the beginning of a sentence.

    Returns:
        The module.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed. "
            f'Run: pip install "handful[{extra}]".'
        ) from None
