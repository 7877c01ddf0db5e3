"""How much is run: a short form by default, the long one by ``scripts/faults``."""

from __future__ import annotations

import os

IS_LONG = os.environ.get("FAULTS_LONG") == "1"
SEED = int(os.environ.get("FAULTS_SEED", "0"))
"""Where the seeds begin."""


def choose(short: int, long: int) -> int:
    """Return one of two numbers of repetitions or seconds."""
    return long if IS_LONG else short


def seeds(short: int, long: int) -> range:
    """Return the seeds to go through, of the short and of the long form."""
    return range(SEED, SEED + choose(short, long))


NUM_KILLS = int(os.environ.get("FAULTS_KILLS") or choose(20, 500))
"""How many kills at random moments, over all trainings."""
