"""Errors as the command line tells them: one line each, and an exit status."""

from __future__ import annotations

import difflib
import os
import re
from typing import Any

import typer

from handful.errors import ArgumentError, HandfulError

# Typer carries its own copy of click, or imports click, depending on its version.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Base of the errors that parsing a command line raises."""


_MOST_CHARACTERS = 1500
"""Of an error's line."""


def program_name() -> str:
    """Return what is typed to call this program: ``scripts/handful`` in a checkout."""
    return os.environ.get("HANDFUL_PROGRAM", "handful")


def print_error(message: str) -> None:
    """Print one line on standard error."""
    typer.echo(f"handful: {message}", err=True)


def exit_code(error: Exception) -> int:
    """Return 2 where the command was used wrongly, else 1."""
    return 2 if isinstance(error, ArgumentError | UsageError) else 1


def describe_error(error: Exception, *, debug: bool = False) -> str:
    """Return the line that tells an error.

    Args:
        error: What was raised.
        debug: Whether its traceback is shown already.

    Returns:
        One line without control characters.
    """
    if isinstance(error, UsageError):
        text = _describe_usage(error)
    elif isinstance(error, HandfulError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
        if error.filename is not None:
            text += f": {str(error.filename)!r}"
    else:
        text = ": ".join(filter(None, [type(error).__name__, str(error)]))
        if not debug:
            text += " (--debug shows the traceback)"
    return _shorten(_one_line(text))


def _describe_usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "handful"
    option = getattr(error, "option_name", None)
    text = " ".join(error.format_message().split())
    unknown_command = re.match("No such command '(.*?)'", text)
    if type(error).__name__ == "NoSuchOption" and option is not None:
        known = _options_of(context)
        text = f"{command} has no option {option!r}.{_suggest(option, known)}"
    elif unknown_command and context is not None:
        name, known = unknown_command[1], list(context.command.commands)
        text = f"{command} has no command {name!r}.{_suggest(name, known)}"
    elif not text.endswith("."):
        text += "."
    return f"{text} Try '{command} --help'."


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _options_of(context: Any) -> list[str]:
    if context is None:
        return []
    return [
        name
        for parameter in context.command.get_params(context)
        for name in parameter.opts
        if name.startswith("--")
    ]


def _shorten(text: str) -> str:
    """Return a text, of a long one both ends: a value may be of any length."""
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[: _MOST_CHARACTERS * 2 // 3]} ... {text[-_MOST_CHARACTERS // 3 :]}"


def _one_line(text: str) -> str:
    joined = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda c: repr(c.group())[1:-1], joined)
