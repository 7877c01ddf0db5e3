"""The tables of the training benchmark, made from its JSON."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from measure import Spread, markdown_table, spread
from training_works import NOT_INSTALLED, OURS, PEERS

PARTS = ("imports", "preparation", "training")


@dataclass(frozen=True)
class Measured:
    """A side that was measured.

    Attributes:
        kind: Key of ``training_works.KINDS``.
        label: How tables call it.
        threads: Number of threads that it was given.
        runs: Its results, one a repeat.
    """

    kind: str
    label: str
    threads: int
    runs: list[dict[str, Any]]

    @property
    def seconds(self) -> list[float]:
        """How long the training took, one a repeat."""
        return [run["training"] for run in self.runs]

    @property
    def used_threads(self) -> str:
        """With how many threads it trained, in words."""
        used = sorted({str(run["threads"]) for run in self.runs})
        chosen = ", its choice" if self.kind in OURS else ""
        return f"{' or '.join(used)}{chosen}"


def render_page(results: dict[str, Any]) -> str:
    """Return everything that stands between the markers of the page."""
    comparisons = [entry for entry in results["comparisons"] if _measured(entry)]
    parts = [_describe(results)]
    if comparisons:
        rows = [row for entry in comparisons for row in _ratio_rows(entry)]
        head = ["training", "handful's side", "against", "handful, s", "other, s"]
        head += ["ratio", "floor", "aim"]
        parts += ["### How long handful takes", markdown_table(head, rows)]
    for entry in comparisons:
        parts += [f"### {entry['title']}", _side_table(entry)]
    missing = _missing(results["comparisons"])
    if missing:
        parts += ["### Trainings that failed", "\n".join(f"- {x}" for x in missing)]
    return "\n\n".join(parts)


def published_results(results: dict[str, Any]) -> dict[str, Any]:
    """Return the results without what belongs to one machine's folders."""
    short = copy.deepcopy(results)
    for entry in short["comparisons"]:
        for side in entry["sides"]:
            side.pop("python", None)
    return short


def pick_side(sides: Sequence[Measured], kind: str, threads: str) -> Measured | None:
    """Return the side of a kind with the wanted threads.

    Args:
        sides: All sides of a comparison.
        kind: Which to choose from.
        threads: ``"1"``; ``"default"``, the highest number; ``"best"``, the one with
            the lowest median.

    Returns:
        The side, or None if it was not measured.
    """
    found = [side for side in sides if side.kind == kind]
    if threads == "1":
        found = [side for side in found if side.threads == 1]
    if not found:
        return None
    if threads == "best":
        return min(found, key=lambda side: statistics.median(side.seconds))
    return max(found, key=lambda side: side.threads)


def ratio(ours: Measured, other: Measured) -> Spread:
    """Return how long ours takes where the other takes 1, repeat by repeat."""
    pairs = zip(ours.seconds, other.seconds, strict=True)
    return spread([mine / theirs for mine, theirs in pairs])


def _describe(results: dict[str, Any]) -> str:
    machine = results["machine"]
    lines = [
        f"Measured on {results['began'][:10]}: {machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB of memory, "
        f"{machine['system']}; {_packages(results)}. Medians of {results['repeats']} "
        f"repeats, in brackets the lowest and the highest. Load of the machine before "
        f"the run: {machine['load']}."
    ]
    if results["quick"]:
        lines.append("**A quick run: its figures mean nothing.**")
    return "\n\n".join(lines)


def _packages(results: dict[str, Any]) -> str:
    packages = dict(results["versions"])
    others = results.get("peers_versions", {})
    apart = {name: v for name, v in others.items() if packages.get(name) != v}
    said = ", ".join(f"{name} {version}" for name, version in packages.items())
    if apart:
        names = ", ".join(f"{name} {version}" for name, version in apart.items())
        said += f"; the other libraries with {names}"
    return said


