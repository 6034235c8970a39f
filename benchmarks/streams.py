"""Measure the delay of each chunk with many streams at the same time.

    python -m benchmarks.streams PORT PATH MODEL COUNT

Runs in a process of its own and prints one JSON object.  A chunk says when it was sent; the delay is the time from
there to its arrival here.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time

from benchmarks.load import PATH, quantile

_SENT = re.compile(rb'"sent_ns":(\d+)')
_OPEN_AT_ONCE = 50


class _Reader(asyncio.Protocol):
    def __init__(self, request: bytes, delays: list[float], ended: asyncio.Future[bool]) -> None:
        self._request = request
        self._delays = delays
        self._ended = ended
        self._tail = b""
        self.first_ms: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._begun = time.monotonic_ns()
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        data = self._tail + data
        at = 0
        for found in _SENT.finditer(data):
            if found.end() < len(data):  # otherwise the number may be incomplete
                self._delays.append((now - int(found[1])) / 1e6)
                at = found.end()
                if self.first_ms is None:
                    self.first_ms = (now - self._begun) / 1e6
        self._tail = data[max(at, len(data) - 64) :]
        if b"[DONE]" in data and not self._ended.done():
            self._ended.set_result(True)
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(False)


async def run(port: int, path: str, model: str, count: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "hello"}]})
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    delays: list[float] = []
    ends, readers = [], []
    begun = time.monotonic()
    for number in range(count):
        ends.append(loop.create_future())
        readers.append(_Reader(request, delays, ends[-1]))
        await loop.create_connection(lambda: readers[-1], "127.0.0.1", port)
        if number % _OPEN_AT_ONCE == 0:
            await asyncio.sleep(0.02)
    completed = sum(await asyncio.gather(*ends))
    took = time.monotonic() - begun
    first = [reader.first_ms for reader in readers if reader.first_ms is not None]
    return {
        "streams": count,
        "completed": completed,
        "chunks": len(delays),
        "chunks_per_second": len(delays) / took,
        "p50_ms": quantile(delays, 50),
        "p95_ms": quantile(delays, 95),
        "max_ms": max(delays),
        "first_p50_ms": quantile(first, 50),
    }


def measure(port: int, model: str, count: int, path: str = PATH) -> dict[str, float]:
    """Run this module in a process of its own, and return its result."""
    process = start(port, model, count, path)
    return finish(process)


def start(port: int, model: str, count: int, path: str = PATH) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.streams", str(port), path, model, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, float]:
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError("the stream client failed")
    return json.loads(output)


if __name__ == "__main__":
    port, path, model, count = sys.argv[1:]
    print(json.dumps(asyncio.run(run(int(port), path, model, int(count)))))
