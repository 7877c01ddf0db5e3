"""The page of claims: every experiment run once, every claim judged, written down."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handful.lessons.claims.claim import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    Bench,
    Claim,
    Finding,
)
from handful.lessons.claims.judge_loading import NEAR
from handful.lessons.claims.of_batching import CLAIMS as BATCHING
from handful.lessons.claims.of_notes import CLAIMS as NOTES
from handful.lessons.claims.of_regimes import CLAIMS as REGIMES
from handful.lessons.claims.of_training import CLAIMS as TRAINING
from handful.lessons.claims.of_wine import CLAIMS as WINE
from handful.lessons.claims.sizes import measure_sizes
from handful.lessons.lesson import LessonOptions, LessonResult
from handful.runs.files import write_atomic
from handful.train.threads import restored_threads

CLAIMS: tuple[Claim, ...] = (*WINE, *NOTES, *REGIMES, *BATCHING, *TRAINING)
"""All of them, tutorial by tutorial, in the order of their lines."""

QUICK_NOTE = (
    "**Quick run: a small part of the work, to see that everything runs. "
    "Its figures mean nothing; not for the documentation.**"
)

CORRECTION = (
    "The tutorials state these sentences without a measurement; some of them hold only "
    "under a condition that they don't name, and some don't hold."
)


@dataclass(kw_only=True)
class ClaimsResult(LessonResult):
    """A lesson's result with the page.

    Attributes:
        page: The page, in Markdown.
    """

    page: str = ""

    def save(self, folder: Path) -> list[Path]:
        """Write the page, ``claims.md``, beside figures and numbers."""
        files = super().save(folder)
        path = folder / "claims.md"
        write_atomic(path, self.page.encode())
        return [*files, path]


def run(options: LessonOptions) -> LessonResult:
    """Test every claim of the tutorials.

    Args:
        options: ``seed`` is the first of the seeds; ``quick`` marks the page as one
            that means nothing; ``as_printed`` lists the claims beside the verdicts as
            every run does.

    Returns:
        ``verdicts``: how many of each; ``claims``: ``tutorial``, ``lines``, ``claim``,
        ``verdict`` and ``figures`` of each; ``sizes``: what `measure_sizes` returns.
    """
    bench = Bench(seed=options.seed, quick=options.quick)
    with restored_threads():
        torch.set_num_threads(1)
        findings = [claim.judge(bench.run(claim.experiment)) for claim in CLAIMS]
        sizes = bench.run(measure_sizes)
    counts = Counter(map(_classify, findings))
    rows = list(zip(CLAIMS, findings, strict=True))
    return ClaimsResult(
        lines=[
            *(
                f"{_cite(c)}: {c.text} {f.verdict.upper()}: {f.figures}"
                for c, f in rows
            ),
            f"{len(rows)} claims: " + ", ".join(f"{n} {v}" for v, n in counts.items()),
        ],
        numbers={
            "verdicts": dict(counts),
            "claims": [_describe(claim, finding) for claim, finding in rows],
            "sizes": sizes,
        },
        correction=CORRECTION,
        page=write_page(rows, sizes, quick=options.quick),
    )


def _classify(finding: Finding) -> str:
    known = finding.verdict in (HOLDS, FAILS, NOT_MEASURED)
    return finding.verdict if known else "holds when …"


def _cite(claim: Claim) -> str:
    word = "lines" if "-" in claim.lines else "line"
    return f"{claim.tutorial}, {word} {claim.lines}"


def _describe(claim: Claim, finding: Finding) -> dict[str, Any]:
    return {
        "tutorial": claim.tutorial,
        "lines": claim.lines,
        "claim": claim.text,
        "experiment": claim.experiment.__name__,
        **vars(finding),
    }


def write_page(
    rows: Sequence[tuple[Claim, Finding]], sizes: Mapping[str, Any], *, quick: bool
) -> str:
    """Write the page.

    Args:
        rows: Claims and what was found.
        sizes: What `measure_sizes` returns.
        quick: Whether it is marked as a quick run's.

    Returns:
        Markdown: a head, a table a tutorial, the table of batch sizes.
    """
    parts = [_write_head(rows, quick=quick)]
    for tutorial in dict.fromkeys(claim.tutorial for claim, _ in rows):
        own = [(c, f) for c, f in rows if c.tutorial == tutorial]
        parts.append(f"## {tutorial}\n\n{_write_table(own)}")
    parts.append(_write_sizes(sizes))
    return "\n\n".join(parts) + "\n"


def _write_head(rows: Sequence[tuple[Claim, Finding]], *, quick: bool) -> str:
    counts = Counter(_classify(finding) for _, finding in rows)
    told = "; ".join(f"{verdict}: {count}" for verdict, count in counts.items())
    note = f"{QUICK_NOTE}\n\n" if quick else ""
    return (
        "# What the tutorials claim, measured\n\n"
        f"{note}Each sentence and table row of the four tutorials that can be "
        "measured, in our words, with what an experiment says of it. A figure over "
        "seeds or rounds is the median, with the least and the greatest in brackets. "
        "Verdicts are computed from the figures.\n\n"
        f"{len(rows)} claims: {told}.\n\n"
        f"Measured on {date.today()} with PyTorch {torch.__version__.split('+')[0]} "
        f"and Python {platform.python_version()}, one thread of a CPU "
        f"({platform.machine()}). `handful study claims` repeats it. Seconds are this "
        "machine's; what they say of each other is the point."
    )


def _write_table(rows: Sequence[tuple[Claim, Finding]]) -> str:
    lines = ["| line | claim | verdict | figures | experiment |", "|--|--|--|--|--|"]
    for claim, finding in rows:
        cells = (
            claim.lines.replace("-", "\N{EN DASH}"),
            claim.text,
            f"**{finding.verdict}**",
            finding.figures,
            f"`{claim.experiment.__name__}`",
        )
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def _write_sizes(sizes: Mapping[str, Any]) -> str:
    """Write the seconds to the target by number of samples and batch size."""
    shown = sorted(
        {int(size) for row in sizes.values() for size in row["times"]}
        - {row["count"] for row in sizes.values()}
    )
    head = ["data", "target", *(f"{size:,}" for size in shown), "all", "best", "good"]
    lines = [f"| {' | '.join(head)} |", "|--" * len(head) + "|"]
    lines += [_write_row(name, row, shown) for name, row in sizes.items()]
    return (
        "## Which batch size reaches a target soonest\n\n"
        "Seconds of training alone until the training loss is at the target, the "
        "median of three seeds, by batch size; Adam with the best of four rates for "
        "each, a perceptron with one hidden layer of 64. A dash: not within a second; "
        "an empty place: not tried. Good are the sizes, from least to greatest, "
        f"that take at most {NEAR} times as long as the best.\n\n" + "\n".join(lines)
    )


def _write_row(name: str, row: Mapping[str, Any], shown: Sequence[int]) -> str:
    times = {int(size): _middle(one) for size, one in row["times"].items()}
    cells = [name, f"{row['goal']:g}"]
    for size in (*shown, row["count"]):
        cells.append(_write_time(times[size]) if size in times else "")
    best = min(times, key=lambda size: times[size])
    if times[best] == np.inf:
        return f"| {' | '.join([*cells, 'none', ''])} |"
    good = [size for size, seconds in times.items() if seconds <= NEAR * times[best]]
    span = "\N{EN DASH}".join(f"{size:,}" for size in sorted({min(good), max(good)}))
    return f"| {' | '.join([*cells, f'{best:,}', span])} |"


def _middle(one: Mapping[str, Any]) -> float:
    found = np.asarray(one["seconds"])
    return float(np.median(found)) if np.isfinite(found).all() else np.inf


def _write_time(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < np.inf else "\N{EN DASH}"
