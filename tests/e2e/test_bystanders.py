"""Every fault while 50 other streams run: no stream is lost, mixed up or disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.server import ROOT, chat_body, content, parse_events
from tests.e2e.stage import HASTY, Stage
from tests.e2e.test_faults import INTERRUPTED, SUDDEN, interrupted

pytestmark = pytest.mark.e2e

STREAMS, TOKENS, GAP_MS = 50, 120, 50  # each lasts 6 s
STOPPED_S = 2.0  # an event loop that waits for a backend, not a busy machine: finer figures are a benchmark's


@contextmanager
def steady_backend() -> Iterator[str]:
    """A well-behaved backend in a process of its own, so that its rhythm is not ours."""
    command = [sys.executable, "-m", "tests.fakes.upstream", "--tokens", str(TOKENS), "--gap-ms", str(GAP_MS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            os.kill(process.pid, signal.SIGTERM)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with steady_backend() as url:
        backends = {"faulty": {"timeouts": HASTY}, "steady": {"endpoint": url}}
        with Stage(tmp_path_factory.mktemp("bystanders"), backends, env={"LLR_COOLDOWN": "0.05"}) as made:
            yield made


class Bystander(threading.Thread):
    """One stream that notes when its pieces came."""

    def __init__(self, stage: Stage, number: int) -> None:
        super().__init__(daemon=True)
        self.model = f"model-{number}"
        self.arrivals: list[float] = []
        self.body = b""
        self._stage = stage

    def run(self) -> None:
        asked = chat_body("hi", stream=True) | {"model": f"steady/{self.model}"}
        with self._stage.router.stream(json=asked, timeout=60) as stream:
            for at, piece in stream:
                self.arrivals.append(at)
                self.body += piece

    def longest_gap(self) -> float:
        return max(b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False))


def make_trouble(stage: Stage, until: float) -> int:
    """One fault after the other (those that end by themselves), buffered and streaming; how many there were."""
    count = 0
    while time.monotonic() < until:
        for fault in SUDDEN:
            stage.up.script(fault.play, fault.play, path=stage.path("faulty"), early=fault.early)
            stage.ask("faulty", alone=True)
            stage.ask("faulty", alone=True, stream=True)
            count += 2
            if time.monotonic() > until:
                return count
        for name in INTERRUPTED:
            stage.up.script(interrupted(name), path=stage.path("faulty"))
            stage.ask("faulty", alone=True, stream=True)
            count += 1
    return count


def test_other_streams_are_not_disturbed(stage: Stage):
    streams = [Bystander(stage, number) for number in range(STREAMS)]
    for stream in streams:
        stream.start()
    faults = make_trouble(stage, time.monotonic() + TOKENS * GAP_MS / 1000 - 1)
    for stream in streams:
        stream.join(30)
    assert faults > 50
    for stream in streams:
        events = parse_events(stream.body)
        assert content(events) == " ".join(["token"] * TOKENS)
        assert events[-1] == "[DONE]"
        assert {event["model"] for event in events[:-1]} == {stream.model}, "streams were mixed up"
    gaps = sorted(stream.longest_gap() for stream in streams)
    assert gaps[-1] < GAP_MS / 1000 + STOPPED_S, gaps[-5:]
