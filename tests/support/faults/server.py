"""A process that has imported torch and handful, and forks a child for each job.

A training of a second is thus a process of its own from its first step on, which can be
killed as any other, without the seconds that imports take. The server has one thread
when it forks. It reads orders as lines of JSON, and writes lines of JSON::

    {"job": name, "arguments": {...}, "log": path}  ->  {"pid": ...}
                                                        whatever the child says
                                                        {"exit": status}
    {"reap": true}

A child that has ended keeps its pid until it is reaped, so that no signal that is sent
late can reach another process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import sys
import traceback
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until standard input ends."""
    _die_with_parent()
    out = os.dup(1)
    os.dup2(2, 1)
    from faults import jobs

    jobs.warm_up()
    _say(out, ready=os.getpid())
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _be_child(out, order)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        _say(out, exit=None)
        sys.stdin.readline()  # the order to reap
        _, status = os.waitpid(pid, 0)
        _say(out, exit=os.waitstatus_to_exitcode(status))


def _be_child(out: int, order: dict[str, Any]) -> None:
    """Do a job and end this process."""
    from faults.jobs import JOBS

    code, shown = 1, ""
    try:
        os.setsid()
        _say(out, pid=os.getpid())
        _die_with_parent()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        random.seed(0)
        JOBS[order["job"]](lambda **facts: _say(out, **facts), **order["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        shown = traceback.format_exc()[-3000:]
        _say(out, error=type(error).__name__, message=str(error)[:3000], shown=shown)
    finally:
        with contextlib.suppress(OSError):  # a terminal that has gone away
            sys.stderr.write(shown)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _say(out: int, **facts: Any) -> None:
    os.write(out, json.dumps(facts).encode() + b"\n")


if __name__ == "__main__":
    main()
