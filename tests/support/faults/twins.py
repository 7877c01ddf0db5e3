"""What the fixtures of faults hand out: trainings, and runs that nobody disturbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.processes import Job

Train = Callable[..., Job]


@dataclass(frozen=True)
class Twin:
    """A run that nobody disturbed.

    Attributes:
        path: Its folder.
        state: What another run must end with; see `evidence.last_state`.
        seconds: How long it took.
        num_steps: Its steps.
    """

    path: Path
    state: dict[str, Any]
    seconds: float
    num_steps: int
