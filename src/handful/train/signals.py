"""Signals: the first that asks for an end gets it in order, the second at once.

They are Ctrl-C (SIGINT), SIGTERM, and SIGHUP, which a terminal sends as it goes away.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

REQUESTS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
)
"""The signals that ask a training to end, as far as the system has them."""


class StopRequest:
    """Whether the process was asked to end.

    Attributes:
        signal: The signal's number, None while nobody asked.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def name(self) -> str:
        """The signal's name."""
        return "" if self.signal is None else signal.Signals(self.signal).name

    def __call__(self, signum: int, _: FrameType | None) -> None:
        """Take a signal; of a second one, end at once."""
        if self.signal is not None:
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + signum)
        self.signal = signum


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Let `REQUESTS` be requests for a while, where nobody else takes them.

    Only the main thread can do so; handlers of the user's stay, and what is ignored
    (SIGHUP under nohup) stays so.
    """
    request = StopRequest()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for signum in REQUESTS:
            handler = signal.getsignal(signum)
            if handler in (signal.default_int_handler, signal.SIG_DFL) or getattr(
                handler, "gives_way", False
            ):
                before[signum] = signal.signal(signum, request)
    try:
        yield request
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is request:  # else the user's own came later
                signal.signal(number, handler)
