"""The training benchmark: loops written by hand and handful's Trainer, side by side.

``scripts/bench training`` measures everything and writes
``benchmarks/results/training.json``; ``--write-docs`` fills the table of
docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import (
    Job,
    Side,
    describe_machine,
    markdown_table,
    now,
    replace_between,
    run_interleaved,
    spread,
    values_by_threads,
    write_json,
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "training.json"
PAGE = HERE.parent / "docs" / "performance.md"


@dataclass(frozen=True)
class Comparison:
    """A training, and what it is compared with.

    Attributes:
        title: What the table calls it.
        work: Its name in training_works.py.
        batch_size: Samples a step.
        epochs: Passes.
        sides: Ours and the other, as training_works.py knows them.
        floor: The ratio of times that has to be met.
        aim: The one to go for.
    """

    title: str
    work: str
    batch_size: int
    epochs: int
    floor: float
    aim: float
    sides: tuple[str, str] = ("everything", "by hand")


COMPARISONS = {
    "wine": Comparison("Wine 13-10-10-3, Adam, batch 32", "wine", 32, 200, 0.45, 0.34),
    "mnist": Comparison(
        "MNIST 784-128-10, Adam, batch 32, validated", "mnist", 32, 5, 0.55, 0.45
    ),
    "regression-1": Comparison(
        "one feature, SGD, batch 1", "regression", 1, 50, 0.8, 0.4
    ),
    "regression-10": Comparison(
        "one feature, SGD, batch 10", "regression", 10, 200, 0.8, 0.4
    ),
    "regression-100": Comparison(
        "one feature, SGD, batch 100", "regression", 100, 1000, 0.8, 0.4
    ),
    "cnn": Comparison(
        "small CNN on Fashion-MNIST, batch 128, validated", "cnn", 128, 1, 1.0, 0.9
    ),
    "everything": Comparison(
        "MNIST, everything on against off",
        "mnist",
        32,
        5,
        1.05,
        1.02,
        ("everything", "off"),
    ),
}


def measure(comparison: Comparison, *, repeats: int, threads: list[int]) -> list[Side]:
    """Measure both sides of a comparison."""
    sides = [Side(name, name) for name in comparison.sides]

    def make_job(side: Side, num_threads: int) -> Job:
        spec = {
            "work": comparison.work,
            "side": side.name,
            "batch_size": comparison.batch_size,
            "epochs": comparison.epochs,
            "seed": len(side.runs),
        }
        return Job(HERE / "training_works.py", spec, num_threads)

    run_interleaved(sides, make_job, threads=threads, repeats=repeats)
    return sides


def summarise(comparison: Comparison, sides: list[Side]) -> dict[str, Any]:
    """Return the figures of a comparison, for JSON and the table."""
    ours, other = sides
    if ours.error or other.error:
        return {"title": comparison.title, "error": ours.error or other.error}
    seconds = [values_by_threads(side, lambda run: run["seconds"]) for side in sides]
    # Ours decides on its threads by itself: the process has all of them.
    most = max(seconds[0])
    return {
        "title": comparison.title,
        "floor": comparison.floor,
        "aim": comparison.aim,
        "ours_threads": sorted({r.get("chosen_threads") for r in ours.runs}, key=str),
        "seconds": [dict(values) for values in seconds],
        "ratios": {
            threads: [a / b for a, b in zip(seconds[0][most], values, strict=True)]
            for threads, values in seconds[1].items()
        },
        "loss": [statistics.median(r["loss"] for r in side.runs) for side in sides],
        "accuracy": [_median_accuracy(side) for side in sides],
    }


def make_table(results: dict[str, Any]) -> str:
    """Return the table of all comparisons."""
    head = ["training", "against", "ours, s", "theirs, s", "ratio", "floor, aim"]
    head += ["final loss, ours / theirs", "accuracy, ours / theirs"]
    rows: list[list[object]] = []
    for entry in results["comparisons"].values():
        if "error" in entry:
            rows.append([entry["title"], entry["error"], *[""] * 6])
            continue
        ours = entry["seconds"][0]
        most = max(ours, key=int)
        for threads, ratios in entry["ratios"].items():
            accuracies = entry["accuracy"]
            rows.append(
                [
                    entry["title"],
                    f"{threads} thread{'s' if int(threads) > 1 else ''}",
                    spread(ours[most]).format(".2f"),
                    spread(entry["seconds"][1][threads]).format(".2f"),
                    spread(ratios).format(".2f"),
                    f"{entry['floor']}, {entry['aim']}",
                    " / ".join(f"{loss:.4f}" for loss in entry["loss"]),
                    " / ".join(f"{a:.4f}" for a in accuracies if a is not None),
                ]
            )
    machine = results["machine"]
    said = (
        f"Measured {results['finished']} on {machine['processor']}, "
        f"{machine['cores']} cores, {results['repeats']} repeats."
    )
    return f"{said}\n\n{markdown_table(head, rows)}"


def main() -> None:
    """Measure, write the results, print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench training", description=__doc__)
    parser.add_argument("--only", default=",".join(COMPARISONS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--from", dest="source", type=Path, metavar="JSON")
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    if options.source:
        results = json.loads(options.source.read_text(encoding="utf-8"))
    else:
        results = {"machine": describe_machine(), "repeats": options.repeats}
        results["comparisons"] = {}
        threads = [int(text) for text in options.threads.split(",")]
        for name in options.only.split(","):
            print(name, flush=True)
            comparison = COMPARISONS[name]
            sides = measure(comparison, repeats=options.repeats, threads=threads)
            results["comparisons"][name] = summarise(comparison, sides)
            results["finished"] = now()
            write_json(options.out, results)
    table = make_table(results)
    print(table)
    if options.write_docs:
        replace_between(PAGE, "training", table)


def _median_accuracy(side: Side) -> float | None:
    values = [run["accuracy"] for run in side.runs]
    return None if None in values else statistics.median(values)


if __name__ == "__main__":
    main()
