"""Send one request after the other, and many at the same time."""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

from benchmarks.processes import cpu_s

NUMBER = "000000"  # each request has another number here, so that no cache of the router has the prompt


def _body(prompt: str) -> str:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": prompt},
    ]
    return json.dumps({"model": "auto", "messages": messages, "temperature": 0.7, "max_tokens": 200})


SHORT = (_body("Explain in three sentences why the sky is blue and why sunsets are red."),)  # the same in each request
_PROMPTS = Path(__file__).with_name("prompts.txt").read_text(encoding="utf-8").rstrip("\n").split("\n---\n")
REAL = tuple(_body(f"{prompt} ({NUMBER})") for prompt in _PROMPTS)
PATH = "/v1/chat/completions"


class Client:
    """Use one connection, with little code, to send some bodies in turn."""

    def __init__(self, port: int, bodies: Sequence[str] = SHORT, path: str = PATH) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._requests = [f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw for raw in map(str.encode, bodies)]
        self._asked = count()

    def ask(self) -> float:
        """Return the milliseconds until the whole response has arrived; it must be a 200."""
        number = next(self._asked)
        request = self._requests[number % len(self._requests)].replace(NUMBER.encode(), b"%06d" % number)
        begun = time.perf_counter_ns()
        self._sock.sendall(request)
        data = b""
        while True:
            data += self._sock.recv(65536)
            head, mark, body = data.partition(b"\r\n\r\n")
            found = re.search(rb"(?i)content-length: (\d+)", head) if mark else None
            if found and len(body) >= int(found[1]):
                break
        assert data.startswith(b"HTTP/1.1 200"), data[:500]
        return (time.perf_counter_ns() - begun) / 1e6

    def close(self) -> None:
        self._sock.close()


def sequential(
    ports: dict[str, int], rounds: int, bodies: Sequence[str] = SHORT, path: str = PATH
) -> dict[str, dict[str, float]]:
    """Return p50 and p95 in ms of each port.  The ports take turns, so that other load on the machine affects all of
    them."""
    clients = {name: Client(port, bodies, path) for name, port in ports.items()}
    times: dict[str, list[float]] = {name: [] for name in ports}
    for number in range(rounds + 20):
        for name, client in clients.items():
            took = client.ask()
            if number >= 20:
                times[name].append(took)
    for client in clients.values():
        client.close()
    return {name: {"p50_ms": quantile(values, 50), "p95_ms": quantile(values, 95)} for name, values in times.items()}


def throughput(
    port: int, seconds: float, pids: Iterable[int] = (), connections: int = 32, bodies: Sequence[str] = SHORT
) -> dict[str, float]:
    """Return wrk's requests a second, p50 and p99 in ms; with `pids` also their CPU microseconds a request."""
    pids = list(pids)
    command = [
        "wrk",
        "--latency",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "-s",
        str(Path(__file__).with_name("post.lua")),
    ]
    run = [*command, f"http://127.0.0.1:{port}{PATH}"]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n".join(bodies))
        file.flush()
        env = {**os.environ, "BENCH_BODIES": file.name, "BENCH_NUMBER": NUMBER}
        before = cpu_s(pids)
        done = subprocess.run(run, capture_output=True, text=True, check=True, env=env)
        used = cpu_s(pids) - before
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(done.stdout)
    served = re.search(r"(\d+) requests in ([\d.]+)(\w+)", done.stdout)
    rate = re.search(r"Requests/sec:\s*([\d.]+)", done.stdout)
    times = {percent: _ms(*time) for percent, *time in re.findall(r"\s(50|99)%\s+([\d.]+)(us|ms|s)\s", done.stdout)}
    assert served and rate and len(times) == 2, done.stdout
    result = {"per_second": float(rate[1]), "p50_ms": times["50"], "p99_ms": times["99"]}
    return result | ({"cpu_us": used / int(served[1]) * 1e6} if pids else {})


def _ms(number: str, unit: str) -> float:
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def quantile(values: list[float], percent: int) -> float:
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def long_body() -> str:
    """Return a conversation of about 200,000 tokens."""
    text = "The quick brown fox jumps over the lazy dog. " * 440  # about 5,000 tokens
    turns = [{"role": "user" if turn % 2 == 0 else "assistant", "content": text} for turn in range(41)]
    return json.dumps({"model": "auto", "messages": turns})
