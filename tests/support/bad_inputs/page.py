"""The page of bad inputs, docs/bad_inputs.md: made here, and compared by a test.

::

    python -m bad_inputs.page

writes it anew; so does ``scripts/bad-inputs``.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bad_inputs.answers import Answer, all_cases, key_of
from bad_inputs.case import Case

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "bad_inputs.md"
COUNTS = ROOT / "tests" / "fuzz" / "counts.json"

LONGEST = 300
"""Of a sentence on the page; longer ones lose their middle there."""

_INTRODUCTION = """\
# What bad input gets

Wrong arguments, configuration, data and checkpoints are answered by one sentence that
names what is wrong, what was found and what to do, and by an exit status: 2 for wrong
use, 1 for data or a run that cannot be used. Nothing is written, and what was there
stays as it was. Arguments, configuration and what shows in names and headers are
checked before torch is imported.

The tables below are made by `scripts/bad-inputs`, which gives each input to the real
command line; a test does the same and compares. In each case the test also compares
every file of the folder, byte for byte, with what was there before. Where the exit
status is 0 the input is no fault, and is trained on.
"""

_FUZZING = """\
## Parsers

Each parser is also given files that nobody thought of: valid ones, changed by a seeded
draw (bits flipped, pieces cut, doubled and joined, numbers made huge or negative, types
of JSON changed). It must read them or raise one of handful's errors: no other
exception, no crash, none that takes more than 5 s, and no more than 512 MiB of memory
beyond that of the start. Inputs that failed once are kept in `tests/fuzz/corpus` and
read by each run of the tests. The counts are those of the last long run, which aims at
a million inputs for each; where there are fewer it was stopped, and its command goes
on:

| parser | inputs | read | refused | failed | date | command |
|---|---|---|---|---|---|---|
"""

_SECURITY = """\
## What a file cannot do

- Nothing is unpickled freely or evaluated: checkpoints are safetensors and JSON, `.npy`
  and `.npz` files with Python objects are refused, YAML makes plain values only, and
  files of `torch.save` are read with `weights_only=True`.
- A checkpoint is read from the files of its own folder, whose names are handful's own;
  names in its manifest are looked up, never followed. Archives (`.npz`) are read in
  place and never unpacked.
- A download counts only if its size and SHA-256 are those that handful knows.
- A CSV list of images may name any file, `../` included: it is the user's list, as a
  program is. Do not train on a list that you would not open the files of.
- A recipe in a file is a Python program. `train --resume`, `evaluate` and `predict` run
  the recipe that the run's `config.yaml` names: on a run of somebody else, look at that
  line first. `show` reads files alone.
"""


def ask_all(which: str) -> list[Answer]:
    """Run all cases that come before torch (``"plain"``) or after (``"torch"``)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bad_inputs.answers", folder, which]
        path = os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT / "src")])
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return [Answer(**values) for values in json.loads(done.stdout)]


def write_page(answers: Iterable[Answer], counts: dict[str, Any]) -> str:
    """Return the page.

    Args:
        answers: Those of all cases.
        counts: What the long form of fuzzing counted.
    """
    found = {answer.title: answer for answer in answers}
    blocks = [_INTRODUCTION]
    cases = sorted(all_cases(), key=lambda case: case.group)
    for group, members in itertools.groupby(cases, key=lambda case: case.group):
        blocks.append(_write_group(group, list(members), found))
    return "\n".join([*blocks, _write_counts(counts), _SECURITY])


def read_counts() -> dict[str, Any]:
    """Return what the last long run counted."""
    return dict(json.loads(COUNTS.read_text())) if COUNTS.exists() else {}


def _write_group(group: str, cases: Sequence[Case], found: dict[str, Answer]) -> str:
    rows = [
        f"## {group}",
        "",
        "| input | command | exit | answer |",
        "|---|---|---|---|",
    ]
    for case in cases:
        answer = found[key_of(case)]
        said = answer.err.strip().removeprefix("handful: ") if case.code else "trained"
        cells = (case.title, f"`handful {_short(case.command, 80)}`", str(answer.code))
        rows.append(f"| {' | '.join(map(_cell, (*cells, _short(said, LONGEST))))} |")
    return "\n".join([*rows, ""])


def _write_counts(counts: dict[str, Any]) -> str:
    from fuzzing.every import PARSERS

    rows = []
    for name, parser in PARSERS.items():
        entry = counts.get(name)
        if entry is None:
            rows.append(f"| {parser.what} | not run | | | | | |")
            continue
        total = entry["read"] + entry["refused"] + len(entry["failures"])
        numbers = (total, entry["read"], entry["refused"], len(entry["failures"]))
        shown = " | ".join(f"{number:,}" for number in numbers)
        command = entry["command"]
        rows.append(f"| {parser.what} | {shown} | {entry['date']} | `{command}` |")
    return _FUZZING + "\n".join([*rows, ""])


def _cell(text: str) -> str:
    for mark in ("|", "*", "_", "[", "<", "$"):
        if not text.startswith("`"):
            text = text.replace(mark, f"\\{mark}")
    return text.replace("|", "\\|") if text.startswith("`") else text


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 40]}…{text[-39:]}"


def main() -> None:
    """Write the page anew."""
    answers = [*ask_all("plain"), *ask_all("torch")]
    PAGE.write_text(write_page(answers, read_counts()), encoding="utf-8")


if __name__ == "__main__":
    main()
