"""Worker processes that take places on command, as gunicorn's workers do.  All of them share one file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Worker:
    """One process.  `say` sends a command and returns what the process answers to it."""

    def __init__(self, fd: int, backends: Mapping[str, Any], ahead_s: float = 0) -> None:
        """`ahead_s`: how much its clock is ahead."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.places.worker", str(fd), json.dumps(backends), str(ahead_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[fd],
            cwd=ROOT,
        )
        assert self.read() == "ready"

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, *command: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def say(self, *command: Any) -> Any:
        self.tell(*command)
        return self.read()

    def end(self, sign: int = signal.SIGKILL) -> None:
        self._process.send_signal(sign)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


@contextmanager
def one_file() -> Iterator[int]:
    """The file that gunicorn's master opens for its workers."""
    fd = os.memfd_create("places")
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def ending(worker: Worker) -> Iterator[Worker]:
    """Kills the worker at the end."""
    try:
        yield worker
    finally:
        worker.end()


@contextmanager
def workers(number: int, backends: Mapping[str, Any]) -> Iterator[list[Worker]]:
    with one_file() as fd, ExitStack() as stack:
        yield [stack.enter_context(ending(Worker(fd, backends))) for _ in range(number)]
