"""What lessons say of a value over several seeds: its mean, its spread, a verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from handful.lessons.shuffling import SIGNIFICANT, sign_test


def format_spread(values: ArrayLike, digits: int = 4) -> str:
    """Write mean ± standard deviation of the sample; a single value without.

    Args:
        values: Shape ``(S,)``, one or more.
        digits: Significant digits of the mean; the deviation has two.

    Example:
        >>> format_spread([1.0, 2.0, 3.0]), format_spread([0.25])
        ('2 ± 1', '0.25')
    """
    found = np.asarray(values, np.float64)
    mean = f"{found.mean():.{digits}g}"
    return mean if len(found) == 1 else f"{mean} ± {found.std(ddof=1):.2g}"


def judge_pairs(name: str, values: Sequence[float], others: Sequence[float]) -> str:
    """Say whether one setting's values are lower than another's, paired by seed.

    Args:
        name: What is compared: ``"validation loss, batch size 1 against full"``.
        values: Shape ``(S,)``, one or more.
        others: The other setting's, shape ``(S,)``, in the same order of seeds.

    Returns:
        A sentence with the mean difference and the two-sided sign test.

    Example:
        >>> judge_pairs("loss, a against b", [1.0], [2.0])
        'loss, a against b: -1; one seed cannot tell.'
    """
    differences = np.subtract(values, others)
    told = f"{name}: {format_spread(differences, 2)}"
    if len(differences) == 1:
        return f"{told}; one seed cannot tell."
    lower, higher = int((differences < 0).sum()), int((differences > 0).sum())
    chance = sign_test(lower, higher)
    verdict = "not told apart"
    if chance <= SIGNIFICANT:
        verdict = "lower" if lower > higher else "higher"
    return (
        f"{told}; lower in {lower} of {len(differences)} seeds, {verdict} "
        f"(sign test, p = {chance:.2g})."
    )
