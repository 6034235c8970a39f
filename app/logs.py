"""The log: lines to standard error, written beside the event loop while the router runs.

Standard error may be a pipe that nobody reads for a while; no request waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import select
import sys
from collections import deque
from collections.abc import Iterator

from app import tuning

_MOST_WAITING = 10_000  # lines; beyond that the oldest are dropped


class Log(logging.StreamHandler):  # type: ignore[type-arg]
    """While `waits` is set, lines wait for `flush`; a warning or an error is written at once, with all before it,
    unless that would have to wait for a reader."""

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
        """Whether a line can be written without waiting for a reader."""
        try:
            return bool(select.select([], [self.stream], [], 0)[1])
        except (OSError, ValueError):  # it has no descriptor, or none any more
            return True

    def flush(self) -> None:
        """Writes what waits, in one piece.  Takes no lock: two threads at it share the lines out."""
        text = "".join(self._lines())
        with contextlib.suppress(OSError, ValueError):  # nobody listens, or it was closed
            self.stream.write(text)
            self.stream.flush()

    def _lines(self) -> Iterator[str]:
        with contextlib.suppress(IndexError):  # empty
            while True:
                yield self.format(self._waiting.popleft()) + self.terminator


def set_up(level: str) -> None:
    """Lines of the loggers `llr…` from `level` up."""
    log = logging.getLogger("llr")
    tuning.log_without_threads()
    log.setLevel(level.upper())
    log.propagate = False
    if not log.handlers:
        log.addHandler(Log())


def let_wait(waits: bool) -> None:
    """Says whether somebody calls `flush` now and then."""
    for handler in _handlers():
        handler.waits = waits
    if has_room():
        flush()


def has_room() -> bool:
    """Whether `flush` need not wait for a reader."""
    return all(handler.has_room() for handler in _handlers())


def flush() -> None:
    """Writes what waits; may block."""
    for handler in _handlers():
        handler.flush()


def _handlers() -> list[Log]:
    return [handler for handler in logging.getLogger("llr").handlers if isinstance(handler, Log)]
