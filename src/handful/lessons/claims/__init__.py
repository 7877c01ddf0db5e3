"""Claims of the tutorials, each tested by an experiment."""

from __future__ import annotations

from handful.lessons.claims.page import run

__all__ = ["run"]
