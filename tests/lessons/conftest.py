"""Lessons run once for a file: its ``run``, with its ``SEED`` where it has one."""

from __future__ import annotations

import pytest

from handful.lessons.lesson import LessonOptions, LessonResult

SEED = 3


def _run(request: pytest.FixtureRequest, *, as_printed: bool) -> LessonResult:
    seed = getattr(request.module, "SEED", SEED)
    options = LessonOptions(quick=True, seed=seed, as_printed=as_printed)
    return request.module.run(options)


@pytest.fixture(scope="module")
def corrected(request: pytest.FixtureRequest) -> LessonResult:
    return _run(request, as_printed=False)


@pytest.fixture(scope="module")
def as_printed(request: pytest.FixtureRequest) -> LessonResult:
    return _run(request, as_printed=True)
