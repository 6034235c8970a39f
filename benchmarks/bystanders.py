"""Measure how much a fault delays other clients: the longest pause of 50 streams while the fault occurs.

    python -m benchmarks.bystanders [--seconds 3] [--only NAME,…]

Streams of one chunk each 50 ms run all the time, 50 through the router and 10 straight from the backend, read by one
client in a process of its own.  Meanwhile fault after fault is played, by two clients at once and as fast as they
can.  `routed` is the longest gap that any of the 50 saw while a fault was played, `direct` that of the 10: what the
machine itself does hits both.  `extra` is the difference.  `step` is the longest time that a worker computed without
giving way: CPU time, so what a busy machine does is not in it, and the part of `extra` that is the router's own.
(A reload's step is the start of a new worker, which serves no client yet.)  `nothing` is no other traffic at all, `no
fault` the same traffic answered well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.load import PATH
from tests.e2e.server import chat_body
from tests.e2e.stage import HASTY, Stage
from tests.e2e.test_clients import BROKEN_BODIES, CUT_BODIES, NO_HTTP, NO_JSON
from tests.e2e.test_faults import BODIES, FAULTS, INTERRUPTED, STREAMS, TRAP, interrupted
from tests.fakes.replies import CLOSE, HANG, RESET, Play, event, sse
from tests.fakes.upstream import Upstream, black_hole_url, refused_url

ROUTED, DIRECT, GAP_MS = 50, 10, 50
TROUBLEMAKERS = 2
BOUND_MS = 200.0
_FAULTY = "faulty"

Trouble = Callable[[Stage], object]


# --- the bystanders: a client in a process of its own -------------------------------------------


class _Bystander(asyncio.Protocol):
    """Read one stream, and record the gaps that are too long, with the time of their end."""

    def __init__(self, request: bytes, gaps: list[tuple[float, float]]) -> None:
        self._request = request
        self._gaps = gaps
        self._last = 0.0
        self.ended: str | None = None  # the reason

    def connection_made(self, transport: asyncio.Transport) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if self._last:
            self._gaps.append((now, (now - self._last) * 1000))
        self._last = now
        if b"[DONE]" in data or b'"error"' in data:
            self.ended = data[-200:].decode("utf-8", "replace")

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = self.ended or repr(error)


async def _watch(port: int, path: str, model: str, count: int, gaps: list[tuple[float, float]]) -> list[_Bystander]:
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "hello"}]})
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    streams = [_Bystander(request, gaps) for _ in range(count)]
    for stream in streams:
        await asyncio.get_running_loop().create_connection(lambda stream=stream: stream, "127.0.0.1", port)
        await asyncio.sleep(0.01)
    return streams


async def watch(router: int, direct: int, path: str) -> None:
    """Read until standard input ends; then print the gaps, and the number of streams that ended before."""
    found: dict[str, Any] = {"routed": [], "direct": []}
    routed = await _watch(router, PATH, "steady", ROUTED, found["routed"])
    alone = await _watch(direct, path, "x", DIRECT, found["direct"])
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    found["ended"] = [stream.ended for stream in [*routed, *alone] if stream.ended]
    print(json.dumps(found))


@contextlib.contextmanager
def bystanders(router: int, direct: int, path: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """Yield a function that ends the streams and returns their records."""
    command = [sys.executable, "-m", "benchmarks.bystanders", "watch", str(router), str(direct), path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield lambda: json.loads(process.communicate()[0])
        finally:
            process.kill()


# --- trouble: one request each ------------------------------------------------------------------


def ask(stage: Stage, stream: bool) -> None:
    stage.ask(_FAULTY, alone=True, stream=stream)


def backend(play: Play, early: bool = False) -> Trouble:
    """Let the backend make the fault, buffered and streaming."""

    def trouble(stage: Stage) -> None:
        stage.up.script(play, play, path=stage.path(_FAULTY), early=early)
        ask(stage, False)
        ask(stage, True)

    return trouble


def raw(data: bytes) -> Trouble:
    """Let the client send the bytes, read the response and close."""

    def trouble(stage: Stage) -> None:
        with stage.router.raw(data, timeout=2) as sock, contextlib.suppress(OSError):
            sock.recv(65536)

    return trouble


def body(data: bytes) -> Trouble:
    return lambda stage: stage.router.post(PATH, data)


def disconnect(play: Play, stream: bool) -> Trouble:
    """Let the client disconnect while it waits, or after the first bytes."""

    def trouble(stage: Stage) -> None:
        stage.up.script(play, path=stage.path(_FAULTY))
        asked = json.dumps(chat_body("hi", stream=stream) | {"model": _FAULTY}).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(asked)}\r\n\r\n"
        with stage.router.raw(head.encode() + asked, timeout=0.3) as sock, contextlib.suppress(OSError):
            sock.recv(65536)

    return trouble


def endless(chunk: bytes) -> Trouble:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"

    def trouble(stage: Stage) -> None:
        with stage.router.raw(head, timeout=2) as sock, contextlib.suppress(OSError):
            for _ in range(2000):
                sock.sendall(chunk)

    return trouble


def reload(stage: Stage) -> None:
    """Reload once a second, while the other clients continue."""
    if threading.current_thread().name == "0":
        stage.router.sighup()
        time.sleep(1)
    else:
        ask(stage, True)


def look(stage: Stage) -> None:
    for path in ("/v1/metrics", "/metrics", "/v1/ab", "/v1/egress", "/", "/v1/models", "/health"):
        stage.router.get(path)


def _several(troubles: list[Trouble]) -> Trouble:
    def trouble(stage: Stage) -> None:
        for each in troubles:
            each(stage)

    return trouble


def _said(text: str, size: int) -> bytes:
    return json.dumps({**chat_body(text * (size // len(text))), "model": _FAULTY}).encode()


def troubles() -> dict[str, Trouble]:
    found: dict[str, Trouble] = {
        "nothing": lambda _: time.sleep(0.1),
        "no fault": lambda stage: (ask(stage, False), ask(stage, True)),
    }
    for fault in FAULTS:
        if fault.elsewhere:
            found[fault.name] = lambda stage, name=fault.name: stage.ask(name, alone=True)
        else:
            found[fault.name] = backend(fault.play, fault.early)
    found |= {f"cut: {name}": backend(interrupted(name)) for name in INTERRUPTED}
    found |= {f"odd: {name}": backend(play) for name, (play, _) in {**STREAMS, **BODIES}.items()}
    flood = event({"choices": [{"index": 0, "delta": {"content": "x"}}]}) * 500
    found |= {
        "no HTTP": _several([raw(data) for _, data in NO_HTTP.values()]),
        "broken chunks": _several([raw(data) for data in BROKEN_BODIES.values()]),
        "cut bodies": lambda stage: [stage.router.raw(data).close() for data in CUT_BODIES.values()],
        "endless body": endless(b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        "endless body in small chunks": endless(b"10\r\n" + b"x" * 16 + b"\r\n"),
        "1 MB of text": body(_said("The quick brown fox. ", 1_000_000)),
        "30 MB of text": body(_said("The quick brown fox. ", 30_000_000)),
        "30 MB of empty lists": body(b'{"messages": [' + b"[], " * 7_500_000 + b"[]]}"),
        "250,000 tokens": body(b'{"messages": [{"role": "user", "content": "x"}], "a": [' + b"[]," * 124_000 + b"[]]}"),
        "left while it waits": disconnect([HANG], False),
        "left in mid-stream": disconnect(sse("first", HANG), True),
        "left a flood": disconnect(sse(*[flood] * 1000), True),
        "looks at every page": look,
        "reload": reload,
    }
    return found | {f"no JSON: {name}": body(data) for name, data in NO_JSON.items() if len(data) > 10_000}


# --- the measure --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    name: str
    asked: int
    begin: float
    end: float
    problems: tuple[str, ...]


def play(stage: Stage, name: str, trouble: Trouble, seconds: float) -> Window:
    begin = time.monotonic()
    counts, problems = [0] * TROUBLEMAKERS, []

    def run(number: int) -> None:
        while time.monotonic() < begin + seconds:
            try:
                trouble(stage)
            except (OSError, http.client.HTTPException) as error:
                problems.append(type(error).__name__)
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(n,), name=str(n)) for n in range(TROUBLEMAKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end = time.monotonic()
    stage.up.reset()
    time.sleep(0.3)
    return Window(name, sum(counts), begin, end, tuple(sorted(set(problems))))


def longest(spans: list[list[float]], window: Window) -> float:
    """Return the ms of the longest of the (end, ms) that ended while the fault occurred."""
    return max((ms for ended, ms in spans if window.begin <= ended <= window.end + 0.2), default=0.0)


def read_steps(folder: Path) -> list[list[float]]:
    return [[float(word) for word in line.split()] for file in folder.iterdir() for line in file.open()]


@contextlib.contextmanager
def scene(steady: str, steps: Path) -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(TRAP)
        endpoints = {
            "refused": stack.enter_context(refused_url()),
            "black_hole": stack.enter_context(black_hole_url()),
            "no_such_host": "http://no-such-host.invalid:11434",
        }
        backends: dict[str, dict[str, Any]] = {_FAULTY: {"timeouts": HASTY}, "steady": {"endpoint": steady}}
        backends |= {fault.name: {"timeouts": HASTY} for fault in FAULTS if fault.elsewhere}
        for name, end in (("hang", HANG), ("close", CLOSE), ("reset", RESET)):
            fake = stack.enter_context(Upstream())
            fake.at_accept(end)
            endpoints[f"accept_then_{name}"] = fake.url
        for name, url in endpoints.items():
            backends[name]["endpoint"] = url
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        env = {"LLR_COOLDOWN": "0.05", "LLR_GRACEFUL_TIMEOUT": "3600"}
        env |= {"PYTHONPATH": str(Path(__file__).parent / "inside"), "STEPS_FOLDER": str(steps)}
        yield stack.enter_context(Stage(folder, backends, env=env))


def measure(seconds: float, only: list[str]) -> None:
    wanted = {name: value for name, value in troubles().items() if not only or name in only}
    with processes.upstream() as direct, tempfile.TemporaryDirectory() as steps:
        chunks = int((seconds + 20) * len(wanted) * 1000 / GAP_MS)
        drip = f"/drip/{chunks}/{GAP_MS}"
        with scene(f"http://127.0.0.1:{direct}{drip}", Path(steps)) as stage:
            with bystanders(stage.router.port, direct, f"{drip}{PATH}") as end:
                time.sleep(4)
                windows = [play(stage, name, trouble, seconds) for name, trouble in wanted.items()]
                found = end()
            log = stage.router.log_text()
        found["step"] = read_steps(Path(steps))
    print(f"{'fault':36s} {'asked':>6s} {'direct ms':>10s} {'routed ms':>10s} {'extra ms':>9s} {'step ms':>8s}")
    table = [[longest(found[name], window) for name in ("direct", "routed", "step")] for window in windows]
    for window, (alone, routed, step) in zip(windows, table, strict=True):
        line = f"{window.name:36s} {window.asked:6d} {alone:10.0f} {routed:10.0f} {routed - alone:9.0f} {step:8.0f}"
        print(line, "over the bound" * (routed - alone > BOUND_MS), *window.problems)
    extras, steps_ms = [routed - alone for alone, routed, _ in table], [step for *_, step in table]
    print(f"streams that ended: {len(found['ended'])}; tracebacks in the log: {log.count('Traceback')}")
    print(f"extra: median {statistics.median(extras):.0f} ms, most {max(extras):.0f} ms")
    print(f"longest step: {max(steps_ms):.0f} ms")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def main() -> None:
    if sys.argv[1:2] == ["watch"]:
        router, direct, path = sys.argv[2:]
        asyncio.run(watch(int(router), int(direct), path))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    measure(options.seconds, [name for name in options.only.split(",") if name])


if __name__ == "__main__":
    main()
