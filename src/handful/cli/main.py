"""The command ``handful``: its commands, and what an error prints and exits with."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import handful
from handful.cli.compare import compare
from handful.cli.doctor import doctor
from handful.cli.export import export
from handful.cli.help import GroupedCommand
from handful.cli.listing import list_recipes, show_environment
from handful.cli.look import look
from handful.cli.measure import evaluate, predict
from handful.cli.messages import describe_error, exit_code, print_error
from handful.cli.show import show
from handful.cli.study import study
from handful.cli.train import train

app = typer.Typer(
    name="handful",
    help="Train PyTorch models in mini-batches, and look at what happened.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("train", cls=GroupedCommand)(train)
app.command("compare")(compare)
app.command("study")(study)
app.command("recipes")(list_recipes)
app.command("look")(look)
app.command("doctor")(doctor)
app.command("show")(show)
app.command("evaluate")(evaluate)
app.command("predict")(predict)
app.command("export")(export)
app.command("env")(show_environment)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"handful {handful.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
    debug: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--debug",
            help="Show the traceback of an error; so does HANDFUL_DEBUG=1.",
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments after the program's name; None for those of this process.

    Returns:
        The exit status: 0, or 2 for wrong usage, 130 after Ctrl-C, 1 for other errors.
    """
    if argv is None:
        argv = sys.argv[1:]
        _accept_any_character()
    # Taken out here, so that it may stand before the command and after it.
    debug = "--debug" in argv or os.environ.get("HANDFUL_DEBUG", "0") not in ("", "0")
    args = [argument for argument in argv if argument != "--debug"]
    try:
        result: Any = typer.main.get_command(app)(
            args=args, prog_name="handful", standalone_mode=False
        )
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        print_error(describe_error(error, debug=debug))
        return exit_code(error)
    return result if isinstance(result, int) else 0


def _accept_any_character() -> None:
    """Let output replace what the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
