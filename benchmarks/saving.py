"""What saving costs: a training that saves every so many steps, and one that doesn't.

Both sides are the same training in processes of their own, in turn. The clock runs from
step 50 to the last one, so that it sees every checkpoint but the one at the end, which
both have. `scripts/bench saving --help` lists the options.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import (
    Job,
    Side,
    describe_machine,
    markdown_table,
    now,
    run_interleaved,
    run_job,
    spread,
    values_by_threads,
    write_json,
)

HERE = Path(__file__).parent
NEVER, OFTEN = "records", "steps"


def main() -> int:
    """Measure, print a table and write the results."""
    args = read_arguments()
    every = f"{args.every}steps"
    batch_sizes = {
        count: run_job(Job(HERE / "saving_works.py", {"step_ms": args.step_ms}, count))
        for count in args.threads
    }
    sides = [Side(NEVER, "saves at the end"), Side(OFTEN, f"saves every {every}")]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:

        def make_job(side: Side, threads: int) -> Job:
            spec = {
                **batch_sizes[threads],
                "steps": args.steps,
                "save_every": every if side.name == OFTEN else NEVER,
                "folder": folder,
            }
            return Job(HERE / "saving_works.py", spec, threads)

        run_interleaved(sides, make_job, threads=args.threads, repeats=args.repeats)
    if any(side.error for side in sides):
        return 1
    print(describe(sides, args.threads))
    write_json(
        args.out,
        {
            "time": now(),
            "machine": describe_machine(),
            "every_steps": args.every,
            "batch_sizes": batch_sizes,
            "sides": [{"name": side.name, "runs": side.runs} for side in sides],
        },
    )
    return 0


def read_arguments() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step-ms", type=float, default=20, help="what a step takes")
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--every", type=int, default=100, help="steps")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="for the runs")
    parser.add_argument("--out", type=Path, default=Path("build/saving.json"))
    return parser.parse_args()


def describe(sides: list[Side], threads: list[int]) -> str:
    """Return a table: a row for each number of threads."""
    never, often = (
        values_by_threads(side, lambda run: 1000 * run["step_seconds"])
        for side in sides
    )
    longest = values_by_threads(sides[1], lambda run: 1000 * run["longest_seconds"])
    size = sides[1].runs[0]["bytes"] / 1e6
    rows = []
    for count in threads:
        ratios = [
            100 * (b / a - 1) for a, b in zip(never[count], often[count], strict=True)
        ]
        rows.append(
            [
                count,
                spread(never[count]).format(".2f"),
                spread(often[count]).format(".2f"),
                spread(ratios).format(".1f"),
                spread(longest[count]).format(".0f"),
            ]
        )
    head = ["threads", "ms a step", "ms, saving", "more, %", "longest step, ms"]
    return f"checkpoint: {size:.0f} MB\n\n{markdown_table(head, rows)}"


if __name__ == "__main__":
    sys.exit(main())
