"""What the command line answers to each bad input.

::

    python -m bad_inputs.answers FOLDER torch|plain

prints a list as JSON. Each case has a folder of its own, all are run by the real
program's `main` in one process: starting one for each would take seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bad_inputs import of_arrays, of_commands, of_images, of_tables
from bad_inputs.case import Case


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a case.

    Attributes:
        title: Group and title of the case.
        code: Exit status.
        out: What was printed on standard output.
        err: And on standard error.
        changed: Files and folders that are new, gone or have another content.
        has_torch: Whether torch was imported by then.
        seconds: How long it took.
    """

    title: str
    code: int
    out: str
    err: str
    changed: list[str]
    has_torch: bool
    seconds: float


def key_of(case: Case) -> str:
    """Return what tells a case from the others."""
    return f"{case.group}: {case.title}"


def all_cases() -> list[Case]:
    """Return every case."""
    from bad_inputs import of_checkpoints  # imports torch

    return [*plain_cases(), *of_checkpoints.CASES]


def plain_cases() -> list[Case]:
    """Return the cases whose files are made without torch."""
    modules = (of_commands, of_arrays, of_tables, of_images)
    return [case for module in modules for case in module.CASES]


def ask(case: Case, folder: Path) -> Answer:
    """Run a case in a folder, which becomes the current one."""
    from handful.cli.main import main

    folder.mkdir(parents=True)
    os.chdir(folder)
    case.make(folder)
    before = snapshot(folder)
    out, err = io.StringIO(), io.StringIO()
    started = time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(case.command.split())
    seconds = time.monotonic() - started
    after = snapshot(folder)
    names = sorted({*before, *after})
    return Answer(
        title=key_of(case),
        code=code,
        out=out.getvalue(),
        err=err.getvalue(),
        changed=[name for name in names if before.get(name) != after.get(name)],
        has_torch="torch" in sys.modules,
        seconds=round(seconds, 2),
    )


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file below a folder, None of folders and locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


def main(argv: Sequence[str]) -> None:
    """Run the cases that come before torch, or those after."""
    folder, which = Path(argv[0]).resolve(), argv[1]
    is_plain = which == "plain"
    cases = plain_cases() if is_plain else all_cases()
    chosen = [case for case in cases if case.needs_torch is not is_plain]
    answers = [ask(c, folder / which / str(n)) for n, c in enumerate(chosen)]
    json.dump([asdict(answer) for answer in answers], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
