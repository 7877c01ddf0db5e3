"""The lesson of a test file, run once, with the file's ``SEED`` where it has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from handful.lessons.lesson import LessonOptions, LessonResult
from handful.lessons.registry import load_lesson

SEED = 3


def _run(request: pytest.FixtureRequest, *, as_printed: bool) -> LessonResult:
    name = Path(request.module.__file__).stem.removeprefix("test_").replace("_", "-")
    seed = getattr(request.module, "SEED", SEED)
    options = LessonOptions(quick=True, seed=seed, as_printed=as_printed)
    return load_lesson(name)(options)


@pytest.fixture(scope="module")
def corrected(request: pytest.FixtureRequest) -> LessonResult:
    return _run(request, as_printed=False)


@pytest.fixture(scope="module")
def as_printed(request: pytest.FixtureRequest) -> LessonResult:
    return _run(request, as_printed=True)
