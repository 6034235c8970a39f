"""The log: what waits, what does not, and that nothing is lost or raised."""

from __future__ import annotations

import contextlib
import io
import logging
import os

import pytest

from app import logs


class Closed(io.StringIO):
    def write(self, text: str) -> int:  # noqa: ARG002
        raise BrokenPipeError


@pytest.fixture
def log() -> logs.Log:
    made = logs.Log()
    made.setStream(io.StringIO())
    return made


def say(log: logs.Log, text: str, level: int = logging.INFO) -> None:
    log.handle(logging.LogRecord("llr.test", level, "", 0, "%s", (text,), None))


def written(log: logs.Log) -> list[str]:
    return [line.rpartition(" ")[2] for line in log.stream.getvalue().splitlines()]


def test_lines_are_written_at_once_when_nobody_flushes(log: logs.Log) -> None:
    say(log, "one")
    assert written(log) == ["one"]


def test_lines_wait_in_order_for_a_flush(log: logs.Log) -> None:
    log.waits = True
    say(log, "one")
    say(log, "two")
    assert written(log) == []
    log.flush()
    log.flush()
    assert written(log) == ["one", "two"]


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
def test_a_warning_takes_all_before_it_along(log: logs.Log, level: int) -> None:
    log.waits = True
    say(log, "one")
    say(log, "two", level)
    assert written(log) == ["one", "two"]


def test_a_reader_that_left_disturbs_nobody(log: logs.Log) -> None:
    log.setStream(Closed())
    say(log, "one", logging.ERROR)


def test_a_warning_does_not_wait_for_a_reader(log: logs.Log) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with os.fdopen(reader, "rb") as heard, os.fdopen(writer, "w", encoding="utf-8") as stream:
        log.setStream(stream)
        log.waits = True
        say(log, "one", logging.ERROR)
        assert not log.has_room()
        heard.read1(65_536)
        say(log, "two", logging.ERROR)
        assert [line.rpartition(b" ")[2] for line in heard.read1(65_536).splitlines()][-2:] == [b"one", b"two"]
