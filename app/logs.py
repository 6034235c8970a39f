"""Write the log to standard error, in a worker thread while the router runs.  Standard error may be a pipe that no
program reads for a while; no request waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import select
import sys
from collections import deque
from collections.abc import Iterator

from app import tuning

_MOST_WAITING = 10_000  # lines; when there are more, the oldest are dropped


class Log(logging.StreamHandler):  # type: ignore[type-arg]
    """Hold lines until `flush` while `waits` is set.  A warning or an error is written at once, with all lines
    before it, unless the write would block."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        self.waits = False
        self._waiting: deque[logging.LogRecord] = deque(maxlen=_MOST_WAITING)

    def handle(self, record: logging.LogRecord) -> bool:
        self._waiting.append(record)
        if not self.waits or (record.levelno >= logging.WARNING and self.has_room()):
            self.flush()
        return True

    def has_room(self) -> bool:
        """Return True when a line can be written without blocking."""
        try:
            return bool(select.select([], [self.stream], [], 0)[1])
        except (OSError, ValueError):  # standard error has no descriptor, or is closed
            return True

    def flush(self) -> None:
        """Write the waiting lines in one piece.  It needs no lock: when two threads call it, each writes some of the
        lines."""
        text = "".join(self._lines())
        with contextlib.suppress(OSError, ValueError):  # the reader has gone, or standard error was closed
            self.stream.write(text)
            self.stream.flush()

    def _lines(self) -> Iterator[str]:
        with contextlib.suppress(IndexError):  # empty
            while True:
                yield self.format(self._waiting.popleft()) + self.terminator


def set_up(level: str) -> None:
    """Set up the loggers `llr…` for lines from `level` on."""
    log = logging.getLogger("llr")
    tuning.log_without_threads()
    log.setLevel(level.upper())
    log.propagate = False
    if not log.handlers:
        log.addHandler(Log())


def let_wait(waits: bool) -> None:
    """Set whether lines wait for `flush`, which another thread calls regularly."""
    for handler in _handlers():
        handler.waits = waits
    if has_room():
        flush()


def has_room() -> bool:
    """Return True when `flush` would not block."""
    return all(handler.has_room() for handler in _handlers())


def flush() -> None:
    """Write the waiting lines.  Blocks."""
    for handler in _handlers():
        handler.flush()


def _handlers() -> list[Log]:
    return [handler for handler in logging.getLogger("llr").handlers if isinstance(handler, Log)]
