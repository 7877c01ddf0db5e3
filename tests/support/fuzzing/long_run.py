"""The long form: a million inputs for each parser, in processes, with counts kept.

Each chunk runs in a process of its own, so that a crash of the interpreter is seen and
named. The counts are written after each chunk, and a run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fuzzing.every import PARSERS

CHUNK = 20_000
"""Inputs of a process."""

CHUNK_SECONDS = 1200
"""A process that takes longer is ended, and counts as a failure."""

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parent.parent / "fuzz" / "corpus"
COUNTS = HERE.parent.parent / "fuzz" / "counts.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz; return 1 if anything failed."""
    arguments = _read_arguments(argv)
    counts = _load(arguments.counts)
    wanted = list(_chunks_to_do(arguments, counts))
    with ThreadPoolExecutor(arguments.processes) as pool:
        runs = (pool.submit(_run_chunk, arguments.seed, *work) for work in wanted)
        for name, chunk, found in (run.result() for run in list(runs)):
            _add(counts, name, chunk, found, seed=arguments.seed)
            _save(arguments.counts, counts)
            _tell(name, counts[name])
    return int(any(counts[name]["failures"] for name in arguments.parser if name))


def _read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument(
        "--parser", action="append", choices=list(PARSERS), help="default: all of them"
    )
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs for each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--counts", type=Path, default=COUNTS, help="a JSON file")
    arguments = parser.parse_args(argv)
    arguments.parser = arguments.parser or list(PARSERS)
    return arguments


def _chunks_to_do(
    arguments: argparse.Namespace, counts: dict[str, Any]
) -> Iterator[tuple[str, int, int]]:
    for name in arguments.parser:
        entry = counts.get(name, {})
        if entry.get("seed") != arguments.seed:
            counts.pop(name, None)
            entry = {}
        done = set(entry.get("chunks", []))
        for chunk, first in enumerate(range(0, arguments.count, CHUNK)):
            if chunk not in done:
                yield name, chunk, min(CHUNK, arguments.count - first)


def _run_chunk(
    seed: int, name: str, chunk: int, count: int
) -> tuple[str, int, dict[str, Any]]:
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="handful-fuzz-", dir=where) as folder:
        values = (name, seed, chunk, count, folder, CORPUS)
        command = [sys.executable, "-W", "ignore", "-m", "fuzzing.chunk"]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        environment.setdefault("OMP_NUM_THREADS", "1")
        try:
            done = subprocess.run(
                [*command, *map(str, values)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=CHUNK_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return name, chunk, _failed("the chunk took too long", seed, chunk)
    lines = done.stdout.splitlines()
    print(*lines[:-1], sep="\n", end="\n" * (len(lines) > 1))  # noqa: T201
    if done.returncode != 0:
        why = f"the process ended with {done.returncode}: {done.stderr[-300:]}"
        return name, chunk, _failed(why, seed, chunk)
    return name, chunk, json.loads(lines[-1])


def _failed(why: str, seed: int, chunk: int) -> dict[str, Any]:
    text = f"{why} (seed {seed}, chunk {chunk})"
    return {"read": 0, "refused": 0, "failures": [text], "seconds": 0.0}


def _add(
    counts: dict[str, Any], name: str, chunk: int, found: dict[str, Any], *, seed: int
) -> None:
    empty = {"read": 0, "refused": 0, "failures": [], "seconds": 0.0, "chunks": []}
    entry = counts.setdefault(name, {"seed": seed, **empty})
    for key in ("read", "refused", "seconds", "failures"):
        entry[key] += found[key]
    entry["seconds"] = round(entry["seconds"], 1)
    entry["chunks"] = sorted({*entry["chunks"], chunk})
    entry["date"] = time.strftime("%Y-%m-%d")
    entry["command"] = shlex.join(
        ["scripts/fuzz", "--parser", name, "--seed", str(seed)]
    )


def _tell(name: str, entry: dict[str, Any]) -> None:
    total = entry["read"] + entry["refused"]
    print(  # noqa: T201
        f"{name}: {total:,} inputs, {entry['read']:,} read, {entry['refused']:,} "
        f"refused, {len(entry['failures'])} failures, {entry['seconds']:.0f} s",
        flush=True,
    )


def _load(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _save(path: Path, counts: dict[str, Any]) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
