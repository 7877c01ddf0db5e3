"""Help of a command with many options: plain text, grouped under headings."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

DEFAULT_GROUP = "Options"


class GroupedCommand(TyperCommand):
    """A command whose help has a heading for each ``rich_help_panel`` of its options.

    Headings stand in the order in which they first come; `DEFAULT_GROUP` has what
    names no panel, and stands last.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            is_argument = param.param_type_name == "argument"
            panel = getattr(param, "rich_help_panel", None) or DEFAULT_GROUP
            heading = "Arguments" if is_argument else panel
            groups.setdefault(heading, []).append(record)
        last = groups.pop(DEFAULT_GROUP, [])
        for heading, records in {**groups, DEFAULT_GROUP: last}.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
