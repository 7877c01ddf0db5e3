"""The faults that handful answers for: what is done to a training, what must follow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A row of the table in docs/reliability.md.

    Attributes:
        fault: What happens.
        expected: What must follow.
        how: How the tests make it happen.
        waits: Why no test makes it happen yet; empty where one does.
    """

    fault: str
    expected: str
    how: str
    waits: str = ""


_FILE_CALLS = "preloaded library"
_FLIPS = "bytes of a file changed"
_WORKERS = "in a worker process"

FAULTS = {
    1: Fault(
        "SIGKILL at a random moment",
        "goes on from the last checkpoint, ends with the bits of an undisturbed run",
        "from outside, at random steps, times and moments of a save",
    ),
    2: Fault(
        "SIGKILL during a save",
        "the old or the new checkpoint loads",
        f"{_FILE_CALLS}, before each call that changes a file",
    ),
    3: Fault(
        "SIGKILL while old checkpoints are deleted",
        "the newest checkpoint loads",
        f"{_FILE_CALLS}, before each deletion",
    ),
    4: Fault(
        "SIGKILL between the rename and what follows",
        "the new checkpoint is found",
        f"{_FILE_CALLS}, after each rename",
    ),
    5: Fault("SIGTERM", "finishes the step, saves, exits with 143", "from outside"),
    6: Fault(
        "SIGINT once; twice",
        "saves and returns; ends within 2 s",
        "from outside, also in a long step",
    ),
    7: Fault("the terminal goes away", "nothing is lost", "a terminal is closed"),
    8: Fault("SIGSTOP, SIGCONT", "goes on, no false time-out", "from outside"),
    9: Fault(
        "the disk is full during a save",
        "said so; earlier checkpoints stay",
        "a small tmpfs in a mount namespace of its own",
    ),
    10: Fault("EIO on write", "as with a full disk", _FILE_CALLS),
    11: Fault(
        "the newest checkpoint cannot be read",
        "goes on from the one before, and says so",
        f"{_FILE_CALLS} (EIO); another user's file",
    ),
    12: Fault("fsync fails", "not counted as saved", _FILE_CALLS),
    13: Fault(
        "power loss",
        "what was saved loads",
        f"{_FILE_CALLS} records all writes; the states that a crash may leave are "
        "rebuilt from them",
    ),
    14: Fault("a bit flips", "the file is named; the one before loads", _FLIPS),
    15: Fault("a file is cut off", "the file is named; the one before loads", _FLIPS),
    16: Fault(
        "the manifest is missing, empty, damaged",
        "the reason is told; the one before loads",
        _FLIPS,
    ),
    17: Fault(
        "the run's folder is read-only",
        "refused before the first step",
        "a read-only mount in a mount namespace of its own",
    ),
    18: Fault("two runs in one folder", "the second is refused", "two processes"),
    19: Fault("a lock is left by a kill", "the run goes on", "SIGKILL, then resumed"),
    20: Fault(
        "a loader's worker is killed, or segfaults",
        "an error with its pid and samples within 10 s",
        _WORKERS,
    ),
    21: Fault(
        "a worker hangs",
        "named at the time-out, with its samples and its stack",
        _WORKERS,
    ),
    22: Fault("a worker raises", "its traceback and the sample", _WORKERS),
    23: Fault(
        "/dev/shm is full",
        "a clear message",
        "a small tmpfs in a mount namespace of its own",
    ),
    24: Fault("64 open files are allowed", "a clear message", "RLIMIT_NOFILE"),
    25: Fault("a worker is killed for memory", "said so", "SIGKILL in the worker"),
    26: Fault(
        "out of memory in training, in evaluation",
        "smaller parts by policy, the same steps",
        "RLIMIT_AS below what a batch takes; on an accelerator not run",
    ),
    27: Fault("a rank dies", "every rank ends", "", "needs several ranks"),
    28: Fault(
        "another number of workers on resuming",
        "the same samples in the same order",
        "runs stopped in mid-epoch",
    ),
    29: Fault(
        "another world size on resuming", "the same steps", "", "needs several ranks"
    ),
    30: Fault(
        "NaN or Inf in the loss or a gradient",
        "stopped or skipped by policy, samples named",
        "a batch that is not finite",
    ),
    31: Fault("the clock jumps", "same bits, sane times", _FILE_CALLS),
    32: Fault("the data changed", "refused on resuming", "another data set"),
}
"""The faults, by the number of the row."""
