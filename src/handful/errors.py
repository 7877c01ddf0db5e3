"""Every error that handful raises on purpose.

::

    HandfulError
    ├── ArgumentError (ValueError)          an argument or option is wrong
    │   └── ConfigError                     a configuration file is wrong
    ├── DataError (ValueError)              the data cannot be used as they are
    │   └── FormatError                     a file is not what it claims to be
    ├── MissingDataError (OSError)          a data set is neither here nor on a mirror
    ├── WorkerError (RuntimeError)          a loader's worker process died
    ├── TrainingError (RuntimeError)        a training cannot go on
    │   └── NonfiniteError                  its numbers became NaN or infinite
    ├── RunError (RuntimeError)             a run's folder cannot be used
    │   └── CheckpointError                 a checkpoint cannot be saved or loaded
    └── MissingExtraError (ImportError)     an optional dependency is not installed

Each also derives from the built-in class in brackets, so ordinary handlers work. The
command line answers an `ArgumentError` with exit status 2 and every other with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FormatError",
    "HandfulError",
    "MissingDataError",
    "MissingExtraError",
    "NonfiniteError",
    "RunError",
    "TrainingError",
    "WorkerError",
    "unknown_choice",
]


class HandfulError(Exception):
    """Base of all errors raised by handful."""


class ArgumentError(HandfulError, ValueError):
    """An argument, option or setting has a value that cannot be used."""


class ConfigError(ArgumentError):
    """A configuration file is missing, malformed or holds a wrong key or value."""


class DataError(HandfulError, ValueError):
    """The data cannot be used as they are."""


class FormatError(DataError):
    """A file is not of the format that it claims, or is damaged."""


class MissingDataError(HandfulError, OSError):
    """A data set was not found on this machine and could not be downloaded."""


class WorkerError(HandfulError, RuntimeError):
    """A worker process of a loader ended before its batches were made."""


class TrainingError(HandfulError, RuntimeError):
    """A training cannot start or go on."""


class NonfiniteError(TrainingError):
    """A loss, a gradient or a weight became NaN or infinite."""


class RunError(HandfulError, RuntimeError):
    """A run's folder cannot be read, written or continued."""


class CheckpointError(RunError):
    """A checkpoint cannot be saved, or none that is valid can be loaded."""


class MissingExtraError(HandfulError, ImportError):
    """A feature needs a package that is installed with one of handful's extras."""


def unknown_choice(name: str, value: object, choices: Iterable[str]) -> ArgumentError:
    """Make the error for a value that is not among the choices.

    Args:
        name: The argument or option, as its user spells it.
        value: What was given.
        choices: What could have been given.

    Returns:
        An error that lists the choices and, where one is close, the nearest. The caller
        raises it.
    """
    listed = sorted(choices)
    near = difflib.get_close_matches(str(value), listed, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ArgumentError(
        f"{name} must be one of {', '.join(listed)}; got {value!r}.{hint}"
    )