def _ratio_rows(entry: dict[str, Any]) -> list[list[object]]:
    sides = _measured(entry)
    rows: list[list[object]] = []
    for line in entry["lines"]:
        limits = ["" if line[x] is None else f"{line[x]:g}" for x in ("floor", "aim")]
        ours = pick_side(sides, line["ours"], "default")
        other = pick_side(sides, line["against"], line["threads"])
        if ours is None or other is None:
            names = [line["ours"], line["against"], "-", "-", "not measured"]
            rows.append([entry["title"], *names, *limits])
            continue
        number = other.used_threads
        plural = "" if number == "1" else "s"
        against = f"{other.label}, {number} thread{plural}{_reason(line['threads'])}"
        if other.kind in OURS:
            against = other.label
        rows.append(
            [
                entry["title"],
                ours.label,
                against,
                *(_seconds(side.seconds) for side in (ours, other)),
                ratio(ours, other).format(".2f"),
                *limits,
            ]
        )
    return rows


def _reason(threads: str) -> str:
    return {"best": " (its best)", "default": " (the default)"}.get(threads, "")


def _side_table(entry: dict[str, Any]) -> str:
    """Return the table of all sides of a comparison."""
    sides = _measured(entry)
    ours = pick_side(sides, "everything", "default")
    rows: list[list[object]] = []
    for side in _shown(sides):
        parts = [[run[part] for run in side.runs] for part in PARTS]
        total = [sum(values) for values in zip(*parts, strict=True)]
        cells = [_seconds(values) for values in (*parts, total)]
        rows.append([side.label, side.used_threads, *cells, _compare(ours, side)])
        rows[-1] += [_median(side, name) for name in ("loss", "accuracy")]
    rows += [[label, "not installed", *[""] * 7] for label in _absent(entry)]
    head = ["side", "threads", "imports, s", "preparation, s", "training, s"]
    head += ["total, s", "handful / this", "final loss", "accuracy"]
    return markdown_table(head, rows)


def _shown(sides: list[Measured]) -> list[Measured]:
    """Return all sides, other libraries only with their best threads."""
    return [
        side
        for side in sides
        if side.kind not in PEERS or side is pick_side(sides, side.kind, "best")
    ]


def _compare(ours: Measured | None, side: Measured) -> str:
    if ours is None:
        return "-"
    return "1" if side is ours else ratio(ours, side).format(".2f")


def _seconds(values: Sequence[float]) -> str:
    """Return times with three digits or so."""
    middle = statistics.median(values)
    decimals = 1 if middle >= 10 else 2 if middle >= 1 else 3
    return spread(values).format(f".{decimals}f")


def _median(side: Measured, name: str) -> str:
    values = [run[name] for run in side.runs if run[name] is not None]
    return f"{statistics.median(values):.4g}" if values else ""


def _measured(entry: dict[str, Any]) -> list[Measured]:
    """Return the sides that were measured without failure."""
    return [
        Measured(side["kind"], side["label"], side["asked_threads"], side["runs"])
        for side in entry["sides"]
        if side["runs"] and not any("error" in run for run in side["runs"])
    ]


def _absent(entry: dict[str, Any]) -> list[str]:
    found = [side["label"] for side in entry["sides"] if _error(side) == NOT_INSTALLED]
    return list(dict.fromkeys(found))


def _missing(comparisons: list[dict[str, Any]]) -> list[str]:
    lines = []
    for entry in comparisons:
        if "error" in entry:
            lines.append(f"{entry['title']}: {entry['error']}")
        for side in entry["sides"]:
            if _error(side) not in (None, NOT_INSTALLED):
                given = f"{side['label']}, threads: {side['asked_threads']}"
                lines.append(f"{entry['title']}, {given}: {_error(side)}")
    return lines


def _error(side: dict[str, Any]) -> str | None:
    return next((run["error"] for run in side["runs"] if "error" in run), None)
