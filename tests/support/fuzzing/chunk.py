"""A chunk of inputs, in a process of its own: what came of each.

::

    python -m fuzzing.chunk PARSER SEED CHUNK COUNT FOLDER CORPUS

prints counts as a line of JSON, a line before it for each failure. An input is a
function of parser, seed, chunk and its place: the same numbers give the same inputs.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fuzzing.every import PARSERS
from fuzzing.parser import Parser, answer

MOST_SECONDS = 5
"""An input that takes twice as long hangs."""

MOST_BYTES = 2**29
"""How much memory beyond that of the start a chunk may ask for; no input is larger than
some kilobytes."""

MOST_FAILURES = 20

MOST_SHOWN = 400
"""Bytes of a failing input that are printed; the corpus keeps it whole."""


class _Alarm:
    """Raises `HangError` at the second alarm in a row.

    The first may come of a process that was suspended for a while.
    """

    def __init__(self) -> None:
        self.is_second = False

    def set(self) -> None:
        """Begin anew, with an input."""
        self.is_second = False
        signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)

    def ring(self, *_: object) -> None:
        """Take an alarm."""
        if self.is_second:
            raise HangError
        self.is_second = True
        signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)


_ALARM = _Alarm()


class HangError(BaseException):
    """An input took too long; no parser catches it."""


def run_chunk(
    parser: Parser, *, seed: int, chunk: int, count: int, folder: Path, corpus: Path
) -> dict[str, object]:
    """Read mutated inputs; keep those that fail in the corpus.

    Args:
        parser: What reads them.
        seed: Decides the inputs.
        chunk: Number of the chunk.
        count: Inputs of the chunk.
        folder: Where files are written; on a file system in memory.
        corpus: The folder of the parser's corpus.

    Returns:
        ``read``, ``refused``, ``failures`` and ``seconds``.
    """
    signal.signal(signal.SIGALRM, _ALARM.ring)
    rng = random.Random(f"{parser.name} {seed} {chunk}")
    seeds = [*parser.make_seeds(folder), *read_corpus(corpus)]
    counts: dict[str, object] = {"read": 0, "refused": 0}
    failures: list[str] = []
    started = time.monotonic()
    for _ in range(count):
        data = parser.mutate(rng, rng.choice(seeds), seeds)
        reason = _try(parser, folder, data, counts)
        if reason is not None:
            failures.append(reason)
            _keep(corpus, data)
            shown = data[:MOST_SHOWN].hex() + "..." * (len(data) > MOST_SHOWN)
            print(f"{reason}\n  input {shown}", flush=True)  # noqa: T201
            if len(failures) >= MOST_FAILURES:
                break
    seconds = time.monotonic() - started
    return {**counts, "failures": failures, "seconds": round(seconds, 3)}


def read_corpus(folder: Path) -> list[bytes]:
    """Return the kept inputs of a parser."""
    return [path.read_bytes() for path in sorted(folder.glob("*.bin"))]


def limit_memory() -> None:
    """Let this process have no more memory than it has, and `MOST_BYTES`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _try(
    parser: Parser, folder: Path, data: bytes, counts: dict[str, object]
) -> str | None:
    _ALARM.set()
    try:
        counts[answer(parser, folder, data)] += 1  # type: ignore[operator]
    except HangError:
        return f"took more than {2 * MOST_SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def _keep(corpus: Path, data: bytes) -> None:
    import hashlib

    corpus.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(data).hexdigest()[:12]
    (corpus / f"{name}.bin").write_bytes(data)


def main(argv: Sequence[str]) -> None:
    """Run a chunk that the arguments name."""
    name, seed, chunk, count, folder, corpus = argv
    faulthandler.enable()
    parser = PARSERS[name]
    for data in parser.make_seeds(Path(folder)):
        answer(parser, Path(folder), data)  # loads what it needs, starts its threads
    limit_memory()
    counts = run_chunk(
        parser,
        seed=int(seed),
        chunk=int(chunk),
        count=int(count),
        folder=Path(folder),
        corpus=Path(corpus) / name,
    )
    print(json.dumps(counts), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
