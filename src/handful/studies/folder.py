"""A study's folder while its trials run: a line per row, safe against a kill."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from handful.errors import ArgumentError, HandfulError, RunError
from handful.runs.files import to_json, write_atomic
from handful.runs.folder import lock_file
from handful.runs.study import Study, read_rows
from handful.runs.study_row import Row, row_to_json


class StudyFolder:
    """Writes a study's folder; made by `open_folder`.

    Args:
        path: The folder, which holds a study.
        lock: Its lock, held.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock

    def append(self, row: Row) -> None:
        """Add a row; a kill leaves the whole line, or a part that is left out later."""
        with (self.path / "rows.jsonl").open("ab") as file:
            file.write(row_to_json(row).encode() + b"\n")

    def describe(self, study: Study) -> None:
        """Write what the study says of itself anew."""
        _write_description(self.path, study)

    def close(self) -> None:
        """Give up the lock."""
        self._lock.release()


def open_folder(path: Path, study: Study, *, resume: bool) -> StudyFolder:
    """Open a folder for a study, and take the rows that it has.

    Rows of trials that failed are left out, so that these are tried again.

    Args:
        path: A new or an empty folder, or that of a study.
        study: The study; rows found are added to it.
        resume: Whether a study in the folder goes on.

    Returns:
        The folder, locked.

    Raises:
        ArgumentError: It holds a study, and ``resume`` is false or its arguments are
            others.
        RunError: It holds something else, can't be written or read, or is in use.
    """
    holds_study = (path / "study.json").is_file()
    _check_folder(path, holds_study=holds_study, resume=resume)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = lock_file(path / "lock", "comparison", "out=")
    except OSError as error:
        if isinstance(error, HandfulError):
            raise
        raise RunError(
            f"{path} cannot be written: {error.strerror}. "
            "Choose another folder with --out (out=)."
        ) from None
    try:
        if holds_study:
            _take_rows(path, study)
        else:
            _write_description(path, study)
    except BaseException:
        lock.release()
        raise
    study.path = path
    return StudyFolder(path, lock)


def _write_description(path: Path, study: Study) -> None:
    content = to_json(study.describe(), indent=2).encode() + b"\n"
    write_atomic(path / "study.json", content)


def _check_folder(path: Path, *, holds_study: bool, resume: bool) -> None:
    if holds_study and not resume:
        raise ArgumentError(
            f"out must be a new folder with resume=False; {str(path)!r} holds a study. "
            "Go on with it by resume=True, or choose another folder."
        )
    if holds_study or not path.exists():
        return
    if not path.is_dir() or any(p.name != "lock" for p in path.iterdir()):
        raise RunError(f"{path} must be a new or an empty folder, or a study's.")


def _take_rows(path: Path, study: Study) -> None:
    stored = Study.load(path)
    _check_same(path, stored, study)
    study.populations = stored.populations
    found = read_rows(path / "rows.jsonl")  # in the order in which they ended
    study.rows = [row for row in found if row.status != "failed"]
    lines = b"".join(row_to_json(row).encode() + b"\n" for row in study.rows)
    write_atomic(path / "rows.jsonl", lines)  # without a last line cut short


def _check_same(path: Path, stored: Study, study: Study) -> None:
    # Both as they are read from a file: lists for tuples.
    before, now = stored.arguments(), study.arguments()
    differing = [n for n in now if to_json(before[n]) != to_json(now[n])]
    if not differing:
        return
    shown = "; ".join(_describe_difference(n, before[n], now[n]) for n in differing)
    raise ArgumentError(
        f"out must be a new folder or a study of the same arguments; in {str(path)!r} "
        f"is another: {shown}. Choose another folder."
    )


def _describe_difference(name: str, before: object, now: object) -> str:
    """Say what differs, of mappings only the keys that do."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        if keys:
            before = {k: before[k] for k in keys if k in before}
            now = {k: now[k] for k in keys if k in now}
    return f"{name} was {to_json(before)}, is {to_json(now)}"
