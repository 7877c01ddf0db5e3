"""All parsers that are fuzzed, by name."""

from __future__ import annotations

from fuzzing import of_files, of_runs, of_settings
from fuzzing.parser import Parser

PARSERS: dict[str, Parser] = {
    parser.name: parser
    for parser in (*of_files.PARSERS, *of_settings.PARSERS, *of_runs.PARSERS)
}
"""Name -> parser."""
