"""What our loggers say, however other tests have set them up."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {self.format(record)}")


@contextmanager
def captured(name: str, level: str = "DEBUG") -> Iterator[list[str]]:
    """`LEVEL text` of each line that the logger `name` (and those below it) writes."""
    log, keeper = logging.getLogger(name), _Keeper()
    before = log.level
    log.addHandler(keeper)
    log.setLevel(level)
    try:
        yield keeper.lines
    finally:
        log.removeHandler(keeper)
        log.setLevel(before)
